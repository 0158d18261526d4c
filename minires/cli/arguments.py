"""Arguments that several commands take, and a parser whose errors are one line."""

import argparse
import math
from pathlib import Path

from minires import ops

OPS = {"fast": ops.fast, "reference": ops.reference}


class Parser(argparse.ArgumentParser):
    """Complains in one line, which says where the help is."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_ops(parser):
    """The option --ops; `OPS[options.ops]` is the module."""
    text = "fast: Numba, to run (default); reference: NumPy, to read"
    parser.add_argument("--ops", choices=OPS, default="fast", help=text)


def positive_int(text):
    """An integer >= 1."""
    return bounded_int(text, 1)


def seed(text):
    """An integer >= 0."""
    return bounded_int(text, 0)


def bounded_int(text, least):
    """An integer >= `least`, or argparse's error."""
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or value < least:
        raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text!r}")
    return value


def non_negative(text):
    """A finite number >= 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text!r}")
    return value


def shape(text):
    """Sizes with commas, such as 32,32,3."""
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"expected sizes such as 32,32,3, got {text!r}")
    return sizes


def make_folder(path):
    """Create the output folder before the work begins, so that a bad path costs no time.

    Raises
    ------
    OSError
        If it cannot be created or written to.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".minires_can_write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"expected a folder to write to, got {str(path)!r} ({error.strerror})"
        ) from None
    return folder
