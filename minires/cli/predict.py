"""name what is on a picture, with a trained model"""

import numpy as np

from minires.cli.saved import opened
from minires.data import read_image
from minires.fusion import fuse
from minires.runs import network_of
from minires.runs.results import probabilities

EXAMPLE = "minires predict run cat.jpg"

TOP = 5


def add_arguments(parser):
    """The options of the command."""
    parser.add_argument("folder", metavar="RUN", help="a folder that `minires train` wrote")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG or JPEG of any size")


def run(options):
    """Print the most probable classes of each image."""
    saved = opened(options.folder)
    model, preprocess, names = network_of(saved)
    described = saved.checkpoint.meta["data"]
    shape = tuple(described["input_shape"])
    read = [read_image(path, shape) for path in options.images]
    x = np.stack([image for image, _ in read])  # (N, H, W, C)
    if described["dtype"] != "uint8":
        x = x.astype(described["dtype"]) / 255
    probs = probabilities(fuse(model), x, preprocess)
    for path, (_, size), row in zip(options.images, read, probs, strict=True):
        print(heading(path, size, shape))
        for k in np.argsort(-row, kind="stable")[:TOP]:
            print(f"  {row[k]:6.1%}  {names[k]}")
    return 0


def heading(path, size, shape):
    """The name of an image and what was done to it."""
    H, W, _ = shape
    given = f"{size[1]}x{size[0]}"  # width first, as image viewers say it
    return f"{path} ({given})" if size == (H, W) else f"{path} ({given}, resized to {W}x{H})"
