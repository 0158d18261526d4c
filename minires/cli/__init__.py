"""The `minires` command: demo, train, flow, reproduce, summary, ..., each in a file of its own.

A mistake gets one line on stderr and exit code 2; training that fails exits with 1.
"""

import argparse
import sys

from threadpoolctl import threadpool_limits

from minires import __version__
from minires.cli import (
    bench,
    check,
    demo,
    evaluate,
    flow,
    predict,
    report,
    reproduce,
    summary,
    train,
    tutorials,
    warmup,
)
from minires.cli.arguments import Parser
from minires.cli.streams import Lenient, usable
from minires.finite import NonFiniteError

COMMANDS = (
    demo,
    tutorials,
    train,
    evaluate,
    predict,
    report,
    flow,
    reproduce,
    summary,
    check,
    bench,
    warmup,
)


def main(argv=None):
    """Run the command line and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a letter that the console lacks costs no result
            stream.reconfigure(errors="backslashreplace")
    try:
        options = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its line
        return stop.code
    try:
        # small products gain nothing from more threads, and spinning ones lose a lot on a busy
        # machine; one thread also makes results independent of the number of cores
        with threadpool_limits(limits=1, user_api="blas"):
            return options.run(options)
    except KeyboardInterrupt as error:
        return interrupted(error)
    except NonFiniteError as error:
        return complain(error, code=1)
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as `head`, has gone
        return 0
    except MemoryError as error:
        return complain(f"expected sizes that fit into memory: {error}", code=2)
    except (ValueError, TypeError, OverflowError, OSError) as error:
        return complain(error, code=2)
    except RuntimeError as error:
        if not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        return interrupted(error.__cause__)  # while a class of Numba's was being made


def make_parser():
    """The parser with one subparser a command."""
    parser = Parser(
        prog="minires",
        description="Residual networks from scratch: train them, look at their gradients.",
        epilog="example: minires demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"minires {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        doc = command.__doc__.splitlines()[0]
        sub = commands.add_parser(
            name,
            help=doc,
            description=doc,
            epilog=f"example: {command.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def complain(message, code):
    """One line on stderr, of an error or in words."""
    lines = [str(message), *getattr(message, "__notes__", [])]
    line = f"minires: error: {' '.join(' '.join(lines).split())}"
    print(line, file=Lenient(usable(sys.stderr)))
    return code


def interrupted(error):
    """The line and the exit code of a KeyboardInterrupt, a shell's 128 + signal."""
    words = " ".join(["interrupted", *getattr(error, "__notes__", [])])
    return complain(words, code=getattr(error, "code", 130))
