"""time the versions of a convolution, from seven loops to Winograd, under the machine's roof"""

import argparse
import functools
import importlib.util
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.command import add_timing, command, positive_int
from benchmarks.harness import WorkerError
from benchmarks.report import Report, milliseconds

EXAMPLE = "--figure roofline.png --batch 32"
KINDS = (".png", ".svg", ".pdf")
SHAPES = ((32, 16), (16, 32), (8, 64))  # image size and channels of ResNet-20's stages


def add_arguments(parser):
    add = parser.add_argument
    add("--batch", type=positive_int, default=128, metavar="N", help="images, default 128")
    add("--figure", type=figure_file, metavar="PNG", help="draw the roofline there")
    add_timing(parser, rounds=5, burst=5)


def figure_file(text):
    """A figure that can be written, found out before the work begins."""
    path, kinds = Path(text), ", ".join(KINDS)
    if path.suffix not in KINDS:
        raise argparse.ArgumentTypeError(f"expected a file that ends in {kinds}, got {text!r}")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a place to write to, got {text!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("expected matplotlib, which draws it, to be installed")
    return str(path)


def expect_numba():
    """Refuse to measure the reference under the name of the fast ops."""
    from minires.ops import fast

    if not fast.compiles():
        raise ValueError("expected a Numba that compiles, got none, or NUMBA_DISABLE_JIT")


def run(options):
    """All versions at all shapes; NumPy's come first, as BLAS's threads and ours get in each
    other's way."""
    expect_numba()
    use_threads(options.threads)
    roof = [blas_ceiling(options)]
    rows = measure(("im2col + BLAS",), options)
    roof += [tile_ceiling(options), bandwidth(options)]
    rows += measure(("seven loops", "register tiles", "Winograd"), options)
    rows += memory_bound(options)
    return table(options, rows, roof)


def table(options, rows, roof):
    """The report; `roof` are the rows of BLAS, of our tiles and of a copy."""
    blas, tiles, copy = (row["rate"] for row in roof)
    ceiling = max(blas, tiles)
    report = Report(
        title=f"roofline: forward, batch {options.batch}, threads {options.threads}, float32",
        header=("what", "version", "FLOP/byte", "median ms", "GF/s", "of the roof"),
        body=[],
        records=roof + rows,
        left=2,
    )
    for row in rows:
        limit = min(ceiling, row["intensity"] * copy)
        report.body.append(
            (
                row["what"],
                row["version"],
                f"{row['intensity']:.1f}",
                milliseconds(row["median"]),
                f"{row['rate'] / 1e9:.1f}",
                f"{row['rate'] / limit:.0%}",
            )
        )
    report.notes += [
        f"ceiling: {blas / 1e9:.0f} GF/s in a matrix product by BLAS, "
        f"{tiles / 1e9:.0f} GF/s by our register tiles in the L1 cache",
        f"memory: {copy / 1e9:.0f} GB/s, a copy of 8 MB",
    ]
    import numba

    report.versions |= {"numpy": np.__version__, "numba": numba.__version__}
    if options.figure:
        draw(rows, ceiling, copy, options.figure)
        report.notes.append(f"figure: {options.figure}")
    return report


def use_threads(threads):
    """BLAS, and our kernels."""
    from threadpoolctl import threadpool_limits

    from minires import set_num_threads

    threadpool_limits(threads)
    set_num_threads(threads)


def seconds(function, options):
    """The times of a call; the first, which compiles, does not count."""
    function()
    times = []
    for _ in range(options.rounds * options.burst):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


# ---- the roof


def blas_ceiling(options, size=2048):
    """A large matrix product."""
    a = np.ones((size, size), np.float32)
    out = np.empty_like(a)
    taken = seconds(lambda: np.matmul(a, a, out=out), options)
    return row("roof", "matrix product", 2 * size**3, 3 * a.nbytes, taken)


def tile_ceiling(options, depth=256, repeats=40_000):
    """The tile that the kernels are made of, on numbers in the L1 cache."""
    from numba import njit, prange

    from minires.ops.fast.memory import empty
    from minires.ops.fast.panels import panel_width
    from minires.ops.fast.simd import ROWS, lanes, outer, store_tile, zeros

    width = panel_width(np.float32)
    a, b = np.ones(depth * ROWS, np.float32), np.ones(depth * width, np.float32)
    out = empty((64, ROWS * width), np.float32)

    @njit(parallel=True)
    def tiles(a, b, out, depth, repeats):
        for chunk in prange(len(out)):
            v = lanes(a)
            for _ in range(repeats // len(out)):
                t = zeros(a, ROWS, 2)
                for k in range(depth):
                    t = outer(t, a, k * ROWS, 1, b, k * 2 * v, v)
                store_tile(t, out[chunk], 0, 2 * v, v)

    taken = seconds(lambda: tiles(a, b, out, depth, repeats), options)
    flops = 2 * repeats // len(out) * len(out) * depth * ROWS * width
    return row("roof", "register tiles in the L1 cache", flops, None, taken)


def bandwidth(options, size=2**23):
    """A copy of 8 MB, its rate in bytes/s: as large as an image batch of a first stage."""
    from numba import njit, prange

    @njit(parallel=True)
    def copy(a, b):
        for i in prange(a.size):
            b[i] = a[i]

    a, b = np.ones(size // 4, np.float32), np.ones(size // 4, np.float32)
    return row("roof", "copy", 2 * size, None, seconds(lambda: copy(a, b), options))


# ---- the versions


def loops(x, weight):
    """The definition, with nothing done for the machine but compiling it for all threads."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.empty((*x.shape[:3], weight.shape[3]), x.dtype)
    compiled_loops()(padded, weight, y)
    return y


@functools.cache
def compiled_loops():
    """A window for each output, pixel by pixel and channel by channel."""
    import numba

    @numba.njit(parallel=True)
    def run(x, weight, y):
        KH, KW, C, F = weight.shape
        N, OH, OW, _ = y.shape
        for n in numba.prange(N):
            for oh in range(OH):
                for ow in range(OW):
                    for f in range(F):
                        total = np.float32(0)
                        for kh in range(KH):
                            for kw in range(KW):
                                for c in range(C):
                                    total += x[n, oh + kh, ow + kw, c] * weight[kh, kw, c, f]
                        y[n, oh, ow, f] = total

    return run


def versions(x, weight):
    """{name: a function that convolves}."""
    from minires.ops import reference
    from minires.ops.fast import direct, winograd
    from minires.ops.fast.panels import padded
    from minires.ops.window import resolve_window

    window = resolve_window("conv2d", x.shape[1:3], (3, 3), 1, 1)
    bias = padded(np.zeros(weight.shape[3], x.dtype))
    return {
        "seven loops": lambda: loops(x, weight),
        "im2col + BLAS": lambda: reference.conv2d_forward(x, weight, padding=1)[0],
        "register tiles": lambda: direct.forward(x, weight, bias, window),
        "Winograd": lambda: winograd.forward(x, weight, bias, window),
    }


def measure(names, options):
    """One row a shape and version; each is checked against the reference in float64 first."""
    from minires.ops import reference

    rows, rng = [], np.random.default_rng(0)
    for size, channels in SHAPES:
        x = rng.standard_normal((options.batch, size, size, channels), np.float32)
        weight = rng.standard_normal((3, 3, channels, channels), np.float32)
        wide = x.astype(np.float64), weight.astype(np.float64)
        expected, _ = reference.conv2d_forward(*wide, padding=1)
        flops = 2 * x.size * 9 * channels
        nbytes = 2 * x.nbytes + weight.nbytes
        for name in names:
            run = versions(x, weight)[name]
            expect_right(name, run(), expected)
            what = f"conv 3x3, {size}x{size}, {channels}"
            rows.append(row(what, name, flops, nbytes, seconds(run, options)))
    return rows


def expect_right(name, got, expected):
    """Refuse a result that is off, or NaN.

    Raises
    ------
    WorkerError
        So that the benchmark ends with code 1.
    """
    error = np.abs(got - expected).max() / np.abs(expected).max()
    if not error <= 1e-4:
        raise WorkerError(f"expected {name} to be right, got an error of {error:.0e}")


def memory_bound(options):
    """Batch norm and ReLU at the first stage, where memory is the roof; checked first, too."""
    from minires.ops import fast, reference

    size, channels = SHAPES[0]
    x = np.random.default_rng(0).standard_normal((options.batch, size, size, channels), np.float32)
    gamma, beta = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    wide = [array.astype(np.float64) for array in (x, gamma, beta)]
    expected, *_ = reference.batchnorm_forward(*wide, eps=1e-5)
    expect_right("batch norm", fast.batchnorm_forward(x, gamma, beta, eps=1e-5)[0], expected)
    expect_right("relu", fast.relu_forward(x)[0], reference.relu_forward(wide[0])[0])
    norm = seconds(lambda: fast.batchnorm_forward(x, gamma, beta, eps=1e-5), options)
    relu = seconds(lambda: fast.relu_forward(x), options)
    return [
        row("batch norm forward", "fast", 7 * x.size, 2 * x.nbytes, norm),
        row("relu forward", "fast", x.size, 2 * x.nbytes, relu),
    ]


def row(what, version, flops, nbytes, taken):
    """As numbers; `intensity` is None where only one of memory and arithmetic is asked about."""
    median = float(np.median(taken))
    return {
        "what": what,
        "version": version,
        "intensity": flops / nbytes if nbytes else None,
        "rate": flops / median,
        "median": median,
        "seconds": taken,
    }


# ---- the figure


def draw(rows, ceiling, bandwidth, file):
    """Log-log: arithmetic intensity against FLOP/s, under the roof."""
    from matplotlib.figure import Figure

    styles = {
        "seven loops": ("#7f8c8d", "v"),
        "im2col + BLAS": ("#c0392b", "s"),
        "register tiles": ("#1f5fa8", "o"),
        "Winograd": ("#1e8449", "D"),
        "fast": ("#8e44ad", "^"),
    }
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    ax = figure.add_subplot()
    edge = ceiling / bandwidth
    reach = np.array([0.05, edge, 400])
    ax.plot(reach, np.minimum(ceiling, reach * bandwidth) / 1e9, "k-", linewidth=1.5)
    memory, adds = f"memory: {bandwidth / 1e9:.0f} GB/s", f"multiply-adds: {ceiling / 1e9:.0f} GF/s"
    ax.text(edge * 0.5, edge * 0.4 * bandwidth / 1e9, memory, ha="left", va="top")
    ax.text(31, ceiling / 1e9 * 1.08, adds, ha="right")
    for version, (color, marker) in styles.items():
        chosen = [r for r in rows if r["version"] == version]
        label = "batch norm, ReLU (ops.fast)" if version == "fast" else version
        x, y = [r["intensity"] for r in chosen], [r["rate"] / 1e9 for r in chosen]
        ax.plot(x, y, marker, color=color, label=label, markersize=8)
    for size, channels in SHAPES:
        found = [r for r in rows if r["what"].endswith(f"{size}x{size}, {channels}")]
        low = min(r["rate"] for r in found) / 1e9
        name = f"{size}x{size}\n{channels} ch."
        ax.annotate(name, (found[0]["intensity"], low * 0.72), ha="center", va="top", fontsize=8)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(10 ** math.floor(math.log10(min(r["rate"] for r in rows) / 1e9)) * 0.6, 3e3)
    ax.set_xlabel("operations per byte that must be read or written")
    ax.set_ylabel("GF/s, counted as in direct convolution")
    ax.set_title("Four ways to convolve, and the roof over them")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(loc="upper left")
    figure.savefig(file, dpi=150)


def main(argv=None, prog=None):
    return command(sys.modules[__name__], argv, prog)


if __name__ == "__main__":
    sys.exit(main())
