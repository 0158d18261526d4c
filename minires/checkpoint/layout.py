"""The bytes of a checkpoint: a zip of uncompressed .npy files that `np.load` can open, too.

    manifest.npy       the manifest, JSON text as uint8
    array_00000.npy    the arrays, in the manifest's order
    ...
    the zip's directory, with the sha256 of the manifest as its comment

It is written by hand, without the options that zip allows, so that all bytes but the numbers
themselves follow from the manifest: a reader that has it knows how long the file is, and which byte
stands where, before it makes room for anything. Next: `saving`, `reading`.

References
----------
PKWARE's APPNOTE.TXT, 4.3.7 (local header), 4.3.12 (directory) and 4.3.16 (its end); NumPy's NEP 1
for the header of .npy.
"""

import hashlib
import math
import struct
import zlib
from typing import NamedTuple

import numpy as np

FORMAT, VERSION = "minires checkpoint", 1
DTYPES = (
    *("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"),
    *("<f2", "<f4", "<f8", "<c8", "<c16"),
)
MANIFEST = "manifest.npy"
MANIFEST_HEADER = 128  # bytes of its .npy header, whatever its length
MOST_MANIFEST = 2**22  # bytes
MOST_VALUES = 2**18  # in the manifest: read, each takes some 60 bytes; for less than 2**16 arrays
MOST_BYTES = 2**32 - 1  # what a zip's 32-bit sizes can say


class CheckpointError(ValueError):
    """A file that is no whole checkpoint, or a checkpoint that does not fit; says what to do."""


class UnreadableError(CheckpointError):
    """A checkpoint that may be whole, but could not be read this time or by this version.

    It is no reason to take an older one: a permission, a lack of memory, a newer format.
    """


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes
    ----------
    arrays : dict of str to numpy.ndarray
    meta : dict
        What JSON can say.
    """

    arrays: dict
    meta: dict


class Entry(NamedTuple):
    """What the manifest says of one array."""

    name: str
    dtype: str  # one of DTYPES
    shape: tuple
    crc32: int  # of the .npy file, as a zip wants it
    sha256: str  # of the numbers alone

    @property
    def nbytes(self):
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class Layout(NamedTuple):
    """All bytes of a checkpoint but the manifest's text and the numbers."""

    heads: list  # bytes in front of the manifest and of each array
    tail: bytes
    size: int  # of the whole file


def describe(name, dtype, shape, numbers):
    """The Entry of an array of a dtype in DTYPES, whose bytes are `numbers`."""
    crc = zlib.crc32(numbers, zlib.crc32(npy_header(dtype, shape)))
    return Entry(name, dtype, tuple(shape), crc, hashlib.sha256(numbers).hexdigest())


def npy_header(dtype, shape):
    """What stands before the numbers in a .npy file of format 1.0, in C order."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("ascii")


def lay_out(text, entries):
    """The Layout of a checkpoint from its manifest.

    Parameters
    ----------
    text : bytes
    entries : list of Entry
        What `text` lists.
    """
    manifest = describe("", "|u1", (len(text),), text)
    names = [MANIFEST, *(f"array_{i:05}.npy" for i in range(len(entries)))]
    heads, directory, offset = [], [], 0
    for member, entry in zip(names, [manifest, *entries], strict=True):
        npy, member = npy_header(entry.dtype, entry.shape), member.encode("ascii")
        size = len(npy) + entry.nbytes
        if offset + size > MOST_BYTES:
            return Layout([], b"", offset + size)  # too long to be written or read
        # version 2.0; no flags; stored; 1 January 1980, 0:00; sizes; no extra field
        common = struct.pack("<5H3L2H", 20, 0, 0, 0, 0x21, entry.crc32, size, size, len(member), 0)
        heads.append(b"PK\3\4" + common + member + npy)
        # made by version 2.0 on Unix, where a file has the mode 644
        more = struct.pack("<3H2L", 0, 0, 0, 0o644 << 16, offset)
        directory.append(b"PK\1\2" + struct.pack("<H", 0x314) + common + more + member)
        offset += len(heads[-1]) + entry.nbytes
    tail = b"".join(directory) + end_record(len(names), sum(map(len, directory)), offset, text)
    return Layout(heads, tail, offset + len(tail))


def end_record(count, length, offset, text):
    """The end of a zip with `count` members, whose directory of `length` bytes is at `offset`."""
    comment = digest(text)
    fields = struct.pack("<4H2LH", 0, 0, count, count, length, offset, len(comment))
    return b"PK\5\6" + fields + comment


def digest(text):
    """The comment of the zip: sha256 of the manifest, 64 bytes."""
    return hashlib.sha256(text).hexdigest().encode("ascii")


def is_plain(name):
    """Whether an array may be called so: printable, and no path that leads out of a folder."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and "\\" not in name
        and not {"", ".", ".."} & set(name.split("/"))
    )


def count_values(text):
    """About how many values a JSON text holds, without reading it."""
    return sum(text.count(mark) for mark in (b",", b":", b"[", b"{"))
