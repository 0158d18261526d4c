"""Single image files as arrays. Next: `folder`, which reads a data set of them."""

import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from minires.checks import expect_int, format_shape

FORMATS = ("PNG", "JPEG")
SUFFIXES = (".png", ".jpg", ".jpeg")
MODES = {1: "L", 3: "RGB"}  # Pillow's names


def read_image(path, input_shape):
    """A PNG or JPEG file in the shape that a model takes.

    Parameters
    ----------
    path : str or path
    input_shape : (H, W, C) of int
        C is 1 for grey or 3 for colour.

    Returns
    -------
    image : (H, W, C) uint8
    size : (height, width) of int
        What the file had, in pixels.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If `input_shape` is no such shape, or the file is no PNG or JPEG image, is cut off or
        damaged, or has more pixels than Pillow takes for safe.

    Notes
    -----
    An orientation that a camera wrote down (EXIF) is applied first. Another size is scaled to
    (H, W), bicubic, whatever the ratio of the sides. What is transparent is laid on white.
    """
    height, width, channels = expect_input_shape("read_image", input_shape)
    with pillow("read_image", path):
        image = decode(path, MODES[channels])
        return to_array(image, (height, width)), (image.height, image.width)


def expect_input_shape(owner, shape):
    """`shape` as (H, W, C), or ValueError."""
    if not isinstance(shape, tuple | list) or len(shape) != 3 or shape[2] not in MODES:
        shown = format_shape(shape) if isinstance(shape, tuple | list) else repr(shape)
        raise ValueError(
            f"{owner} expects input_shape to be (H, W, C) with C = 1 or 3, got {shown}"
        )
    return tuple(expect_int(owner, f"input_shape[{i}]", size) for i, size in enumerate(shape))


def decode(path, mode):
    """The Pillow image, upright, with 8 bits a channel."""
    from PIL import Image, ImageOps

    with Image.open(path, formats=FORMATS) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert(mode)


def to_array(image, size=None):
    """(H, W, C) uint8 of a Pillow image, scaled to `size` if it has another."""
    from PIL import Image

    if size is not None and (image.height, image.width) != size:
        image = image.resize(size[::-1], Image.Resampling.BICUBIC)  # Pillow says (W, H)
    return np.array(image).reshape(image.height, image.width, -1)


@contextmanager
def pillow(owner, path):
    """Name the file in whatever goes wrong while Pillow reads it."""
    from PIL import Image

    if not Path(path).is_file():
        found = "nothing" if not Path(path).exists() else "no regular file"
        found = "a folder" if Path(path).is_dir() else f"{found} there"
        raise FileNotFoundError(f"{owner} expects an image file at {path}, got {found}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; pixels that are missing are errors
            yield
    except Image.DecompressionBombError:  # at twice what Pillow warns of
        raise ValueError(
            f"{owner} expects {path} to have at most {2 * Image.MAX_IMAGE_PIXELS:,} pixels, got a "
            f"larger image: scale it down first"
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(
            f"{owner} expects {path} to be a whole PNG or JPEG image that Pillow can read, "
            f"got {type(error).__name__}: {error}; take it out or save it anew"
        ) from None
