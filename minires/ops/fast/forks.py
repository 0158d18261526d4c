"""Whether this process was forked from one in which Numba's threads ran, also if another program's
code had started them; importing this costs nothing.

A fork copies the memory of a process, and of its threads only the one that asked. GNU OpenMP
notices, and ends a child that runs a parallel region.
"""

import os
import sys


class Forks:
    """Attribute `lost_threads`: whether there was a fork since Numba started its threads."""

    lost_threads = False

    def after_fork(self):
        self.lost_threads = self.lost_threads or threads_started()


def threads_started():
    """Whether somebody has started Numba's threads."""
    try:
        sys.modules["numba"].threading_layer()
    except (KeyError, AttributeError, ValueError):  # no Numba, one half imported, no threads
        return False
    return True


forks = Forks()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forks.after_fork)
