"""Synthetic colour images: ten kinds of drawn shapes and textures, as many as you ask for.

Each image shows one figure at a random place, size, angle and pair of colours, under noise. Edges
are smooth over one pixel because figures are drawn by their signed distance.
"""

import numpy as np

from minires.checks import expect_dtype, expect_int, expect_number
from minires.data.dataset import Dataset

CLASSES = (
    "disc",
    "ring",
    "square",
    "triangle",
    "cross",
    "bar",
    "stripes",
    "checks",
    "dots",
    "waves",
)


def load_shapes(train=2000, test=500, *, size=32, noise=0.1, seed=0, dtype=np.float32):
    """Draw a labelled set of images; the same arguments give the same images.

    Parameters
    ----------
    train, test : int
        Number of images; labels go through the ten classes in turn, so all are equally frequent.
    size : int
        Height and width, at least 8 pixels.
    noise : float
        Standard deviation of the pixel noise.
    seed : None, int or numpy.random.Generator
    dtype : float32 or float64
        Of the images. Labels are int64.

    Returns
    -------
    data : Dataset
        Images (N, size, size, 3) with values around 0 to 1; noise may step outside.
    """
    train = expect_int("load_shapes", "train", train)
    test = expect_int("load_shapes", "test", test)
    size = expect_int("load_shapes", "size", size, at_least=8)
    noise = expect_number("load_shapes", "noise", noise, at_least=0)
    dtype = expect_dtype("load_shapes", dtype)
    rng = np.random.default_rng(seed)
    x_train, y_train = draw_set(train, size, noise, rng, dtype)
    x_test, y_test = draw_set(test, size, noise, rng, dtype)
    return Dataset(x_train, y_train, x_test, y_test, CLASSES, "shapes")


def draw_set(count, size, noise, rng, dtype):
    """`count` images (count, size, size, 3) and their labels, in random order."""
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    images = np.empty((count, size, size, 3), dtype)
    for image, label in zip(images, labels, strict=True):
        image[...] = draw(CLASSES[label], size, rng)
        image += noise * rng.standard_normal(image.shape)
    return images, labels


def draw(kind, size, rng):
    """One image (size, size, 3): the figure's colour where it covers the ground's."""
    ground, figure = two_colours(rng)
    angle = rng.uniform(-0.4, 0.4)
    centre = rng.uniform(0.4, 0.6, 2) * size
    radius = rng.uniform(0.25, 0.38) * size
    v, u = (np.mgrid[:size, :size] + 0.5).astype(np.float64)
    v, u = v - centre[0], u - centre[1]
    u, v = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    distance = DISTANCES[kind](u, v, radius)
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    return ground + cover * (figure - ground)


def two_colours(rng):
    """Two colours in [0, 1]^3 that lie at least 0.6 apart."""
    while True:
        ground, figure = rng.uniform(0, 1, (2, 3))
        if np.linalg.norm(ground - figure) > 0.6:
            return ground, figure


def box(u, v, half_width, half_height):
    """Distance to a rectangle around the origin, in pixels, negative inside."""
    return np.maximum(np.abs(u) - half_width, np.abs(v) - half_height)


def triangle(u, v, r):
    """Distance to an upright triangle: the farthest of its three sides."""
    sides = (v - 0.6 * r, 0.866 * u - 0.5 * v - 0.5 * r, -0.866 * u - 0.5 * v - 0.5 * r)
    return np.maximum.reduce(sides)


def ripple(t, period):
    """A wave of `period` pixels as a distance: negative in every second half period."""
    return period / (2 * np.pi) * np.sin(2 * np.pi * t / period)


# distance in pixels from the edge of each figure, negative inside; r is its radius in pixels
DISTANCES = {
    "disc": lambda u, v, r: np.hypot(u, v) - r,
    "ring": lambda u, v, r: np.abs(np.hypot(u, v) - 0.8 * r) - 0.2 * r,
    "square": lambda u, v, r: box(u, v, 0.85 * r, 0.85 * r),
    "triangle": triangle,
    "cross": lambda u, v, r: np.minimum(box(u, v, r, 0.25 * r), box(u, v, 0.25 * r, r)),
    "bar": lambda u, v, r: box(u, v, 1.2 * r, 0.25 * r),
    "stripes": lambda u, v, r: ripple(v, 0.7 * r),
    "checks": lambda u, v, r: ripple(u, r) * ripple(v, r) * 4 / r,
    "dots": lambda u, v, r: np.hypot(ripple(u, 0.8 * r), ripple(v, 0.8 * r)) - 0.08 * r,
    "waves": lambda u, v, r: ripple(v + 0.3 * r * np.sin(4 * u / r), 0.8 * r),
}
