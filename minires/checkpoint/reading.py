"""Read a checkpoint: everything is checked, and nothing is trusted before.

The manifest comes first, and its sha256 before its content. It says how long the file has to be and
what its headers are; only then is room made for the numbers, whose sha256 it holds as well.
"""

import hashlib
import json
import os
import reprlib
import stat
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minires.checkpoint.layout import (
    DTYPES,
    FORMAT,
    MANIFEST,
    MANIFEST_HEADER,
    MOST_BYTES,
    MOST_MANIFEST,
    MOST_VALUES,
    VERSION,
    Checkpoint,
    CheckpointError,
    Entry,
    UnreadableError,
    count_values,
    digest,
    is_plain,
    lay_out,
)


class DamageError(Exception):
    """What was expected in a file, and what came."""


class NewerError(DamageError):
    """The same, of a file that another version has written."""


class Found(NamedTuple):
    """What `load_newest` found.

    Attributes
    ----------
    checkpoint : Checkpoint
    path : pathlib.Path
        Where it was.
    problem : CheckpointError or None
        Why the newest could not be loaded, if `path` is the previous one: it is gone or damaged.
    """

    checkpoint: Checkpoint
    path: Path
    problem: CheckpointError | None


def previous_path(path):
    """Where `save_checkpoint(path, ...)` keeps what was at `path` before."""
    return path.parent / f"{path.stem}.previous{path.suffix}"


def load_checkpoint(path):
    """Read what `save_checkpoint` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    checkpoint : Checkpoint
        (arrays, meta). The arrays are new, in C order and in the byte order of this machine.

    Raises
    ------
    CheckpointError
        If there is no such file, or anything in it is not as it was written. Nothing is ever
        unpickled. The arrays take no more memory than a file of this length can fill; the manifest,
        of at most 4 MiB, takes up to some 40 MB while it is read.
    UnreadableError
        The kind of CheckpointError that says nothing against the file: the system cannot read it
        (a permission, too many open files, a broken disk), memory is short, or it is of another
        version of the format.
    """
    path = Path(path)
    try:
        return read_file(path)
    except DamageError as damage:
        kind = UnreadableError if isinstance(damage, NewerError) else CheckpointError
        expected, got = damage.args
    except FileNotFoundError:
        kind, expected, got = CheckpointError, "a checkpoint", "no such file"
    except Exception as error:  # whatever a damaged file can provoke, a broken disk included
        kind = UnreadableError if isinstance(error, OSError | MemoryError) else CheckpointError
        expected, got = "what save_checkpoint writes", f"{type(error).__name__}: {error}"[:200]
    raise kind(
        f"load_checkpoint expects {path} to hold {expected}, got {got}: {way_out(path, kind)}"
    )


def way_out(path, kind):
    """What can be done about a checkpoint that cannot be loaded for an error of this kind."""
    previous = previous_path(path)
    there = is_there(previous)
    if kind is UnreadableError:
        text = "it may be whole and is left as it is; try again where it can be read"
        return f"{text}, or move it away to go on from {previous.name}" if there else text
    if there:
        return f"load {previous.name} beside it, as load_newest does"
    return "there is no previous one beside it; take another copy or train anew"


def is_there(path):
    """Whether something has this name, as far as the system tells; where it refuses, yes."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def load_newest(folder, name="checkpoint.npz"):
    """Read the newest checkpoint in a folder that is whole: the last one, or the one before.

    Parameters
    ----------
    folder : str or Path
    name : str
        As in `save_checkpoint(folder / name, ...)`.

    Returns
    -------
    found : Found
        (checkpoint, path, problem).

    Raises
    ------
    CheckpointError
        If neither can be loaded; the message says why, for each.
    UnreadableError
        If the newest may be whole, but cannot be read; the previous one is not taken then.
    """
    newest = Path(folder) / name
    previous = previous_path(newest)
    if not is_there(newest) and not is_there(previous):
        raise CheckpointError(
            f"load_newest expects {name} or {previous.name} in {folder}, got neither: nothing has "
            f"been saved there"
        )
    try:
        return Found(load_checkpoint(newest), newest, None)
    except UnreadableError:
        raise
    except CheckpointError as error:
        problem = error
    try:
        return Found(load_checkpoint(previous), previous, problem)
    except CheckpointError as error:
        raise CheckpointError(
            f"load_newest expects {name} or {previous.name} in {folder} to be whole, got neither: "
            f"{problem}; {error}"
        ) from error


def read_file(path):
    """The Checkpoint in a file; raises DamageError, or what the file provokes."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise DamageError("a checkpoint", "no regular file")
    with path.open("rb") as file:
        text = read_manifest(file, status.st_size)
        entries, meta = parse_manifest(text)
        layout = lay_out(text, entries)
        if layout.size != status.st_size or layout.size > MOST_BYTES:
            raise DamageError(f"{layout.size:,} bytes, as its manifest says", f"{status.st_size:,}")
        file.seek(0)
        expect_bytes(file, layout.heads[0] + text, MANIFEST)
        arrays = {}
        for head, entry in zip(layout.heads[1:], entries, strict=True):
            expect_bytes(file, head, f"the header of {entry.name!r}")
            arrays[entry.name] = read_array(file, entry)
        expect_bytes(file, layout.tail, "the directory at the end")
    return Checkpoint(arrays, meta)


def expect_bytes(file, wanted, what):
    """Read as many bytes as are wanted, and refuse others."""
    if file.read(len(wanted)) != wanted:
        raise DamageError(f"{what} as its manifest says", "other bytes")


def read_array(file, entry):
    """The array that an Entry describes, whose numbers come next."""
    raw = np.empty(entry.nbytes, np.uint8)
    count = file.readinto(raw)
    if count != entry.nbytes:
        raise DamageError(f"{entry.nbytes:,} bytes of {entry.name!r}", f"{count:,}")
    found = hashlib.sha256(raw).hexdigest()
    if found != entry.sha256:
        raise DamageError(
            f"{entry.name!r} with the sha256 {entry.sha256[:12]}...", f"{found[:12]}..."
        )
    if entry.dtype == "|b1" and raw.max(initial=0) > 1:
        raise DamageError(f"0 and 1 in {entry.name!r}, which is of dtype bool", str(raw.max()))
    array = raw.view(entry.dtype).reshape(entry.shape)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_manifest(file, size):
    """The text of the manifest, with the right sha256, in a file of `size` bytes."""
    start = 30 + len(MANIFEST) + MANIFEST_HEADER
    head = file.read(start)
    if head[:4] != b"PK\3\4" or head[30 : 30 + len(MANIFEST)] != MANIFEST.encode("ascii"):
        raise DamageError(f"a zip that begins with {MANIFEST}", f"{size:,} bytes of something else")
    if len(head) < start:
        raise DamageError(f"more than {start} bytes", f"{size:,}")
    length = struct.unpack_from("<L", head, 18)[0] - MANIFEST_HEADER
    most = min(size - start, MOST_MANIFEST)
    if not 0 < length <= most:
        raise DamageError(f"a manifest of 1 to {most:,} bytes", f"{length:,}")
    text = file.read(length)
    comment = digest(text)
    file.seek(size - len(comment))
    if file.read(len(comment)) != comment:
        raise DamageError("a manifest whose sha256 ends the file", "another sha256")
    return text


def parse_manifest(text):
    """(entries, meta) of a manifest, or DamageError."""
    count = count_values(text)
    if count > MOST_VALUES:
        raise DamageError(f"at most {MOST_VALUES:,} values in its manifest", f"{count:,}")
    manifest = json.loads(text.decode("ascii"))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamageError(f"a manifest of the format {FORMAT!r}", reprlib.repr(manifest))
    version, author = manifest.get("version"), manifest.get("minires")
    if type(version) is not int or version != VERSION:
        got = f"version {reprlib.repr(version)}, written by minires {reprlib.repr(author)}"
        raise NewerError(f"version {VERSION} of the format", f"{got}, which can read it")
    expect_keys(manifest, {"format", "version", "minires", "meta", "arrays"}, "a manifest")
    meta, arrays = manifest["meta"], manifest["arrays"]
    if not isinstance(meta, dict) or not isinstance(arrays, list) or not isinstance(author, str):
        raise DamageError(
            "an object meta, a list arrays and a text minires", reprlib.repr(manifest)
        )
    entries = [parse_entry(fields) for fields in arrays]
    if len({entry.name for entry in entries}) < len(entries):
        raise DamageError("each array once", "one twice")
    return entries, meta


def parse_entry(fields):
    """The Entry of one array in the manifest, or DamageError."""
    expect_keys(fields, set(Entry._fields), "an array with")
    entry = Entry(**fields)
    sizes = entry.shape if isinstance(entry.shape, list) else [None]
    facts = {
        "name": is_plain(entry.name),
        "dtype": entry.dtype in DTYPES,
        "shape": len(sizes) <= 64 and all(type(n) is int and 0 <= n < 2**63 for n in sizes),
        "crc32": type(entry.crc32) is int and 0 <= entry.crc32 < 2**32,
        "sha256": isinstance(entry.sha256, str) and len(entry.sha256) == 64,
    }
    for key, fits in facts.items():
        if not fits:
            got = reprlib.repr(fields[key])
            raise DamageError(
                f"a valid {key} of each array", f"{got} of {reprlib.repr(entry.name)}"
            )
    return entry._replace(shape=tuple(sizes))


def expect_keys(value, keys, what):
    """Refuse all but an object with these keys."""
    if not isinstance(value, dict) or set(value) != keys:
        raise DamageError(f"{what} {', '.join(sorted(keys))}", reprlib.repr(value))
