"""The frame around each benchmark: its arguments, its exit code, its table and its JSON."""

import argparse
import os
import shlex
import sys
from functools import partial
from pathlib import Path

from benchmarks.contenders import NAMES
from benchmarks.harness import WorkerError
from benchmarks.report import Report, busy
from benchmarks.tasks import MODELS
from minires.cli.arguments import Parser, positive_int, shape
from minires.models import build


def command(module, argv=None, prog=None):
    """Run a benchmark's command line and return its exit code.

    Parameters
    ----------
    module : module
        With a docstring, EXAMPLE, add_arguments(parser) and run(options) -> Report. A run of hours
        is a generator, each Report with what is done so far.
    argv : list of str, optional
    prog : str, optional
        How the command was called, for help and errors.

    Returns
    -------
    code : int
        0; 1 if a contender failed; 2 after a mistake and 130 after Ctrl-C, with one line on stderr.
    """
    name = Path(module.__file__).stem
    prog = prog or f"python -m benchmarks.{name}"
    argv = sys.argv[1:] if argv is None else argv
    try:
        options = parser(module, prog).parse_args(argv)
        warning = busy()
        for report in reports(module, options):
            report.notes += warning
            if options.json:
                report.write(options.json, name, f"{prog} {shlex.join(argv)}", vars(options))
        print(report)
    except SystemExit as stop:  # argparse has printed its line
        return stop.code
    except KeyboardInterrupt:
        return complain(prog, "interrupted", 130)
    except (ValueError, OSError) as error:
        return complain(prog, error, 2)
    except WorkerError as error:  # the truth itself could not be had
        return complain(prog, error, 1)
    return 1 if report.failed else 0


def reports(module, options):
    """The Report of a benchmark, and those before it; the last is the whole."""
    made = module.run(options)
    return [made] if isinstance(made, Report) else made


def parser(module, prog):
    made = Parser(
        prog=prog,
        description=module.__doc__.splitlines()[0],
        epilog=f"example: {prog} {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(made)
    made.add_argument("--json", type=json_file, metavar="FILE", help="write all numbers there")
    return made


def complain(prog, message, code):
    """One line on stderr, of an error or in words."""
    words = " ".join([str(message), *getattr(message, "__notes__", [])])
    print(f"{prog}: error: {' '.join(words.split())}", file=sys.stderr)
    return code


def add_contenders(parser, default=NAMES, allowed=NAMES, more=""):
    """Who takes part; `allowed` are those that can, `more` is told about them."""
    others = ",".join(name for name in allowed if name not in default)
    parser.add_argument(
        "--contenders",
        type=partial(contenders, allowed=allowed),
        default=list(default),
        metavar="A,B",
        help=f"default {','.join(default)}"
        + (f"; also {others}" if others else "")
        + (f"; {more}" if more else ""),
    )


def add_task(parser, batch=128):
    """The network and its batch."""
    add = parser.add_argument
    add("--model", choices=MODELS, default="resnet20", metavar="M", help=", ".join(MODELS))
    add("--input-shape", type=shape, metavar="H,W,C", help="size of an image; the model's own")
    add("--batch", type=positive_int, default=batch, metavar="N", help=f"default {batch}")


def add_timing(parser, rounds=6, burst=5):
    add = parser.add_argument
    cores = os.cpu_count() or 1
    add("--threads", type=positive_int, default=cores, metavar="T", help=f"default {cores}")
    add("--rounds", type=positive_int, default=rounds, metavar="R", help=f"turns, {rounds}")
    add("--burst", type=positive_int, default=burst, metavar="B", help=f"timings a turn, {burst}")


def task(options, **more):
    """The task of a worker from the command line.

    Raises
    ------
    ValueError
        If the model does not take such images.
    """
    chosen = {} if options.input_shape is None else {"input_shape": options.input_shape}
    build(options.model, rng=0, **chosen)  # raises if it does not fit
    return {"model": options.model, "options": chosen, "batch": options.batch} | more


def contenders(text, allowed=NAMES):
    """Names with commas, each once."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in allowed:
            raise argparse.ArgumentTypeError(f"expected some of {','.join(allowed)}, got {name!r}")
    return names


def numbers(text):
    """Integers >= 1 with commas."""
    return [positive_int(number) for number in text.split(",")]


def json_file(text):
    """A file that can be written, found out before the work begins."""
    path = Path(text)
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file to write to, got {text!r}")
    return str(path)
