"""Data from files: what is right is read, what is not is refused with its name and a way on."""

import gzip
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import data_files as small
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from minires.data import (
    FILE_LOADERS,
    load_cifar10,
    load_cifar100,
    load_image_folder,
    load_mnist,
    load_mnist_part,
    read_idx,
    read_image,
)
from minires.data import cifar as cifars
from minires.data import download as downloads
from minires.data import mnist as mnists
from minires.data.cifar import CIFAR10, CIFAR100
from minires.data.files import DamagedFileError, load_pooch
from minires.data.mnist import FASHION_MNIST, MNIST

OFFICIAL = os.environ.get("MINIRES_DATA")  # the folder of those who have the real files
CUBE = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """No data of this machine, and no network."""
    monkeypatch.delenv("MINIRES_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    nowhere = dict.fromkeys(downloads.MIRRORS, ("http://127.0.0.1:9/",))
    monkeypatch.setattr(downloads, "MIRRORS", nowhere)


@pytest.fixture
def mnist():
    return small.small_mnist(np.random.default_rng(0))


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=lambda layout: layout.name)
def cifar(request):
    return small.small_cifar(np.random.default_rng(0), request.param)


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


# ---------------------------------------------------------------- IDX


@pytest.mark.parametrize("array", [CUBE, CUBE.ravel(), CUBE.reshape((1,) * 20 + (24,))])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_idx_file_of_any_rank_comes_back(array, pack, tmp_path):
    data = pack(small.idx(array))
    (tmp_path / "a").write_bytes(data)
    read = read_idx(str(tmp_path / "a"), md5=small.md5(data))
    assert_array_equal(read, array, strict=True)
    assert read.flags.c_contiguous


def header(*sizes, kind=8, first=0):
    return struct.pack(f">BBBB{len(sizes)}I", first, 0, kind, len(sizes), *sizes)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"an IDX file, which begins with two zero bytes, .* got 0x: "),
        (b"\0\0\x08", "got 0x000008: "),
        (b"PNG\1", "got 0x504e4701: it is another file"),
        (header(2, first=1) + b"ab", "got 0x01000801"),
        (header(2, kind=13) + b"ab", "unsigned bytes, type 0x08, got type 0x0d: "),
        (header(), "1 to 64 dimensions, got 0"),
        (header(*[1] * 65) + b"a", "1 to 64 dimensions, got 65"),
        (header(2, 3)[:-1], "2 sizes in its header, got 7 bytes: it is cut off"),
        (header(2, 0), r"at least one number, got the shape \(2, 0\)"),
        (header(2, 3) + b"abcde", r"6 bytes after its header.*\(2, 3\), got 5: it is cut off"),
        (header(2, 3) + b"abcdefg", r"6 bytes after its header.*got at least 7"),
        (header(2, 3), r"6 bytes after its header.*got"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_what_is_no_idx_file_is_refused_by_name(data, words, pack, tmp_path):
    path = tmp_path / "images"
    path.write_bytes(pack(data))
    with pytest.raises(ValueError, match=rf"read_idx expects .*images .*{words}"):
        read_idx(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("sizes", [(2**31, 2**31), (2**32 - 1,) * 40, (1000, 1000, 100)])
def test_a_forged_header_allocates_nothing(sizes, pack, tmp_path):
    path = tmp_path / "forged"
    path.write_bytes(pack(header(*sizes) + bytes(50_000)))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"forged to hold .* bytes after its header"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_what_unpacks_to_gigabytes_is_cut_off_at_the_declared_size(tmp_path):
    path = tmp_path / "bomb"
    piece = gzip.compress(bytes(2**24))
    path.write_bytes(gzip.compress(header(100) + bytes(100)) + piece * 100)  # 1.6 GB
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb to hold 100 bytes .* got at least 101"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


def test_a_damaged_gzip_stream_is_told_apart(tmp_path):
    data = gzip.compress(small.idx(CUBE))
    path = tmp_path / "a.gz"
    flipped = bytearray(data)
    flipped[-6] ^= 1  # in the checksum at the end
    for damaged, words in (
        (data[:-9], "a whole gzip file, got Compressed file ended"),
        (bytes(flipped), "a whole gzip file, got CRC check failed"),
        (data + b"trailing", "a whole gzip file, got Not a gzipped file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"a\.gz to be {words}.*fetch it again"):
            read_idx(path)


def test_a_wrong_checksum_and_no_file_are_refused(tmp_path):
    path = write(tmp_path, {"a": small.idx(CUBE)}) / "a"
    with pytest.raises(ValueError, match=r"a to have the md5 00ff, got [0-9a-f]{32} \(40 bytes\)"):
        read_idx(path, md5="00ff")
    with pytest.raises(FileNotFoundError, match=r"a file at .*b, got nothing there"):
        read_idx(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"a file at .*, got a folder"):
        read_idx(tmp_path)


def damage(data, rng):
    """A few bytes changed, cut off or added."""
    data = bytearray(data)
    kind = rng.integers(4)
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        return bytes(data) + rng.bytes(rng.integers(1, 20))
    for _ in range(rng.integers(1, 4)):
        # headers are where parsers go wrong
        end = len(data) if kind == 2 else min(40, len(data))
        data[rng.integers(end)] = rng.integers(256)
    return bytes(data)


def test_no_damage_to_an_idx_file_gives_other_numbers_or_another_error(rng, tmp_path):
    path, messages = tmp_path / "fuzzed.gz", []
    whole = gzip.compress(small.idx(CUBE))
    for _ in range(400):
        data = damage(whole, rng)
        path.write_bytes(data)
        try:
            assert_array_equal(read_idx(path, md5=small.md5(data)), CUBE)
        except DamagedFileError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert all("fuzzed.gz" in message for message in messages)


# ---------------------------------------------------------------- MNIST


def check_mnist(data, arrays):
    for part, (x, y) in zip(("train", "test"), arrays.values(), strict=True):
        assert_array_equal(getattr(data, f"x_{part}"), x, strict=True)
        assert_array_equal(getattr(data, f"y_{part}"), y.astype(np.int64), strict=True)
        assert getattr(data, f"x_{part}").flags.c_contiguous


def test_mnist_is_read_from_its_four_files_packed_or_not(mnist, tmp_path):
    source, files, arrays = mnist
    check_mnist(mnists.load_set(source, write(tmp_path / "a", files), False), arrays)
    check_mnist(mnists.load_set(source, write(tmp_path / "b/mnist", files).parent, False), arrays)
    unpacked = {name.removesuffix(".gz"): gzip.decompress(data) for name, data in files.items()}
    data = mnists.load_set(source, str(write(tmp_path / "c/mnist", unpacked)), False)
    check_mnist(data, arrays)
    check_mnist(mnists.load_set(source, tmp_path / "c", False), arrays)
    assert repr(data) == "Dataset('mnist', 6 training and 4 test images 28x28x1, 10 classes)"


@pytest.mark.parametrize("place", ["root", "variable", "cache"])
def test_data_is_looked_for_in_three_places(place, mnist, tmp_path, monkeypatch):
    source, files, arrays = mnist
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path / "variable"))
    folder = {"cache": tmp_path / "cache/minires"}.get(place, tmp_path / place)
    write(folder, files)
    check_mnist(mnists.load_set(source, tmp_path / "root", False), arrays)


def test_missing_data_is_one_error_with_the_folders_and_the_ways_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", str(tmp_path / "data"))
    for load in FILE_LOADERS.values():
        with pytest.raises(FileNotFoundError) as caught:
            load(tmp_path / "here")
        words = str(caught.value)
        for part in (f"{load.__name__} expects ", "here", "data", "cache", "download=True"):
            assert part in words
        assert "the environment variable MINIRES_DATA" in words
        assert ".gz" in words


def test_two_files_suffice_for_the_test_part(mnist, tmp_path, monkeypatch):
    source, files, arrays = mnist
    monkeypatch.setattr(mnists, "MNIST", source)
    write(tmp_path, {name: data for name, data in files.items() if name.startswith("t10k")})
    x, y = load_mnist_part("test", tmp_path)
    assert_array_equal(x, arrays["test"][0], strict=True)
    assert_array_equal(y, arrays["test"][1])
    with pytest.raises(FileNotFoundError, match="load_mnist_part expects train-images-idx3-ubyte"):
        load_mnist_part("train", tmp_path)
    with pytest.raises(ValueError, match="part to be one of 'train', 'test', got 'both'"):
        load_mnist_part("both", tmp_path)


def test_fashion_files_beside_the_call_for_mnist_are_refused_with_the_hint(mnist, tmp_path):
    source, files, _ = mnist
    name = MNIST.parts["train"].images.name
    other = {**files, name: gzip.compress(small.idx(CUBE))}
    with pytest.raises(ValueError, match=rf"{name} to have the md5 .* keep them in sub-folders"):
        mnists.load_set(source, write(tmp_path, other), False)


def test_unpacked_files_are_read_where_the_folder_says_of_which_set_they_are(mnist, tmp_path):
    source, files, _ = mnist
    unpacked = {name.removesuffix(".gz"): gzip.decompress(data) for name, data in files.items()}
    for folder in ("files", "fashion-mnist"):
        with pytest.raises(FileNotFoundError, match="ubyte, in a folder called mnist"):
            mnists.load_set(source, write(tmp_path / folder, unpacked), False)


def test_a_link_to_a_folder_of_the_set_will_do(mnist, tmp_path):
    source, files, arrays = mnist
    unpacked = {name.removesuffix(".gz"): gzip.decompress(data) for name, data in files.items()}
    (tmp_path / "digits").symlink_to(write(tmp_path / "mnist", unpacked))
    check_mnist(mnists.load_set(source, tmp_path / "digits", False), arrays)


def test_images_and_labels_come_from_one_folder(mnist, tmp_path, monkeypatch):
    source, files, _ = mnist
    monkeypatch.setenv("MINIRES_DATA", str(write(tmp_path / "all", files)))
    images = {name: data for name, data in files.items() if "images" in name}
    half = write(tmp_path / "half", images)
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1.* beside .*half.train-"):
        mnists.load_set(source, half, False)


def test_an_unpacked_file_of_another_shape_or_range_is_refused(mnist, tmp_path):
    source, files, _ = mnist
    tmp_path = write(tmp_path / "mnist", files)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(small.idx(CUBE))
    with pytest.raises(ValueError, match=r"idx3-ubyte .*shape \(6, 28, 28\), got \(2, 3, 4\)"):
        mnists.load_set(source, tmp_path, False)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(small.idx(np.full(6, 10, np.uint8)))
    with pytest.raises(
        ValueError, match=r"labels in .*mnist.train-labels-idx1-ubyte to .* 10, got 10"
    ):
        mnists.load_set(source, tmp_path, False)


def test_a_tilde_that_stands_for_nobody_is_refused():
    for load in FILE_LOADERS.values():
        with pytest.raises(ValueError, match=r"got '~nobody.here/data', whose ~ stands for no"):
            load("~nobody.here/data")


def test_who_has_no_home_has_no_cache_folder(mnist, tmp_path, monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    source, files, arrays = mnist
    monkeypatch.setattr(load_pooch(), "os_cache", homeless)
    check_mnist(mnists.load_set(source, write(tmp_path, files), False), arrays)


def test_a_folder_that_takes_no_download_is_blamed_and_not_the_mirrors(tmp_path):
    (tmp_path / "mnist").write_bytes(b"")
    with pytest.raises(OSError, match=r"expects to write into .*mnist, got: File exists. Give an"):
        mnists.load_set(MNIST, tmp_path, True)


def test_a_root_that_is_no_folder_is_refused(tmp_path):
    file = write(tmp_path, {"a.gz": b""}) / "a.gz"
    with pytest.raises(ValueError, match=r"load_mnist expects root to be a folder, got the file"):
        load_mnist(file)
    with pytest.raises(TypeError, match=r"load_cifar10 expects root to be the path .* got 3"):
        load_cifar10(3)


def test_the_official_numbers_are_those_that_were_published():
    names = [
        part.images.name for source in (MNIST, FASHION_MNIST) for part in source.parts.values()
    ]
    assert names == ["train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"] * 2
    assert [part.count for part in MNIST.parts.values()] == [60000, 10000]
    assert FASHION_MNIST.class_names[::9] == ("T-shirt/top", "Ankle boot")
    assert CIFAR10.size(10000) == 30_730_000
    assert CIFAR100.size(50000) == 153_700_000
    groups, classes = CIFAR100.label_bytes
    assert (len(groups), len(classes), len(CIFAR10.label_bytes[0])) == (20, 100, 10)
    assert classes == tuple(sorted(set(classes)))


@pytest.mark.skipif(OFFICIAL is None, reason="MINIRES_DATA is not set")
def test_the_official_test_digits(monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", OFFICIAL)
    try:
        x, y = load_mnist_part("test")
    except FileNotFoundError:
        pytest.skip("MINIRES_DATA holds no MNIST")
    assert x.shape == (10000, 28, 28, 1)
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert_array_equal(np.bincount(y), counts)
    assert y[:5].tolist() == [7, 2, 1, 0, 4]


# ---------------------------------------------------------------- CIFAR


def check_cifar(layout, arrays, root, which=0):
    data = cifars.load(layout, root, False, which)
    for part, names in (("train", layout.train), ("test", layout.test)):
        x = np.concatenate([arrays[name][0] for name in names])
        y = np.concatenate([arrays[name][1][:, which] for name in names]).astype(np.int64)
        assert_array_equal(getattr(data, f"x_{part}"), x, strict=True)
        assert_array_equal(getattr(data, f"y_{part}"), y, strict=True)
        assert getattr(data, f"x_{part}").flags.c_contiguous
    assert data.class_names == layout.label_bytes[which]


def test_cifar_is_read_from_a_folder_or_an_archive_with_either_label(cifar, tmp_path):
    layout, files, arrays = cifar
    folder = write(tmp_path / "a" / layout.folder, files)
    for which in range(len(layout.label_bytes)):
        check_cifar(layout, arrays, tmp_path / "a", which)
        check_cifar(layout, arrays, folder, which)
    layout, data = small.cifar_archive(layout, files)
    check_cifar(layout, arrays, write(tmp_path / "b", {layout.archive.name: data}), which)


def test_of_cifar_100_the_first_byte_is_the_group_and_the_second_the_class(tmp_path, monkeypatch):
    layout, files, _ = small.small_cifar(np.random.default_rng(0), CIFAR100, count=1)
    files["train.bin"] = bytes([4, 57]) + bytes(3072)
    monkeypatch.setattr(cifars, "CIFAR100", layout)
    write(tmp_path / layout.folder, files)
    fine, coarse = load_cifar100(tmp_path), load_cifar100(tmp_path, labels="coarse")
    assert fine.class_names[fine.y_train[0]] == "pear"
    assert coarse.class_names[coarse.y_train[0]] == "fruit_and_vegetables"
    with pytest.raises(ValueError, match="labels to be one of 'fine', 'coarse', got 'both'"):
        load_cifar100(tmp_path, labels="both")


def test_an_unpacked_file_that_is_missing_or_of_another_size_is_refused(cifar, tmp_path):
    layout, files, _ = cifar
    folder = write(tmp_path / layout.folder, files)
    name, size = next(iter(layout.train)), len(next(iter(files.values())))
    for data in (files[name][:-1], files[name] + b"a"):
        (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} to have {size} bytes, got {len(data)}"):
            cifars.load(layout, tmp_path, False, 0)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name}, got nothing there: unpack"):
        cifars.load(layout, tmp_path, False, 0)


def test_a_label_beyond_the_classes_is_refused(cifar, tmp_path):
    layout, files, _ = cifar
    name = next(iter(layout.test))
    damaged = bytes([len(layout.label_bytes[0])]) + files[name][1:]
    write(tmp_path / layout.folder, {**files, name: damaged})
    classes = len(layout.label_bytes[0])
    with pytest.raises(ValueError, match=f"in .*{name} to be below {classes}, got {classes}"):
        cifars.load(layout, tmp_path, False, 0)


def test_an_archive_with_another_checksum_has_to_be_unpacked(cifar, tmp_path):
    layout, files, _ = cifar
    _, data = small.cifar_archive(layout, files)
    write(tmp_path, {layout.archive.name: data})
    words = rf"{layout.archive.name} to have the md5 .*An archive of your own has to be unpacked"
    with pytest.raises(ValueError, match=words):
        cifars.load(layout, tmp_path, False, 0)


def test_pickles_are_refused_with_the_reason(cifar, tmp_path):
    layout, files, arrays = cifar
    archive, folder = layout.pickles
    words = rf"expects the binary version, {layout.archive.name}, got only .*pickles, which can run"
    write(tmp_path / "a", {archive: b""})
    (tmp_path / "b" / folder).mkdir(parents=True)
    for root in (tmp_path / "a", tmp_path / "b", tmp_path / "b" / folder):
        with pytest.raises(ValueError, match=words):
            cifars.load(layout, root, False, 0)
    write(tmp_path / "b" / layout.folder, files)  # beside the binary version they do no harm
    check_cifar(layout, arrays, tmp_path / "b")


def special(name, kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


FIRST = "cifar-10-batches-bin/data_batch_1.bin"


@pytest.mark.parametrize(
    ("info", "data", "words"),
    [
        (special("../outside"), b"a", r"names inside .* that stay inside, got '\.\./outside'"),
        (special("a/../../b"), b"a", r"got 'a/\.\./\.\./b'"),
        (special("/absolute"), b"a", "got '/absolute'"),
        (special("C:\\a"), b"a", "stay inside, got "),
        (special("..\\a"), b"a", "stay inside, got "),
        (special("link", tarfile.SYMTYPE, "/outside"), b"", "got 'link', a link, device or"),
        (special(FIRST, tarfile.SYMTYPE, "a"), b"", "data_batch_1.bin', a link, device or"),
        (special("hard", tarfile.LNKTYPE, FIRST), b"", "got 'hard', a link, device or"),
        (special("pipe", tarfile.FIFOTYPE), b"", "got 'pipe', a link, device or"),
        (special(FIRST), b"second", f"one {FIRST} in .*, got two"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_member_that_leads_out_of_the_archive_is_refused(info, data, words, tmp_path):
    layout, files, _ = small.small_cifar(np.random.default_rng(0), CIFAR10)
    layout, packed = small.cifar_archive(layout, files, [(info, data)])
    write(tmp_path / "data", {layout.archive.name: packed})
    with pytest.raises(ValueError, match=rf"load_cifar10 expects .*{words}") as caught:
        cifars.load(layout, tmp_path / "data", False, 0)
    assert layout.archive.name in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["data"]
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == [layout.archive.name]


@pytest.mark.parametrize(
    ("size", "kind", "words"),
    [
        (9218, tarfile.REGTYPE, "data_batch_1.bin in .* to have 9219 bytes, got 9218:"),
        (9220, tarfile.REGTYPE, "data_batch_1.bin in .* to have 9219 bytes, got 9220:"),
        (2**40, tarfile.REGTYPE, rf"to have more than .*_1.bin' with {2**40}"),
        (9219, tarfile.GNUTYPE_SPARSE, "_1.bin', a link, device or sparse file"),
        (9219, tarfile.DIRTYPE, f"to hold {FIRST}, .* got an archive without"),
        (9219, tarfile.XHDTYPE, "to be a whole tar archive, got"),
    ],
)
def test_a_member_of_another_size_or_kind_is_refused(size, kind, words, tmp_path):
    layout, files, _ = small.small_cifar(np.random.default_rng(0), CIFAR10)
    header = special(FIRST, kind, size=size).tobuf(tarfile.GNU_FORMAT)
    refuse(layout, header + files["data_batch_1.bin"] + bytes(2048), words, tmp_path)


def refuse(layout, unpacked, words, tmp_path):
    """Gzip an archive, tell the layout its checksum, and expect to have it refused."""
    data = gzip.compress(unpacked)
    layout = replace(layout, archive=small.official(layout.archive.name, data))
    write(tmp_path, {layout.archive.name: data})
    with pytest.raises(DamagedFileError, match=words) as caught:
        cifars.load(layout, tmp_path, False, 0)
    assert layout.archive.name in str(caught.value)


def test_an_archive_that_unpacks_to_more_than_it_should_is_cut_off(tmp_path):
    layout, files, _ = small.small_cifar(np.random.default_rng(0), CIFAR10)
    bulk = [(special(f"bulk {i}"), bytes(2**18)) for i in range(8)]
    members = [(special(f"{layout.folder}/{name}"), data) for name, data in files.items()]
    refuse(layout, small.tar([*members, *bulk]), "unpack to at most .* bytes, got more", tmp_path)
    refuse(layout, small.tar([*bulk, *members]), "unpack to at most .* bytes, got more", tmp_path)
    for name in (FIRST, "other"):  # a header can state as much
        huge = special(name, size=2**80).tobuf(tarfile.GNU_FORMAT)
        refuse(layout, huge + bytes(2048), rf"more than .*{name}' with {2**80}", tmp_path)
    long = special("name", tarfile.GNUTYPE_LONGNAME, size=2**34).tobuf(tarfile.GNU_FORMAT)
    refuse(layout, long + bytes(2**22), "unpack to at most .* bytes, got more", tmp_path)


def test_an_archive_that_lacks_a_file_or_is_cut_off_is_refused(cifar, tmp_path):
    layout, files, _ = cifar
    name = next(iter(layout.test))
    lacking, data = small.cifar_archive(layout, {k: v for k, v in files.items() if k != name})
    write(tmp_path, {layout.archive.name: data})
    with pytest.raises(
        ValueError, match=rf"to hold {layout.folder}/{name}, got an archive without"
    ):
        cifars.load(lacking, tmp_path, False, 0)
    _, data = small.cifar_archive(layout, files)
    for part in (data[: len(data) // 2], data[:-4], b"no archive"):
        damaged = replace(layout, archive=small.official(layout.archive.name, part))
        write(tmp_path, {layout.archive.name: part})
        with pytest.raises(ValueError, match=rf"{layout.archive.name} to be a whole gzip file"):
            cifars.load(damaged, tmp_path, False, 0)


@pytest.mark.parametrize("level", ["gzip", "tar"])
def test_no_damage_to_an_archive_gives_another_error(level, rng, tmp_path):
    layout, files, arrays = small.small_cifar(rng, CIFAR10, count=1)
    members = [(special(f"{layout.folder}/{name}"), data) for name, data in files.items()]
    whole, messages = small.tar(members), []
    for _ in range(300):
        data = damage(small.tar_gz(members), rng) if level == "gzip" else damage_headers(whole, rng)
        told = replace(layout, archive=small.official(layout.archive.name, data))
        write(tmp_path, {layout.archive.name: data})
        try:
            check_cifar(told, arrays, tmp_path)
        except DamagedFileError as error:
            messages.append(str(error))
    assert len(messages) > 150
    assert all(layout.archive.name in message for message in messages)


def damage_headers(whole, rng):
    """Bytes changed in the headers of a tar archive, with their checksums made right again."""
    data = bytearray(whole)
    starts = [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]
    for start in rng.choice(starts, 2):
        # name, size, type, name of a link, format
        field = start + rng.choice([0, 124, 156, 157, 257], p=[0.1, 0.3, 0.4, 0.1, 0.1])
        for i in range(field, field + rng.integers(1, 12)):
            data[i] = rng.choice([0, 32, 48, 55, 76, 103, 120, 128, 255, rng.integers(256)])
        data[start + 148 : start + 156] = b" " * 8
        total = sum(data[start : start + 512])
        data[start + 148 : start + 156] = b"%06o\0 " % total
    return gzip.compress(bytes(data))


@pytest.mark.skipif(OFFICIAL is None, reason="MINIRES_DATA is not set")
def test_sixty_thousand_photographs(monkeypatch):
    monkeypatch.setenv("MINIRES_DATA", OFFICIAL)
    try:
        data = load_cifar10()
    except FileNotFoundError:
        pytest.skip("MINIRES_DATA holds no CIFAR-10")
    assert data.x_train.shape == (50000, 32, 32, 3)
    assert data.x_train.dtype == np.uint8
    assert_array_equal(np.bincount(data.y_train), np.full(10, 5000))
    assert_array_equal(np.bincount(data.y_test), np.full(10, 1000))
    assert data.x_train.mean((0, 1, 2)) == pytest.approx([125.3, 123.0, 113.9], abs=0.3)


# ---------------------------------------------------------------- download


@pytest.fixture
def ask(mnist, tmp_path, monkeypatch):
    """A function that loads from mirrors, and returns the data and what lies in the folder."""
    source, _, _ = mnist

    def load(*mirrors):
        monkeypatch.setitem(downloads.MIRRORS, "mnist", mirrors)
        return mnists.load_set(source, tmp_path / "root", True)

    return load


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "root").rglob("*") if path.is_file())


def test_what_is_missing_is_fetched_once_and_quietly(ask, mnist, tmp_path, capfd):
    _, files, arrays = mnist
    with small.serving(files) as (mirror, asked):
        check_mnist(ask(mirror), arrays)
        check_mnist(ask(mirror), arrays)
    assert sorted(asked) == sorted(f"/{name}" for name in files)
    assert left(tmp_path) == sorted(files)
    assert sorted(os.listdir(tmp_path / "root/mnist")) == sorted(files)
    assert capfd.readouterr() == ("", "")


def test_where_the_first_mirror_is_down_the_second_one_serves(ask, mnist):
    _, files, arrays = mnist
    with small.serving(files) as (mirror, _), small.serving({}) as (empty, _):
        check_mnist(ask("http://127.0.0.1:9/", empty, mirror), arrays)


def hang_up(request):
    """Half of what was announced."""
    small.give(request, b"half", 8)


def too_much(request):
    small.give(request, bytes(10**6), 10**6)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"wrong bytes", "does not match the known hash"),
        (hang_up, "IncompleteRead"),
        (too_much, "bytes, got more"),
        (None, "404"),
    ],
    ids=["wrong", "dropped", "oversized", "absent"],
)
def test_what_no_mirror_gives_whole_is_refused_and_leaves_nothing(answer, words, ask, tmp_path):
    name = "train-images-idx3-ubyte.gz"
    with (
        small.serving({name: answer}) as (mirror, asked),
        pytest.raises(OSError, match=rf"{name} from one of 1 mirrors, got it from none:") as caught,
    ):
        ask(mirror)
    assert len(asked) == downloads.ROUNDS
    assert mirror in str(caught.value)
    assert words in str(caught.value)
    assert left(tmp_path) == []


def test_a_connection_that_drops_once_is_tried_again(ask, mnist, tmp_path):
    _, files, arrays = mnist
    dropped = []

    def once(request):
        name = request.path.removeprefix("/")
        data = files[name]
        small.give(request, data[: len(data) // 2] if name not in dropped else data, len(data))
        dropped.append(name)

    with small.serving(dict.fromkeys(files, once)) as (mirror, asked):
        check_mnist(ask(mirror), arrays)
    assert len(asked) == 2 * len(files)
    assert left(tmp_path) == sorted(files)


def test_a_download_that_is_interrupted_is_not_taken_for_the_file(
    ask, mnist, tmp_path, monkeypatch
):
    _, files, arrays = mnist

    def interrupted(url, path, file):
        with open(path, "wb") as out:
            out.write(b"half")
        raise KeyboardInterrupt

    with small.serving(files) as (mirror, _):
        with monkeypatch.context() as patch:
            patch.setattr(downloads, "fetch", interrupted)
            with pytest.raises(KeyboardInterrupt):
                ask(mirror)
        assert left(tmp_path) == []
        check_mnist(ask(mirror), arrays)


def test_nothing_is_fetched_unless_asked(mnist, tmp_path, monkeypatch):
    source, files, _ = mnist
    with small.serving(files) as (mirror, asked):
        monkeypatch.setitem(downloads.MIRRORS, "mnist", (mirror,))
        with pytest.raises(FileNotFoundError):
            mnists.load_set(source, tmp_path, False)
    assert asked == []


def test_an_archive_is_fetched_and_read(cifar, tmp_path, monkeypatch):
    layout, files, arrays = cifar
    layout, data = small.cifar_archive(layout, files)
    with small.serving({layout.archive.name: data}) as (mirror, _):
        monkeypatch.setitem(downloads.MIRRORS, layout.name, (mirror,))
        cifars.load(layout, tmp_path / "new", True, 0)
    check_cifar(layout, arrays, tmp_path / "new")


# ---------------------------------------------------------------- image folders


COLOURS = {"blue": (20, 40, 200), "green": (30, 180, 60), "red": (220, 30, 20)}


def paint(path, colour, size=(8, 6), **options):
    """Write an image of one colour, (H, W) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], colour).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Ten images of each of three colours, in four spellings of two formats."""
    root = tmp_path / "colours"
    for name, colour in COLOURS.items():
        for i in range(10):
            suffix = ("png", "jpg", "jpeg", "PNG")[i % 4]
            paint(root / name / f"{i}.{suffix}", (*colour[:2], colour[2] + i), quality=95)
    return root


def test_a_folder_of_images_is_a_data_set(folder):
    data = load_image_folder(folder)
    assert repr(data) == "Dataset('colours', 24 training and 6 test images 8x6x3, 3 classes)"
    assert data.class_names == ("blue", "green", "red")
    assert (data.x_train.dtype, data.y_train.dtype) == (np.uint8, np.int64)
    assert data.x_train.flags.c_contiguous
    assert_array_equal(np.bincount(data.y_test), [2, 2, 2])
    for x, label in zip(data.x_train, data.y_train, strict=True):
        wanted = np.array(list(COLOURS.values())[label])
        assert np.abs(x[0, 0].astype(int) - wanted).max() < 15


def test_the_split_knows_the_seed_and_not_the_order_of_the_file_system(folder, monkeypatch):
    a, other = load_image_folder(folder), load_image_folder(folder, seed=1)
    entries = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(entries(self), reverse=True))
    b = load_image_folder(folder)
    assert_array_equal(a.x_train, b.x_train)
    assert_array_equal(a.x_test, b.x_test)
    assert (a.x_test != other.x_test).any()
    assert_array_equal(np.bincount(load_image_folder(folder, test_share=0.99).y_train), [1, 1, 1])
    assert_array_equal(np.bincount(load_image_folder(folder, test_share=0.01).y_test), [1, 1, 1])


def test_folders_named_train_and_test_are_the_split(tmp_path):
    for part, count in (("train", 3), ("test", 1)):
        for name, colour in COLOURS.items():
            for i in range(count):
                paint(tmp_path / part / name / f"{i}.png", colour)
    data = load_image_folder(tmp_path)
    assert_array_equal(np.bincount(data.y_train), [3, 3, 3])
    assert_array_equal(data.y_test, [0, 1, 2])
    (tmp_path / "test/red/0.png").unlink()
    with pytest.raises(ValueError, match=r"PNG or JPEG files in .*red, got an empty folder"):
        load_image_folder(tmp_path)
    (tmp_path / "test/red").rmdir()
    with pytest.raises(ValueError, match=r"the same classes in .*test, got 'red' in one of them"):
        load_image_folder(tmp_path)


def test_hidden_files_are_left_alone_and_others_are_not(folder):
    (folder / ".git").mkdir()
    (folder / "red/.thumbnail").write_bytes(b"?")
    (folder / "README.txt").write_text("three colours")
    assert load_image_folder(folder).num_classes == 3
    (folder / "red/notes.txt").write_text("all red")
    with pytest.raises(ValueError, match=r"nothing but \.png, .* files in .*red, got notes.txt"):
        load_image_folder(folder)
    (folder / "red/notes.txt").unlink()
    (folder / "red/more.png").mkdir()
    with pytest.raises(ValueError, match=r"got more.png: take it out"):
        load_image_folder(folder)


def test_another_size_is_named_or_scaled(folder):
    paint(folder / "green/5.jpg", COLOURS["green"], size=(9, 6))
    words = r"8x6 pixels, as .* is, got 9x6 in .*green.5\.jpg: pass size=\(8, 6\)"
    with pytest.raises(ValueError, match=words):
        load_image_folder(folder)
    assert load_image_folder(folder, size=(4, 5)).input_shape == (4, 5, 3)


def test_parts_that_are_called_otherwise_are_not_taken_for_classes(folder, tmp_path):
    for one, other in (("train", "val"), ("Train", "Test")):
        parts = tmp_path / one / "parts"
        for name in (one, other):
            shutil.copytree(folder, parts / name)
        with pytest.raises(ValueError, match=r"called train and test, got .* and .*: rename them"):
            load_image_folder(parts)
        shutil.rmtree(parts)


def test_a_class_whose_name_cannot_be_printed_is_refused(folder):
    for name in ("two\nlines", "\udcff\udcfe"):
        paint(folder / name / "0.png", (0, 0, 0))
        with pytest.raises(ValueError, match=r"names can be printed, .*got '.*\\.*' in .*: rename"):
            load_image_folder(folder)
        shutil.rmtree(folder / name)


def test_a_link_to_nothing_is_told_to_be_one(folder):
    (folder / "red/broken.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"got broken\.png \(a link to nothing\): take it out"):
        load_image_folder(folder)


def test_folders_that_are_no_data_set_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a folder at .*nothing, got none there"):
        load_image_folder(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"at least two classes in .*, got only 'colours'"):
        load_image_folder(tmp_path)
    with pytest.raises(ValueError, match=r"at least two classes in .*red, got none"):
        load_image_folder(folder / "red")
    paint(folder / "white/alone.png", (255, 255, 255))
    with pytest.raises(ValueError, match=r"two images of each class, .* got only .*alone\.png"):
        load_image_folder(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 32}, r"size to be None or \(H, W\), got 32"),
        ({"size": (32, 0)}, r"size\[1\] to be an integer >= 1, got 0"),
        ({"test_share": 0}, "test_share to be a number < 1 and > 0, got 0"),
        ({"test_share": 1.0}, "test_share to be a number < 1 and > 0, got 1.0"),
        ({"seed": -1}, "seed to be an integer >= 0, got -1"),
        ({"size": (2**31, 2)}, "a size of at most 16384 pixels a side, got"),
    ],
)
def test_wrong_options_are_refused(options, words, folder):
    with pytest.raises(ValueError, match=f"load_image_folder expects {words}"):
        load_image_folder(folder, **options)


def test_damaged_images_are_refused_by_name(folder):
    whole = (folder / "red/1.jpg").read_bytes()
    png = (folder / "red/0.png").read_bytes()
    for data in (
        b"",
        b"text",
        whole[: len(whole) // 2],
        png[:-20],
        png[:40],
        b"GIF89a" + bytes(50),
    ):
        (folder / "red/3.PNG").write_bytes(data)
        with pytest.raises(ValueError, match=r"red.3\.PNG to be a whole PNG or JPEG image that"):
            load_image_folder(folder)


def test_no_damage_to_an_image_gives_another_error(folder, rng):
    path, messages = folder / "red/fuzzed.png", []
    for whole in ((folder / "red/0.png").read_bytes(), (folder / "red/1.jpg").read_bytes()):
        for _ in range(200):
            path.write_bytes(damage(whole, rng))
            try:
                assert read_image(path, (8, 6, 3))[0].shape == (8, 6, 3)
            except ValueError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert all("fuzzed.png" in message for message in messages)


def test_an_image_of_too_many_pixels_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow refuses above twice that
    with pytest.raises(ValueError, match=r"blue.0\.png to have at most 40 pixels, got a larger"):
        load_image_folder(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    load_image_folder(folder)


def test_an_image_is_read_in_the_shape_of_a_model(tmp_path):
    picture = np.zeros((8, 6, 3), np.uint8)
    picture[:4] = 255, 0, 0
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    image, size = read_image(str(path), (8, 6, 3))
    assert_array_equal(image, picture, strict=True)
    assert size == (8, 6)
    grey, size = read_image(path, (4, 3, 1))
    assert (grey.shape, grey.dtype, size) == ((4, 3, 1), np.uint8, (8, 6))
    assert read_image(path, (8, 6, 1))[0][0, 0, 0] == 76  # 0.299 of red


def test_a_camera_held_upright_gives_an_upright_image(tmp_path):
    picture = np.arange(12, dtype=np.uint8).reshape(4, 3) * 20
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(np.rot90(picture).copy()).save(tmp_path / "turned.png", exif=exif)
    image, size = read_image(tmp_path / "turned.png", (4, 3, 1))
    assert size == (4, 3)
    assert_array_equal(image[..., 0], picture)


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [
        (np.full((4, 4), 0x80FF, np.uint16), 0x80),
        (np.full((4, 4, 4), 51, np.uint8), 255 - 0.2 * 204),
        (np.full((4, 4, 2), 51, np.uint8), 255 - 0.2 * 204),
        (np.full((4, 4), True), 255),
    ],
    ids=["16 bits", "transparent", "grey and transparent", "one bit"],
)
def test_other_kinds_of_pixels_become_bytes(picture, wanted, tmp_path):
    Image.fromarray(picture).save(tmp_path / "a.png")
    for channels in (1, 3):
        image, _ = read_image(tmp_path / "a.png", (4, 4, channels))
        assert (image.shape, image.dtype) == ((4, 4, channels), np.uint8)
        assert_allclose(image, wanted, atol=1)


def test_what_a_palette_has_transparent_is_laid_on_white_without_a_warning(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((0, 0), 0)
    image.save(tmp_path / "a.png", transparency=b"\x00\xff")
    pixels, _ = read_image(tmp_path / "a.png", (4, 4, 3))
    assert pixels[0, :2].tolist() == [[255, 255, 255], [10, 20, 30]]


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4, 4), r" to be \(H, W, C\) with C = 1 or 3, got \(4, 4\)"),
        ((4, 4, 2), r" to be .* got \(4, 4, 2\)"),
        (4, " to be .* got 4"),
        ((0, 4, 3), r"\[0\] to be an integer >= 1, got 0"),
    ],
)
def test_a_wrong_shape_of_an_image_is_refused(shape, words, folder):
    with pytest.raises(ValueError, match=rf"read_image expects input_shape{words}"):
        read_image(folder / "red/0.png", shape)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"an image file at .*a\.png, got nothing there"):
        read_image(tmp_path / "a.png", (4, 4, 3))
    with pytest.raises(FileNotFoundError, match=r"an image file at .*, got a folder"):
        read_image(tmp_path, (4, 4, 3))


# ---------------------------------------------------------------- all of them


def test_every_loader_has_mirrors_and_importing_minires_loads_no_helper():
    code = "import minires, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pooch", "PIL", "requests"} & set(run.stdout.split())
    assert set(downloads.MIRRORS) == set(FILE_LOADERS)


def test_looking_for_files_warns_of_nothing_where_ipywidgets_is_missing(tmp_path):
    code = "from minires.data import load_cifar10\ntry: load_cifar10()\nexcept OSError: pass"
    # what a notebook's kernel looks like to tqdm
    fake = (
        "import sys, types\n"
        "sys.modules['ipykernel.zmqshell'] = types.ModuleType('zmqshell')\n"
        "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: None)\n"
        "sys.modules['ipywidgets'] = None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", fake + code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MINIRES_DATA": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert done.stderr == ""
