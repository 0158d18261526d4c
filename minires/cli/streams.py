"""Lines that a long command prints, and that it goes on without where nobody reads them."""

import contextlib
import io
import os
import sys


class Lenient:
    """A text stream that drops what it cannot write.

    After the first failure its file is os.devnull, so that nothing that comes later fails either,
    such as the flush with which Python ends.
    """

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        try:
            return self.stream.write(text)
        except OSError:
            self.drop()
            return len(text)

    def flush(self):
        try:
            self.stream.flush()
        except OSError:
            self.drop()

    def drop(self):
        """Write to nowhere from now on."""
        with contextlib.suppress(OSError):  # a stream without a file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self.stream.fileno())
            finally:
                os.close(nowhere)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def usable(stream):
    """`stream`, or one that nobody reads in place of None or a closed one."""
    return io.StringIO() if stream is None or stream.closed else stream


@contextlib.contextmanager
def lenient():
    """While it is open, nothing fails because a line cannot be printed, as before a closed pipe."""
    out, err = (Lenient(usable(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()
