"""Checkpoints damaged by chance, and forged on purpose with every checksum right."""

import hashlib
import itertools
import json
import os
import signal
import struct
import time
import zlib
from pathlib import Path

import numpy as np

from minires.checkpoint import load_newest, save_checkpoint, sweep
from minires.checkpoint.layout import Entry, end_record, lay_out, npy_header

# ---- by chance: each takes the bytes of a file and a generator, and returns other bytes


def flip_bit(data, rng):
    damaged = bytearray(data)
    damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(damaged)


def truncate(data, rng):
    return data[: rng.integers(len(data))]


def zero_block(data, rng):
    start, length = rng.integers(len(data)), rng.integers(1, 600)
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def lose_block(data, rng):
    start, length = rng.integers(len(data)), rng.integers(1, 600)
    return data[:start] + data[start + length :]


def double_block(data, rng):
    start, length = rng.integers(len(data)), rng.integers(1, 600)
    return data[: start + length] + data[start:]


def swap_blocks(data, rng):
    """Two stretches of one length change places, as blocks of a disk may."""
    length = rng.integers(1, len(data) // 2)
    first = rng.integers(len(data) - 2 * length + 1)
    second = rng.integers(first + length, len(data) - length + 1)
    a, b = data[first : first + length], data[second : second + length]
    return data[:first] + b + data[first + length : second] + a + data[second + length :]


def write_noise(data, rng):
    start, length = rng.integers(len(data)), rng.integers(1, 64)
    noise = rng.bytes(len(data[start : start + length]))
    return data[:start] + noise + data[start + length :]


DAMAGES = (flip_bit, truncate, zero_block, lose_block, double_block, swap_blocks, write_noise)


# ---- on purpose


def manifest_of(data):
    """The manifest of a checkpoint, to be changed."""
    (size,) = struct.unpack_from("<L", data, 18)
    return json.loads(data[170 : 42 + size])


def forge(manifest, *numbers):
    """A checkpoint with this manifest, whatever it says, all checksums and sizes right.

    Its arrays hold `numbers`; if none can be written, as for a negative shape, there are none.
    """
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode("ascii")
    layout = lay_out(text, [])
    if numbers:
        layout = lay_out(text, [Entry(**fields) for fields in manifest["arrays"]])
    parts = zip(layout.heads, [text, *numbers], strict=True)
    return b"".join(part for pair in parts for part in pair) + layout.tail


def entry(name="w", dtype="<f4", shape=(2,), numbers=bytes(8), **more):
    """What a manifest says of an array, checksums of `numbers` included."""
    try:
        crc = zlib.crc32(numbers, zlib.crc32(npy_header(dtype, shape)))
    except Exception:  # a shape that no header can say
        crc = 0
    sha256 = hashlib.sha256(numbers).hexdigest()
    made = {"name": name, "dtype": dtype, "shape": shape, "crc32": crc, "sha256": sha256}
    return made | more


def manifest(*entries, **more):
    """A manifest as version 1 has it, but for `more`."""
    made = {"format": "minires checkpoint", "version": 1, "minires": "0.1.0", "meta": {}}
    return made | {"arrays": list(entries)} | more


# ---- zips that other programs might write


def zip_member(name, payload, *, deflate=False, size=None, flags=0):
    """(header, name, content) of a member, with true sizes, or with one that it quotes."""
    content = payload
    if deflate:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        content = packer.compress(payload) + packer.flush()
    sizes = (len(content), len(payload)) if size is None else (size, size)
    method = 8 if deflate else 0
    fields = 20, flags, method, 0, 0x21, zlib.crc32(payload), *sizes, len(name), 0
    return struct.pack("<5H3L2H", *fields), name.encode("ascii"), content


def zip_file(members, text):
    """A zip of what `zip_member` gave, its comment the sha256 of `text`."""
    body = directory = b""
    for header, name, content in members:
        more = struct.pack("<3H2L", 0, 0, 0, 0o644 << 16, len(body))
        directory += b"PK\1\2" + struct.pack("<H", 0x314) + header + more + name
        body += b"PK\3\4" + header + name + content
    return body + directory + end_record(len(members), len(directory), len(body), text)


def npy(array):
    """The bytes of a .npy file."""
    return npy_header(array.dtype.str, array.shape) + array.tobytes()


# ---- a power switch


def kill_often(folder, rounds, seed):
    """Kill a process that saves all the time, at random moments; look what is left each time."""
    folder, rng, last = Path(folder), np.random.default_rng(seed), 0
    save_number(folder, last)
    for _ in range(rounds):
        child = os.fork()
        if child == 0:
            for number in itertools.count(last + 1):
                save_number(folder, number)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = load_newest(folder)
        number = found.checkpoint.meta["number"]
        assert found.problem is None, found.problem
        assert number >= last, (number, last)
        assert (found.checkpoint.arrays["w"] == number).all()
        last = number
        sweep(folder)
        assert {path.name for path in folder.iterdir()} <= {
            "checkpoint.npz",
            "checkpoint.previous.npz",
        }
    print(last)


def save_number(folder, number):
    arrays = {"w": np.full(20_000, number, np.float32)}
    save_checkpoint(folder / "checkpoint.npz", arrays, {"number": number})
