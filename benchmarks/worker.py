"""The process of one contender: reads requests, answers, and imports only what it is asked for.

    {"do": "load", "contender": "torch-eager"}     ->  {"answer": seconds of the import}
    {"do": "train", "times": 5}                    ->  {"answer": [seconds, ...]}
    anything that goes wrong                       ->  {"error": "one line"} or {"missing": ...}

Imports nothing but the standard library at the start, so that `load` times the whole import.
"""

import json
import os
import resource
import sys
import time

from benchmarks.harness import MissingContenderError


class Contender:
    """Answers requests; each public method is one."""

    def __init__(self):
        self.side = self.subject = self.name = None

    def load(self, contender):
        """Import the contender's library; seconds."""
        from benchmarks import contenders

        start = time.perf_counter()
        contenders.import_library(contender)
        seconds = time.perf_counter() - start
        self.side, self.name = contenders.side(contender), contender
        return seconds

    def versions(self):
        """Of what has been imported."""
        names = ("minires", "numpy", "numba", "torch")
        loaded = [(name, sys.modules.get(name)) for name in names]
        return {name: module.__version__ for name, module in loaded if module}

    def build(self, **task):
        """Make the network and its batch; seconds."""
        start = time.perf_counter()
        self.subject = self.side.Network(self.name, **task)
        return time.perf_counter() - start

    def compiler(self):
        """Complain if the contender needs one and has none."""
        from benchmarks import contenders

        contenders.expect_compiler(self.name)

    def check(self, what, file):
        """Write what the network computes into an npz file, in minires' layout."""
        import numpy as np

        self.compiler()
        np.savez(file, **self.subject.results(what))

    def train(self, times):
        return [clock(self.subject.train) for _ in range(times)]

    def infer(self, times):
        return [clock(self.subject.infer) for _ in range(times)]

    def prepare(self, model, recipe, images, seed):
        """Make all that a whole training needs."""
        from benchmarks import contenders, tasks
        from minires.runs.recipe import Recipe

        data, recipe = tasks.read_images(images), Recipe.from_dict(recipe)
        kind = contenders.training_side(self.name).Training
        self.subject = kind(self.name, model, recipe, data, seed)

    def course(self):
        """Train from the first step to the last; the error on the test images, and seconds."""
        seconds = clock(self.subject.run)
        return {"test_error": self.subject.error, "seconds": seconds}

    def op(self, **case):
        """Make the arrays of one op."""
        self.subject = self.side.Op(self.name, **case)

    def forward(self, times):
        return [clock(self.subject.forward) for _ in range(times)]

    def backward(self, times):
        return [clock(self.subject.backward) for _ in range(times)]

    def ceiling(self, size):
        """Operations a second of a square float32 matrix product, the best of eight."""
        multiply = self.side.product(size)
        return 2 * size**3 / min(clock(multiply) for _ in range(8))

    def memory(self):
        """Peak resident bytes of this process."""
        return peak_bytes()


def clock(act):
    """Seconds of one call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def peak_bytes():
    """The high-water mark; from /proc where there is one, as ru_maxrss outlives exec."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) * 1024 for line in status if "VmHWM" in line)
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def answer(contender, line):
    """The answer to one line, as a dict."""
    request = json.loads(line)
    try:
        return {"answer": getattr(contender, request.pop("do"))(**request)}
    except MissingContenderError as missing:
        return {"missing": str(missing)}
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {lines[0]}"}


def main():
    # what libraries print must not get between the answers
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    contender = Contender()
    for line in sys.stdin:
        print(json.dumps(answer(contender, line)), file=out, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(130)
