"""Ctrl-C that lets the step under way end first, so that there is something whole to save."""

import contextlib
import signal
import sys
import threading


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it ends the program at once."""

    code = 128 + signal.SIGTERM


class StopRequest:
    """While it is open, the first Ctrl-C or SIGTERM is only noted; the second ends the program.

    Attributes
    ----------
    signal : int or None
        What came; a shell expects the exit code 128 + signal, 130 for Ctrl-C.
    """

    SIGNALS = signal.SIGINT, signal.SIGTERM

    def __init__(self):
        self.signal = None
        self.before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # nobody else may set them
            self.before = {number: signal.signal(number, self.note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __bool__(self):
        return self.signal is not None

    def note(self, number, frame):
        """The handler; it may come in the midst of anything, so its line must not fail."""
        if self.signal is not None:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.signal = number
        # nobody may read stderr any more, or the program may be printing there just now
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            print("\nminires: saving after this step; once more to stop at once", file=sys.stderr)
