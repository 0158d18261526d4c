"""time one forward pass in inference mode"""

import sys

from benchmarks import steps
from benchmarks.command import add_contenders, add_task, add_timing, command, task

EXAMPLE = "--model resnet20 --batch 1 --rounds 10"


def add_arguments(parser):
    add_task(parser)
    add_timing(parser)
    add_contenders(parser)


def run(options):
    return steps.report(options, task(options), "infer")


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
