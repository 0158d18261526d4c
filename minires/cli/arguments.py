"""Arguments that several commands take, and a parser whose errors are one line."""

import argparse
import math
from pathlib import Path

from minires.data import FILE_LOADERS, LOADERS
from minires.runs.settings import OPS


class Parser(argparse.ArgumentParser):
    """Complains in one line, which says where the help is.

    Options are written out: `evaluate --data` is not taken for `--data-root`.
    """

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's; what a command does not know it refuses itself, and names its own help."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_ops(parser):
    """The option --ops; `OPS[options.ops]` is the module."""
    text = "fast: Numba, to run (default); reference: NumPy, to read"
    parser.add_argument("--ops", choices=OPS, default="fast", help=text)


def add_data(parser):
    """The options that say which images; None unless given."""
    text = f"{', '.join([*LOADERS, *FILE_LOADERS])}, or a folder with a sub-folder a class"
    parser.add_argument("--data", metavar="DATA", help=f"default digits; {text}")
    text = "what the images of a folder are resized to"
    parser.add_argument("--image-size", type=image_size, metavar="H,W", help=text)
    add_data_files(parser)


def add_data_files(parser):
    """The options that say where the files of the images are."""
    text = "where the files are; default $MINIRES_DATA, then the cache"
    parser.add_argument("--data-root", metavar="DIR", help=text)
    parser.add_argument("--download", action="store_true", help="fetch files that are missing")


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


def image_size(text):
    """Height and width with a comma, such as 32,32."""
    sizes = shape(text)
    if len(sizes) != 2:
        raise argparse.ArgumentTypeError(f"expected a size such as 32,32, got {text!r}")
    return list(sizes)


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
