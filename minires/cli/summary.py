"""print a model as a table: shapes, parameters, multiply-adds, bytes"""

from minires.cli.arguments import positive_int, shape
from minires.models import BUILDERS, build
from minires.models.summary import print_summary

EXAMPLE = "minires summary resnet20 --input-shape 32,32,3"


def add_arguments(parser):
    """The options of the command."""
    parser.add_argument("model", metavar="MODEL", help=f"one of {', '.join(BUILDERS)}")
    parser.add_argument(
        "--input-shape", type=shape, metavar="H,W,C", help="size of an image; the model's own"
    )
    parser.add_argument("--classes", type=positive_int, metavar="K", help="number of classes")


def run(options):
    """Print the table."""
    given = {"input_shape": options.input_shape, "num_classes": options.classes}
    given = {name: value for name, value in given.items() if value is not None}
    model = build(options.model, rng=0, **given)
    print_summary(model, model.input_shape)
    return 0
