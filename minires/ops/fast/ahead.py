"""A second process that compiles kernels ahead: a first training step then takes half as long.

Numba compiles a kernel when it is first called, on one core, and a training step calls some thirty
of them. So when the first one is not on the disk, a helper starts (`minires/compile_helper.py`). It
goes through the kernels of a training step from the last to the first, and puts them on the disk,
where this process finds them (`cache.py`). The two tell each other what they have begun, so that
nothing is compiled twice, and end where they meet. Only a program that has built an optimiser for
the fast ops is about to train a network; for the others there is no helper, nor where a second core
or a folder that can be written to is missing. MINIRES_COMPILE_AHEAD=0 switches it off.

Measured: a ResNet-20's first step after `fuse` takes MEASURED.
"""

import atexit
import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading

import numba

from minires.ops.fast import expected

SWITCH = "MINIRES_COMPILE_AHEAD"
CODE = "import sys; sys.path[:] = {path!r}; from minires.compile_helper import help_out; help_out()"


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
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {SWITCH: "0"},
            text=True,
        )
        atexit.register(self.stop)
        threading.Thread(target=self.listen, daemon=True).start()
        self.tell("fused" if expected["fused"] else "plain")

    def listen(self):
        """Write down what it says until it ends."""
        for line in self.process.stdout:
            word, _, name = line.strip().partition(" ")
            with self.news:
                (self.begun if word == "begun" else self.done).add(name)
                self.news.notify_all()
        self.process.wait()
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
        """Whether a helper has put a kernel on the disk that was not there; starts the helper."""
        if not self.tried and expected["training"]:
            self.tried = True
            if welcome(path.parent):
                with contextlib.suppress(OSError):
                    self.helper = Helper()
        return self.helper is not None and self.helper.makes(path.name)

    def after_fork(self):
        """The helper is the parent's."""
        self.helper, self.tried = None, True


def cores():
    """The cores that this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(allowed, numba.config.NUMBA_NUM_THREADS)


def welcome(folder):
    """Whether a helper can be of use here, and leave kernels in a folder."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return (
        os.environ.get(SWITCH, "1") != "0"
        and cores() > 1
        and os.access(there, os.W_OK)
        and multiprocessing.parent_process() is None
        and bool(sys.executable)
        and not getattr(sys, "frozen", False)
    )


ahead = Ahead()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ahead.after_fork)
