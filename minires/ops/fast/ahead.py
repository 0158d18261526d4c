"""A second process that compiles kernels ahead: a first training step then takes less time.

Numba compiles a kernel when it is first called, on one core, and a training step calls some thirty
of them. So when the first one is not on the disk, a helper starts (`minires/compile_helper.py`). It
goes through the kernels of a training step from the last to the first, and puts them on the disk,
where this process finds them (`cache.py`). The two tell each other what they have begun, so that
nothing is compiled twice, and end where they meet, or else after the step. Only a program that has
built an optimiser of convolutions in float32 for the fast ops is about to train such a network; for
the others there is no helper, nor where a second core or a folder that can be written to is
missing. MINIRES_COMPILE_AHEAD=0 switches it off.

Measured: the first step of a ResNet-20 after `fuse` takes 20 and 22 s in place of 30 and 34 (two
runs each, in turns, of `python -m benchmarks.startup --contenders minires-fused --rounds 1`, and of
the same with MINIRES_COMPILE_AHEAD=0; AMD EPYC, Zen 3, 2 cores, 2026-12-01).
"""

import atexit
import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numba

from minires.ops.fast import expected

SWITCH = "MINIRES_COMPILE_AHEAD"
CODE = "import sys; sys.path[:] = {path!r}; from minires.compile_helper import help_out; help_out()"
ROOT = Path(__file__).parents[3]  # where this minires lies


class Helper:
    """The helping process.

    Attributes
    ----------
    begun, done : set of str
        The files of the kernels that it has begun to compile, and that are on the disk.
    over : bool
        Whether it has ended.
    """

    def __init__(self):
        self.begun, self.done, self.over = set(), set(), False
        self.news = threading.Condition()
        path = [str(folder) for folder in sys.path if str(folder)]  # "" may be elsewhere by now
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE.format(path=[*path, str(ROOT)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {SWITCH: "0"},
            text=True,
            errors="replace",
        )
        atexit.register(self.stop)
        try:
            threading.Thread(target=self.listen, daemon=True).start()
        except RuntimeError:  # no more threads
            self.stop()
            raise
        self.tell("fused" if expected["fused"] else "plain")

    def listen(self):
        """Write down what it says until it ends."""
        words = {"begun": self.begun, "done": self.done}
        with self.process:  # closes the pipes and waits
            for line in self.process.stdout:
                word, _, name = line.strip().partition(" ")
                with self.news:
                    words.get(word, set()).add(name)
                    self.news.notify_all()
        with self.news:
            self.over = True
            self.news.notify_all()

    def tell(self, word):
        """Send it a line, if it is still there."""
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()

    def makes(self, name):
        """Whether it has compiled a kernel, which is waited for; one not begun is left to us."""
        with self.news:
            self.news.wait_for(lambda: self.over or name not in self.begun or name in self.done)
            if name not in self.done:
                self.tell(name)
            return name in self.done

    def stop(self):
        """End it."""
        self.process.kill()
        self.process.wait()


class Ahead:
    """The helper of this process, once there is one."""

    def __init__(self):
        self.helper, self.tried = None, False

    def makes(self, path):
        """Whether a helper has put a kernel on the disk that was not there; starts the helper.

        Without it all is as well, so nothing that goes wrong with it is an error.
        """
        try:
            if not self.tried and expected["training"]:
                self.tried = True
                self.helper = Helper() if welcome(path.parent) else None
            return self.helper is not None and self.helper.makes(path.name)
        except Exception:
            return False

    def end(self):
        """End the helper: what comes now it does not know."""
        if self.helper is not None:
            self.helper.stop()
            self.helper = None

    def after_fork(self):
        """The helper is the parent's."""
        self.helper, self.tried = None, True


def cores():
    """The cores that kernels may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(allowed, numba.get_num_threads())


def welcome(folder):
    """Whether a helper can be of use here, and leave kernels in a folder."""
    if os.environ.get(SWITCH, "1") == "0" or cores() < 2:
        return False
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return (
        os.access(there, os.W_OK)
        and multiprocessing.parent_process() is None
        and bool(sys.executable)
        and not getattr(sys, "frozen", False)
    )


ahead = Ahead()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ahead.after_fork)
