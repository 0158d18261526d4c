"""CIFAR-10 and CIFAR-100 from their binary versions. Next: `tar` for how an archive is read."""

from dataclasses import dataclass

import numpy as np

from minires.checks import expect_choice
from minires.data.cifar_names import CIFAR10_CLASSES, CIFAR100_COARSE, CIFAR100_FINE
from minires.data.dataset import Dataset
from minires.data.download import download as fetch_file
from minires.data.files import DamagedFileError, OfficialFile, missing, opened, search_folders
from minires.data.tar import read_members

SIDE = 32  # pixels
PIXELS = 3 * SIDE * SIDE  # bytes of an image: all red, all green, all blue


@dataclass(frozen=True)
class Layout:
    """How one of the two data sets lies in its files."""

    owner: str  # who reads it, for messages
    name: str
    archive: OfficialFile
    folder: str  # inside the archive
    train: dict[str, int]  # {file: records}
    test: dict[str, int]
    label_bytes: tuple[tuple[str, ...], ...]  # class names of each byte before the pixels
    pickles: tuple[str, str]  # archive and folder of the version that is refused

    def size(self, records):
        """Bytes of a file."""
        return records * (len(self.label_bytes) + PIXELS)


CIFAR10 = Layout(
    owner="load_cifar10",
    name="cifar10",
    archive=OfficialFile("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", 170052171),
    folder="cifar-10-batches-bin",
    train={f"data_batch_{i}.bin": 10000 for i in range(1, 6)},
    test={"test_batch.bin": 10000},
    label_bytes=(CIFAR10_CLASSES,),
    pickles=("cifar-10-python.tar.gz", "cifar-10-batches-py"),
)
CIFAR100 = Layout(
    owner="load_cifar100",
    name="cifar100",
    archive=OfficialFile("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", 168513733),
    folder="cifar-100-binary",
    train={"train.bin": 50000},
    test={"test.bin": 10000},
    label_bytes=(CIFAR100_COARSE, CIFAR100_FINE),
    pickles=("cifar-100-python.tar.gz", "cifar-100-python"),
)


def load_cifar10(root=None, *, download=False):
    """60,000 colour photographs, 32x32, in ten classes: 50,000 to train and 10,000 to test.

    Parameters
    ----------
    root : str or path, optional
        The folder to look in first, for the folder `cifar-10-batches-bin` or else for the archive
        `cifar-10-binary.tar.gz`; or that folder itself. Then come $MINIRES_DATA and the user's
        cache folder.
    download : bool
        Whether to fetch the archive (170 MB) if it is missing, into the first of these folders.

    Returns
    -------
    data : Dataset
        Images (N, 32, 32, 3) uint8.

    Raises
    ------
    FileNotFoundError
        If nothing is found and `download` is False; the message lists where it was looked for.
    ValueError
        If a file is damaged, cut off or another one, or if only the python version is there: it
        consists of pickles, which can run code. The archive is compared with the official
        checksum, unpacked files with their size and the range of labels.
    OSError
        If no mirror gave the archive.

    Notes
    -----
    A record is one byte for the class, then 1024 bytes each for red, green and blue.

    References
    ----------
    Krizhevsky (2009), "Learning multiple layers of features from tiny images", chapter 3;
    the format is that of https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version".
    """
    return load(CIFAR10, root, download, which=0)


def load_cifar100(root=None, *, download=False, labels="fine"):
    """60,000 colour photographs, 32x32, in a hundred classes, which form twenty groups.

    Parameters
    ----------
    root, download
        As in `load_cifar10`; the folder is `cifar-100-binary`, the archive
        `cifar-100-binary.tar.gz` (169 MB).
    labels : "fine" or "coarse"
        The hundred classes, or the twenty groups of five.

    Returns
    -------
    data : Dataset
        Images (N, 32, 32, 3) uint8.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As in `load_cifar10`.

    Notes
    -----
    A record is one byte for the group, one for the class, and the pixels as in CIFAR-10.

    References
    ----------
    As in `load_cifar10`.
    """
    expect_choice("load_cifar100", "labels", labels, ("fine", "coarse"))
    return load(CIFAR100, root, download, which=("coarse", "fine").index(labels))


def load(layout, root, download, which):
    """The Dataset with the labels that stand in byte `which` of a record."""
    contents, verified = read_all(layout, root, download)
    train = arrays(layout, contents, layout.train, which)
    test = arrays(layout, contents, layout.test, which)
    return Dataset(*train, *test, layout.label_bytes[which], layout.name, verified)


def arrays(layout, contents, files, which):
    """x (N, 32, 32, 3) uint8 and y (N,) int64 of some files, one after the other."""
    x = np.empty((sum(files.values()), SIDE, SIDE, 3), np.uint8)
    y = np.empty(len(x), np.int64)
    start = 0
    for file, count in files.items():
        # pop: a file's bytes are let go as soon as they are copied
        records = np.frombuffer(contents.pop(file), np.uint8).reshape(count, -1)
        label_bytes, pixels = np.split(records, [len(layout.label_bytes)], axis=1)
        for byte, names in zip(label_bytes.T, layout.label_bytes, strict=True):
            if byte.max() >= len(names):
                raise DamagedFileError(
                    f"{layout.owner} expects the labels in {layout.folder}/{file} to be "
                    f"below {len(names)}, got {byte.max()}: the file is damaged; fetch it again"
                )
        chosen = slice(start, start + count)
        x[chosen] = pixels.reshape(count, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        y[chosen] = label_bytes[:, which]
        start += count
    return x, y


def read_all(layout, root, download):
    """{file: bytes} from the first folder or archive that is found, or from a mirror.

    With it comes whether a checksum was compared, as it is for archives.
    """
    folders = search_folders(layout.owner, root)
    for folder in folders:
        itself = folder.absolute().name == layout.folder
        unpacked = folder if itself else folder / layout.folder
        if unpacked.is_dir():
            return read_folder(layout, unpacked), False
        if (folder / layout.archive.name).is_file():
            return read_archive(layout, folder / layout.archive.name), True
    if download:
        path = fetch_file(layout.owner, layout.name, layout.archive, folders[0])
        return read_archive(layout, path), True
    refuse_pickles(layout, folders)
    raise missing(layout.owner, f"{layout.archive.name} or the folder {layout.folder}", folders)


def read_folder(layout, folder):
    """{file: bytes} of the unpacked files, each of exactly the size that it must have."""
    contents = {}
    for name, records in {**layout.train, **layout.test}.items():
        path, size = folder / name, layout.size(records)
        with opened(layout.owner, path, advice=f"unpack {layout.archive.name} again") as file:
            contents[name] = file.read(size + 1)
            held = file.seek(0, 2)
        if held != size:
            raise DamagedFileError(
                f"{layout.owner} expects {path} to have {size} bytes, got {held}: it is cut off "
                f"or another file; unpack {layout.archive.name} again"
            )
    return contents


def read_archive(layout, path):
    """{file: bytes} of the members, once the archive's checksum is found right."""
    files = {**layout.train, **layout.test}
    sizes = {f"{layout.folder}/{name}": layout.size(count) for name, count in files.items()}
    advice = (
        f"delete it and call {layout.owner} with download=True. An archive of your own has to be "
        f"unpacked: the folder {layout.folder} is read without a checksum"
    )
    with opened(layout.owner, path, layout.archive.md5, advice) as file:
        contents = read_members(layout.owner, path, file, sizes)
    return {name.removeprefix(f"{layout.folder}/"): data for name, data in contents.items()}


def refuse_pickles(layout, folders):
    """Say why the python version is not read, where it is all there is."""
    archive, unpacked = layout.pickles
    for folder in folders:
        itself = folder if folder.absolute().name == unpacked else folder / unpacked
        for path in (itself, folder / archive):
            if path.exists():
                raise ValueError(
                    f"{layout.owner} expects the binary version, {layout.archive.name}, got only "
                    f"{path}: it consists of pickles, which can run code when they are read. "
                    f"Call {layout.owner} with download=True, or put {layout.archive.name} there"
                )
