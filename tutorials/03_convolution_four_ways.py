# %% [markdown]
# # 3. Convolution four ways
#
# **What you will be able to do.** Write a convolution as loops, as one matrix product, through a
# strided view and with Numba, and say what each costs in time and memory. Derive both gradients, and
# test them without a finite difference.
#
# **What you need.** Notebooks 1 and 2: the dense layer, and why a backward pass has to be tested.

# %%
import time
import tracemalloc

import matplotlib.pyplot as plt
import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided
from threadpoolctl import threadpool_limits

import minires as mr
from minires.exercises import expect
from minires.ops import reference as ops
from minires.ops.reference.conv import col2im, im2col, pad
from minires.ops.window import Window, resolve_window, same_padding

# %% [markdown]
# ## A window that moves
#
# A dense layer joins every pixel with every output. A convolution makes two assumptions about images:
# what belongs together is near, and it looks the same wherever it is. So an output sees a small
# **window** of the image only, and all windows share one set of weights, the **filter**.
#
# In one row of five pixels, with a filter of three weights:

# %%
row, taps = np.array([1.0, 2, 3, 4, 5]), np.array([1.0, 0, -1])
print([float(row[i : i + 3] @ taps) for i in range(3)])
assert row[0:3] @ taps == 1 * 1 + 2 * 0 + 3 * (-1)

# %% [markdown]
# Images have a height $H$, a width $W$ and $C$ channels, and a batch has $N$ of them: $x$ is
# $(N, H, W, C)$. A filter looks at $KH \times KW$ pixels with all their channels. There are $F$
# filters: $w$ is $(KH, KW, C, F)$. The window moves $S$ pixels at a time, the **stride**. With
# $i, j$ for the place of the output and $k, l$ for the place in the window,
#
# $$y_{nijf} = \sum_{k, l, c} \bar x_{n,\ iS + k,\ jS + l,\ c}\ w_{klcf}.$$
#
# $\bar x$ is the image with a border of zeros, the **padding**, so that windows can stand at the edge.
# (There is a bias $b_f$ too, as in a dense layer. It comes back with the gradients. Strictly this is a
# cross-correlation: the convolution of mathematics turns the filter round. Neural networks learn the
# filter, so it makes no difference to them.)
#
# ## How many outputs?
#
# Take one axis. The padded image has $\text{before} + H + \text{after}$ pixels. The first window
# starts at pixel 0, window $i$ at pixel $iS$, and it needs the $K$ pixels up to $iS + K - 1$. The
# last window is the last one that fits.

# %% [markdown]
# ## Exercise 1: the size of the output


# %% tags=["exercise-1"]
def output_size(H, K, S, before, after):
    """How many windows of K pixels, S apart, fit into H pixels with a border of zeros."""
    ...


# %% tags=["check-1"]
CASES = (13, 6, 2, 0, 0), (12, 6, 2, 0, 0), (6, 3, 1, 1, 1), (6, 3, 2, 0, 1), (7, 4, 1, 1, 2)
for case in CASES:
    H, K, S, before, after = case
    moves = H + before + after - K  # pixels that the first window can move by
    wrong = {
        "`before` is taken twice; the two sides may differ": (H + 2 * before - K) // S + 1,
        "`after` is taken twice; the two sides may differ": (H + 2 * after - K) // S + 1,
        "there is no padding": (H - K) // S + 1,
        "the zeros after the image are missing": (H + before - K) // S + 1,
        "brackets are missing: // is done before +": H + before + after - K // S + 1,
        "the 1 is added before the division, which then rounds it away": (moves + 1) // S,
        "the first window, which has not moved yet, is not counted": moves // S,
        "a window that hangs over the edge is counted: round down": -(-moves // S) + 1,
        "the result is not rounded down to a whole number": moves / S + 1,
        "the stride is not used": moves + 1,
        "the window is taken to need no room: it fills K of the pixels": (moves + K) // S + 1,
        "the pixels are shared out by the stride alone; a window fills K of them": (moves + K) // S,
    }
    expect(f"output_size{case}", output_size(*case), moves // S + 1, mistakes=wrong)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def output_size(H, K, S, before, after):
#     """How many windows of K pixels, S apart, fit into H pixels with a border of zeros."""
#     return (before + H + after - K) // S + 1
# ```
#
# The first window leaves $\text{before} + H + \text{after} - K$ pixels to move by. That is enough for
# so many moves of $S$, rounded down, and the first window counts too.
#
# </details>

# %% [markdown]
# ## "same" padding, and its odd zero
#
# Often one wants $\lceil H / S \rceil$ outputs, so that at stride 1 the output has the size of the
# input. The last window then ends at pixel $(\lceil H/S \rceil - 1) S + K$, and
#
# $$\text{total} = \max\big((\lceil H / S \rceil - 1)\, S + K - H,\ 0\big)$$
#
# zeros are missing. Half of them go before the image, half after. At stride 2 the total is often odd.
# In TensorFlow's and Keras' `"same"` the odd zero goes **after** the image:

# %%
for H, K, S in ((6, 3, 1), (6, 3, 2), (32, 7, 2)):
    before, after = same_padding(H, K, S)
    print(f"{H} pixels, window {K}, stride {S}: {before} zeros before, {after} after")
assert same_padding(6, 3, 1) == (1, 1)
assert same_padding(6, 3, 2) == (0, 1)
assert same_padding(32, 7, 2) == (2, 3)

# %% [markdown]
# PyTorch's `padding=1` puts one zero on each side. At stride 2 that gives an output of the same shape,
# but the windows stand one pixel further left:

# %%
row = np.arange(1.0, 7).reshape(1, 1, 6, 1)  # one row of six pixels: 1 2 3 4 5 6
ones = np.ones((1, 3, 1, 1))
same, _ = ops.conv2d_forward(row, ones, stride=(1, 2), padding="same")
even, _ = ops.conv2d_forward(row, ones, stride=(1, 2), padding=(0, 1))
print("same", same.ravel(), " padding 1", even.ravel())
assert same.ravel().tolist() == [1 + 2 + 3, 3 + 4 + 5, 5 + 6 + 0]
assert even.ravel().tolist() == [0 + 1 + 2, 2 + 3 + 4, 4 + 5 + 6]

# %% [markdown]
# No shape tells you which of the two a network was trained with. Weights that are moved from one to
# the other give wrong numbers and no error.
#
# ## First way: seven loops
#
# The formula as it stands, with `kh`, `kw` for $k, l$. Four loops go through the outputs, three through
# the window. Padding is done before, so that no loop has to ask whether it is at the edge.


# %%
def fill(xbar, w, S, y):
    """Write the convolution of a padded image to y."""
    N, OH, OW, F = y.shape
    KH, KW, C, _ = w.shape
    for n in range(N):
        for i in range(OH):
            for j in range(OW):
                for f in range(F):
                    total = 0.0
                    for kh in range(KH):
                        for kw in range(KW):
                            for c in range(C):
                                total += xbar[n, i * S + kh, j * S + kw, c] * w[kh, kw, c, f]
                    y[n, i, j, f] = total


def empty_output(xbar, w, S):
    """Room for y."""
    (N, H, W, _), (KH, KW, _, F) = xbar.shape, w.shape
    return np.empty((N, (H - KH) // S + 1, (W - KW) // S + 1, F), xbar.dtype)


def by_loops(xbar, w, S):
    """(N, H, W, C) and (KH, KW, C, F) -> (N, OH, OW, F), in plain Python."""
    y = empty_output(xbar, w, S)
    fill(xbar, w, S, y)
    return y


rng = np.random.default_rng(0)
x = rng.standard_normal((2, 6, 5, 3))  # (N, H, W, C): no two sizes alike, so that none is mistaken
w = rng.standard_normal((3, 2, 3, 4))  # (KH, KW, C, F)
xbar = pad(x, ((0, 1), (0, 0)))
expected, _ = ops.conv2d_forward(x, w, stride=2, padding=((0, 1), (0, 0)))
np.testing.assert_allclose(by_loops(xbar, w, 2), expected, atol=1e-12)

# %% [markdown]
# This is the version to trust, since one can see that it is right. It is also the slowest, for each of
# its multiplications passes through the Python interpreter.
#
# ## Second way: columns and one matrix product
#
# Name the numbers that a window sees:
#
# $$\mathrm{cols}_{nijklc} = \bar x_{n,\ iS + k,\ jS + l,\ c}, \qquad
#   y_{nijf} = \sum_{k,l,c} \mathrm{cols}_{nijklc}\ w_{klcf}.$$
#
# The left step only copies. The right step you know: read $nij$ as one index, "which window", and $klc$
# as another, "which number of it". Then it is $y = \mathrm{cols}\; w$, a dense layer with a row for each
# window. The first step has the name **im2col**, image to columns.

# %% [markdown]
# ## Exercise 2: im2col and the product
#
# Copy each window to its place, then multiply. Two loops, over $i$ and $j$, are enough.


# %% tags=["exercise-2"]
def convolve(xbar, w, S):
    """y (N, OH, OW, F) of a padded image (N, H, W, C) and filters (KH, KW, C, F), by columns."""
    ...


# %% tags=["check-2"]
def from_columns(cols, weight):
    """The product, for right and for wrong columns."""
    return np.einsum("nijklc,klcf->nijf", cols, weight)


cols = im2col(xbar, resolve_window("conv2d", xbar.shape[1:3], w.shape[:2], 2, 0)).copy()
tight = cols.copy()
for i, j in np.ndindex(cols.shape[1:3]):
    tight[:, i, j] = xbar[:, i : i + 3, j : j + 2]
first_channels = cols.transpose(0, 1, 2, 5, 3, 4).reshape(cols.shape)
right = from_columns(cols, w)  # (N, OH, OW, F)
expect(
    "convolve",
    convolve(xbar.copy(), w.copy(), 2),
    right,
    mistakes={
        "window i starts at pixel i; it should start at i * S": from_columns(tight, w),
        "the filter is turned round": from_columns(cols, w[::-1, ::-1]),
        "the columns have their channels first, and the rows of w have them last": from_columns(
            first_channels, w
        ),
        "the rows of w stand in the order KW, KH, C": from_columns(
            cols, w.transpose(1, 0, 2, 3).reshape(w.shape)
        ),
        "w.reshape(F, ...) deals its numbers out anew; in memory F is its last axis": from_columns(
            cols, w.reshape(4, -1).T.reshape(w.shape)
        ),
        "the columns lie in the order i, j, n, and y is read as n, i, j": (
            right.transpose(1, 2, 0, 3).reshape(right.shape)
        ),
        "the answer still is a matrix with a row for each window: give it its shape back": (
            right.reshape(-1, 4)
        ),
        "the answer holds the columns; the product with w is missing": cols,
        "the channels stand apart; each output adds up over all of them": np.einsum(
            "nijklc,klcf->nijcf", cols, w
        ),
    },
)
expect("convolve at stride 1", convolve(xbar.copy(), w.copy(), 1), by_loops(xbar, w, 1))

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def convolve(xbar, w, S):
#     """y (N, OH, OW, F) of a padded image (N, H, W, C) and filters (KH, KW, C, F), by columns."""
#     (N, H, W, C), (KH, KW, _, F) = xbar.shape, w.shape
#     OH, OW = (H - KH) // S + 1, (W - KW) // S + 1
#     cols = np.empty((N, OH, OW, KH, KW, C), xbar.dtype)
#     for i in range(OH):
#         for j in range(OW):
#             cols[:, i, j] = xbar[:, i * S : i * S + KH, j * S : j * S + KW]
#     y = cols.reshape(N * OH * OW, KH * KW * C) @ w.reshape(KH * KW * C, F)
#     return y.reshape(N, OH, OW, F)
# ```
#
# </details>

# %% [markdown]
# Whoever loops over the taps $k, l$ of the window needs only $KH \cdot KW$ steps in Python: with one tap
# held fast, all windows together read a slice of the image that takes every $S$-th pixel.


# %%
def by_columns(xbar, w, S):
    """Columns, copied tap by tap, and one matrix product."""
    KH, KW, C, F = w.shape
    y = empty_output(xbar, w, S)
    N, OH, OW, _ = y.shape
    cols = np.empty((N, OH, OW, KH, KW, C), xbar.dtype)
    for kh in range(KH):
        rows = slice(kh, kh + (OH - 1) * S + 1, S)
        for kw in range(KW):
            cols[:, :, :, kh, kw] = xbar[:, rows, kw : kw + (OW - 1) * S + 1 : S]
    np.matmul(cols.reshape(-1, KH * KW * C), w.reshape(-1, F), out=y.reshape(-1, F))
    return y


np.testing.assert_allclose(by_columns(xbar, w, 2), expected, atol=1e-12)

# %% [markdown]
# A pixel is copied into every window that it lies in. At stride 1 with "same" padding there is a window
# for each pixel, so the columns hold $KH \cdot KW$ times as many numbers as the image: 9 times for a
# 3x3 window.

# %%
image = np.ones((8, 32, 32, 16), np.float32)
window = resolve_window("conv2d", (32, 32), (3, 3), 1, "same")
copied = np.ascontiguousarray(im2col(image, window))
print(f"image {image.nbytes / 1e6:.1f} MB, columns {copied.nbytes / 1e6:.1f} MB")
assert copied.nbytes == 3 * 3 * image.nbytes

# %% [markdown]
# ## Third way: a strided view
#
# An array in NumPy is a block of memory and a rule for walking through it: the **strides**, how many
# bytes further the next number along each axis stands. A slice, a transpose or a reversed array has
# the same memory and another rule.
#
# The columns are such a rule, too. One output pixel down ($i$) is $S$ rows of the image down; one tap
# down ($k$) is one row down. Two axes may walk through the same memory, and nobody minds as long as
# nothing is written there.


# %%
def windows(xbar, KH, KW, S):
    """The columns as a view: (N, OH, OW, KH, KW, C)."""
    N, H, W, C = xbar.shape
    n, h, w, c = xbar.strides
    shape = (N, (H - KH) // S + 1, (W - KW) // S + 1, KH, KW, C)
    return as_strided(xbar, shape, (n, S * h, S * w, h, w, c), writeable=False)


small = np.arange(12.0, dtype=np.float32).reshape(1, 3, 4, 1)
view = windows(small, 2, 2, 1)
print("image\n", small[0, :, :, 0])
print("strides of the image, in bytes:", small.strides)
print("strides of the view, in bytes: ", view.strides)
print("window (1, 2)\n", view[0, 1, 2, :, :, 0])
assert np.shares_memory(small, view)
assert view[0, 1, 2, :, :, 0].tolist() == [[6, 7], [10, 11]]
stride_2 = resolve_window("conv2d", xbar.shape[1:3], (3, 2), 2, 0)
np.testing.assert_array_equal(windows(xbar, 3, 2, 2), im2col(xbar, stride_2))

# %% [markdown]
# The view costs nothing to make. What happens then depends on who reads it. `einsum` steps through the
# view number by number and writes nothing down but $y$. A matrix product by BLAS, the library behind
# `@` and `tensordot`, wants matrices whose rows do not overlap, so NumPy copies the view into columns
# first, without a word.


# %%
def by_view(xbar, w, S):
    """The formula itself, read through the view."""
    return np.einsum("nijklc,klcf->nijf", windows(xbar, *w.shape[:2], S), w)


def by_view_and_blas(xbar, w, S):
    """The same sums as one matrix product."""
    return np.tensordot(windows(xbar, *w.shape[:2], S), w, axes=3)


np.testing.assert_allclose(by_view(xbar, w, 2), expected, atol=1e-12)
np.testing.assert_allclose(by_view_and_blas(xbar, w, 2), expected, atol=1e-12)

# %% [markdown]
# ## Fourth way: the same loops, compiled
#
# Numba translates a Python function into machine code when it is first called with arguments of some
# types. Here is `fill` once more, not a letter changed.

# %%
compiled_fill = numba.njit(fill)


def by_numba(xbar, w, S):
    """Seven loops of machine code."""
    y = empty_output(xbar, w, S)
    compiled_fill(xbar, w, S, y)
    return y


start = time.perf_counter()
np.testing.assert_allclose(by_numba(xbar, w, 2), expected, atol=1e-12)
middle = time.perf_counter()
by_numba(xbar, w, 2)
print(
    f"first call {middle - start:.2f} s, with compiling; second {time.perf_counter() - middle:.1e} s"
)

# %% [markdown]
# ## Time and memory of each
#
# One image in float32, 8 channels, 8 filters of 3x3, four image sizes, one thread. Memory is what a call takes
# at its peak, beside its arguments: `tracemalloc` counts what NumPy asks for.

# %%
WAYS = {
    "loops": by_loops,
    "columns": by_columns,
    "view + einsum": by_view,
    "view + BLAS": by_view_and_blas,
    "Numba": by_numba,
}


def seconds(way, arguments, repeats):
    """The shortest time of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        way(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def peak_bytes(way, arguments):
    """The most memory that a call held at one time."""
    tracemalloc.start()
    way(*arguments)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


SIZES = (4, 8, 16, 32)
weight = rng.standard_normal((3, 3, 8, 8), np.float32)
taken, held = {way: [] for way in WAYS}, {way: [] for way in WAYS}
for size in SIZES:
    padded = pad(rng.standard_normal((1, size, size, 8), np.float32), ((1, 1), (1, 1)))
    exact = by_view(padded.astype(float), weight.astype(float), 1)
    arguments = padded, weight, 1
    for name, way in WAYS.items():
        np.testing.assert_allclose(way(*arguments), exact, atol=1e-4)
        with threadpool_limits(1):  # BLAS on one thread, like the others
            taken[name].append(seconds(way, arguments, 1 if name == "loops" else 20))
        if name != "loops" or size < 32:  # counting memory makes the loops slower still
            held[name].append(peak_bytes(way, arguments))

for name in WAYS:
    print(f"{name:14} {1e3 * taken[name][2]:9.3f} ms at 16x16, {held[name][2] / 1e3:6.0f} kB")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for name, style in zip(WAYS, ("v-", "s-", "o-", "D--", "^-"), strict=True):
    left.plot(SIZES, taken[name], style, label=name)
    kilobytes = np.array(held[name]) / 1e3
    right.plot(SIZES[: len(kilobytes)], kilobytes, style, label=name)
right.plot(
    SIZES, [4 * 8 * s * s / 1e3 for s in SIZES], color="gray", linestyle=":", label="y alone"
)
for axes in (left, right):
    axes.set(xscale="log", yscale="log", xlabel="image size, pixels")
    axes.set_xticks(SIZES, SIZES)
    axes.minorticks_off()
left.set(ylabel="seconds a call", title="Python's loops take the time")
right.set(ylabel="kB at the peak", title="Columns take the memory")
figure.legend(
    *right.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize="small"
)
plt.show()
# %% [markdown]
# What to read off:
#
# - **Left.** The loops in Python stand far above the rest: they are the price of the interpreter, not of
#   convolution. Compiled, they are the same loops without it. The columns show what a good matrix
#   product is worth, and how much of it is eaten up by the copying depends on your machine.
# - **Right.** But for the smallest images, three of the ways need room for $y$ and hardly more. The columns
#   need 9 times the image on top, and it does not matter whether you write them out or NumPy does.

# %%
columns_alone = 9 * 4 * 8 * np.array(SIZES) ** 2  # taps, bytes, channels, pixels
assert (np.array(held["columns"]) > columns_alone).all()
assert (np.array(held["view + BLAS"]) > columns_alone).all()
assert held["view + einsum"][-1] < columns_alone[-1] / 4
assert held["Numba"][-1] < columns_alone[-1] / 4
assert held["loops"][-1] < columns_alone[2] / 4  # counted up to 16x16

# %% [markdown]
# ### Why it matters what is kept
#
# For the backward pass a layer must keep something of the forward pass. Keep the columns, or keep $x$ and
# make the columns again? For the nineteen 3x3 convolutions of a ResNet-20 (notebook 11 trains one) at
# batch 128:

# %%
LAYERS = (  # how many, image size, channels, stride
    [(1, 32, 3, 1), (6, 32, 16, 1), (1, 32, 16, 2), (5, 16, 32, 1), (1, 16, 32, 2), (5, 8, 64, 1)]
)
inputs = sum(many * 128 * size**2 * C * 4 for many, size, C, _ in LAYERS)
columns = sum(many * 128 * (size // S) ** 2 * 9 * C * 4 for many, size, C, S in LAYERS)
print(f"inputs {inputs / 1e6:.0f} MB, columns {columns / 1e6:.0f} MB")
assert sum(many for many, *_ in LAYERS) == 19
assert 95 < inputs / 1e6 < 97
assert 778 < columns / 1e6 < 780

# %% [markdown]
# So minires keeps $x$ and makes the columns twice.
#
# ## Backward: the weights
#
# $y = \mathrm{cols}\; w$ is a dense layer, and its gradients are those of notebook 1 with $nij$ in the
# place of $n$ and $klc$ in the place of $d$. A weight $w_{klcf}$ has a part in $y_{nijf}$ for every image
# $n$ and every place $i, j$. The chain rule adds up over all of them:
#
# $$dw_{klcf} = \sum_{n, i, j} \mathrm{cols}_{nijklc}\ dy_{nijf}, \qquad
#   db_f = \sum_{n, i, j} dy_{nijf}.$$
#
# As matrices, $dw = \mathrm{cols}^\top dy$.

# %% [markdown]
# ## Exercise 3: the gradients of weight and bias


# %% tags=["exercise-3"]
def weight_gradients(cols, dy):
    """dw (KH, KW, C, F) and db (F,) from cols (N, OH, OW, KH, KW, C) and dy (N, OH, OW, F)."""
    ...


# %% tags=["check-3"]
cols = im2col(xbar, resolve_window("conv2d", xbar.shape[1:3], w.shape[:2], 2, 0)).copy()
dy = rng.standard_normal((2, 3, 2, 4))  # (N, OH, OW, F)
dw = np.einsum("nijklc,nijf->klcf", cols, dy)
db = dy.sum(axis=(0, 1, 2))
expect(
    "weight_gradients",
    weight_gradients(cols.copy(), dy.copy()),
    {"dw": dw, "db": db},
    mistakes={
        "the filter is turned round": {"dw": dw[::-1, ::-1]},
        "the product is taken the other way round, (F, KH*KW*C); it is cols^T dy, not dy^T cols": {
            "dw": dw.reshape(-1, 4).T.reshape(dw.shape)
        },
        "dw still is a matrix: give it the shape of w": {"dw": dw.reshape(-1, 4)},
        "dw is dy^T cols, a matrix (F, KH*KW*C): transpose it, and give it the shape of w": {
            "dw": dw.reshape(-1, 4).T
        },
        "the sum over the images is missing": {
            "dw": np.einsum("nijklc,nijf->nklcf", cols, dy),
            "db": dy.sum(axis=(1, 2)),
        },
        "only the images are added up; each place i, j uses the same weights too": {
            "dw": np.einsum("nijklc,nijf->ijklcf", cols, dy),
            "db": dy.sum(axis=0),
        },
        "db adds up over the filters as well: each of them has a bias of its own": {"db": dy.sum()},
        "db adds up over the filters, where it should over n, i and j": {"db": dy.sum(axis=3)},
        "sums are missing: every image and every place uses the same bias": {"db": dy},
    },
    sizes={"N": 2, "N * OH * OW": 12, "OH * OW": 6},
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def weight_gradients(cols, dy):
#     """dw (KH, KW, C, F) and db (F,) from cols (N, OH, OW, KH, KW, C) and dy (N, OH, OW, F)."""
#     KH, KW, C = cols.shape[3:]
#     F = dy.shape[3]
#     dw = cols.reshape(-1, KH * KW * C).T @ dy.reshape(-1, F)
#     db = dy.sum(axis=(0, 1, 2))
#     return dw.reshape(KH, KW, C, F), db
# ```
#
# </details>

# %% [markdown]
# ## Backward: the image
#
# First through the product, as in the dense layer:
#
# $$d\mathrm{cols}_{nijklc} = \sum_f dy_{nijf}\ w_{klcf}, \qquad d\mathrm{cols} = dy\; w^\top.$$
#
# Then through the copying. The pixel $\bar x_{npqc}$ was copied to every place of the columns with
# $iS + k = p$ and $jS + l = q$, and it has a part in the loss through each of its copies. So the chain
# rule adds up what comes back from them:
#
# $$d\bar x_{npqc} = \sum_{i, j, k, l} [\,iS + k = p\,]\,[\,jS + l = q\,]\ d\mathrm{cols}_{nijklc}.$$
#
# The bracket is 1 where the condition holds and 0 elsewhere. This step is called **col2im**. It is *not*
# the inverse of im2col, which would give $x$ back; it is the transpose. What im2col copies to three
# places, col2im adds up from three places. Last, the border is cut off: its zeros are constants, and
# nobody asks for their gradient.
#
# With a gradient of ones everywhere, col2im counts in how many windows each pixel lies:


# %%
def counts(padding, stride):
    """In how many 3x3 windows each pixel of a 6x6 image lies."""
    window = resolve_window("conv2d", (6, 6), (3, 3), stride, padding)
    return col2im(np.ones((1, *window.out, 3, 3, 1)), (1, 6, 6, 1), window)[0, :, :, 0].astype(int)


COUNTED = {
    'stride 1, "same"': counts("same", 1),
    'stride 2, "same": zeros (0, 1)': counts("same", 2),
    "stride 2, padding 1": counts(1, 2),
}
figure, axes = plt.subplots(1, 3, figsize=(8, 3), layout="constrained")
for ax, (title, count) in zip(axes, COUNTED.items(), strict=True):
    ax.imshow(count, cmap="viridis", vmin=0, vmax=9)
    for (p, q), number in np.ndenumerate(count):
        ax.text(q, p, number, ha="center", va="center", color="k" if number > 6 else "w")
    ax.set_title(title, fontsize=10)
    ax.set(xlabel="column q", ylabel="row p", xticks=range(6), yticks=range(6))
figure.suptitle("In how many windows does a pixel lie?")

first, second, third = COUNTED.values()
assert first.max() == 9
assert first[0, 0] == 4
assert second.max() == third.max() == 4
assert (second == third[::-1, ::-1]).all()  # the two paddings are mirror images

# %% [markdown]
# At stride 1 a pixel inside gets gradient from 9 windows. At stride 2 the pixels take turns: in each
# direction every other one lies in two windows. The two paddings of above are mirror images.

# %% [markdown]
# ## Exercise 4: col2im
#
# Go through the windows again, and bring each of them home.


# %% tags=["exercise-4"]
def image_gradient(dcols, H, W, S):
    """The gradient (N, H, W, C) of a padded image from that of its columns (N, OH, OW, KH, KW, C)."""
    ...


# %% tags=["check-4"]
dcols = rng.standard_normal((2, 3, 4, 3, 2, 3))  # (N, OH, OW, KH, KW, C)
two = Window((3, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), (3, 4))  # kernel, stride, ..., (OH, OW)
one = two._replace(stride=(1, 1))


def taken_back(dcols, size, window, assign=False):
    """col2im window by window, right or with = in the place of +=."""
    (KH, KW), (SH, SW), *_ = window
    dx = np.zeros((len(dcols), *size, dcols.shape[-1]))
    for i, j in np.ndindex(window.out):
        at = np.s_[:, i * SH : i * SH + KH, j * SW : j * SW + KW]
        dx[at] = dcols[:, i, j] + (0 if assign else dx[at])
    return dx


right = col2im(dcols, (2, 8, 9, 3), two)
in_how_many = col2im(np.ones_like(dcols), (2, 8, 9, 3), two)
expect(
    "image_gradient",
    image_gradient(dcols.copy(), 8, 9, 2),
    right,
    mistakes={
        "a window overwrites what the one before it left: add, do not assign": taken_back(
            dcols, (8, 9), two, assign=True
        ),
        "window i starts at pixel i; it should start at i * S": taken_back(dcols, (8, 9), one),
        "it is divided by the number of windows: the chain rule adds, it does not average": right
        / np.maximum(in_how_many, 1),
        "the taps are turned round: tap (k, l) came from pixel (i * S + k, j * S + l)": taken_back(
            dcols[:, :, :, ::-1, ::-1], (8, 9), two
        ),
        "the image ends with its last window: pixels that no window saw have gradient 0": right[
            :, :7, :8
        ],
        "the images are added up: n keeps its place": np.broadcast_to(right.sum(0), right.shape),
        "the channels are added up: c keeps its place": right.sum(-1, keepdims=True),
    },
    sizes={"KH * KW": 6, "N": 2},
)
xs, g = rng.standard_normal((2, 8, 9, 3)), rng.standard_normal(dcols.shape)
expect(
    "the adjoint test <cols(x), g> = <x, image_gradient(g)>",
    np.vdot(xs, image_gradient(g.copy(), 8, 9, 2)),
    np.vdot(im2col(xs, two), g),
)

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# def image_gradient(dcols, H, W, S):
#     """The gradient (N, H, W, C) of a padded image from that of its columns (N, OH, OW, KH, KW, C)."""
#     N, OH, OW, KH, KW, C = dcols.shape
#     dx = np.zeros((N, H, W, C), dcols.dtype)
#     for i in range(OH):
#         for j in range(OW):
#             dx[:, i * S : i * S + KH, j * S : j * S + KW] += dcols[:, i, j]
#     return dx
# ```
#
# </details>

# %% [markdown]
# ## A test without finite differences
#
# im2col, and a convolution with fixed weights, are **linear** in $x$: written as a long vector, $x$ is
# multiplied by some matrix $A$ which nobody ever stores. The backward pass multiplies by $A^\top$. And for
# every matrix,
#
# $$\langle A x,\ g \rangle = \sum_{r, s} g_r\, A_{rs}\, x_s = \langle x,\ A^\top g \rangle .$$
#
# So draw $x$ and $g$ at random, run forward on one and backward on the other, and compare two numbers.
# This is the **adjoint test**. There is no step $h$ and no truncation: the two agree to rounding, or
# the backward pass is not the transpose of the forward pass.


# %%
def assigning(dcols, shape, window):
    """col2im with the classic mistake: = in the place of +=. Windows are square, without padding."""
    dx, K, S = np.zeros(shape), window.kernel[0], window.stride[0]
    for i, j in np.ndindex(window.out):
        dx[:, i * S : i * S + K, j * S : j * S + K] = dcols[:, i, j]
    return dx


def adjoint_error(back, kernel, stride, seed=0):
    """|<A x, g> - <x, A' g>| as a share of the lengths, for A = im2col of a 9x9 image."""
    rng = np.random.default_rng(seed)
    window = resolve_window("conv2d", (9, 9), (kernel, kernel), stride, 0)
    x = rng.standard_normal((4, 9, 9, 2))
    g = rng.standard_normal((4, *window.out, kernel, kernel, 2))
    forward, backward = np.vdot(im2col(x, window), g), np.vdot(x, back(g, x.shape, window))
    return abs(forward - backward) / np.linalg.norm(x) / np.linalg.norm(g)


for back in (col2im, assigning):
    errors = [adjoint_error(back, 3, stride) for stride in (1, 2, 3)]
    print(f"{back.__name__:10} stride 1: {errors[0]:.0e}, 2: {errors[1]:.0e}, 3: {errors[2]:.0e}")
    assert max(errors) < 1e-14 or back is assigning
caught = [adjoint_error(assigning, 3, stride, seed) for stride in (1, 2) for seed in range(3)]
assert min(caught) > 1e-6
assert adjoint_error(assigning, 3, 3) < 1e-14

# %% [markdown]
# The mistake is caught at strides 1 and 2, and **passes at stride 3**. There windows of 3x3 do not
# overlap, no pixel gets more than one gradient, and assigning is right. A test is as good as its cases:
# choose windows that overlap, and sizes that differ. And like the gradient check, this one compares
# backward with forward. If both make the same mistake, it holds.
#
# A convolution is linear in $w$ too. So one upstream gradient tests both backward passes at once:
#
# $$\langle y,\ dy \rangle = \langle x,\ dx \rangle = \langle w,\ dw \rangle .$$

# %%
for stride, padding in ((1, "same"), (2, "same"), ((2, 1), ((1, 0), (0, 2)))):
    y, cache = ops.conv2d_forward(x, w, stride=stride, padding=padding)
    dy = rng.standard_normal(y.shape)
    dx, dw, _ = ops.conv2d_backward(dy, cache)
    products = np.vdot(y, dy), np.vdot(x, dx), np.vdot(w, dw)
    print(*(f"{number:.12f}" for number in products))
    assert np.ptp(products) < 1e-12 * np.linalg.norm(y) * np.linalg.norm(dy)

# %% [markdown]
# The gradient check of notebook 2 agrees, padding and bias included. It takes longer and sees less
# sharply, but it needs no linearity.

# %%
report = mr.check_gradients(
    mr.Conv2d(3, 4, 3, stride=2, padding="same", rng=0, dtype=np.float64, ops=ops), x
)
print(report)
assert report.ok

# %% [markdown]
# ## What to remember
#
# - On one axis there are $\lfloor (\text{before} + H + \text{after} - K) / S \rfloor + 1$ outputs. At
#   stride 2, "same" puts the odd zero at the end, and a symmetric padding of the same shape gives other
#   numbers.
# - A convolution is a dense layer on windows: $y = \mathrm{cols}\; w$, $dw = \mathrm{cols}^\top dy$,
#   $d\mathrm{cols} = dy\; w^\top$. The weights are used at every place, so $dw$ adds up over images and
#   places.
# - The transpose of copying is adding up. `=` in the place of `+=` is right only where windows do not
#   overlap.
# - The columns take $KH \cdot KW$ times the memory of the image. A strided view takes none, until somebody
#   copies it. Keep $x$ for the backward pass, not the columns.
# - $\langle A x, g \rangle = \langle x, A^\top g \rangle$ tests a linear layer exactly.
#
# ## Where to read on
#
# - Dumoulin and Visin (2016), "A guide to convolution arithmetic for deep learning", arXiv:1603.07285,
#   sections 2 (sizes) and 4 (the transpose).
# - Chetlur et al. (2014), "cuDNN: efficient primitives for deep learning", arXiv:1410.0759, section 3:
#   convolution as a matrix product, and why not to store the columns.
# - In minires: `minires/ops/reference/conv.py`, all of it in NumPy; `minires/ops/window.py` for sizes and
#   padding; `docs/derivations/convolution.md`, which also shows that $dx$ is again a convolution.
# - Notebook 12 makes the compiled loops fast.
