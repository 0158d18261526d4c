"""Where a sliding window stands: kernel, stride, padding and dilation, resolved for one image size.

Shared by convolution and pooling. Read next: `reference/conv.py`.
"""

import functools
from typing import NamedTuple

from minires.checks import expect_int


class Window(NamedTuple):
    """A window resolved against an image: everything is (vertical, horizontal)."""

    kernel: tuple[int, int]  # (KH, KW)
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))
    dilation: tuple[int, int]
    out: tuple[int, int]  # (OH, OW)


def as_pair(owner, name, value, at_least=1):
    """An int or a pair as a pair of ints, each >= `at_least`.

    Raises
    ------
    ValueError
        If it is neither, or too small.
    """
    values = tuple(value) if isinstance(value, tuple | list) else (value, value)
    try:
        if len(values) != 2:
            raise ValueError
        return tuple(expect_int(owner, name, v, at_least) for v in values)
    except ValueError:
        raise ValueError(
            f"{owner} expects {name} to be an integer >= {at_least} or a pair of them, "
            f"got {value!r}"
        ) from None


def as_padding(owner, padding):
    """Padding in one form: "same", or ((top, bottom), (left, right)).

    Parameters
    ----------
    padding : int, pair of int, ((top, bottom), (left, right)), "same" or "valid"
        A pair is (vertical, horizontal), the same on both sides. "valid" is 0.

    Raises
    ------
    ValueError
        For anything else.
    """
    if isinstance(padding, str):
        if padding in ("same", "valid"):
            return "same" if padding == "same" else ((0, 0), (0, 0))
    else:
        both = tuple(padding) if isinstance(padding, tuple | list) else (padding, padding)
        try:
            if len(both) == 2:
                return tuple(as_pair(owner, "padding", sides, at_least=0) for sides in both)
        except ValueError:
            pass
    raise ValueError(
        f"{owner} expects padding to be an integer >= 0, a pair, ((top, bottom), (left, right)), "
        f'"same" or "valid", got {padding!r}'
    )


def same_padding(size, reach, stride):
    """TensorFlow's "same" along one axis: ceil(size / stride) outputs, the odd zero goes last.

    `reach` is the number of pixels from the first to the last tap of the kernel.
    """
    out = -(-size // stride)
    total = max((out - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def resolve_window(owner, size, kernel, stride, padding, dilation=1):
    """The `Window` of a kernel on an image of `size` = (H, W); remembered for the next call.

    Raises
    ------
    ValueError
        If an argument has the wrong form, or the kernel does not fit into the padded image.
    """
    return looked_up(remembered, resolve, (owner, size, kernel, stride, padding, dilation))


def looked_up(remembered, function, given):
    """remembered(*given), with tuples for lists, which cannot be looked up.

    Where that fails the function itself says so, of what was given.
    """
    try:
        return remembered(*given)
    except TypeError:
        try:
            return remembered(*(as_tuple(v) if isinstance(v, list | tuple) else v for v in given))
        except (TypeError, ValueError, RecursionError):
            return function(*given)


def as_tuple(value):
    """A list or tuple of ints, lists and tuples, however deep, as a tuple; a TypeError for others.

    Tuples of other numbers would be found as those of the ints that they are equal to.
    """
    if isinstance(value, list | tuple):
        return tuple(map(as_tuple, value))
    if type(value) is not int:
        raise TypeError
    return value


def resolve(owner, size, kernel, stride, padding, dilation):
    """What `resolve_window` remembers."""
    kernel = as_pair(owner, "kernel_size", kernel)
    stride = as_pair(owner, "stride", stride)
    dilation = as_pair(owner, "dilation", dilation)
    padding = as_padding(owner, padding)
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    if padding == "same":
        padding = tuple(same_padding(*axis) for axis in zip(size, reach, stride, strict=True))
    padded = tuple(s + before + after for s, (before, after) in zip(size, padding, strict=True))
    if padded[0] < reach[0] or padded[1] < reach[1]:
        raise ValueError(
            f"{owner} expects a padded image of at least {reach[0]}x{reach[1]} pixels, the reach "
            f"of its kernel, got {padded[0]}x{padded[1]} (image {size[0]}x{size[1]})"
        )
    out = tuple((p - r) // s + 1 for p, r, s in zip(padded, reach, stride, strict=True))
    return Window(kernel, stride, padding, dilation, out)


remembered = functools.lru_cache(maxsize=4096, typed=True)(resolve)
