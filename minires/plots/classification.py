"""What a trained classifier gets wrong: the confusion matrix, and the images themselves."""

import math
import textwrap

import numpy as np
from matplotlib.figure import Figure

from minires.plots.style import new_axes, plain

MANY = 20  # classes from which on there is no room for numbers
LONGEST = 24  # letters of a name; what follows is left out


def confusion_matrix(matrix, class_names, *, ax=None, title=None):
    """One cell for each pair of true and given class: the share of the true class.

    Parameters
    ----------
    matrix : (K, K) int
        Images of the class of the row that were given the class of the column.
    class_names : sequence of str
    ax : matplotlib Axes, optional
        A new figure if left out.
    title : str, optional

    Returns
    -------
    ax : matplotlib Axes
        The diagonal is left white, so that the mistakes show.

    Raises
    ------
    ValueError
        If the matrix is not square, or names are missing.
    """
    matrix = np.asarray(matrix)
    K = len(class_names)
    if matrix.shape != (K, K) or not K:
        raise ValueError(
            f"confusion_matrix expects a square matrix with one row for each of {K} class names, "
            f"got {matrix.shape}"
        )
    names = [plain(shorten(name)) for name in class_names]
    title = title or "Mistakes (the diagonal is what was right)"
    if ax is None:
        side, more = min(4 + 0.45 * K, 16), 0.08 * max(map(len, names))  # inches
        ax = new_axes(side + 0.8 + more, side + more)
        title = textwrap.fill(title, int(8 * side))
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shown = np.where(np.eye(K, dtype=bool), np.nan, share)
    most = np.nanmax(shown, initial=0) or 1.0  # of no mistake, 1 %
    picture = ax.imshow(shown, cmap="Greys", vmin=0, vmax=most)
    size = "small" if K <= MANY else 5
    ends = {"ha": "right", "va": "center", "rotation_mode": "anchor"}  # at the tick
    upright = K > MANY or max(map(len, names)) > LONGEST // 2
    ax.set_xticks(range(K), names, rotation=90 if upright else 45, fontsize=size, **ends)
    ax.set_yticks(range(K), names, fontsize=size)
    if K <= MANY:
        write_cells(ax, matrix, shown / most)
    ax.set(xlabel="class given by the model", ylabel="true class")
    ax.set_title(plain(title))
    ax.figure.colorbar(picture, ax=ax, label="share of the true class, %", shrink=0.8)
    return ax


def write_cells(ax, matrix, darkness):
    """The number of images in every cell, white on dark."""
    for (i, j), count in np.ndenumerate(matrix):
        color = "white" if darkness[i, j] > 0.6 else "black"
        weight = "bold" if i == j else None
        ax.text(j, i, count, ha="center", va="center", color=color, size=8, weight=weight)


def labelled_images(images, captions, *, columns=8, title=None):
    """Images in rows with a caption above each.

    Parameters
    ----------
    images : (N, H, W, C) uint8, or float from 0 to 1
        C is 1 or 3. Floats outside are cut off.
    captions : sequence of str
        One for each; two lines of up to 24 letters fit, what follows is left out.
    columns : int
    title : str, optional

    Returns
    -------
    figure : matplotlib Figure

    Raises
    ------
    ValueError
        If there is no image, or not a caption for each.
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(
            f"labelled_images expects a caption for each image, at least one, got "
            f"{len(images)} images and {len(captions)} captions"
        )
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width = max(1.5 * columns, 4)  # inches
    figure = Figure(figsize=(width, 2.0 * rows + 0.7), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.06, w_pad=0.06)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, image, caption in zip(axes, images, captions, strict=False):
        white = 255 if image.dtype == np.uint8 else 1
        pixels = np.clip(image, 0, white)
        grey = pixels[..., 0] if image.shape[-1] == 1 else pixels
        ax.imshow(grey, cmap="gray", vmin=0, vmax=white)  # not stretched to what an image holds
        lines = [shorten(line) for line in str(caption).splitlines()]
        ax.set_title(plain("\n".join(lines)), fontsize=7)
    if title:
        figure.suptitle(plain(textwrap.fill(title, int(9 * width))))
    return figure


def shorten(text):
    """What there is room for.

    Examples
    --------
    >>> shorten("a name of a class that goes on")
    'a name of a class that …'
    """
    text = str(text)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
