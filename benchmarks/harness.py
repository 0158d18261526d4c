"""Contenders in processes of their own: one works while the others wait on a pipe.

A worker reads one line of JSON, does what it says, and answers with one line. Two frameworks in
one process would share its memory allocator and fight over its threads; two processes that run at
the same time would share the cores. So the processes take turns, and a worker that is not asked
sleeps in `readline`. Read next: `field.py`, then `worker.py` for the other end of the pipe.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "benchmarks.worker")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# glibc then keeps freed memory: without it a PyTorch step spends 20 ms on fresh pages
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "2000000000"}


class MissingContenderError(Exception):
    """A contender that is not there; the text says what is missing."""


class WorkerError(Exception):
    """A contender that is there and failed; the text is one line."""


def environment(threads, *, keep_memory=True, **more):
    """The environment of a worker.

    Parameters
    ----------
    threads : int
        For OpenMP, BLAS and Numba alike.
    keep_memory : bool
        Whether malloc keeps what is freed, which helps PyTorch's speed and costs memory.
    **more : str
        Further variables.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in MALLOC}
    return (
        inherited
        | {name: str(threads) for name in THREADS}
        | (MALLOC if keep_memory else {})
        | {name: str(value) for name, value in more.items()}
    )


class Worker:
    """One process, asked line by line.

    Parameters
    ----------
    name : str
        The contender's.
    env : dict of str
        See `environment`.
    command : sequence of str
        What to run; it starts in the repository's folder.
    """

    def __init__(self, name, env=None, command=COMMAND):
        self.name = name
        self.stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, see close
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            bufsize=1,
            cwd=ROOT,
            env=env,
        )

    def ask(self, do, **arguments):
        """The worker's answer to one request.

        Raises
        ------
        MissingContenderError
            If the worker says that it lacks what it needs.
        WorkerError
            If the request failed, or the worker died of it.
        """
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise WorkerError(self.obituary(do)) from None
        if "missing" in answer:
            raise MissingContenderError(answer["missing"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["answer"]

    def obituary(self, do):
        """What is known of a worker that gave no answer."""
        self.process.kill()
        code = self.process.wait()
        self.stderr.seek(0)
        lines = self.stderr.read().strip().splitlines() or ["nothing on stderr"]
        return f"gave no answer to {do!r} and ended with code {code}: {lines[-1]}"

    def close(self):
        """End the process: its input closes, and it goes, or is killed."""
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                pipe.close()
            except OSError:  # a line that it never read
                continue
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *error):
        if kind is not None:
            self.process.kill()  # it may have hours of work before it reads again
        self.close()


class Seat:
    """A contender without a process, where a benchmark starts a new one for every turn."""

    def __init__(self, name):
        self.name = name

    def close(self):
        """There is nothing to end."""
