"""Ctrl-C that lets the step under way end first, so that there is something whole to save."""

import signal
import sys
import threading


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
        """The handler."""
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        print("\nminires: saving after this step; once more to stop at once", file=sys.stderr)
