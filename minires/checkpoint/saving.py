"""Write a checkpoint so that a kill, a full disk or a power cut at any moment leaves a whole one.

The steps, each of which can be the last: write a temporary file in the same folder and wait for the
disk (fsync); give what is at `path` a second name; move the temporary to `path`; wait for the
folder; move the second name to the previous checkpoint. At `path` there is always a whole file, and
a step that fails is taken back.
"""

import contextlib
import errno
import json
import os
import re
import reprlib
import secrets
from pathlib import Path

import numpy as np

from minires.checkpoint.layout import (
    DTYPES,
    FORMAT,
    MOST_BYTES,
    MOST_MANIFEST,
    MOST_VALUES,
    VERSION,
    count_values,
    describe,
    is_plain,
    lay_out,
)
from minires.checkpoint.reading import previous_path

DEEPEST = 100  # lists in lists in meta
LARGEST = 2**13  # bits of a whole number in meta; Python reads no longer ones
under_way = set()  # temporaries of saves that run in this process


def save_checkpoint(path, arrays, meta):
    """Write arrays and what JSON can say; what was at `path` becomes the previous checkpoint.

    Parameters
    ----------
    path : str or Path
        A name that ends in .npz, in a folder that is there. `checkpoint.previous.npz` beside
        `checkpoint.npz` is the one before.
    arrays : dict of str to numpy.ndarray
        Of any shape, and of a dtype bool, int, uint, float or complex of up to 64 bits a part.
        Stored little-endian and in C order.
    meta : dict
        Text, numbers, booleans and None, in dicts with text as keys and in lists. NaN, infinity
        and whole numbers beyond 64 bits come back as they were; tuples come back as lists. At most
        4 MiB and some 250,000 values, of which each of `arrays` takes a dozen or two.

    Raises
    ------
    OSError
        If the file cannot be written (a full disk, a folder without permission). The checkpoints
        are as they were then, as after any other error and after Ctrl-C.
    TypeError, ValueError
        If a name, an array or something in `meta` cannot be stored, or all is 4 GiB or more.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"save_checkpoint expects a path that ends in .npz, got {path}")
    chunks = encode(arrays, meta)
    mark = f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}"
    new, old = (path.with_name(f"{mark}.{kind}") for kind in ("new", "old"))
    under_way.update((new.name, old.name))
    try:
        write(new, chunks)
        exchange(new, old, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            take_back(new, old, path)
        if not isinstance(error, OSError):
            raise
        raise OSError(
            error.errno,
            f"save_checkpoint could not write {path} ({error.strerror or error}): make room or "
            f"choose another folder; the checkpoints that were there are as they were",
        ) from error
    finally:
        for temporary in (new, old):
            with contextlib.suppress(OSError):
                temporary.unlink()
        under_way.difference_update((new.name, old.name))


def write(path, chunks):
    """Write a new file, and return when it is on the disk."""
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def exchange(new, old, path):
    """Move `new` to `path`, and what was there to the previous checkpoint, by way of `old`."""
    if path.exists():
        keep(path, old)
    os.replace(new, path)
    sync_folder(path.parent)  # the new one is there for good before the previous one goes
    if old.exists():
        os.replace(old, previous_path(path))


def keep(path, old):
    """Give a file a second name; copy it where the file system knows one name a file."""
    try:
        os.link(path, old)
    except OSError:
        with path.open("rb") as file:
            write(old, iter(lambda: file.read(2**20), b""))


def take_back(new, old, path):
    """Put the file at `path` back if `new` has come there already."""
    if old.exists() and not new.exists():
        os.replace(old, path)


def sync_folder(folder):
    """Wait until names in a folder are on the disk, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def sweep(folder, name="checkpoint.npz"):
    """Remove the temporaries that killed saves have left.

    Parameters
    ----------
    folder : str or Path
    name : str
        As in `save_checkpoint(folder / name, ...)`. Other files are left alone, and so are
        temporaries of a process that is still running.

    Returns
    -------
    removed : list of Path
    """
    pattern = re.compile(re.escape(f".{name}.") + r"([1-9][0-9]{0,8})-[0-9a-f]{16}\.(new|old)")
    removed = []
    for path in sorted(Path(folder).iterdir()):
        match = pattern.fullmatch(path.name)
        if match and path.is_file() and path.name not in under_way and not runs(int(match[1])):
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def runs(process):
    """Whether another process of this number runs; Windows keeps open files from removal itself."""
    if process == os.getpid() or os.name == "nt":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


# ---- what is written


def encode(arrays, meta):
    """The bytes of a checkpoint, as a list of what is written one after the other."""
    expect_dict("arrays", arrays)
    expect_dict("meta", meta)
    expect_plain(meta, "meta")
    for name, array in arrays.items():
        expect_storable(name, array)
    expect_size(sum(array.nbytes for array in arrays.values()))  # before any is copied
    arrays = {name: as_stored(array) for name, array in arrays.items()}
    numbers = [memoryview(array.reshape(-1).view(np.uint8)) for array in arrays.values()]
    entries = [
        describe(name, array.dtype.str, array.shape, data)
        for (name, array), data in zip(arrays.items(), numbers, strict=True)
    ]
    text = manifest_text(entries, meta)
    layout = lay_out(text, entries)
    expect_size(layout.size)
    pairs = zip(layout.heads, [text, *numbers], strict=True)
    return [*(part for pair in pairs for part in pair), layout.tail]


def expect_size(size):
    """Refuse more bytes than a file can hold."""
    if size > MOST_BYTES:
        raise ValueError(
            f"save_checkpoint expects at most {MOST_BYTES:,} bytes in all, got {size:,} or more: "
            f"save them in parts"
        )


def expect_storable(name, array):
    """Refuse what a checkpoint cannot hold."""
    if not is_plain(name):
        raise ValueError(
            f"save_checkpoint expects names of printable text without \\, //, . or .. between "
            f"slashes, got {name!r}"
        )
    if type(array) not in (np.ndarray, np.memmap):
        kind = type(array).__name__
        raise TypeError(f"save_checkpoint expects {name} to be a NumPy array, got {kind}")
    if little(array.dtype).str not in DTYPES:
        raise ValueError(
            f"save_checkpoint expects {name} of a dtype bool, int, uint, float or complex of up to "
            f"64 bits a part, got {array.dtype}"
        )


def as_stored(array):
    """An array in little-endian and C order; a copy only if it is not so already, or of booleans.

    The bytes of a boolean are 0 or 1 in the file, whatever a view has made of them in memory.
    """
    if array.dtype == bool:
        array = np.asarray(array.view(np.uint8) != 0)
    return np.asarray(array, little(array.dtype), order="C")


def little(dtype):
    """The dtype in little-endian order."""
    return dtype.newbyteorder("<")


def manifest_text(entries, meta):
    """The manifest as ASCII bytes."""
    from minires import __version__  # set after the package has imported this module

    manifest = {"format": FORMAT, "version": VERSION, "minires": __version__, "meta": meta}
    manifest["arrays"] = [entry._asdict() for entry in entries]
    text = json.dumps(manifest, separators=(",", ":")).encode("ascii")
    count = count_values(text)
    if len(text) > MOST_MANIFEST or count > MOST_VALUES:
        raise ValueError(
            f"save_checkpoint expects meta and the list of arrays to take at most "
            f"{MOST_MANIFEST:,} bytes and {MOST_VALUES:,} values as JSON, got {len(text):,} and "
            f"{count:,}: pass long lists of numbers as arrays"
        )
    return text


def expect_dict(name, value):
    """Refuse what is no dict."""
    if not isinstance(value, dict):
        raise TypeError(f"save_checkpoint expects {name} as a dict, got {type(value).__name__}")


def expect_plain(value, path, depth=0):
    """Refuse what would not come back from JSON as it was, with its place in `meta`."""
    if depth > DEEPEST:
        raise ValueError(f"save_checkpoint expects meta at most {DEEPEST} levels deep, got more")
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError(f"save_checkpoint expects text as keys in {path}, got {key!r}")
            expect_plain(part, f"{path}[{key!r}]", depth + 1)
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            expect_plain(part, f"{path}[{i}]", depth + 1)
    elif isinstance(value, int) and value.bit_length() > LARGEST:
        raise ValueError(
            f"save_checkpoint expects whole numbers of at most {LARGEST:,} bits, got one of "
            f"{value.bit_length():,} as {path}"
        )
    elif value is not None and not isinstance(value, str | int | float):
        raise ValueError(
            f"save_checkpoint expects text, numbers, booleans, None, lists and dicts in meta, got "
            f"{type(value).__name__} {reprlib.repr(value)} as {path}: convert it, as in x.tolist()"
        )
