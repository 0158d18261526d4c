"""What a figure depends on besides the settings: versions, processor, threads, memory."""

import contextlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from minires import __version__
from minires.threads import get_num_threads


def versions():
    """{name: version} of what computes and of what decodes images; nothing is imported for it."""
    found = {"minires": __version__, "python": platform.python_version()}
    for name in ("numpy", "numba", "pillow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def machine():
    """{name: text or number}: processor, cores and threads."""
    return {
        "processor": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": get_num_threads() if "numba" in sys.modules else 1,
    }


def processor():
    """The name the processor gives itself, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def peak_memory():
    """The most memory this process has held so far, in bytes; None where nobody tells.

    Linux carries what getrusage gives over to the program that a process starts, so a small one
    started by a large one would report the large one's; VmHWM is of this program alone.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    if found:
        return int(found[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # kilobytes on Linux
