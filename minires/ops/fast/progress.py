"""A line on the terminal while kernels are compiled, so that nobody wonders about the first step.

Numba announces each compilation; those of our kernels are shown and counted here. In a terminal the
line is rewritten for each kernel and wiped out when it is done, a notebook gets one line for all,
and a file or a pipe nothing. A kernel that comes from the disk goes without a word.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

from numba.core import event

from minires.ops.fast.cache import DiskCache, folder


class Progress(event.Listener):
    """Listens to Numba.

    Attributes
    ----------
    compiled : list of str
        The kernels that this process has compiled, once for each kind of arguments. Those that
        came from the disk are in `cache.loaded`.
    tell : callable
        Gets the name of each kernel before it is compiled.
    """

    def __init__(self):
        self.compiled, self.tell = [], self.say
        self.shown, self.told, self.start = 0, False, None

    def on_start(self, event):
        """Numba begins to compile a function, perhaps a kernel."""
        cache = event.data["dispatcher"]._cache
        if isinstance(cache, DiskCache):
            self.start = self.start or time.perf_counter()
            with contextlib.suppress(Exception):  # a closed terminal must not stop the training
                self.tell(cache.name)

    def on_end(self, event):
        """Numba has compiled it, or failed."""
        cache = event.data["dispatcher"]._cache
        if isinstance(cache, DiskCache):
            self.compiled.append(cache.name)
            with contextlib.suppress(Exception):
                self.wipe()

    def say(self, name):
        """Show the name on stderr, if anyone reads it."""
        what = f"minires compiles its kernels, once; {where()}"
        if in_notebook(sys.stderr) and not self.told:
            self.told = True
            print(what, file=sys.stderr, flush=True)
        elif sys.stderr.isatty():
            seconds = time.perf_counter() - self.start
            line = f"{what}: {name}, {len(self.compiled)} done, {seconds:.0f} s"
            line = line[: width(sys.stderr) - 1]  # a longer one cannot be wiped
            self.shown = len(line)
            print(f"\r{line}", end="", file=sys.stderr, flush=True)

    def wipe(self):
        """Leave an empty line."""
        if self.shown:
            print(f"\r{' ' * self.shown}\r", end="", file=sys.stderr, flush=True)
        self.shown = 0


def width(stream):
    """The columns of the terminal behind a stream."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def in_notebook(stream):
    """Whether a stream leads to a Jupyter notebook."""
    return type(stream).__module__.startswith("ipykernel.")


def where():
    """Where compiled kernels are kept, or that they are not."""
    try:
        place = folder()
    except RuntimeError:  # no home
        return "there is no folder to keep them in"
    there = next(parent for parent in (place, *place.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return f"they cannot be kept in {place}"
    home = Path(os.path.expanduser("~"))
    return f"kept in {'~' / place.relative_to(home) if place.is_relative_to(home) else place}"


@contextlib.contextmanager
def told_by(tell):
    """Let `tell(name)` show the kernels that are compiled inside a `with` block."""
    progress.tell = tell
    try:
        yield
    finally:
        progress.tell = progress.say


progress = Progress()
event.register("numba:compile", progress)
