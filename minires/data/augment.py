"""Random changes to training images, each a pure function of (seed, epoch, index of the image).

No generator is passed from batch to batch, so an image is cropped the same way however the work is
split, and a run that goes on after an interruption sees what it would have seen.
"""

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio, odd


def random_words(seed, epoch, index, count):
    """`count` random numbers of 64 bits for each image.

    Parameters
    ----------
    seed, epoch : int
        At least 0 and below 2^64.
    index : (N,) int
        Number of each image in the training set.
    count : int

    Returns
    -------
    words : (count, N) uint64

    Notes
    -----
    The finaliser of SplitMix64 turns neighbouring numbers into unrelated ones; it is applied once
    for each of seed, epoch, index and draw.

    References
    ----------
    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators", OOPSLA.
    """
    state = mix(np.full(len(index), seed, np.uint64))
    state = mix(state + np.uint64(epoch))
    state = mix(state + np.asarray(index).astype(np.uint64))
    draws = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
    return mix(state + draws[:, None])


def mix(z):
    """SplitMix64's finaliser of an array of uint64, after a step of its counter."""
    z = z + GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def below(words, limit):
    """Integers 0..limit-1, uniform, from the upper half of each word."""
    return ((words >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)


def crop(images, pad, down, right):
    """Pad with zeros, then cut the original size out at row `down` and column `right`.

    Parameters
    ----------
    images : (N, H, W, C) float
    pad : int
        Pixels on each of the four sides.
    down, right : (N,) int
        From 0 to 2 pad; at `pad` the image is what it was.

    Returns
    -------
    y : (N, H, W, C)
    """
    _, H, W, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y = np.empty_like(images)
    for n, (i, j) in enumerate(zip(down.tolist(), right.tolist(), strict=True)):
        y[n] = padded[n, i : i + H, j : j + W]
    return y


def flip(images, mirrored):
    """Left and right exchanged where `mirrored`, (N,) bool, says so."""
    y = images.copy()
    y[mirrored] = images[mirrored][:, :, ::-1]
    return y


def shrink(images, size):
    """Smaller images, each pixel the mean over the area that it covers.

    Parameters
    ----------
    images : (N, H, W, C) float
    size : (int, int)
        New height and width, at most the old ones.

    Returns
    -------
    y : (N, *size, C), of the same dtype
    """
    N, H, W, C = images.shape
    h, w = size
    rows, columns = (cover(*pair).astype(images.dtype) for pair in ((h, H), (w, W)))
    apart = np.kron(columns.T, np.eye(C, dtype=images.dtype))  # (W C, w C), channels by themselves
    # products of single images: one of all would round by how many there are
    y = np.matmul(np.matmul(rows, images.reshape(N, H, W * C)), apart)
    return y.reshape(N, h, w, C)


def cover(new, old):
    """(new, old): which share of each new pixel lies in each old one; rows sum to 1."""
    edges = np.arange(new + 1)[:, None] * old / new  # of the new pixels, in old ones
    first = np.maximum(np.arange(old), edges[:-1])
    last = np.minimum(np.arange(old) + 1, edges[1:])
    return np.maximum(last - first, 0) * new / old


def cutout(images, size, down, right):
    """Zeros in a square of `size` pixels around row `down` and column `right` of each image.

    Squares reach over the border, so that pixels near it are covered as often as others.

    References
    ----------
    DeVries and Taylor (2017), arXiv:1708.04552, section 3.
    """
    _, H, W, _ = images.shape
    y = images.copy()
    for n, (i, j) in enumerate(zip(down.tolist(), right.tolist(), strict=True)):
        top, left = i - size // 2, j - size // 2
        y[n, max(top, 0) : min(top + size, H), max(left, 0) : min(left + size, W)] = 0
    return y
