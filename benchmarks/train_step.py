"""time one step of training: forward, loss, backward, Adam"""

import sys

from benchmarks import steps
from benchmarks.command import add_contenders, add_task, add_timing, command, task

EXAMPLE = "--model resnet20 --batch 32 --threads 1"


def add_arguments(parser):
    add_task(parser)
    add_timing(parser)
    add_contenders(parser)


def run(options):
    return steps.report(options, task(options), "train")


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
