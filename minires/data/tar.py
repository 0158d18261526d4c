"""Named members of a .tar.gz, read without unpacking anything to disk. Next: `cifar`."""

import tarfile
from contextlib import contextmanager

from minires.data.files import DamagedFileError, Unzipped

SLACK = 2**20  # bytes for headers, padding and the small members that nobody asked for


def read_members(owner, path, file, sizes):
    """What some members of a gzipped tar archive hold.

    Parameters
    ----------
    owner, path
        For messages.
    file : binary file
        The archive, open.
    sizes : {str: int}
        The exact name of each member, and how many bytes it must have.

    Returns
    -------
    contents : {str: bytes}

    Raises
    ------
    DamagedFileError
        If a member is missing, twice there or of another size; if any member is a link, a device
        or sparse, is too large, or has a name that leads out of the archive; if the archive is
        damaged, or larger than its members can explain.
    """
    limit = sum(sizes.values()) + SLACK
    stream, contents = Unzipped(owner, path, file, limit), {}
    # "r|" reads forward only, so that no header can send the reader elsewhere
    with tar_errors(owner, path), tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            refuse_unsafe(owner, path, member, limit)
            if member.name in contents:
                raise DamagedFileError(
                    f"{owner} expects one {member.name} in {path}, got two: fetch it again"
                )
            if member.isreg() and member.name in sizes:
                expect_size(owner, path, member, sizes[member.name])
                contents[member.name] = archive.extractfile(member).read()
    while stream.read(SLACK):  # to the end, where gzip compares its checksum
        pass
    absent = [name for name in sizes if name not in contents]
    if absent:
        raise DamagedFileError(
            f"{owner} expects {path} to hold {', '.join(absent)}, got an archive without: "
            "it is damaged or another one; fetch it again"
        )
    return contents


@contextmanager
def tar_errors(owner, path):
    """Name the archive in whatever goes wrong while tarfile reads it."""
    try:
        yield
    except DamagedFileError:
        raise
    except Exception as error:  # damaged headers go through int(), decode() and seek() in there
        raise DamagedFileError(
            f"{owner} expects {path} to be a whole tar archive, got {type(error).__name__}: "
            f"{error}; fetch it again"
        ) from None


def refuse_unsafe(owner, path, member, limit):
    """Refuse an archive with a member that unpacking would put, or point, somewhere else."""
    steps = member.name.replace("\\", "/").split("/")
    advice = "delete this archive and fetch the official one"
    if ".." in steps or not steps[0] or ":" in steps[0]:
        raise DamagedFileError(
            f"{owner} expects names inside {path} that stay inside, got {member.name!r}: {advice}"
        )
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise DamagedFileError(
            f"{owner} expects plain files and folders in {path}, got {member.name!r}, "
            f"a link, device or sparse file: {advice}"
        )
    # tarfile would skip what is declared in steps of ten kilobytes, past the end too: for years
    if member.size > limit:
        raise DamagedFileError(
            f"{owner} expects nothing in {path} to have more than {limit} bytes, "
            f"got {member.name!r} with {member.size}: {advice}"
        )


def expect_size(owner, path, member, size):
    """Refuse a member of another size."""
    if member.size != size:
        raise DamagedFileError(
            f"{owner} expects {member.name} in {path} to have {size} bytes, got {member.size}: "
            "the archive is damaged or another one; fetch it again"
        )
