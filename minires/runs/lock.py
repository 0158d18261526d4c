"""A run folder belongs to one process at a time, or two trainings would mix their results."""

import contextlib
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".minires_lock"  # holds the number of the process; gone when the process is done


@contextlib.contextmanager
def alone(folder):
    """Hold a folder; the system lets go of it if the process dies.

    Nothing is held where there is no such folder, or where the system has no locks.

    Raises
    ------
    ValueError
        If another holds it.
    """
    path = Path(folder) / LOCK
    if fcntl is None or not path.parent.is_dir():
        yield
        return
    descriptor = take(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_at(path, descriptor):  # and not in a folder that has taken the name since
                path.unlink()  # before others can lock it
        os.close(descriptor)


def take(path):
    """The descriptor of the lock file at `path`, locked, with the number of this process in it."""
    while True:
        descriptor = opened(path)
        try:
            lock(descriptor, path)
            if is_at(path, descriptor):
                with contextlib.suppress(OSError):  # a full disk: it is locked without a number
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, str(os.getpid()).encode("ascii"))
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who held it has removed it in between


def opened(path):
    """The descriptor of the lock file; to read, if a killed process of another user has left it."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def lock(descriptor, path):
    """Lock a file, or say who has."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        number = os.pread(descriptor, 20, 0).decode("ascii", "replace")
        raise ValueError(
            f"expected a folder that no other process trains in, got {str(path.parent)!r} "
            f"(process {number or 'unknown'})"
        ) from None
    except OSError:  # a file system without locks
        pass


def is_at(path, descriptor):
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
