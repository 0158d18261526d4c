"""write the report of a run anew: accuracy, confusion, mistakes"""

from minires.cli.saved import add_arguments, claimed, data_of, opened, report
from minires.runs import resume

EXAMPLE = "minires report run"
__all__ = ["EXAMPLE", "add_arguments", "run"]


def run(options):
    """Classify the test images and write the report, of a run that is not finished too."""
    with claimed(options.folder):  # a folder to read from is of no use here
        saved = opened(options.folder)
        settings, data = data_of(saved, options)
        return report(resume(options.folder, saved._replace(settings=settings), data))
