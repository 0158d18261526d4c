"""Where data files lie, and whether they are what they should be. Next: `idx`, `cifar`."""

import gzip
import hashlib
import os
import warnings
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PIECE = 2**20  # bytes read at a time


class DamagedFileError(ValueError):
    """A file does not hold what it should; the message names it and says what to do."""


class OfficialFile(NamedTuple):
    """What the publisher of a data set says of one file."""

    name: str
    md5: str
    size: int  # bytes


def search_folders(owner, root):
    """The folders to look in: `root`, $MINIRES_DATA, the user's cache folder; those that are set.

    Raises
    ------
    TypeError
        If `root` is no path.
    ValueError
        If `root` is a file, or begins with a ~ that stands for no folder.
    """
    if root is not None and not isinstance(root, str | os.PathLike):
        raise TypeError(f"{owner} expects root to be the path of a folder, got {root!r}")
    if root is not None and Path(root).is_file():
        raise ValueError(
            f"{owner} expects root to be a folder, got the file {root}: name its folder"
        )
    chosen = root, os.environ.get("MINIRES_DATA")
    return [expanded(owner, folder) for folder in chosen if folder] + cache_folder()


def expanded(owner, folder):
    """The path with a home folder for its ~."""
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{owner} expects a folder, got {os.fspath(folder)!r}, whose ~ stands for no user's "
            f"home: write the path out"
        ) from None


def cache_folder():
    """[the user's cache folder], or [] for a user without a home."""
    try:
        return [Path(load_pooch().os_cache("minires")).expanduser()]
    except RuntimeError:
        return []


def load_pooch():
    """pooch, imported where it is needed, without its tqdm's advice to install ipywidgets."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pooch
    return pooch


def missing(owner, wanted, folders):
    """The FileNotFoundError that lists where `wanted` was looked for, and the ways on."""
    looked = "".join(f"\n  {folder}" for folder in folders)
    return FileNotFoundError(
        f"{owner} expects {wanted} in one of these folders, got none of them with it:{looked}\n"
        f"Call {owner} with download=True, or put the file into one of them, or set the "
        "environment variable MINIRES_DATA to the folder that holds it"
    )


@contextmanager
def opened(owner, path, md5=None, advice="fetch the right file"):
    """The file open for reading, its checksum compared; the same open file is read afterwards.

    Parameters
    ----------
    owner : str
        Who asks.
    path : str or path
    md5 : str, optional
        None compares nothing.
    advice : str
        What to do about a missing file or a wrong checksum.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DamagedFileError
        If the checksum differs.
    """
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "nothing there"
        raise FileNotFoundError(f"{owner} expects a file at {path}, got {found}: {advice}")
    with open(path, "rb") as file:
        if md5 is not None:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
            if digest.hexdigest() != md5:
                raise DamagedFileError(
                    f"{owner} expects {path} to have the md5 {md5}, got {digest.hexdigest()} "
                    f"({file.tell()} bytes): it is damaged, cut off or another file; {advice}"
                )
            file.seek(0)
        yield file


class Unzipped:
    """What a gzip file holds, read forward, at most `limit` bytes of it.

    Parameters
    ----------
    owner, path
        For messages.
    file : binary file
        The compressed bytes.
    limit : int
        Bytes after which it is refused: a few kilobytes of gzip can unpack to gigabytes.
    """

    def __init__(self, owner, path, file, limit):
        self.owner, self.path, self.limit = owner, path, limit
        self.stream, self.count = gzip.GzipFile(fileobj=file), 0

    def read(self, size):
        """As of any file, with one kind of error."""
        try:
            data = self.stream.read(size)
        except (EOFError, OSError, zlib.error) as error:
            raise DamagedFileError(
                f"{self.owner} expects {self.path} to be a whole gzip file, got {error} "
                f"after {self.count} bytes: it is damaged or cut off; fetch it again"
            ) from None
        self.count += len(data)
        if self.count > self.limit:
            raise DamagedFileError(
                f"{self.owner} expects {self.path} to unpack to at most {self.limit} bytes, "
                "got more: it is damaged or not that file; fetch it again"
            )
        return data


def read_up_to(stream, size):
    """At most `size` bytes in pieces, so that memory grows with what is there, not with a claim."""
    data = bytearray()
    while len(data) < size and (piece := stream.read(min(size - len(data), PIECE))):
        data += piece
    return data
