"""MNIST and Fashion-MNIST from their official IDX files. Next: `idx` for the format."""

from typing import NamedTuple

import numpy as np

from minires.checks import expect_choice
from minires.data.dataset import Dataset
from minires.data.download import download as fetch_file
from minires.data.files import DamagedFileError, OfficialFile, missing, opened, search_folders
from minires.data.idx import parse_idx


class Part(NamedTuple):
    """The two files of the training or the test part."""

    images: OfficialFile
    labels: OfficialFile
    count: int


class IdxSet(NamedTuple):
    """A data set of MNIST's form."""

    owner: str  # who reads it, for messages
    name: str  # also of the sub-folder, for both sets have the same file names
    class_names: tuple[str, ...]
    parts: dict[str, Part]


MNIST = IdxSet(
    "load_mnist",
    "mnist",
    tuple(str(k) for k in range(10)),
    {
        "train": Part(
            OfficialFile("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9912422),
            OfficialFile("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28881),
            60000,
        ),
        "test": Part(
            OfficialFile("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1648877),
            OfficialFile("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4542),
            10000,
        ),
    },
)
FASHION_MNIST = IdxSet(
    "load_fashion_mnist",
    "fashion-mnist",
    (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    {
        "train": Part(
            OfficialFile(
                "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26421880
            ),
            OfficialFile("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 29515),
            60000,
        ),
        "test": Part(
            OfficialFile("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 4422102),
            OfficialFile("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 5148),
            10000,
        ),
    },
)
SIDE = 28  # pixels


def load_mnist(root=None, *, download=False):
    """70,000 handwritten digits in grey, 28x28: 60,000 to train and 10,000 to test.

    Parameters
    ----------
    root : str or path, optional
        The folder to look in first. Then come $MINIRES_DATA and the user's cache folder. In each,
        the sub-folder `mnist` is looked at before the folder itself. Unpacked files are taken from
        a folder called `mnist` only, images and labels of a part from one folder.
    download : bool
        Whether to fetch files that are missing, into the first of these folders.

    Returns
    -------
    data : Dataset
        Images (N, 28, 28, 1) uint8.

    Raises
    ------
    FileNotFoundError
        If a file is missing and `download` is False; the message lists where it was looked for.
    ValueError
        If a file is damaged, cut off or another one. A .gz file is compared with the official
        checksum, an unpacked one (`train-images-idx3-ubyte`) with its size and range.
    OSError
        If no mirror gave a file.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner (1998), "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11).
    """
    return load_set(MNIST, root, download)


def load_mnist_part(part, root=None, *, download=False):
    """Only the training or the test part of MNIST, for which two of the four files suffice.

    Parameters
    ----------
    part : "train" or "test"
    root, download
        As in `load_mnist`.

    Returns
    -------
    x : (N, 28, 28, 1) uint8
    y : (N,) int64

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As in `load_mnist`.
    """
    expect_choice("load_mnist_part", "part", part, tuple(MNIST.parts))
    x, y, _ = load_part(MNIST._replace(owner="load_mnist_part"), part, root, download)
    return x, y


def load_fashion_mnist(root=None, *, download=False):
    """70,000 pieces of clothing in grey, 28x28: 60,000 to train and 10,000 to test.

    Parameters
    ----------
    root, download
        As in `load_mnist`; the sub-folder is `fashion-mnist`.

    Returns
    -------
    data : Dataset
        Images (N, 28, 28, 1) uint8.

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As in `load_mnist`.

    References
    ----------
    Xiao, Rasul and Vollgraf (2017), arXiv:1708.07747.
    """
    return load_set(FASHION_MNIST, root, download)


def load_set(source, root, download):
    """Both parts as a Dataset."""
    parts = [load_part(source, part, root, download) for part in ("train", "test")]
    (*train, one), (*test, other) = parts
    return Dataset(*train, *test, source.class_names, source.name, one and other)


def load_part(source, part, root, download):
    """x (N, 28, 28, 1) uint8 and y (N,) int64 of one part, and whether both were verified.

    Both files come from one folder, the first that has one of them: what lies in two folders need
    not belong together.
    """
    images, labels, count = source.parts[part]
    folders = search_folders(source.owner, root)
    places = [place for folder in folders for place in (folder / source.name, folder)]
    held = (place for place in places if find(source, images, place) or find(source, labels, place))
    place = next(held, None)
    paths = [place and find(source, file, place) for file in (images, labels)]
    for i, file in enumerate((images, labels)):
        if paths[i] is None and not download:
            raise missing_file(source, file, place, places, paths)
        paths[i] = paths[i] or fetch_file(source.owner, source.name, file, place or places[0])
    x, one = load_array(source, images, paths[0], (count, SIDE, SIDE))
    y, other = load_array(source, labels, paths[1], (count,))
    if y.max() >= len(source.class_names):
        raise DamagedFileError(
            f"{source.owner} expects the labels in {paths[1]} to be below "
            f"{len(source.class_names)}, got {y.max()}: the file is damaged; fetch it again"
        )
    return x[..., None], y.astype(np.int64), one and other


def missing_file(source, file, place, places, paths):
    """The FileNotFoundError for a file that is not where the other one is, or for both."""
    if place is None:
        return missing(source.owner, spelled(source, file), places)
    other = next(path for path in paths if path)
    return FileNotFoundError(
        f"{source.owner} expects {spelled(source, file)} beside {other}, got none: what lies in "
        f"two folders need not belong together. Put it there, call {source.owner} with "
        f"download=True, or take {other.name} away to have both looked for elsewhere"
    )


def find(source, file, place):
    """The path of a file in a folder, or None; unpacked first, for who has that made it himself.

    Unpacked, the files of MNIST and Fashion-MNIST cannot be told apart, so the folder has to be
    called after the set.
    """
    unpacked = place / file.name.removesuffix(".gz")
    named = source.name in (place.absolute().name, place.resolve().name)
    if named and unpacked.is_file():
        return unpacked
    return place / file.name if (place / file.name).is_file() else None


def spelled(source, file):
    """The names under which a file is looked for."""
    unpacked = file.name.removesuffix(".gz")
    return f"{file.name} (or {unpacked}, in a folder called {source.name})"


def load_array(source, file, path, shape):
    """A file as an array of `shape`, and whether its checksum was compared."""
    advice = (
        "delete it and call with download=True. MNIST and Fashion-MNIST have the same file names: "
        "keep them in sub-folders mnist and fashion-mnist"
    )
    md5 = file.md5 if path.name == file.name else None
    with opened(source.owner, path, md5, advice) as stream:
        return parse_idx(source.owner, path, stream, shape), md5 is not None
