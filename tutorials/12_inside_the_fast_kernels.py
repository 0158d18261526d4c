# %% [markdown]
# # 12. Inside the fast kernels
#
# **What you will be able to do.** Say what limits a computation on your machine, arithmetic or memory,
# and draw it. Explain what caches, SIMD lanes and register tiles do for a convolution. Derive Winograd's
# trick, and say what it costs.
#
# **What you need.** Notebook 3, convolution as a matrix product; for the end also notebooks 4 and 7, batch
# norm and residual blocks.
#
# This notebook measures. Its times are those of the machine that ran it, busy or idle, and yours will
# differ. So the text says what to look for, and only results and counts are asserted, never a time.

# %%
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numba import njit
from numpy.lib.stride_tricks import as_strided
from threadpoolctl import threadpool_limits

import minires as mr
from minires.exercises import expect
from minires.ops import fast, reference
from minires.ops.fast import direct, winograd
from minires.ops.fast.conv import plan_for
from minires.ops.fast.panels import padded
from minires.ops.fast.simd import BITS, ROWS, lanes, load, outer, same, store, store_tile, zeros
from minires.ops.reference.conv import im2col
from minires.ops.window import resolve_window
from minires.runs.machine import machine

mr.set_num_threads(1)  # one core, for one thing at a time
threadpool_limits(1)  # BLAS too


def seconds(function, *arguments, repeats=6):
    """The shortest time of a call; the first, which may compile, does not count."""
    function(*arguments)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


for name, value in machine().items():
    print(f"{name:10} {value}")
print(f"{'registers':10} {BITS} bits: {BITS // 32} numbers of float32")

# %% [markdown]
# A program has two limits: how fast the core can **compute**, and how fast the numbers **arrive**. We take
# them in turn, first the arriving.
#
# ## Caches: how far away a number is
#
# Memory is large and far away. Between it and the core stand caches: small and near (L1, some ten kB),
# larger and further (L2), larger and further still (L3). A number that is read comes with its
# neighbours, a **line** of 64 bytes, and stays in the caches until others drive it out.
#
# To see them, walk through an array in which each place says where to go next, one place in each line.
# The core cannot look ahead, for it must have read one number to know where the next one is.


# %%
@njit
def walk(following, steps):
    """Where one is after some steps from place 0."""
    place = 0
    for _ in range(steps):
        place = following[place]
    return place


LINE = 8  # numbers of 8 bytes in 64


def round_trip(order):
    """An array that leads through lines in some order, and back to the first."""
    following = np.zeros(len(order) * LINE, np.int64)
    following[order * LINE] = np.roll(order, -1) * LINE
    return following


rng = np.random.default_rng(0)
sizes = [2**k for k in range(13, 25)]  # bytes: 8 kB to 16 MB
in_order, shuffled = [], []
for size in sizes:
    lines = size // 64
    steps = max(lines, 2**17)  # whole rounds, as both are powers of 2
    ways = np.arange(lines), np.append(0, 1 + rng.permutation(lines - 1))
    for order, taken in zip(ways, (in_order, shuffled), strict=True):
        following = round_trip(order)
        assert walk(following, lines // 2) != 0
        assert walk(following, lines) == 0  # every line once, then home
        taken.append(1e9 * seconds(walk, following, steps) / steps)


# %%
def cache_sizes():
    """{name: bytes} of the caches for data, where the system tells."""
    found = {}
    for file in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")):
        size = file.read_text().strip()
        level, kind = (file.with_name(name).read_text().strip() for name in ("level", "type"))
        if kind != "Instruction":
            found[f"L{level}"] = int(size[:-1]) * {"K": 2**10, "M": 2**20}[size[-1]]
    return found


figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
axes.plot(sizes, shuffled, "o-", label="at random")
axes.plot(sizes, in_order, "s-", label="in order")
for name, size in cache_sizes().items():
    if size <= sizes[-1]:
        axes.axvline(size, color="gray", linestyle=":")
        axes.text(size, 1.02, name, ha="center", transform=axes.get_xaxis_transform())
axes.set(xscale="log", yscale="log", xlabel="size of the array, bytes", ylabel="ns a step")
axes.set_title("How long does the next number take?", pad=18)
axes.legend()
plt.show()

# %% [markdown]
# Look at the upper line: a staircase, which goes up where the array has outgrown a cache (dotted, if your
# system tells their sizes; a cache that several cores share may be full of their numbers). The lower line does the same steps with the next number always in the next
# line. It stays low for much longer, because the core notices the pattern and fetches ahead.
#
# Two rules follow. **Use a number again while it is near. Read in the order of memory.**
#
# ## Using numbers again: blocks
#
# A product of two $n \times n$ matrices does $n^3$ multiply-adds with $2 n^2$ numbers, so each number is
# used $n$ times. But row by row and column by column, by the time a number is wanted again the cache has
# seen all the others.
#
# So cut the matrices into blocks of $B \times B$ numbers, small enough that three of them fit into the
# cache:
#
# $$y_{IJ} = \sum_K a_{IK}\, b_{KJ}, \qquad I, J, K \text{ count blocks}.$$
#
# Each product of two blocks reads $2B^2$ numbers from afar and does $B^3$ multiply-adds with them: $2/B$
# reads for each multiply-add.

# %%
for B in (1, 8, 64):
    block_products = (512 // B) ** 3
    reads = block_products * 2 * B**2 / 512**3
    print(f"blocks of {B:2}: {reads:.3f} reads from afar for a multiply-add")
    assert reads == 2 / B

# %% [markdown]
# ## Exercise 1: a product in blocks
#
# The sizes need not be multiples of $B$: the last blocks of a row may be smaller.
# Multiply blocks with `@`: the check watches how large they are.


# %% tags=["exercise-1"]
def blocked_product(a, b, B):
    """a @ b, of shapes (M, K) and (K, N), as a sum of products of blocks of at most B x B numbers."""
    ...


# %% tags=["check-1"]
class Watched(np.ndarray):
    """An array that notes the largest side of what is multiplied with @."""

    largest = 0

    def __matmul__(self, other):
        Watched.largest = max(Watched.largest, *self.shape, *other.shape)
        return np.asarray(self) @ np.asarray(other)


a, b = rng.standard_normal((7, 5)), rng.standard_normal((5, 6))
inside = np.zeros((7, 6))
inside[:6, :6] = a[:6, :4] @ b[:4]
rows_inside = np.vstack([(a @ b)[:6], np.zeros((1, 6))])
expect(
    "blocked_product",
    blocked_product(a.copy().view(Watched), b.copy().view(Watched), 2),
    a @ b,
    mistakes={
        "each block product overwrites the one before: add them up over k": a[:, 4:] @ b[4:],
        "only the first block along k is used: add up over all of them": a[:, :2] @ b[:2],
        "the smaller blocks at the ends are left out": inside,
        "the smaller blocks at the end of the rows are left out": rows_inside,
        "the smaller block at the end of k is left out": a[:, :4] @ b[:4],
    },
)
expect(
    "the longest side of a block",
    Watched.largest,
    2,
    mistakes={
        "a and b are multiplied as a whole": 7,
        "strips are multiplied, as long as k: cut that axis as well": 5,
        "no two blocks were multiplied with @ (others, such as np.dot, are not seen)": 0,
    },
)

# %% [markdown] tags=["solution-1"]
# <details><summary>Solution of exercise 1</summary>
#
# ```python
# def blocked_product(a, b, B):
#     """a @ b, of shapes (M, K) and (K, N), as a sum of products of blocks of at most B x B numbers."""
#     (M, K), N = a.shape, b.shape[1]
#     y = np.zeros((M, N))
#     for i in range(0, M, B):
#         for j in range(0, N, B):
#             for k in range(0, K, B):
#                 y[i : i + B, j : j + B] += a[i : i + B, k : k + B] @ b[k : k + B, j : j + B]
#     return y
# ```
#
# A slice that reaches over the end is cut off there, so the smaller blocks need no case of their own.
#
# </details>

# %% [markdown]
# The same idea works at every level: blocks for L2, smaller ones for L1, and the smallest for the
# registers of the core. We now go there.
#
# ## Lanes, and sums that wait for each other
#
# A **register** of the core holds not one number but 4, 8 or 16 of float32, in **lanes**, and one
# instruction adds all lanes of two registers (SIMD: single instruction, multiple data). An addition takes
# three or four cycles, but the core can start two in every cycle, if they do not need each other's result.
#
# A loop with one sum, `s += a[i]`, uses neither: it has one number in a register, and each addition waits
# for the one before. The compiler may not change that, because another order of additions rounds
# differently:

# %%
large, one = np.float32(1e8), np.float32(1)
print((large + one) - large, "is not", (large - large) + one)
assert (large + one) - large == 0
assert (large - large) + one == 1

# %% [markdown]
# So we have to say it. Four kernels add up the same 4,096 numbers, which fit into L1: with one sum, with
# four, with one register, with four registers. `load` reads a register from an array, and `+` adds all its
# lanes. They come from `minires/ops/fast/simd.py`; more of it below.


# %%
@njit
def one_sum(a, times, out):
    """out[0] = the sum of a; again and again, to have something to measure."""
    for _ in range(times):
        s = np.float32(0)
        for i in range(a.size):
            s += a[i]
        out[0] = s


@njit
def four_sums(a, times, out):
    """The same with four sums that do not wait for each other."""
    for _ in range(times):
        s = t = u = w = np.float32(0)
        for i in range(0, a.size, 4):
            s += a[i]
            t += a[i + 1]
            u += a[i + 2]
            w += a[i + 3]
        out[0] = (s + t) + (u + w)


@njit
def one_register(a, times, out):
    """The same with a sum in each lane of a register; the lanes are added at the end."""
    v = lanes(a)
    for _ in range(times):
        s = same(a, 0)
        for i in range(0, a.size, v):
            s = s + load(a, i)
        store(out, 0, s)


@njit
def four_registers(a, times, out):
    """The same with both."""
    v = lanes(a)
    for _ in range(times):
        s = t = u = w = same(a, 0)
        for i in range(0, a.size, 4 * v):
            s = s + load(a, i)
            t = t + load(a, i + v)
            u = u + load(a, i + 2 * v)
            w = w + load(a, i + 3 * v)
        store(out, 0, (s + t) + (u + w))


numbers = rng.standard_normal(4096, np.float32)
exact = numbers.astype(float).sum()
adding = {}
for kernel in (one_sum, four_sums, one_register, four_registers):
    out = np.zeros(16, np.float32)
    kernel(numbers, 1, out)
    assert abs(out.sum(dtype=float) - exact) < 1e-2  # the same numbers, in four orders
    adding[kernel.__name__.replace("_", " ")] = (
        300 * numbers.size / seconds(kernel, numbers, 300, out)
    )
for name, rate in adding.items():
    print(f"{name:15} {rate / 1e9:6.2f} numbers a nanosecond")

# %% [markdown]
# ## A tile in registers
#
# A matrix product by the definition, $y_{ij} = \sum_k a_{ik} b_{kj}$, has both faults: one sum that waits for
# itself, and two loads for each multiply-add. And in the inner loop $b_{kj}$ goes down a column, where every
# number is in another line.
#
# Exchange two loops, and the inner one goes along rows: no sum waits, since all go to different $y_{ij}$, and
# the compiler may use lanes. But each multiply-add now loads and stores $y$.
#
# The way out is a block so small that its sums stay in registers, a **register tile**. With 2 rows of $a$
# and 2 columns of $b$, a step along $k$ loads 4 numbers for 4 multiply-adds:


# %%
@njit
def inner_product(a, b, y):
    """y = a @ b by the definition: loops i, j, k."""
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            s = np.float32(0)
            for k in range(a.shape[1]):
                s += a[i, k] * b[k, j]
            y[i, j] = s


@njit
def along_rows(a, b, y):
    """The same sums in the same order: loops i, k, j."""
    for i in range(a.shape[0]):
        y[i] = 0
        for k in range(a.shape[1]):
            for j in range(b.shape[1]):
                y[i, j] += a[i, k] * b[k, j]


@njit
def plain_tile(a, b, y):
    """The same sums again, four side by side in registers. Sizes are even."""
    for i in range(0, a.shape[0], 2):
        for j in range(0, b.shape[1], 2):
            s = t = u = w = np.float32(0)
            for k in range(a.shape[1]):
                s += a[i, k] * b[k, j]
                t += a[i, k] * b[k, j + 1]
                u += a[i + 1, k] * b[k, j]
                w += a[i + 1, k] * b[k, j + 1]
            y[i, j], y[i, j + 1], y[i + 1, j], y[i + 1, j + 1] = s, t, u, w


@njit
def simd_tile(a, b, y):
    """A tile of ROWS numbers of a by two registers of b. Sizes are multiples of both."""
    (M, K), F = a.shape, b.shape[1]
    a, b, y = a.reshape(-1), b.reshape(-1), y.reshape(-1)
    v = lanes(a)
    for i in range(0, M, ROWS):
        for j in range(0, F, 2 * v):
            t = zeros(a, ROWS, 2)
            for k in range(K):
                t = outer(t, a, i * K + k, K, b, k * F + j, v)
            store_tile(t, y, i * F + j, F, v)


n = 192  # each matrix takes 147 kB
a, b = rng.standard_normal((n, n), np.float32), rng.standard_normal((n, n), np.float32)
exact, results, multiplying = a.astype(float) @ b, {}, {}
for kernel in (inner_product, along_rows, plain_tile, simd_tile):
    y = np.zeros((n, n), np.float32)
    kernel(a, b, y)
    np.testing.assert_allclose(y, exact, atol=1e-3)
    name = kernel.__name__.replace("_", " ")
    results[name], multiplying[name] = y, 2 * n**3 / seconds(kernel, a, b, y)
multiplying["BLAS (NumPy)"] = 2 * n**3 / seconds(np.matmul, a, b, np.empty_like(a))
for name, rate in multiplying.items():
    print(f"{name:15} {rate / 1e9:6.1f} GF/s")

assert (results["inner product"] == results["along rows"]).all()  # to the last bit
assert (results["inner product"] == results["plain tile"]).all()

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for ax, rates in ((left, adding), (right, multiplying)):
    bars = ax.barh(list(rates), [rate / 1e9 for rate in rates.values()], color="tab:blue")
    ax.bar_label(bars, fmt="%.1f", padding=3)
    ax.invert_yaxis()
    ax.margins(x=0.15)
left.set(xlabel="numbers added a nanosecond", title="Sums that do not wait, in lanes")
right.set(xlabel="GF/s", title="A matrix product, 192 x 192")
plt.show()

# %% [markdown]
# **GF/s** are billions of operations a second; a multiply-add counts as two. The first three products give
# the same bits, for each of their sums is added in the same order. What differs is how many of them are
# under way at once, and how often memory is asked.
#
# How large should a tile be? With $r$ numbers of $a$ and $c$ registers of $b$, a step loads $r + c$ times
# for $r c$ multiply-adds of whole registers. It needs $r c$ registers for the sums, $c$ for $b$ and one for
# the number of $a$, spread over all lanes:

# %%
for r, c in ((1, 1), (2, 2), (4, 2), (8, 2)):
    print(f"{r} x {c}: {(r + c) / (r * c):.2f} loads a multiply-add, {r * c + c + 1:2} registers")
assert 4 * 2 + 2 + 1 <= 16 < 8 * 2 + 2 + 1 <= 32

# %% [markdown]
# A core with AVX2 has 16 registers of 256 bits, one with AVX-512 has 32 of 512. So minires' tile is 4 x 2 on the
# first and 8 x 2 on the second. On the first, a tile of 8 x 2 would not fit, and its sums would have to be
# moved out to memory and back in every step.
#
# ## The type behind it: `Vec` and `Tile`
#
# Numba knows numbers and arrays, not registers. `simd.py` teaches it two types. A `Vec` is one register, a
# `Tile` is `rows x cols` of them. Each operation on them is a few lines of LLVM IR, the language that Numba
# hands to its compiler. The core of `outer`, in words:
#
#     for c in range(cols):   column[c] = the register at b[j + c * col_step]
#     for r in range(rows):   number = a[i + r * row_step], spread over all lanes
#         for c in range(cols):   t[r, c] = number * column[c] + t[r, c]      one instruction
#
# These loops run **while the kernel is compiled**. What is left in the kernel is a straight run of
# `rows * cols` multiply-adds, in which each sum has a name of its own; so the compiler keeps it in a
# register. You can look at the machine code:

# %%
code = simd_tile.inspect_asm()[simd_tile.signatures[0]]
found = [line.strip() for line in code.splitlines() if "fmadd" in line or "fmla" in line]
print(f"tile of {ROWS} x 2, {len(found)} multiply-add instructions")
print(*found[:4], sep="\n")
assert (BITS, ROWS) in {(512, 8), (256, 4), (128, 4)}

# %% [markdown]
# On a processor with AVX2 the names `ymm0` to `ymm15` are its registers of 256 bits; with AVX-512 they are
# `zmm0` to `zmm31`. The last name in a line is the sum that is added to.
#
# ## Implicit im2col: columns that nobody writes
#
# Notebook 3 made a matrix product of a convolution, and paid with columns of 9 times the image. Its strided
# view showed that the columns are only a rule for walking. Our own kernel can follow the rule, where BLAS
# could not.
#
# In NHWC the channels of a pixel lie side by side, and so do the pixels of a row. A window is therefore
# $KH$ runs of $KW \cdot C$ contiguous numbers. For one row of outputs and one row $kh$ of the kernel, the
# left factor is a matrix whose next row starts only $C$ numbers further: its rows overlap.

# %%
image = rng.standard_normal((6, 10, 4))  # (H, W, C), padded
weight = rng.standard_normal((3, 3, 4, 5))  # (KH, KW, C, F)
H, W, C = image.shape
KH, KW, _, F = weight.shape
OH, OW = H - KH + 1, W - KW + 1
y = np.zeros((OH, OW, F))
for h in range(OH):
    for kh in range(KH):
        row = image[h + kh]  # (W, C), contiguous
        left_factor = as_strided(
            row, (OW, KW * C), (C * row.itemsize, row.itemsize), writeable=False
        )
        assert np.shares_memory(left_factor, image)
        y[h] += left_factor @ weight[kh].reshape(KW * C, F)
window = resolve_window("conv2d", (H, W), (KH, KW), 1, 0)
columns = im2col(image[None], window).reshape(OH * OW, -1)
np.testing.assert_allclose(y.reshape(-1, F), columns @ weight.reshape(-1, F), atol=1e-12)
print("left factor", left_factor.shape, "from a row of", row.shape)

# %% [markdown]
# The tile reads such a factor as it is: `outer(t, x, i, C, ...)` takes the numbers `x[i]`, `x[i + C]`,
# `x[i + 2 C]`, ... for neighbouring outputs. That is the idea of `minires/ops/fast/direct.py`. Two things
# come on top. The rows are first copied, with their border of zeros, into a buffer that fits into L2, so that
# no loop asks whether it is at the edge. And the weights are copied once into the order in which the tile
# reads them.
#
# ## Winograd: fewer multiplications
#
# So far the number of multiplications was given: 9 for each output, channel and filter of a 3x3
# convolution. Now we bring it down. Take one dimension, two neighbouring outputs and a filter of three:
#
# $$y_0 = d_0 w_0 + d_1 w_1 + d_2 w_2, \qquad y_1 = d_1 w_0 + d_2 w_1 + d_3 w_2 .$$
#
# Six multiplications. The two windows share $d_1$ and $d_2$; can they share products? Let $s = w_0 + w_2$.
# Replace $d_2 w_2$ in $y_0$ by $d_2 s - d_2 w_0$, and $d_1 w_0$ in $y_1$ by $d_1 s - d_1 w_2$:
#
# $$y_0 = (d_0 - d_2)\, w_0 + P, \qquad P = d_2 s + d_1 w_1,$$
# $$y_1 = (d_3 - d_1)\, w_2 + Q, \qquad Q = d_1 s + d_2 w_1 .$$
#
# $P$ and $Q$ are alike: exchange $d_1$ and $d_2$, and one becomes the other. So their sum and their
# difference fall apart into one product each:
#
# $$P + Q = (d_1 + d_2)(s + w_1), \qquad P - Q = (d_2 - d_1)(s - w_1).$$
#
# That makes four products in all. What depends on $w$ alone is computed once and used for the whole image.
#
# To count, here are numbers that notice when two of them are multiplied. A factor that is a constant, such
# as 2 or 0.5, does not count.


# %%
class Counted:
    """A number that counts its products with others of its kind."""

    products = 0

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return float(self.value)

    def __add__(self, other):
        return Counted(self.value + float(other))

    def __sub__(self, other):
        return Counted(self.value - float(other))

    def __mul__(self, other):
        Counted.products += isinstance(other, Counted)
        return Counted(self.value * float(other))

    def __neg__(self):
        return Counted(-self.value)

    def __truediv__(self, constant):
        return Counted(self.value / float(constant))

    __radd__, __rmul__ = __add__, __mul__


def products_of(function, *arrays):
    """How many products a function takes."""
    Counted.products = 0
    function(*([Counted(number) for number in array] for array in arrays))
    return Counted.products


def two_outputs(d, w):
    """y0 and y1 by the definition."""
    return [sum(d[i + k] * w[k] for k in range(3)) for i in range(2)]


d, w = [3.0, 1.0, 4.0, 2.0], [2.0, 1.0, 1.0]
print(two_outputs(d, w), "with", products_of(two_outputs, d, w), "products")
assert two_outputs(d, w) == [11, 8]
assert products_of(two_outputs, d, w) == 6

# %% [markdown]
# ## Exercise 2: two outputs from four products


# %% tags=["exercise-2"]
def winograd_23(d, w):
    """[y0, y1] from the pixels d[0] to d[3] and the weights w[0] to w[2], by four products."""
    ...


# %% tags=["check-2"]
d, w = rng.standard_normal(4), rng.standard_normal(3)
right, s = np.array(two_outputs(d, w)), w[0] + w[2]
plus, minus = (d[1] + d[2]) * (s + w[1]), (d[2] - d[1]) * (s - w[1])  # P + Q, P - Q
first, last = (d[0] - d[2]) * w[0], (d[3] - d[1]) * w[2]


def put_together(plus, minus):
    """y0 and y1 from P + Q and P - Q, right or wrong."""
    return np.array([first + (plus + minus) / 2, last + (plus - minus) / 2])


middle, across = d[1] + d[2], d[2] - d[1]
expect(
    "winograd_23",
    winograd_23(d.copy(), w.copy()),
    right,
    mistakes={
        "nothing is halved: P = ((P + Q) + (P - Q)) / 2": put_together(2 * plus, 2 * minus),
        "P + Q is not halved: P = ((P + Q) + (P - Q)) / 2": put_together(2 * plus, minus),
        "P - Q is not halved: P = ((P + Q) + (P - Q)) / 2": put_together(plus, 2 * minus),
        "P and Q are exchanged, or the sign of P - Q is wrong: it is (d2 - d1)(s - w1)": (
            put_together(plus, -minus)
        ),
        "y0 gets Q: half the difference has to be added there": [
            first + (plus - minus) / 2,
            right[1],
        ],
        "y1 gets P: half the difference has to be taken away there": [
            right[0],
            last + (plus + minus) / 2,
        ],
        "(d1 - d3) w2 is added to y1, where it has to be taken away": right - [0, 2 * last],
        "(d2 - d0) w0 is added to y0, where it has to be taken away": right - [2 * first, 0],
        "the products with w0 and w2 are missing": put_together(plus, minus) - [first, last],
        "w1 is added where it should be taken away: P - Q = (d2 - d1)(s - w1)": (
            put_together(plus, across * (s + w[1]))
        ),
        "w1 is part of s: s = w0 + w2": put_together(middle * (s + 2 * w[1]), across * s),
        "the two outputs are in the wrong order": right[::-1],
    },
)
count = products_of(winograd_23, d, w)
advice = "keep in a variable what is used twice" if count > 4 else "use d and w as they are given"
expect(
    "the number of products",
    count,
    4,
    mistakes={
        "each output is computed by itself, by six products": 6,
        f"it took {count} products; {advice}": count,
    },
)

# %% [markdown] tags=["solution-2"]
# <details><summary>Solution of exercise 2</summary>
#
# ```python
# def winograd_23(d, w):
#     """[y0, y1] from the pixels d[0] to d[3] and the weights w[0] to w[2], by four products."""
#     s = w[0] + w[2]
#     half_sum = (d[1] + d[2]) * ((s + w[1]) / 2)  # (P + Q) / 2
#     half_difference = (d[2] - d[1]) * ((s - w[1]) / 2)  # (P - Q) / 2
#     y0 = (d[0] - d[2]) * w[0] + half_sum + half_difference
#     y1 = (d[3] - d[1]) * w[2] + half_sum - half_difference
#     return [y0, y1]
# ```
#
# </details>

# %% [markdown]
# ## The same as three matrices
#
# Every such scheme has the form: transform the pixels, transform the weights, multiply number by number,
# transform back. With matrices $B^\top$, $G$ and $A^\top$,
#
# $$y = A^\top \big[\,(G w) \odot (B^\top d)\,\big] .$$
#
# Lavin and Gray call it $F(m, 3)$: $m$ outputs, 3 taps, $n = m + 2$ pixels and as many products. Write out the
# indices and compare with $y_i = \sum_k d_{i+k} w_k$: the scheme is right for all $d$ and $w$ if and only if
#
# $$\sum_t A^\top_{it}\, G_{tk}\, B^\top_{tj} = [\,j = i + k\,] \qquad\text{for all } i, k, j.$$
#
# Choose $n - 1$ different numbers $p_t$, and let $A^\top$ and $G$ hold their powers. (A polynomial is known by
# its values at enough points, and a product of polynomials is a convolution: that is why this can work.) For
# given $A^\top$ and $G$ the condition is a set of linear equations for $B^\top$, and we let NumPy solve them.


# %%
POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2), 6: (0, 1, -1, 2, -2, 1 / 2, -1 / 2)}


def transforms(m):
    """A' (m, n), G (n, 3) and B' (n, n) of F(m, 3)."""
    p, n = np.array(POINTS[m], float), m + 2
    distances = np.array([np.prod([q - r for r in p if r != q]) for q in p])
    At, G = np.zeros((m, n)), np.zeros((n, 3))
    At[:, :-1] = p ** np.arange(m)[:, None]
    G[:-1] = p[:, None] ** np.arange(3) / distances[:, None]
    At[-1, -1] = G[-1, -1] = 1  # the last "point" is infinity: only the highest power counts
    equations = (At[:, None, :] * G.T).reshape(m * 3, n)  # a row for each i, k
    wanted = np.array([np.eye(n)[i + k] for i in range(m) for k in range(3)])
    Bt = np.linalg.lstsq(equations, wanted)[0]
    assert np.abs(equations @ Bt - wanted).max() < 1e-12  # the condition holds
    return At, G + 0.0, Bt.round(9) + 0.0


At, G, Bt = transforms(2)
print("A' of F(2, 3)", At, "G", G, "B'", Bt, sep="\n")
np.testing.assert_allclose(At @ ((G @ w) * (Bt @ d)), two_outputs(d, w), atol=1e-12)

# %% [markdown]
# These are your four products, up to signs. In two dimensions the transforms act on the columns and then on
# the rows, and the products are summed over the channels:
#
# $$Y = A^\top \Big[ \sum_c \,(G\, w_c\, G^\top) \odot (B^\top d_c\, B) \Big] A .$$
#
# For each of the $n \times n$ places the sum over channels is a small matrix product, (tiles x channels) @
# (channels x filters), and its inner loop is the register tile from above.


# %%
def winograd_tiles(d, w, m):
    """Outputs (T, m, m, F) of tiles d (T, n, n, C) and filters w (3, 3, C, F), in their dtype."""
    At, G, Bt = (matrix.astype(d.dtype) for matrix in transforms(m))
    U = np.einsum("ak,klcf,bl->abcf", G, w, G, optimize=True)
    V = np.einsum("ah,thwc,bw->abtc", Bt, d, Bt, optimize=True)
    M = V @ U  # (n, n, T, F): the sum over c
    return np.einsum("ia,abtf,jb->tijf", At, M, At, optimize=True)


def direct_tiles(d, w, m):
    """The same by the definition, tap by tap."""
    y = np.zeros((len(d), m, m, w.shape[3]), d.dtype)
    for kh, kw in np.ndindex(3, 3):
        y += d[:, kh : kh + m, kw : kw + m] @ w[kh, kw]
    return y


def error(y, exact):
    """Root mean square error, as a share of the root mean square."""
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


measured = {}
weights = rng.standard_normal((3, 3, 64, 16), np.float32)
for m in (2, 4, 6):
    tiles = rng.standard_normal((50, m + 2, m + 2, 64), np.float32)
    exact = direct_tiles(tiles.astype(float), weights.astype(float), m)
    assert error(winograd_tiles(tiles.astype(float), weights.astype(float), m), exact) < 1e-13
    measured["direct"] = 9, error(direct_tiles(tiles, weights, m), exact)
    products = (m + 2) ** 2 / m**2
    measured[f"F({m}x{m}, 3x3)"] = products, error(winograd_tiles(tiles, weights, m), exact)
for name, (products, off) in measured.items():
    print(f"{name:12} {products:5.2f} products an output, error {off:.0e}")

assert [round(products, 2) for products, _ in measured.values()] == [9, 4, 2.25, 1.78]
errors = [off for _, off in measured.values()]
assert errors[0] < 1e-6
assert 3 * errors[0] < errors[2] < 100 * errors[0]
assert errors[3] > errors[2]
assert errors[3] < 1e-4

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for name, (products, off) in measured.items():
    axes.plot(products, off, "o", color="tab:blue")
    axes.annotate(name, (products, off), xytext=(8, 4), textcoords="offset points")
axes.set(yscale="log", xlabel="products an output, channel and filter", ylabel="error in float32")
axes.set(
    title="Fewer products, larger errors", xlim=(0, 11), ylim=(min(errors) / 2, 2 * max(errors))
)
plt.show()

# %% [markdown]
# The transforms multiply by numbers such as 8 and divide again, and add what nearly cancels. That costs
# digits, and the larger the tile, the more of them. In float64 all three are right to 13 digits, so
# nothing is wrong with the formulas.
#
# minires takes $F(4 \times 4, 3 \times 3)$, a quarter of the multiplications for one digit, for float32
# only. float64 is there to check gradients, and stays direct.

# %%
x = rng.standard_normal((8, 16, 16, 32), np.float32)
weight = rng.standard_normal((3, 3, 32, 32), np.float32)
for dtype in (np.float32, np.float64):
    way = plan_for(x.astype(dtype), weight.astype(dtype), 1, 1, 1, 1).way
    print(np.dtype(dtype).name, "3x3, stride 1 ->", way.__name__)
    assert (way is winograd) == (dtype is np.float32)
exact, _ = reference.conv2d_forward(x.astype(float), weight.astype(float), padding=1)
y, _ = fast.conv2d_forward(x, weight, padding=1)
y64, _ = fast.conv2d_forward(x.astype(float), weight.astype(float), padding=1)
print(f"error in float32 {error(y, exact):.0e}, in float64 {error(y64, exact):.0e}")
assert 1e-7 < error(y, exact) < 1e-4
assert error(y64, exact) < 1e-13

# %% [markdown]
# ## Which limit is it? The roofline
#
# A computation does a number of operations and has to move a number of bytes. Their quotient is its
# **arithmetic intensity**, in operations a byte. What must be moved is what goes in and what comes out, each
# once. What a program moves on top of that is its own fault and does not count.

# %% [markdown]
# ## Exercise 3: operations and bytes of a convolution
#
# A 3x3 convolution at stride 1 with "same" padding and without bias, in float32 (4 bytes a number). Count a
# multiply-add as two operations, at the edge too.


# %% tags=["exercise-3"]
def conv_work(N, H, W, C, F):
    """(operations, bytes) of a 3x3 convolution of (N, H, W, C) with F filters."""
    ...


# %% tags=["check-3"]
N, H, W, C, F = 128, 32, 30, 16, 24
operations, pixels = 2 * N * H * W * 9 * C * F, N * H * W
numbers_moved = pixels * C + 9 * C * F + pixels * F
expect(
    "conv_work",
    conv_work(N, H, W, C, F),
    {"operations": operations, "bytes": 4 * numbers_moved},
    rtol=1e-9,
    mistakes={
        "a multiply-add is counted once; it is two operations": {"operations": operations // 2},
        "the 9 taps are missing": {"operations": operations // 9},
        "the channels are missing: each output adds up over all of them": {
            "operations": operations // C
        },
        "the filters are missing: each of them gives an output": {"operations": operations // F},
        "the images of the batch are missing": {
            "operations": operations // N,
            "bytes": 4 * (H * W * C + 9 * C * F + H * W * F),
        },
        "numbers are counted, not bytes: float32 takes 4": {"bytes": numbers_moved},
        "numbers are taken to have 8 bytes: float32 takes 4": {"bytes": 8 * numbers_moved},
        "the output is missing: it has to be written": {"bytes": 4 * (pixels * C + 9 * C * F)},
        "the weights are missing": {"bytes": 4 * (pixels * C + pixels * F)},
        "the columns are counted: they need not be stored": {
            "bytes": 4 * (9 * pixels * C + 9 * C * F + pixels * F)
        },
        "the output is taken to have as many channels as x: it has F": {
            "bytes": 4 * (2 * pixels * C + 9 * C * F)
        },
    },
)

# %% [markdown] tags=["solution-3"]
# <details><summary>Solution of exercise 3</summary>
#
# ```python
# def conv_work(N, H, W, C, F):
#     """(operations, bytes) of a 3x3 convolution of (N, H, W, C) with F filters."""
#     operations = 2 * N * H * W * F * 9 * C
#     nbytes = 4 * (N * H * W * C + 9 * C * F + N * H * W * F)
#     return operations, nbytes
# ```
#
# </details>

# %% [markdown]
# ## Exercise 4: the roof
#
# A machine does at most `peak` operations a second and moves at most `bandwidth` bytes a second. How many
# operations a second can a computation of some intensity reach at best, and which of the two limits it? Answer
# `"memory"` or `"arithmetic"`.


# %% tags=["exercise-4"]
def roof(intensity, peak, bandwidth):
    """(rate, limit): the most operations a second, and what limits them."""
    ...


# %% tags=["check-4"]
PEAK, BANDWIDTH = 100e9, 20e9
for intensity in (0.5, 4.0, 6.0, 40.0):
    by_memory = intensity * BANDWIDTH
    low = by_memory < PEAK
    expect(
        f"roof({intensity}, 100e9, 20e9)",
        roof(intensity, PEAK, BANDWIDTH),
        {"rate": min(by_memory, PEAK), "limit": "memory" if low else "arithmetic"},
        mistakes={
            "memory is left out: both limits hold, so the rate is the smaller of two": {
                "rate": PEAK
            },
            "arithmetic is left out: both limits hold, so the rate is the smaller of two": {
                "rate": by_memory
            },
            "bytes a second are divided by operations a byte: multiply them": {
                "rate": BANDWIDTH / intensity
            },
            "operations a byte are divided by bytes a second: multiply them": {
                "rate": intensity / BANDWIDTH
            },
            "the bandwidth is in bytes a second: multiply it by the intensity": {"rate": BANDWIDTH},
            "the two words are exchanged": {"limit": "arithmetic" if low else "memory"},
        },
    )

# %% [markdown] tags=["solution-4"]
# <details><summary>Solution of exercise 4</summary>
#
# ```python
# def roof(intensity, peak, bandwidth):
#     """(rate, limit): the most operations a second, and what limits them."""
#     by_memory = intensity * bandwidth
#     return min(by_memory, peak), "memory" if by_memory < peak else "arithmetic"
# ```
#
# </details>

# %% [markdown]
# Now measure the two ceilings: multiply-adds of our register tile on numbers in L1 (or BLAS, if that is
# faster), and a copy of 8 MB, which reads and writes as much.


# %%
@njit
def tiles_in_cache(a, b, out, depth, times):
    """Tiles that are multiplied, and hardly ever stored."""
    v = lanes(a)
    for _ in range(times):
        t = zeros(a, ROWS, 2)
        for k in range(depth):
            t = outer(t, a, k * ROWS, 1, b, k * 2 * v, v)
        store_tile(t, out, 0, 2 * v, v)


depth, times, v = 128, 1000, BITS // 32
panel = np.ones(depth * 2 * v, np.float32)
out = np.zeros(ROWS * 2 * v, np.float32)
tile_rate = (
    times * depth * ROWS * 2 * v * 2 / seconds(tiles_in_cache, panel, panel, out, depth, times)
)
assert (out == depth).all()  # depth times 1 * 1
square = np.ones((768, 768), np.float32)
blas_rate = 2 * 768**3 / seconds(np.matmul, square, square, np.empty_like(square))
peak = max(tile_rate, blas_rate)
source, target = np.ones(2**21, np.float32), np.ones(2**21, np.float32)
bandwidth = 2 * source.nbytes / seconds(np.copyto, target, source)
print(
    f"tile {tile_rate / 1e9:.0f} GF/s, BLAS {blas_rate / 1e9:.0f} GF/s, copy {bandwidth / 1e9:.0f} GB/s"
)
print(f"the limits meet at {peak / bandwidth:.1f} operations a byte")

# %% [markdown]
# And under them: the seven compiled loops of notebook 3, columns with BLAS, minires' register tiles and
# Winograd, on the three stages of a ResNet-20; and two operations that do next to nothing with each number,
# batch norm and ReLU. Each convolution is compared with the reference in float64 before it is timed.


# %%
@njit
def seven_loops(xbar, w, y):
    """The definition, for a padded image at stride 1."""
    N, OH, OW, F = y.shape
    KH, KW, C, _ = w.shape
    for n in range(N):
        for i in range(OH):
            for j in range(OW):
                for f in range(F):
                    total = np.float32(0)
                    for kh in range(KH):
                        for kw in range(KW):
                            for c in range(C):
                                total += xbar[n, i + kh, j + kw, c] * w[kh, kw, c, f]
                    y[n, i, j, f] = total


def by_loops(x, w):
    """A 3x3 convolution with "same" padding."""
    y = np.empty((*x.shape[:3], w.shape[3]), x.dtype)
    seven_loops(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), w, y)
    return y


def by_kernels(module):
    """The same with the kernels of `direct` or of `winograd`."""

    def convolve(x, w):
        window = resolve_window("conv2d", x.shape[1:3], (3, 3), 1, 1)
        return module.forward(x, w, padded(np.zeros(w.shape[3], w.dtype)), window)

    return convolve


VERSIONS = {
    "seven loops": by_loops,
    "columns + BLAS": lambda x, w: reference.conv2d_forward(x, w, padding=1)[0],
    "register tiles": by_kernels(direct),
    "Winograd": by_kernels(winograd),
}
points = []  # (version, intensity, operations a second)
for size, C in ((32, 16), (16, 32), (8, 64)):
    x = rng.standard_normal((16, size, size, C), np.float32)
    w = rng.standard_normal((3, 3, C, C), np.float32)
    exact, _ = reference.conv2d_forward(x.astype(float), w.astype(float), padding=1)
    operations, nbytes = 2 * x.size * 9 * C, 2 * x.nbytes + w.nbytes
    for name, convolve in VERSIONS.items():
        assert error(convolve(x, w), exact) < 1e-4
        rate = operations / seconds(convolve, x, w, repeats=2 if name == "seven loops" else 12)
        points.append((name, operations / nbytes, rate))
x = rng.standard_normal((128, 32, 32, 16), np.float32)  # 8 MB, like the copy
gamma, beta = np.ones(16, np.float32), np.zeros(16, np.float32)
norm_time = seconds(lambda: fast.batchnorm_forward(x, gamma, beta, eps=1e-5))
points.append(("batch norm", 7 * x.size / (2 * x.nbytes), 7 * x.size / norm_time))
points.append(("ReLU", x.size / (2 * x.nbytes), x.size / seconds(fast.relu_forward, x)))
for name, intensity, rate in points:
    print(f"{name:15} {intensity:6.1f} operations a byte, {rate / 1e9:6.1f} GF/s")

# %%
figure, axes = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
reach = np.array([0.05, peak / bandwidth, 200])
axes.plot(reach, np.minimum(reach * bandwidth, peak) / 1e9, "k-", label="the roof")
markers = dict(zip([*VERSIONS, "batch norm", "ReLU"], "vsoD^<", strict=True))
for name, marker in markers.items():
    chosen = [(intensity, rate / 1e9) for version, intensity, rate in points if version == name]
    axes.plot(*zip(*chosen, strict=True), marker, label=name, markersize=7)
loops = [(intensity, rate / 1e9) for version, intensity, rate in points if version == "seven loops"]
for (intensity, rate), size in zip(loops, ("32x32", "16x16", "8x8"), strict=True):
    axes.text(intensity, rate * 0.7, size, ha="center", va="top", fontsize=8)
axes.set(xscale="log", yscale="log", xlabel="operations a byte that must be moved", ylabel="GF/s")
axes.set_ylim(bottom=min(rate for _, rate in loops) * 0.3)
axes.set_title("What limits a convolution here, memory or arithmetic?")
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# How to read it:
#
# - **Under the slope** memory is the limit. Batch norm and ReLU stand there. (The roof is measured too: a ceiling
#   taken in a busy moment is too low, and a point may then lie above it.) At the roof no kernel makes them
#   faster; only moving fewer bytes does.
# - **Under the flat roof** it is arithmetic. All four versions of a convolution stand above one another: the
#   same convolution, the same bytes that must be moved. What keeps the loops low is not the machine.
# - **Columns with BLAS** move more than they must, the columns, and wait for it.
# - **Winograd may stand above the roof**: the operations are those of the direct sum, and it does fewer.
#
# On an idle machine `python -m benchmarks.roofline` draws the same figure. The table of `docs/fast.md` was made
# by it: of the ceiling of 233 GF/s, on two cores of an AMD EPYC (Zen 4, AVX-512), the loops reached 2 to 3
# %, im2col with BLAS 13 to 49 %, the register tiles 86 to 91 %, and Winograd 179 to 279 %.
#
# ## Moving fewer bytes: `fuse`
#
# After the second convolution of a residual block come batch norm, the sum with the shortcut, and a ReLU. As
# layers of their own they each go through the whole image:

# %%
apart = {"batch norm": 2 + 1, "sum": 2 + 1, "ReLU": 1 + 1}  # images read + images written
together = {"means": 1, "norm, sum and ReLU": 2 + 1}
megabytes = 128 * 32 * 32 * 16 * 4 / 1e6  # an image batch of the first stage
for name, passes in (("apart", apart), ("together", together)):
    images = sum(passes.values())
    print(f"{name:9} {images} images, {images * megabytes:.0f} MB at batch 128")
assert sum(apart.values()) == 2 * sum(together.values()) == 8

# %% [markdown]
# (Batch norm reads $x$ twice, once for the means. Where a convolution of minires stands before it, even
# that reading goes: the kernel adds up while its output is still in the cache.)
#
# At inference mean and variance are constants. Then a batch norm is a factor and a constant for each channel,
# and both can be moved into the convolution before it:
#
# $$\gamma_f \frac{\sum \mathrm{cols}\; w_f - \mu_f}{\sqrt{\sigma_f^2 + \epsilon}} + \beta_f
#   = \sum \mathrm{cols}\; (w_f\, g_f) + (\beta_f - \mu_f\, g_f), \qquad
#   g_f = \frac{\gamma_f}{\sqrt{\sigma_f^2 + \epsilon}} .$$

# %%
model = mr.models.resnet20(rng=0)
images = rng.standard_normal((16, 32, 32, 3), np.float32)
model.forward(images, training=True)  # so that the running statistics are not those of the start
conv, norm = model.conv, model.norm
g = norm.gamma.value / np.sqrt(norm.running_var + norm.eps)
folded, _ = reference.conv2d_forward(
    images, conv.weight.value * g, norm.beta.value - norm.running_mean * g, padding=1
)
np.testing.assert_allclose(folded, norm.forward(conv.forward(images)), atol=1e-4)

# %% [markdown]
# `mr.fuse(model)` does both: fewer passes in training, and at inference no batch norm at all. It goes through
# the containers, replaces neighbours that belong together by one layer, and leaves the readable model as it
# was. The Parameters are shared.

# %%
fused = mr.fuse(model)
print("before:", *(type(layer).__name__ for layer in model.stage1.block0.sum.branch))
print("after: ", *(type(layer).__name__ for layer in fused.stage1.block0.sum.branch))
difference = error(fused.forward(images), model.forward(images))
in_training = error(fused.forward(images, training=True), model.forward(images, training=True))
print(f"difference {difference:.0e} at inference, {in_training:.0e} in training")
assert max(difference, in_training) < 1e-4
assert fused.conv.conv.weight is model.conv.weight
for name, network in (("readable", model), ("fused", fused)):
    print(f"{name:9} {1e3 * seconds(network.forward, images, repeats=3):.1f} ms for 16 images")

# %% [markdown]
# ## Against PyTorch
#
# Is all this fast? That takes an opponent. The comparison below runs `minires bench train_step`: the same
# ResNet-20 in both, from the same weights. Logits, loss and every gradient are compared first; then each
# contender has a process of its own, and they take turns, so that a busy minute hits all of them. It needs
# PyTorch and a checkout of minires' repository, and takes a minute or two. So it is off here:

# %%
AGAINST_PYTORCH = False

if not AGAINST_PYTORCH:
    print("PyTorch is not asked. Set AGAINST_PYTORCH = True to compare on your machine.")
elif find_spec("torch") is None:
    print("PyTorch is absent: pip install torch, then run this cell again.")
else:
    contenders = "minires-fast,minires-fused,torch-eager,torch-channels-last"
    command = f"bench train_step --batch 32 --rounds 4 --burst 3 --contenders {contenders}"
    done = subprocess.run(
        [sys.executable, "-m", "minires", *command.split()],
        cwd=Path.cwd().parent,
        capture_output=True,
        text=True,
    )
    print(done.stdout or done.stderr)

# %% [markdown]
# What was recorded in `docs/benchmarks.md`: milliseconds, medians, two cores of an AMD EPYC (Zen 4, AVX-512),
# Python 3.11.7, numpy 2.4.6, numba 0.68.1, torch 2.13.0+cpu, 2026-11-24, ResNet-20 at 32x32 in float32.
#
# | `python -m benchmarks.` | reference | fast | fused | torch eager | channels last | compile |
# |---|---|---|---|---|---|---|
# | `train_step --batch 128 --rounds 6 --burst 4` | 1134 | 107 | 106 | 229 | 183 | 180 |
# | `inference --batch 128 --rounds 6 --burst 6` | - | 37.4 | 29.9 | 71.9 | 58.9 | 54.5 |
# | `inference --batch 1 --rounds 10 --burst 40` | - | 1.43 | 0.79 | 2.24 | 1.43 | 1.06 |
#
# The reference is NumPy that is written to be read, and ten times slower than the kernels. The last row shows
# where kernels alone are no use: at batch 1 a layer has so little to do that calling it is the larger part.
# There compiled PyTorch was faster, until `fuse` left fewer calls.
#
# ## What to remember
#
# - Two limits: arithmetic and memory. Operations a byte say which one is meant, and the roofline shows how
#   far away it is. Measure it before you make anything faster.
# - A number is cheap while it is near. Blocks use it again: for the cache, and as tiles for the registers.
# - A register has lanes, and several sums must be under way at once. The compiler may not reorder your
#   additions; you may.
# - The columns of a convolution are a way to step through the image. Nobody has to store them.
# - Winograd saves multiplications and pays in digits: 2.25 products for 9, about one digit of float32.
# - Where memory is the limit, do several things while the number is there: that is what `fuse` does.
#
# ## Where to read on
#
# - Williams, Waterman and Patterson (2009), "Roofline: an insightful visual performance model for multicore
#   architectures", Communications of the ACM 52(4).
# - Goto and van de Geijn (2008), "Anatomy of high-performance matrix multiplication", ACM Transactions on
#   Mathematical Software 34(3): blocks for each cache, a tile for the registers.
# - Lavin and Gray (2016), "Fast algorithms for convolutional neural networks", arXiv:1509.09308, section 4.
# - In minires: `docs/fast.md`, which tells this story with all figures; `minires/ops/fast/simd.py`, then
#   `direct.py`, `transforms.py` and `winograd.py`; `minires/fusion.py`; `benchmarks/roofline.py`.
