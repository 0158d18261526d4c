"""Labelled images: `load_digits` (bundled), `load_shapes` (drawn on demand), and `batches` of them.

MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 come from their official files, other images from a
folder. This package stands beside `ops` and uses NumPy only, but for what fetches files (pooch) and
decodes images (Pillow), which is imported where it is called.
"""

from minires.data.batches import ahead, batches, count_batches, split
from minires.data.cifar import load_cifar10, load_cifar100
from minires.data.dataset import Dataset
from minires.data.digits import load_digits
from minires.data.folder import load_image_folder
from minires.data.idx import read_idx
from minires.data.images import read_image
from minires.data.mnist import load_fashion_mnist, load_mnist, load_mnist_part
from minires.data.preprocess import Preprocess
from minires.data.shapes import load_shapes

LOADERS = {"digits": load_digits, "shapes": load_shapes}
FILE_LOADERS = {
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}

__all__ = [
    "FILE_LOADERS",
    "LOADERS",
    "Dataset",
    "Preprocess",
    "ahead",
    "batches",
    "count_batches",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion_mnist",
    "load_image_folder",
    "load_mnist",
    "load_mnist_part",
    "load_shapes",
    "read_idx",
    "read_image",
    "split",
]
