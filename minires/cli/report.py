"""write the report of a run anew: accuracy, confusion, mistakes"""

from minires.cli.arguments import add_data_files
from minires.cli.train import report
from minires.runs import open_saved, resume

EXAMPLE = "minires report run"


def add_arguments(parser):
    """The options of the command."""
    parser.add_argument("folder", metavar="RUN", help="a folder that `minires train` wrote")
    add_data_files(parser)


def run(options):
    """Classify the test images and write the report, of a run that is not finished too."""
    saved = open_saved(options.folder)
    settings = saved.settings.changed(root=options.data_root or saved.settings.root)
    data = settings.load_data(options.download)
    return report(resume(options.folder, saved._replace(settings=settings), data))
