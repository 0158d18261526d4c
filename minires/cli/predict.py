"""name what is on a picture, with a trained model"""

import sys

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
    """Print the most probable classes of each image; those that cannot be read are named last."""
    saved = opened(options.folder)
    model, preprocess, names = network_of(saved)
    described = saved.checkpoint.meta["data"]
    shape = tuple(described["input_shape"])
    read, failed = {}, []
    for path in dict.fromkeys(options.images):
        try:
            read[path] = read_image(path, shape)
        except (ValueError, OSError) as error:
            failed.append(error)
    if read:
        show(model, preprocess, names, described, read)
    for error in failed:
        print(f"minires: error: {error}", file=sys.stderr)
    return 2 if failed else 0


def show(model, preprocess, names, described, read):
    """Print what the model says of the images in `read`, {path: (image, size)}."""
    shape = tuple(described["input_shape"])
    x = np.stack([image for image, _ in read.values()])  # (N, H, W, C)
    if described["dtype"] != "uint8":
        x = x.astype(described["dtype"]) / 255
    probs = probabilities(fuse(model), x, preprocess)
    for (path, (_, size)), row in zip(read.items(), probs, strict=True):
        print(heading(path, size, shape))
        for k in np.argsort(-row, kind="stable")[:TOP]:
            print(f"  {row[k]:6.1%}  {names[k]}")


def heading(path, size, shape):
    """The name of an image and what was done to it."""
    H, W, _ = shape
    given = f"{size[1]}x{size[0]}"  # width first, as image viewers say it
    return f"{path} ({given})" if size == (H, W) else f"{path} ({given}, resized to {W}x{H})"
