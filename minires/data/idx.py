"""The IDX format of MNIST: a header with sizes, then the bytes. Next: `mnist`."""

import math
import struct

import numpy as np

from minires.checks import format_shape
from minires.data.files import DamagedFileError, Unzipped, opened, read_up_to

UNSIGNED_BYTES = 0x08  # the format's number for the type; MNIST uses no other
MAX_DIMENSIONS = 64  # of a NumPy array
GZIP_MAGIC = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # the most that deflate can shrink anything


def read_idx(path, *, md5=None):
    """One IDX file of unsigned bytes, plain or gzip.

    Parameters
    ----------
    path : str or path
    md5 : str, optional
        Checksum of the file as it lies there; None compares nothing.

    Returns
    -------
    array : uint8
        Of the shape that the header states, C-contiguous.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no IDX file, of another type than unsigned bytes, cut off, longer than its header
        says, damaged, or has another checksum.

    Notes
    -----
    Two zero bytes, one byte for the type, one for the number of dimensions, one big-endian uint32
    a size, and then the numbers, last index fastest.

    References
    ----------
    LeCun, Cortes and Burges, "The MNIST database of handwritten digits", section "File formats".
    """
    with opened("read_idx", path, md5) as file:
        return parse_idx("read_idx", path, file)


def parse_idx(owner, path, file, shape=None):
    """The array in an open IDX file; `shape` is the one it must have, None takes any."""
    zipped = file.read(2) == GZIP_MAGIC
    held = file.seek(0, 2)  # bytes in the file
    file.seek(0)
    stream = Unzipped(owner, path, file, limit=math.inf) if zipped else file
    sizes = read_header(owner, path, stream)
    if shape is not None and sizes != shape:
        raise DamagedFileError(
            f"{owner} expects {path} to hold bytes of shape {format_shape(shape)}, "
            f"got {format_shape(sizes)}: it is another file; fetch the right one"
        )
    count = math.prod(sizes)
    possible = held * DEFLATE_RATIO if zipped else held
    # one byte more than there should be, to see what trails and to let gzip compare its checksum
    data = read_up_to(stream, count + 1) if count <= possible else b""
    if len(data) != count:
        got = f"at least {len(data)}" if len(data) > count or not data else str(len(data))
        raise DamagedFileError(
            f"{owner} expects {path} to hold {count} bytes after its header, which states the "
            f"shape {format_shape(sizes)}, got {got}: it is cut off or damaged; fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(sizes)


def read_header(owner, path, stream):
    """The sizes that the header states."""
    magic = read_up_to(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DamagedFileError(
            f"{owner} expects {path} to be an IDX file, which begins with two zero bytes, "
            f"a type and a number of dimensions, got 0x{magic.hex()}: it is another file"
        )
    if magic[2] != UNSIGNED_BYTES:
        raise DamagedFileError(
            f"{owner} expects {path} to hold unsigned bytes, type 0x08, got type "
            f"0x{magic[2]:02x}: other types are not read"
        )
    if not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise DamagedFileError(
            f"{owner} expects {path} to have 1 to {MAX_DIMENSIONS} dimensions, "
            f"got {magic[3]}: it is damaged or another file; fetch it again"
        )
    header = read_up_to(stream, 4 * magic[3])
    if len(header) < 4 * magic[3]:
        raise DamagedFileError(
            f"{owner} expects {path} to state {magic[3]} sizes in its header, "
            f"got {len(header)} bytes: it is cut off; fetch it again"
        )
    sizes = struct.unpack(f">{magic[3]}I", header)
    if 0 in sizes:
        raise DamagedFileError(
            f"{owner} expects {path} to hold at least one number, got the shape "
            f"{format_shape(sizes)} in its header: it is damaged; fetch it again"
        )
    return sizes
