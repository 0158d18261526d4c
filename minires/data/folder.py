"""A folder of images as a data set, one sub-folder a class."""

from pathlib import Path

import numpy as np

from minires.checks import expect_int, expect_number
from minires.data.dataset import Dataset
from minires.data.images import SUFFIXES, decode, pillow, to_array

OWNER = "load_image_folder"
LARGEST = 2**14  # pixels a side
OTHER_NAMES = {"test", "val", "valid", "validation", "dev"}  # that people give a test part


def load_image_folder(path, *, size=None, test_share=0.2, seed=0):
    """Read PNG and JPEG files from sub-folders that are named like their classes.

    Parameters
    ----------
    path : str or path
        Holds one folder a class, or two folders `train` and `test` that do. What begins with a dot
        is left alone.
    size : (H, W) of int, optional
        What all images are scaled to, in pixels. None demands that all have one size.
    test_share : float
        Share of each class that goes to the test part, at least one image and not all. Without
        effect where there are folders `train` and `test`.
    seed : int
        Of the split, which depends on the names of the files and on nothing else.

    Returns
    -------
    data : Dataset
        Images (N, H, W, 3) uint8, upright and in colour; classes in the order of their names.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there are fewer than two classes, a class is empty, has a single image to split or a
        name that cannot be printed, a file is no image or damaged, sizes differ, or an argument is
        out of range.

    See Also
    --------
    read_image : how a single file is read.
    """
    size = expect_size(size)
    test_share = expect_number(OWNER, "test_share", test_share, above=0, below=1)
    seed = expect_int(OWNER, "seed", seed, at_least=0)
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{OWNER} expects a folder at {path}, got none there")
    train, test = find_split(path) or split_by_class(find_classes(path), test_share, seed)
    *train_arrays, first = read_files(train, size)
    *test_arrays, _ = read_files(test, size, first)
    return Dataset(*train_arrays, *test_arrays, tuple(train), path.resolve().name)


def expect_size(size):
    """`size` as (H, W) or None, or ValueError."""
    if size is None:
        return None
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"{OWNER} expects size to be None or (H, W), got {size!r}")
    size = tuple(expect_int(OWNER, f"size[{i}]", side) for i, side in enumerate(size))
    if max(size) > LARGEST:
        raise ValueError(f"{OWNER} expects a size of at most {LARGEST} pixels a side, got {size}")
    return size


def find_split(path):
    """({class: files} to train, {class: files} to test) of folders so named, or None."""
    parts = path / "train", path / "test"
    if not all(part.is_dir() for part in parts):
        expect_no_other_split(path)
        return None
    train, test = map(find_classes, parts)
    lonely = sorted(train.keys() ^ test.keys())
    if lonely:
        raise ValueError(
            f"{OWNER} expects the same classes in {parts[0]} and {parts[1]}, "
            f"got {lonely[0]!r} in one of them only"
        )
    return train, test


def expect_no_other_split(path):
    """Refuse `train` beside `val`: they would be taken for two classes."""
    names = [entry.name for entry in entries(path) if entry.is_dir()]
    rest = {name.lower() for name in names} - {"train"}
    if len(names) == 2 and len(rest) == 1 and rest <= OTHER_NAMES:
        raise ValueError(
            f"{OWNER} expects two parts in {path} to be called train and test, "
            f"got {' and '.join(names)}: rename them"
        )


def find_classes(path):
    """{class: its image files}, both in the order of their names."""
    folders = [entry for entry in entries(path) if entry.is_dir()]
    for folder in folders:
        if not folder.name.isprintable():
            raise ValueError(
                f"{OWNER} expects folders whose names can be printed, since they name the classes, "
                f"got {folder.name!r} in {path}: rename it"
            )
    if len(folders) < 2:
        found = f"only {folders[0].name!r}" if folders else "none"
        raise ValueError(
            f"{OWNER} expects a folder of images for each of at least two classes in {path}, "
            f"got {found}"
        )
    return {folder.name: find_images(folder) for folder in folders}


def find_images(folder):
    """The files of a class, all of which must be images by their names."""
    files = entries(folder)
    if not files:
        raise ValueError(
            f"{OWNER} expects PNG or JPEG files in {folder}, got an empty folder: "
            "put some there or remove it"
        )
    for file in files:
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            what = " (a link to nothing)" if file.is_symlink() and not file.exists() else ""
            raise ValueError(
                f"{OWNER} expects nothing but {', '.join(SUFFIXES)} files in {folder}, "
                f"got {file.name}{what}: take it out"
            )
    return files


def entries(folder):
    """What lies in a folder and is not hidden; sorted, because each file system has its order."""
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(visible, key=lambda entry: entry.name)


def split_by_class(classes, share, seed):
    """Two dictionaries like `classes`, the second with about `share` of each class."""
    rng = np.random.default_rng(seed)
    train, test = {}, {}
    for name, files in classes.items():
        if len(files) < 2:
            raise ValueError(
                f"{OWNER} expects at least two images of each class, one of them to test, "
                f"got only {files[0]}"
            )
        count = min(max(round(share * len(files)), 1), len(files) - 1)
        chosen = set(rng.permutation(len(files))[:count].tolist())
        train[name] = [file for i, file in enumerate(files) if i not in chosen]
        test[name] = [file for i, file in enumerate(files) if i in chosen]
    return train, test


def read_files(classes, size, first=None):
    """x (N, H, W, 3) uint8, y (N,) int64, and the (file, shape) that all others must be like."""
    files = [file for group in classes.values() for file in group]
    counts = [len(group) for group in classes.values()]
    x = None
    for i, file in enumerate(files):
        with pillow(OWNER, file):
            image = to_array(decode(file, "RGB"), size)
        first = first or (file, image.shape)
        expect_like(first, file, image.shape)
        if x is None:
            x = np.empty((len(files), *image.shape), np.uint8)
        x[i] = image
    return x, np.repeat(np.arange(len(counts), dtype=np.int64), counts), first


def expect_like(first, file, shape):
    """Refuse an image of another size than the first one."""
    if shape != first[1]:
        height, width, _ = first[1]
        raise ValueError(
            f"{OWNER} expects all images to be {height}x{width} pixels, as {first[0]} is, "
            f"got {shape[0]}x{shape[1]} in {file}: pass size=({height}, {width}) (on the command "
            f"line --image-size {height},{width}) to scale them"
        )
