"""What the networks are put together from: a convolution, its norm, a shortcut, a block."""

from minires.checks import as_rng, expect_bool, expect_choice, expect_dtype, expect_int
from minires.initializers import he_normal
from minires.layers import (
    BatchNorm2d,
    Conv2d,
    Dense,
    Identity,
    PadShortcut,
    ReLU,
    Residual,
    Sequential,
)

NORMS = ("batch", None)
SHORTCUTS = ("A", "B")


class Parts:
    """Makes layers that share their norm, random stream, dtype and ops.

    Parameters
    ----------
    norm : "batch" or None
        Without a norm the convolutions get a bias.
    shortcut : {"A", "B"}
        Where a block changes shape: "A" subsamples and pads channels with zeros, "B" is a 1x1
        convolution, with a norm behind it except beside pre-activation blocks. He et al. (2015),
        arXiv:1512.03385, section 3.3.
    rng : None, int or numpy.random.Generator
    dtype : float32 or float64
    ops : module
    initializer : callable
        Of the weights.
    relu_after_add : bool
        Whether a ReLU follows each sum.
    """

    def __init__(
        self,
        owner,
        norm,
        shortcut,
        rng,
        dtype,
        ops,
        initializer=he_normal,
        relu_after_add=True,
    ):
        self.norm = expect_choice(owner, "norm", norm, NORMS)
        self.shortcut_kind = expect_choice(owner, "shortcut", shortcut, SHORTCUTS)
        self.options = {
            "rng": as_rng(owner, rng),
            "dtype": expect_dtype(owner, dtype),
            "ops": ops,
            "initializer": initializer,
        }
        self.dtype, self.ops = self.options["dtype"], ops
        self.relu_after_add = expect_bool(owner, "relu_after_add", relu_after_add)

    def conv(self, C, F, kernel_size, stride=1, bias=None):
        """A convolution that keeps the size at stride 1; with a bias where no norm follows."""
        bias = self.norm is None if bias is None else bias
        padding = kernel_size // 2
        return Conv2d(C, F, kernel_size, stride=stride, padding=padding, bias=bias, **self.options)

    def dense(self, D, K):
        return Dense(D, K, **self.options)

    def norms(self, name, C):
        """{name: BatchNorm2d(C)}, or nothing."""
        return {} if self.norm is None else {name: BatchNorm2d(C, dtype=self.dtype, ops=self.ops)}

    def shortcut(self, C, F, stride, *, norm=True):
        """What stands beside a branch that leads from C channels to F at `stride`."""
        if stride == 1 and C == F:
            return Identity()
        if self.shortcut_kind == "A":
            return PadShortcut(C, F, stride=stride, ops=self.ops)
        norms = self.norms("norm", F) if norm else {}
        return Sequential(conv=self.conv(C, F, 1, stride), **norms)


def residual_block(parts, C, F, stride):
    """Two 3x3 convolutions beside the shortcut, and a ReLU after the sum if it is wanted."""
    branch = Sequential(
        conv1=parts.conv(C, F, 3, stride),
        **parts.norms("norm1", F),
        relu=ReLU(ops=parts.ops),
        conv2=parts.conv(F, F, 3),
        **parts.norms("norm2", F),
    )
    return with_shortcut(parts, branch, C, F, stride)


def with_shortcut(parts, branch, C, F, stride):
    """relu(shortcut(x) + branch(x)); the ReLU stands outside, so the sum's gradient is exact."""
    total = Residual(branch, parts.shortcut(C, F, stride), ops=parts.ops)
    relu = {"relu": ReLU(ops=parts.ops)} if parts.relu_after_add else {}
    return Sequential(sum=total, **relu)


class ImageModel(Sequential):
    """A Sequential that knows which images it was built for.

    Attributes
    ----------
    input_shape : (H, W, C)
    num_classes : int
    """

    def __init__(self, input_shape, num_classes, **layers):
        super().__init__(**layers)
        self.input_shape = input_shape
        self.num_classes = num_classes


def image_shape(owner, input_shape):
    """(H, W, C) as three ints >= 1, or ValueError."""
    if not isinstance(input_shape, tuple | list) or len(input_shape) != 3:
        raise ValueError(f"{owner} expects input_shape (H, W, C), got {input_shape!r}")
    return tuple(expect_int(owner, "input_shape", size) for size in input_shape)
