"""Checkpoint files: what was saved comes back bit by bit, or a CheckpointError does."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import checkpoint_damage as damage
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minires.checkpoint import (
    CheckpointError,
    UnreadableError,
    load_checkpoint,
    load_newest,
    save_checkpoint,
    sweep,
)
from minires.checkpoint.layout import DTYPES, MOST_MANIFEST, MOST_VALUES, is_plain

ARRAYS = {
    "weights/stage1.conv.weight": np.arange(60, dtype=np.float32).reshape(3, 4, 5),
    "statistics/norm.running_mean": np.linspace(0, 1, 7),
    "order": np.arange(50, dtype=np.int64),
    "seen": np.array([True, False, True]),
    "nothing": np.zeros((0, 3), np.float32),
    "lr": np.array(0.1),
}
META = {"step": 7, "lr": 0.1, "state": 2**127 + 1, "history": [[1, 0.5], [2, 0.25]], "name": "é"}
FILES = ["checkpoint.npz", "checkpoint.previous.npz"]
MB = 2**20


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.npz"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a checkpoint of ARRAYS and META."""
    path = tmp_path_factory.mktemp("whole") / "checkpoint.npz"
    save_checkpoint(path, ARRAYS, META)
    return path.read_bytes()


def assert_same(checkpoint, arrays, meta):
    """Names, order, shapes, dtypes and bits, NaN included."""
    assert list(checkpoint.arrays) == list(arrays)
    for name, array in arrays.items():
        found = checkpoint.arrays[name]
        assert (found.shape, found.dtype) == (array.shape, array.dtype), name
        assert found.tobytes() == array.tobytes(), name
    assert repr(checkpoint.meta) == repr(meta)


def saved(path, number):
    """One of many checkpoints that can be told apart."""
    save_checkpoint(path, {"w": np.full(1000, number, np.float32)}, {"number": number})
    return number


def number_of(path):
    """Which one it is, whole."""
    checkpoint = load_checkpoint(path)
    assert (checkpoint.arrays["w"] == checkpoint.meta["number"]).all()
    return checkpoint.meta["number"]


# ---- what was saved comes back

arrays = hnp.arrays(
    st.sampled_from(DTYPES).map(np.dtype),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60)  # each waits for the disk
@given(
    st.dictionaries(st.text(max_size=9).filter(is_plain), arrays, max_size=4),
    st.dictionaries(st.text(max_size=5), json_values, max_size=4),
)
def test_what_was_saved_comes_back_bit_by_bit(tmp_path_factory, arrays, meta):
    path = tmp_path_factory.getbasetemp() / "any.npz"
    save_checkpoint(path, arrays, meta)
    assert_same(load_checkpoint(path), arrays, meta)


def test_numpy_and_zip_read_it_as_an_ordinary_npz(path):
    save_checkpoint(path, ARRAYS, META)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}
    with np.load(path, allow_pickle=False) as file:
        manifest = json.loads(bytes(file["manifest"]))
        assert [entry["name"] for entry in manifest["arrays"]] == list(ARRAYS)
        for i, array in enumerate(ARRAYS.values()):
            found = file[f"array_{i:05}"]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert (found == array).all()
    assert manifest["meta"] == META


def test_any_memory_layout_is_stored_little_endian_in_c_order(path):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    given = {"big": x.astype(">f4"), "fortran": np.asfortranarray(x), "every second": x[:, ::-2]}
    save_checkpoint(path, given, {})
    expected = {"big": x, "fortran": x, "every second": x[:, ::-2]}
    assert_same(load_checkpoint(path), expected, {})
    assert all(
        a.flags.c_contiguous and a.flags.writeable for a in load_checkpoint(path).arrays.values()
    )


def test_booleans_are_stored_as_0_and_1_whatever_their_bytes(path):
    odd = np.array([2, 0, 255], np.uint8).view(bool)
    save_checkpoint(path, {"three": odd, "one": odd[0:1].reshape(())}, {})
    expected = {"three": np.array([True, False, True]), "one": np.array(True)}
    assert_same(load_checkpoint(path), expected, {})


def test_odd_values_of_json_come_back_and_tuples_as_lists(path):
    meta = {"nan": float("nan"), "inf": -float("inf"), "big": -(2**4000), "half": "\ud800", "": []}
    save_checkpoint(path, {}, meta)
    assert_same(load_checkpoint(path), {}, meta)
    save_checkpoint(path, {}, {"betas": (0.9, 0.999)})
    assert load_checkpoint(path).meta == {"betas": [0.9, 0.999]}


def test_the_same_content_gives_the_same_bytes(path, whole):
    save_checkpoint(path, ARRAYS, META)
    assert path.read_bytes() == whole


def nested(depth):
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("arrays", "meta", "message"),
    [
        ({"w": [1.0]}, {}, "expects w to be a NumPy array, got list"),
        ({"w": np.float32(1)}, {}, "expects w to be a NumPy array, got float32"),
        ({"w": np.ma.masked_all(3)}, {}, "expects w to be a NumPy array, got MaskedArray"),
        ({"w": np.array([None])}, {}, "of a dtype bool, int, .*, got object"),
        ({"w": np.zeros(2, "f4,i4")}, {}, r"of a dtype bool, int, .*, got \[\("),
        ({"w": np.array(["a"])}, {}, "of a dtype bool, int, .*, got <U1"),
        ({"w": np.zeros(2, "M8[s]")}, {}, r"of a dtype bool, int, .*, got datetime64\[s\]"),
        ({"": np.zeros(1)}, {}, "expects names of printable text .*, got ''"),
        ({"a\nb": np.zeros(1)}, {}, r"expects names of printable text .*, got 'a\\nb'"),
        ({"../w": np.zeros(1)}, {}, r"expects names of printable text .*, got '\.\./w'"),
        ({3: np.zeros(1)}, {}, "expects names of printable text .*, got 3"),
        ([], {}, "expects arrays as a dict, got list"),
        ({}, None, "expects meta as a dict, got NoneType"),
        ({}, {"a": {1: 2}}, r"expects text as keys in meta\['a'\], got 1"),
        ({}, {"a": [np.int64(3)]}, r"got int64 .*3.* as meta\['a'\]\[0\]: convert it"),
        ({}, {"a": {1, 2}}, r"got set \{1, 2\} as meta\['a'\]"),
        ({}, {"a": 1 << 10_000}, "whole numbers of at most 8,192 bits, got one of 10,001"),
        ({}, {"a": nested(101)}, "meta at most 100 levels deep, got more"),
        ({}, {"a": "x" * MOST_MANIFEST}, "at most 4,194,304 bytes and .*: pass long lists"),
        ({}, {"a": [0] * MOST_VALUES}, "at most .* 262,144 values as JSON, got"),
    ],
)
def test_what_would_not_come_back_is_refused_before_anything_is_written(
    arrays, meta, message, tmp_path
):
    with pytest.raises((TypeError, ValueError), match=message):
        save_checkpoint(tmp_path / "a.npz", arrays, meta)
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expects a path that ends in \.npz, got .*a\.npy"):
        save_checkpoint(tmp_path / "a.npy", {}, {})


def test_four_gigabytes_are_refused(path, monkeypatch):
    monkeypatch.setattr("minires.checkpoint.layout.MOST_BYTES", 1000)
    monkeypatch.setattr("minires.checkpoint.saving.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"expects at most 1,000 bytes in all, got .*in parts"):
        save_checkpoint(path, {"w": np.zeros(500)}, {})


def test_what_is_too_large_is_refused_before_it_is_copied(path, monkeypatch):
    monkeypatch.setattr("minires.checkpoint.saving.MOST_BYTES", 10 * MB)
    wide = np.broadcast_to(np.float32(0), (1024, 4096))
    with pytest.raises(ValueError, match=r"at most 10,485,760 bytes .*, got 16,777,216 or more"):
        measured(save_checkpoint, path, {"w": wide}, {}, at_most=MB)


# ---- damage


@pytest.mark.parametrize("damaged_by", damage.DAMAGES, ids=lambda f: f.__name__)
def test_a_damaged_file_is_refused_and_never_loads_as_something_else(damaged_by, whole, path):
    rng = np.random.default_rng(0)
    for _ in range(600):
        data = damaged_by(whole, rng)
        path.write_bytes(data)
        if data == whole:
            assert_same(load_checkpoint(path), ARRAYS, META)
        else:
            with pytest.raises(CheckpointError, match=r"checkpoint\.npz to hold .*, got .*: there"):
                load_checkpoint(path)


def test_no_bit_of_a_file_can_change_unseen(path):
    save_checkpoint(path, {"w": np.arange(3.0)}, {})
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_a_longer_file_is_refused(whole, path):
    path.write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="a manifest whose sha256 ends the file, got another"):
        load_checkpoint(path)


W = np.arange(2, dtype=np.float32)
ENTRY = damage.entry(numbers=W.tobytes())


def of_shape(*shape):
    return damage.manifest(damage.entry(shape=shape, crc32=0))


def test_a_forger_who_says_what_is_true_is_believed(path):
    path.write_bytes(damage.forge(damage.manifest(ENTRY), W.tobytes()))
    assert_same(load_checkpoint(path), {"w": W}, {})


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (of_shape(10**12), r"4,000,000,\d+ bytes, as its manifest says|4,000,000,000,\d+ bytes"),
        (of_shape(2**40, 2**40, 2**40), "bytes, as its manifest says"),
        (of_shape(0, 10**12, 10**12), "other bytes|bytes, as its manifest says"),
        (of_shape(-1), r"a valid shape of each array, got \[-1\] of 'w'"),
        (of_shape(True), r"a valid shape of each array, got \[True\] of 'w'"),
        (of_shape(2.0), r"a valid shape of each array, got \[2.0\] of 'w'"),
        (of_shape("2"), r"a valid shape of each array, got \['2'\] of 'w'"),
        (of_shape(2**63), "a valid shape of each array"),
        (of_shape(*[1] * 65), "a valid shape of each array"),
        (damage.manifest(ENTRY | {"shape": 2}), "a valid shape of each array, got 2 of 'w'"),
        (damage.manifest(ENTRY | {"shape": {}}), "a valid shape of each array, got {} of 'w'"),
        (damage.manifest(ENTRY | {"dtype": "|O"}), r"a valid dtype of each array, got '\|O'"),
        (damage.manifest(ENTRY | {"dtype": "|V8"}), r"a valid dtype of each array, got '\|V8'"),
        (damage.manifest(ENTRY | {"dtype": ">f4"}), "a valid dtype of each array, got '>f4'"),
        (damage.manifest(ENTRY | {"dtype": ["<f4"]}), "a valid dtype of each array"),
        (damage.manifest(ENTRY | {"name": "../w"}), r"a valid name of each array, got '\.\./w'"),
        (damage.manifest(ENTRY | {"name": "/w"}), "a valid name of each array, got '/w'"),
        (damage.manifest(ENTRY | {"name": "C:\\w"}), "a valid name of each array"),
        (damage.manifest(ENTRY | {"name": None}), "a valid name of each array, got None"),
        (damage.manifest(ENTRY | {"crc32": -1}), "a valid crc32 of each array, got -1"),
        (damage.manifest(ENTRY | {"crc32": True}), "a valid crc32 of each array, got True"),
        (damage.manifest(ENTRY | {"sha256": 5}), "a valid sha256 of each array, got 5"),
        (damage.manifest(ENTRY | {"pickle": 1}), "an array with crc32, dtype, name, sha256, shape"),
        (damage.manifest("w"), "an array with crc32, dtype, name, sha256, shape, got 'w'"),
        (damage.manifest(ENTRY, ENTRY), "each array once, got one twice"),
        (damage.manifest(meta=[]), "an object meta, a list arrays and a text minires"),
        (damage.manifest(arrays={}), "an object meta, a list arrays and a text minires"),
        (damage.manifest(more=1), "a manifest arrays, format, meta, minires, version"),
        (damage.manifest(format="npz"), "a manifest of the format 'minires checkpoint', got"),
        (damage.manifest(version=True), "version 1 of the format, got version True"),
        (b"[]", r"a manifest of the format 'minires checkpoint', got \[\]"),
        (b"{", "what save_checkpoint writes, got JSONDecodeError"),
        (b"\xff\xfe{}", "what save_checkpoint writes, got UnicodeDecodeError"),
        (b"[" * 200_000, "what save_checkpoint writes, got RecursionError"),
        (b'{"a":' * 40_000, "what save_checkpoint writes, got RecursionError"),
        (b"[" * 300_000, "at most 262,144 values in its manifest, got 300,000"),
        (b'"' + b"x" * 5 * MB + b'"', "a manifest of 1 to 4,194,304 bytes, got 5,242,882"),
        (b"9" * 5000, "what save_checkpoint writes, got ValueError"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value)[-40:],
)
def test_a_forged_manifest_is_refused_though_its_checksums_are_right(manifest, message, path):
    path.write_bytes(damage.forge(manifest))
    before = path.stat().st_size
    with pytest.raises(CheckpointError, match=message):
        measured(load_checkpoint, path, at_most=2 * before + MB)


def measured(function, *arguments, at_most):
    """Call it and refuse a peak of more bytes."""
    tracemalloc.start()
    try:
        return function(*arguments)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= at_most, f"{peak:,} bytes of memory, more than {at_most:,}"


def test_a_forged_checksum_of_numbers_is_refused(path):
    path.write_bytes(damage.forge(damage.manifest(ENTRY), (W + 1).tobytes()))
    with pytest.raises(CheckpointError, match=r"'w' with the sha256 .*\.\.\., got .*\.\.\."):
        load_checkpoint(path)


def test_booleans_are_0_or_1(path):
    forged = damage.entry(dtype="|b1", shape=(2,), numbers=b"\1\2")
    path.write_bytes(damage.forge(damage.manifest(forged), b"\1\2"))
    with pytest.raises(CheckpointError, match="0 and 1 in 'w', which is of dtype bool, got 2"):
        load_checkpoint(path)


def test_a_newer_format_is_refused_by_the_name_of_its_author(path):
    path.write_bytes(damage.forge(damage.manifest(version=2, minires="9.1", more=[])))
    with pytest.raises(
        CheckpointError,
        match=r"version 1 of the format, got version 2, written by minires '9\.1', which can read",
    ):
        load_checkpoint(path)


def bombs():
    """{name: (bytes of a zip, bytes of content that it says it has)}."""
    zeros = np.zeros(16 * MB, np.uint8)
    text = json.dumps(damage.manifest(damage.entry("w", "|u1", zeros.shape, zeros))).encode()
    listed = damage.zip_member("manifest.npy", damage.npy(np.frombuffer(text, np.uint8)))
    array = "array_00000.npy"
    deflated = damage.zip_member(array, damage.npy(zeros), deflate=True)
    quoted = damage.zip_member(array, damage.npy(zeros[:100]), size=2**32 - 1)
    huge_manifest = damage.zip_member("manifest.npy", damage.npy(zeros), deflate=True)
    quoted_manifest = damage.zip_member("manifest.npy", b"", size=2**32 - 1)
    encrypted = damage.zip_member(array, damage.npy(zeros[:100]), flags=1)
    return {
        "deflated": damage.zip_file([listed, deflated], text),
        "quoted size": damage.zip_file([listed, quoted], text),
        "deflated manifest": damage.zip_file([huge_manifest], text),
        "quoted manifest": damage.zip_file([quoted_manifest], text),
        "encrypted": damage.zip_file([listed, encrypted], text),
        "many members": damage.zip_file([listed] + 5000 * [encrypted], text),
    }


@pytest.mark.parametrize("name", list(bombs()))
def test_a_zip_bomb_takes_no_memory(name, path):
    path.write_bytes(bombs()[name])
    size = path.stat().st_size
    assert size < 2 * MB
    with pytest.raises(CheckpointError, match=r"checkpoint\.npz to hold"):
        measured(load_checkpoint, path, at_most=2 * size + MB // 4)


def test_members_that_overlap_are_refused(path):
    """Two arrays whose numbers are the same bytes of the file."""
    numbers = bytes(4 * MB)
    both = [damage.entry(name, "|u1", (4 * MB,), numbers) for name in "ab"]
    one = damage.forge(damage.manifest(both[0]), numbers)
    text = json.dumps(damage.manifest(*both)).encode("ascii")
    member = damage.zip_member("manifest.npy", damage.npy(np.frombuffer(text, np.uint8)))
    array = damage.zip_member("array_00000.npy", damage.npy(np.zeros(4 * MB, np.uint8)))
    path.write_bytes(damage.zip_file([member, array], text))
    assert path.stat().st_size < len(one) + 1000
    with pytest.raises(CheckpointError, match=r"8,\d+,\d+ bytes, as its manifest says, got 4,"):
        measured(load_checkpoint, path, at_most=MB)


def test_a_whole_file_takes_its_own_size_of_memory(path):
    save_checkpoint(path, {"a": np.ones(2 * MB), "b": np.ones((3, MB), bool)}, {})
    measured(load_checkpoint, path, at_most=path.stat().st_size + MB)


def test_members_in_another_order_and_members_twice_are_refused(path):
    """Every member is right by itself, and so is its checksum."""
    numbers = [np.full(2, i, np.float32) for i in range(2)]
    entries = [damage.entry(n, numbers=a.tobytes()) for n, a in zip("ab", numbers, strict=True)]
    text = json.dumps(damage.manifest(*entries)).encode("ascii")
    manifest = damage.zip_member("manifest.npy", damage.npy(np.frombuffer(text, np.uint8)))
    a, b = (damage.zip_member(f"array_{i:05}.npy", damage.npy(numbers[i])) for i in range(2))
    renamed = damage.zip_member("array_00000.npy", damage.npy(numbers[1]))
    path.write_bytes(damage.zip_file([manifest, a, b], text))
    assert_same(load_checkpoint(path), dict(zip("ab", numbers, strict=True)), {})
    for members in ([manifest, b, a], [manifest, a, a], [manifest, renamed, b], [a, b, manifest]):
        path.write_bytes(damage.zip_file(members, text))
        with pytest.raises(CheckpointError, match=r"expects .* to hold .*, got"):
            load_checkpoint(path)
    for members in ([manifest, a, b, b], [manifest, a]):
        path.write_bytes(damage.zip_file(members, text))
        with pytest.raises(CheckpointError, match="bytes, as its manifest says, got"):
            load_checkpoint(path)


def test_arrays_of_one_shape_that_change_places_are_refused(path):
    a, b = np.zeros(500, np.float32), np.ones(500, np.float32)
    save_checkpoint(path, {"a": a, "b": b}, {})
    data = path.read_bytes()
    mark = b"|" * 2000
    swapped = data.replace(a.tobytes(), mark).replace(b.tobytes(), a.tobytes())
    path.write_bytes(swapped.replace(mark, b.tobytes()))
    with pytest.raises(CheckpointError, match="'a' with the sha256"):
        load_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    np.savez(tmp_path / "plain.npz", a=np.ones(3))
    (tmp_path / "empty.npz").touch()
    (tmp_path / "short.npz").write_bytes(b"PK\3\4" + bytes(26) + b"manifest.npy")
    cases = {
        "plain.npz": r"a zip that begins with manifest\.npy, got \d+ bytes of something else",
        "empty.npz": r"a zip that begins with manifest\.npy, got 0 bytes",
        "short.npz": "more than 170 bytes, got 42",
        "none.npz": "a checkpoint, got no such file: there is no previous one",
        ".": "a checkpoint, got no regular file",
    }
    for name, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name_is_no_checkpoint_either(path):
    with pytest.raises(CheckpointError, match="a checkpoint, got no regular file"):
        load_checkpoint(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(CheckpointError, match="a checkpoint, got no regular file"):
        load_checkpoint(tmp_path / "pipe.npz")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_a_broken_disk_and_a_lack_of_memory_are_checkpoint_errors(error, path, monkeypatch):
    saved(path, 1)
    monkeypatch.setattr("minires.checkpoint.reading.read_array", failing(error))
    with pytest.raises(
        UnreadableError, match=f"save_checkpoint writes, got {type(error).__name__}.*try again"
    ):
        load_checkpoint(path)


def test_an_interrupt_passes_through(path, monkeypatch):
    saved(path, 1)
    monkeypatch.setattr("minires.checkpoint.reading.read_array", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        load_checkpoint(path)


def failing(error):
    def fail(*arguments, **options):
        raise error

    return fail


# ---- the newest and the previous


def test_the_newest_and_the_one_before_are_kept(path):
    for number in range(3):
        saved(path, number)
    assert sorted(os.listdir(path.parent)) == FILES
    assert number_of(path) == 2
    assert number_of(path.with_name("checkpoint.previous.npz")) == 1
    found = load_newest(path.parent)
    assert (found.checkpoint.meta["number"], found.path, found.problem) == (2, path, None)


@pytest.mark.parametrize("harm", [lambda p: p.write_bytes(p.read_bytes()[:-1]), Path.unlink])
def test_the_previous_is_loaded_where_the_newest_is_damaged_or_gone(harm, path):
    for number in range(3):
        saved(path, number)
    harm(path)
    with pytest.raises(CheckpointError, match=r"load checkpoint\.previous\.npz beside it, as load"):
        load_checkpoint(path)
    checkpoint, where, problem = load_newest(str(path.parent))
    assert (checkpoint.meta["number"], where.name) == (1, "checkpoint.previous.npz")
    assert isinstance(problem, CheckpointError)
    assert str(path) in str(problem)


@pytest.mark.parametrize("why", [OSError(errno.EMFILE, "Too many"), MemoryError(), "newer"])
def test_a_newest_that_may_be_whole_is_not_given_up_for_the_one_before(why, path, monkeypatch):
    for number in range(2):
        saved(path, number)
    if why == "newer":
        path.write_bytes(damage.forge(damage.manifest(version=2)))
    else:
        monkeypatch.setattr("minires.checkpoint.reading.read_array", failing(why))
    with pytest.raises(UnreadableError, match=r"move it away to go on from checkpoint\.previous"):
        load_newest(path.parent)


def test_a_folder_that_may_not_be_looked_into_is_not_called_empty(path, monkeypatch):
    saved(path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing(PermissionError(errno.EACCES, "Permission denied")))
        with pytest.raises(UnreadableError, match=r"PermissionError: .*Permission denied"):
            load_newest(path.parent)


def test_if_both_are_damaged_both_are_named(path):
    for name in FILES:
        path.with_name(name).write_bytes(b"PK")
    with pytest.raises(CheckpointError) as caught:
        load_newest(path.parent)
    for name in FILES:
        assert f"load_checkpoint expects {path.with_name(name)} to hold" in str(caught.value)


def test_an_empty_folder_and_none_at_all_have_a_message_of_their_own(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(
            CheckpointError, match=r"run\.npz or run\.previous\.npz in .*, got neither: nothing has"
        ):
            load_newest(folder, "run.npz")


# ---- when saving fails

STEPS = ("link", "replace", "fsync")


def at_call(function, number, action):
    """A function that calls `action` before its call of this number, from 1."""
    calls = iter(range(1, 1000))

    def stepped(*arguments):
        if next(calls) == number:
            action()
        return function(*arguments)

    return stepped


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize(
    ("step", "number"),
    [("fsync", 1), ("replace", 1), ("fsync", 2), ("replace", 2)],
)
def test_a_step_that_fails_leaves_everything_as_it_was(step, number, error, path, monkeypatch):
    for i in range(2):
        saved(path, i)
    before = {name: path.with_name(name).read_bytes() for name in FILES}
    monkeypatch.setattr(os, step, at_call(getattr(os, step), number, failing(error)))
    with pytest.raises(type(error)):
        saved(path, 2)
    assert {name: path.with_name(name).read_bytes() for name in os.listdir(path.parent)} == before
    monkeypatch.undo()
    saved(path, 3)
    assert number_of(path) == 3
    assert number_of(path.with_name(FILES[1])) == 1


def test_a_first_save_that_fails_leaves_nothing(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="could not write") as caught:
        saved(path, 0)
    assert caught.value.errno == errno.ENOSPC
    assert str(caught.value) == (
        f"[Errno {errno.ENOSPC}] save_checkpoint could not write {path} (No space left on device): "
        f"make room or choose another folder; the checkpoints that were there are as they were"
    )
    assert os.listdir(path.parent) == []


def test_without_hard_links_the_old_file_is_copied(path, monkeypatch):
    monkeypatch.setattr(os, "link", failing(OSError(errno.EPERM, "Operation not permitted")))
    for number in range(3):
        saved(path, number)
    assert sorted(os.listdir(path.parent)) == FILES
    assert [number_of(path.with_name(name)) for name in FILES] == [2, 1]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_kill_at_any_step_leaves_a_whole_checkpoint(links, start, tmp_path, monkeypatch):
    """Before each step the folder is copied: what a kill would leave there."""
    folder, moments = tmp_path / "run", []
    folder.mkdir()
    path = folder / "checkpoint.npz"
    for number in range(start):
        saved(path, number)

    def look():
        moments.append(tmp_path / f"moment{len(moments)}")
        shutil.copytree(folder, moments[-1])

    def watched(function):
        def step(*arguments):
            look()
            return function(*arguments)

        return step

    for step in STEPS:
        monkeypatch.setattr(os, step, watched(getattr(os, step)))
    if not links:
        monkeypatch.setattr(os, "link", failing(OSError(errno.EPERM, "Operation not permitted")))
    saved(path, start)
    look()
    monkeypatch.undo()
    found = [number_of(m / FILES[0]) for m in moments if (m / FILES[0]).exists()]
    assert found == sorted(found)
    assert set(found) == set(range(max(start - 1, 0), start + 1))
    assert start == 0 or len(found) == len(moments)
    for moment in moments:
        sweep(moment)
        assert set(os.listdir(moment)) <= set(FILES)
    assert len(moments) >= 4


def test_a_folder_that_is_not_there_or_cannot_be_written_is_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"could not write .*none.*\(No such file"):
        saved(tmp_path / "none" / "a.npz", 0)
    path = tmp_path / "a.npz"
    saved(path, 0)
    refuse = failing(PermissionError(errno.EACCES, "Permission denied"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(
            PermissionError, match=r"could not write .*a\.npz \(Permission denied\)"
        ):
            saved(path, 1)
    assert number_of(path) == 0


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_read_only_folder_is_named(path):
    saved(path, 0)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="could not write"):
            saved(path, 1)
        assert number_of(path) == 0
    finally:
        path.parent.chmod(0o700)


def test_a_folder_in_the_place_of_the_file_is_left_alone(path):
    path.mkdir()
    with pytest.raises(OSError, match="save_checkpoint could not write"):
        saved(path, 0)
    assert os.listdir(path.parent) == [path.name]


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from minires.checkpoint import load_checkpoint, save_checkpoint
path = Path(sys.argv[1])
save_checkpoint(path, {"w": np.zeros(1000)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    save_checkpoint(path, {"w": np.zeros(100_000)}, {})
except OSError as error:
    print(error)
assert load_checkpoint(path).arrays["w"].shape == (1000,)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs a limit for the size of files")
def test_a_disk_that_takes_no_more_is_reported_and_the_old_file_is_whole(path):
    run = [sys.executable, "-c", FULL, str(path)]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert re.match(r"\[Errno \d+\] save_checkpoint could not write .* \(File too large\)", said)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9_at_random_moments_leaves_the_newest_whole(tmp_path):
    code = "import sys, checkpoint_damage; checkpoint_damage.kill_often(sys.argv[1], 100, seed=0)"
    run = [sys.executable, "-c", code, str(tmp_path)]
    folder = Path(damage.__file__).parent
    done = subprocess.run(run, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


# ---- what a killed save leaves


def test_sweep_removes_temporaries_of_the_dead_and_nothing_else(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mark, living = "0123456789abcdef", os.getppid()
    gone = [f".checkpoint.npz.{dead.pid}-{mark}.{kind}" for kind in ("new", "old")]
    gone.append(f".checkpoint.npz.{os.getpid()}-{mark}.new")  # of an earlier process of our number
    kept = [
        *FILES,
        f".checkpoint.npz.{living}-{mark}.new",
        f".other.npz.{dead.pid}-{mark}.new",
        f".checkpoint.npz.{dead.pid}-{mark}.new.txt",
        f".checkpoint.npz.{dead.pid}-{mark[1:]}.new",
        f"checkpoint.npz.{dead.pid}-{mark}.new",
        f".checkpointXnpz.{dead.pid}-{mark}.new",
    ]
    for name in gone + kept:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f".checkpoint.npz.{dead.pid}-{mark[::-1]}.old").mkdir()
    assert [path.name for path in sweep(tmp_path)] == sorted(gone)
    assert set(kept) < set(os.listdir(tmp_path))


def test_sweep_leaves_a_save_under_way_alone(path, monkeypatch):
    saved(path, 0)
    swept = []
    watch = at_call(os.replace, 1, lambda: swept.extend(sweep(path.parent)))
    monkeypatch.setattr(os, "replace", watch)
    saved(path, 1)
    assert swept == []
    assert number_of(path) == 1
