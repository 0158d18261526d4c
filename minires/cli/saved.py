"""What the commands on a run folder share: opening it, finding its data, telling its results."""

import sys
from pathlib import Path

from minires.cli.arguments import add_data_files, make_folder
from minires.runs import open_saved
from minires.runs.lock import alone


def add_arguments(parser):
    """The options of a command that looks at a run and its test images."""
    parser.add_argument("folder", metavar="RUN", help="a folder that `minires train` wrote")
    add_data_files(parser)


def opened(folder):
    """What a run folder holds; a warning if the newest checkpoint is damaged."""
    saved = open_saved(folder)
    if saved.problem is not None:
        print(f"minires: warning: {saved.problem}; using {saved.path}", file=sys.stderr)
    return saved


def claimed(folder):
    """A context that holds a run folder, if it is there, and can be written to."""
    return alone(make_folder(folder) if Path(folder).is_dir() else folder)


def data_of(saved, options):
    """The settings of a run, with the files where they are now, and its Dataset."""
    settings = saved.settings
    if options.data_root is not None:
        settings = settings.changed(root=str(Path(options.data_root).absolute()))
    return settings, settings.load_data(options.download)


def report(this):
    """Write the report and print its first line; an error says how to go on."""
    try:
        results = this.report()
    except (OSError, KeyboardInterrupt) as error:
        error.add_note(
            f"(the training is saved; the report is written by: minires report {this.folder})"
        )
        raise
    tell(results)
    print(f"wrote report.md, its pictures, the history and the checkpoint into {this.folder}")
    return 0


def tell(results):
    """Print the error, and what it is with mirror images."""
    from minires.runs.report import MIRRORED, describe, percent  # matplotlib takes a second

    print(f"test error {describe(results)}")
    if results.mirrored is not None:
        print(f"{MIRRORED} {percent(results.mirrored_error, len(results.labels))}")
