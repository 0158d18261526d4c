"""Products of BLAS on the kernels' threads, and the convolutions that are made of them."""

import ctypes
import mmap
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from minires.ops import fast, reference
from minires.ops import window as window_module
from minires.ops.window import resolve_window

blas = pytest.importorskip("minires.ops.fast.blas")
choice = pytest.importorskip("minires.ops.fast.choice")
columns = pytest.importorskip("minires.ops.fast.columns")
conv = pytest.importorskip("minires.ops.fast.conv")
matmul = pytest.importorskip("minires.ops.fast.matmul")
memory = pytest.importorskip("minires.ops.fast.memory")
sums = pytest.importorskip("minires.ops.fast.sums")
winograd = pytest.importorskip("minires.ops.fast.winograd")

RNG = np.random.default_rng(0)
DTYPES = [np.float32, np.float64]
TOLERANCE = {np.float32: 3e-6, np.float64: 1e-14}  # of the sum of absolute terms


def product(a, b, out, **options):
    with matmul.alone(2**40):
        return matmul.matmul(a, b, out, **options)


def layouts(a):
    """The same matrix with lines that are rows or columns, alone or parts of longer ones."""
    wide = np.full((a.shape[0], a.shape[1] + 5), np.nan, a.dtype)
    wide[:, : a.shape[1]] = a
    tall = np.full((a.shape[1], a.shape[0] + 3), np.nan, a.dtype)
    tall[:, : a.shape[0]] = a.T
    return [a, np.ascontiguousarray(a.T).T, wide[:, : a.shape[1]], tall[:, : a.shape[0]].T]


# ---- products

MATRICES = [  # rows, inner, columns: below and above what is cut into blocks
    (3, 4, 5),
    (70, 129, 130),
    (1100, 33, 31),
    (31, 33, 1100),
    (2050, 1, 600),
    (1, 700, 1600),
    (1600, 700, 1),
    (17, 70000, 1),
    (1, 1200000, 1),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "inner", "cols"), MATRICES)
def test_a_product_in_blocks_is_numpys(rows, inner, cols, dtype):
    a, b = RNG.standard_normal((rows, inner)), RNG.standard_normal((inner, cols))
    a, b = a.astype(dtype), b.astype(dtype)
    expected, limit = a.astype(np.float64) @ b, np.abs(a) @ np.abs(b) * TOLERANCE[dtype]
    for x in layouts(a):
        for y in layouts(b):
            out = np.full((rows, cols), np.nan, dtype)
            assert product(x, y, out) is out
            assert (np.abs(out - expected) <= limit).all()
            product(x, y, out, adds=True)
            assert (np.abs(out - 2 * expected) <= 3 * limit).all()


@pytest.mark.parametrize("big", [False, True])
def test_matrices_whose_lines_are_odd_are_multiplied_all_the_same(big):
    rows, inner, cols = (1500, 90, 70) if big else (7, 9, 11)
    room = RNG.standard_normal((2 * rows, 2 * inner))
    b = RNG.standard_normal((inner, cols))
    record = np.zeros((rows, inner), [("tag", "i2"), ("a", "f8")])["a"]  # steps of 10 bytes
    record[...] = room[:rows, :inner]
    short = np.lib.stride_tricks.as_strided(room, (rows, inner), (8, 8))  # lines overlap
    given = [room[::2, ::2], room[:rows, :inner][::-1], room[:rows, :inner][:, ::-1], record, short]
    given += [np.broadcast_to(room[:rows, :1], (rows, inner))]
    given += [np.broadcast_to(room[:1, :inner], (rows, inner))]
    for a in given:
        out = product(a, b, np.empty((rows, cols)))
        assert_allclose(out, np.ascontiguousarray(a) @ b, atol=1e-11)
        turned = product(b.T, a.T, np.empty((cols, rows)))
        assert_allclose(turned, out.T, atol=1e-11)


def test_a_line_that_is_alone_has_a_step_that_blas_accepts():
    a = RNG.standard_normal((5, 2000))
    b = RNG.standard_normal((2000, 600))
    for row in (a[::-1][:1], a[3:4], a.T[:, 2:3].T, np.asfortranarray(a)[:1]):
        assert_allclose(product(row, b, np.empty((1, 600))), row @ b, atol=1e-10)
        assert_allclose(product(b.T, row.T, np.empty((600, 1))), b.T @ row.T, atol=1e-10)
    for line in (np.ones((1, 7))[::-1], np.ones((7, 1))[::-1]):
        line = matmul.in_lines(line)
        turned, step = matmul.lines(line.shape, line.strides, line.itemsize)
        assert step >= line.shape[0 if turned else 1]
    record = np.zeros(1, [("numbers", float, 2000), ("flag", np.int8)])["numbers"]
    record[...] = a[:1]  # contiguous, and its next line would begin at an odd address
    assert record.flags.c_contiguous
    assert_allclose(product(record, b, np.empty((1, 600))), a[:1] @ b, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "inner"), [(1200, 500), (40, 20000), (90000, 7), (3, 200000)])
def test_a_matrix_times_a_vector(rows, inner, dtype):
    assert matmul.much(rows, inner, 1)
    a, b = RNG.standard_normal((rows, inner)), RNG.standard_normal((inner, 3))
    a, b = a.astype(dtype), b.astype(dtype)
    turned, flipped = np.asfortranarray(a), np.ascontiguousarray(b[::-1])[::-1]
    limit = 16 * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b[:, 1:2]))
    for matrix in (a, turned):
        for vector in (b[:, 1:2].copy(), b[:, 1:2], flipped[:, 1:2]):
            out = product(matrix, vector, np.empty((rows, 1), dtype))
            assert (np.abs(out - a @ b[:, 1:2]) <= limit).all()
            product(matrix, vector, out, adds=True)
            assert (np.abs(out - 2 * (a @ b[:, 1:2])) <= 3 * limit).all()
            out = product(vector.T, matrix.T, np.empty((1, rows), dtype))
            assert (np.abs(out.T - a @ b[:, 1:2]) <= limit).all()


def test_small_products_with_vectors_are_numpys():
    assert not matmul.much(1000, 390, 1)
    assert not matmul.much(1, 10**7, 1)


def test_long_sums_keep_their_digits():
    eps = np.finfo(np.float32).eps
    for terms in (20000, 60000, 300000):
        a, b = np.full((terms, 8), 0.1, np.float32).T, np.full((terms, 8), 0.7, np.float32)
        expected = terms * np.float64(a[0, 0]) * np.float64(b[0, 0])
        found = product(a, b, np.empty((8, 8), np.float32))
        assert_allclose(found, expected, rtol=40 * eps)


def test_products_are_cut_where_it_pays():
    assert matmul.blocks(64, 576, 64) == (matmul.COLS, 4)  # each below what OpenBLAS packs
    assert matmul.blocks(1000, 144, 16) == (matmul.ROWS, 4)
    assert matmul.blocks(16, 144, 1000) == (matmul.COLS, 4)
    assert matmul.blocks(2048, 2048, 2048) == (matmul.COLS, 4)
    assert matmul.blocks(100000, 27, 64) == (matmul.ROWS, 32)
    assert matmul.blocks(147, 12544, 64) == (matmul.TERMS, 8)
    assert matmul.blocks(147, 1200, 64)[0] == matmul.TERMS
    assert matmul.blocks(147, 1100, 64)[0] != matmul.TERMS


def test_a_product_is_cut_by_sizes_and_not_by_threads():
    numba = pytest.importorskip("numba")
    a = RNG.standard_normal((3000, 150)).astype(np.float32)
    b = RNG.standard_normal((150, 70)).astype(np.float32)
    found = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        found.append(product(a, b, np.empty((3000, 70), np.float32)))
        numba.set_num_threads(before)
    assert_array_equal(*found)
    found = [matmul.power_of_two(n, 32) for n in (0, 1, 2, 3, 4, 7, 8, 31, 32, 10**6)]
    assert found == [2, 2, 2, 2, 4, 4, 8, 16, 32, 32]


def test_without_the_address_of_gemm_numpy_multiplies(monkeypatch):
    called = []
    monkeypatch.setattr(matmul, "multiply", lambda *_: called.append(1))
    a, b = RNG.standard_normal((700, 100)), RNG.standard_normal((100, 50))
    with monkeypatch.context() as patch:
        patch.setattr(matmul, "libraries", list)
        matmul.address_of.cache_clear()
        out = product(a, b, np.empty((700, 50)))
    matmul.address_of.cache_clear()
    assert_allclose(out, a @ b, rtol=1e-12)
    assert not called


def test_without_gemm_blas_keeps_its_threads_for_large_products(monkeypatch):
    monkeypatch.setattr(matmul, "address_of", lambda *_: None)
    assert matmul.alone(blas.MANY) is blas.as_it_is
    assert matmul.alone(blas.MANY - 1) is blas.one_thread
    assert matmul.alone(blas.FEW) is blas.as_it_is


def test_blas_does_not_wake_its_threads_for_a_product():
    tell, put = blas.switches()[0]
    before = tell()
    put(3)
    try:
        with matmul.alone(blas.FEW + 1):
            assert tell() == 1
        assert tell() == 3
        with matmul.alone(blas.FEW):  # so few that BLAS wakes nobody
            assert tell() == 3
    finally:
        put(before)


def test_numpys_own_switch_is_found_where_blas_is_openblas():
    library = blas.libraries()[0]
    if getattr(library, "threading_layer", None) != "pthreads":
        pytest.skip("NumPy is not linked with an OpenBLAS that has its own threads")
    tell, _ = blas.own_switch(library.dynlib)
    assert tell() == library.get_num_threads()
    assert blas.own_switch(object()) is None


# ---- convolutions

SHAPES = [  # x, weight, stride, padding
    ((3, 7, 5, 4), (3, 3, 4, 6), (1, 1), ((1, 1), (1, 1))),
    ((2, 9, 8, 3), (2, 3, 3, 20), (2, 3), ((0, 1), (2, 0))),
    ((5, 6, 6, 17), (1, 1, 17, 9), (1, 1), ((0, 0), (0, 0))),
    ((5, 6, 9, 17), (1, 1, 17, 9), (2, 3), ((0, 0), (0, 0))),
    ((4, 8, 8, 5), (1, 1, 5, 3), (1, 4), ((0, 0), (0, 0))),  # pixels at a constant distance
    ((4, 5, 7, 5), (1, 1, 5, 3), (2, 2), ((1, 0), (0, 2))),
    ((2, 4, 2, 3), (5, 7, 3, 4), (1, 1), ((4, 3), (6, 5))),  # windows wider than the image
    ((1, 3, 40, 2), (3, 5, 2, 3), (4, 4), ((0, 0), (4, 4))),  # pixels that no window sees
    ((40, 12, 12, 20), (3, 3, 20, 24), (2, 2), ((1, 0), (1, 0))),
    ((1, 2, 2, 64), (2, 2, 64, 300), (1, 1), ((0, 0), (0, 0))),
    ((2, 5, 11, 6), (2, 2, 6, 5), (3, 4), ((0, 1), (0, 1))),  # steps as long as windows
    ((2, 9, 11, 7), (1, 3, 7, 5), (2, 3), ((1, 0), (0, 1))),  # windows side by side
    ((2, 5, 5, 16), (3, 3, 16, 5), (2, 1), ((1, 1), (2, 2))),  # whole registers
    ((2, 6, 5, 1), (4, 4, 1, 9), (1, 2), ((2, 0), (3, 1))),
    ((2, 4, 5, 35), (3, 1, 35, 8), (1, 2), ((0, 4), (4, 5))),  # windows that see no pixel
]
SIZES = {  # what decides which way columns are made
    "as they are": {},
    "on threads": {"MANY_RUNS": 0, "FEW_BIASED": 0},
    "image by image": {"MANY_RUNS": 0, "GROUP": 1, "PIXELS": 1},
    "by NumPy": {"MANY_RUNS": 2**20, "FEW_BORDERED": 2**40},
    "by one thread": {"MANY_RUNS": 2**20, "FEW_BORDERED": 0},
    "by one thread, image by image": {
        "MANY_RUNS": 2**20,
        "FEW_BORDERED": 0,
        "LINE": 1,
        "FEW_NUMBERS": 0,
        "GROUP": 1,
        "PIXELS": 1,
    },
}


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    """What is known of some shapes is found anew, for tests change what it depends on."""
    columns.work.cache_clear()
    yield
    columns.work.cache_clear()


def both(ops, x, weight, dy, **options):
    y, cache = ops.conv2d_forward(x, weight, **options)
    return y, *ops.conv2d_backward(dy, cache), *ops.conv2d_weight_backward(dy, cache)


@pytest.fixture
def all_columns(monkeypatch):
    """Every convolution that Winograd does not take is one on columns."""
    conv = pytest.importorskip("minires.ops.fast.conv")
    for name in ("forward_pays", "backward_pays", "weight_pays"):
        monkeypatch.setattr(choice, name, lambda *_: False)
    monkeypatch.setattr(conv.winograd, "pays", lambda *_, **__: False)
    conv.remembered.cache_clear()
    yield conv
    conv.remembered.cache_clear()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(("x", "weight", "stride", "padding"), SHAPES)
def test_convolutions_on_columns_are_the_references(
    x, weight, stride, padding, sizes, dtype, all_columns, monkeypatch
):
    for name, size in SIZES[sizes].items():
        monkeypatch.setattr(columns, name, size)
    x, w = RNG.standard_normal(x).astype(dtype), RNG.standard_normal(weight).astype(dtype)
    options = {"stride": stride, "padding": padding}
    assert all_columns.plan_for(x, w, stride, padding, 1, 1)[1:4] == (columns,) * 3
    options["bias"] = RNG.standard_normal(weight[3]).astype(dtype)
    dy = RNG.standard_normal(reference.conv2d_forward(x, w, **options)[0].shape).astype(dtype)
    found, expected = both(fast, x, w, dy, **options), both(reference, x, w, dy, **options)
    terms = both(reference, *map(np.abs, (x, w, dy)), **options)
    for ours, theirs, size in zip(found, expected, terms, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        assert (np.abs(ours - theirs) <= TOLERANCE[dtype] * (np.abs(size) + 10)).all()


@pytest.mark.parametrize("kernel", [1, 3])
def test_arguments_may_lie_in_memory_in_any_way(kernel, all_columns):
    x, w = RNG.standard_normal((8, 12, 12, 32)), RNG.standard_normal((kernel, kernel, 32, 64))
    dy = RNG.standard_normal((8, 13 - kernel, 13 - kernel, 64))
    assert x.size * 64 > matmul.LEAST
    expected = both(reference, x, w, dy)
    turned = [np.asfortranarray(a) for a in (x, w, dy)]
    spread = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (x, w, dy)]
    back = [np.ascontiguousarray(a[:, :, ::-1])[:, :, ::-1] for a in (x, w, dy)]
    for given in (turned, spread, back):
        for ours, theirs in zip(both(fast, *given), expected, strict=True):
            assert_allclose(ours, theirs, atol=1e-11)


WIDE_KERNELS = [  # as wide or as high as the image: windows overlap in memory, line by line
    ((1, 64, 8, 8), (3, 8, 8, 128), {}),
    ((1, 9, 8, 32), (8, 8, 32, 300), {}),
    ((1, 20, 6, 16), (3, 8, 16, 256), {"padding": (0, 1)}),
    ((1, 1, 100, 8), (1, 5, 8, 300), {}),
    ((1, 1, 100, 16), (1, 5, 16, 512), {"stride": (1, 2)}),
    ((1, 4000, 3, 1), (2, 1, 1, 200), {"stride": (1, 3)}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("x", "weight", "options"), WIDE_KERNELS)
def test_windows_that_overlap_in_memory_are_copied(x, weight, options, dtype, all_columns):
    x, w = RNG.standard_normal(x).astype(dtype), RNG.standard_normal(weight).astype(dtype)
    y = reference.conv2d_forward(x, w, **options)[0]
    dy = RNG.standard_normal(y.shape).astype(dtype)
    terms = both(reference, *map(np.abs, (x, w, dy)), **options)
    results = both(fast, x, w, dy, **options), both(reference, x, w, dy, **options)
    for ours, theirs, size in zip(*results, terms, strict=True):
        assert (np.abs(ours - theirs) <= TOLERANCE[dtype] * (size + 10)).all()


def test_each_op_multiplies_while_blas_is_on_one_thread(all_columns, monkeypatch):
    tell, put = blas.switches()[0]
    seen, multiply, before = [], matmul.multiply, tell()
    monkeypatch.setattr(matmul, "multiply", lambda *a: (seen.append(tell()), multiply(*a)))
    x, w = RNG.standard_normal((30, 12, 12, 32)), RNG.standard_normal((3, 3, 32, 64))
    put(2)
    try:
        y, cache = fast.conv2d_forward(x, w, stride=2)
        fast.conv2d_backward(y, cache)
        fast.conv2d_weight_backward(y, cache)
        columns.input_gradient(x.shape, w, y, cache.window)
    finally:
        put(before)
    assert len(seen) >= 5
    assert set(seen) == {1}


class Watched:
    """A kernel that writes down how it is called."""

    def __init__(self, kernel, calls):
        self.kernel, self.calls = kernel, calls

    def __call__(self, *arguments):
        self.calls.append("threads")
        self.kernel(*arguments)

    def alone(self, *arguments):
        self.calls.append("alone")
        self.kernel.alone(*arguments)


def test_images_are_taken_in_groups_and_shared_out(all_columns, monkeypatch):
    calls = []
    monkeypatch.setattr(columns, "write_columns", Watched(columns.write_columns, calls))
    fast.conv2d_forward(np.ones((64, 40, 40, 8)), np.ones((3, 3, 8, 4)), stride=2)
    assert calls == ["threads"] * (64 * 19 * 19 * 72 // columns.GROUP + 1)
    calls.clear()
    fast.conv2d_forward(np.ones((1, 9, 800, 8)), np.ones((3, 3, 8, 4)), padding=((1, 0), (1, 0)))
    assert calls == ["threads"]
    calls.clear()
    fast.conv2d_forward(np.ones((1, 9, 30, 8)), np.ones((3, 3, 8, 4)), padding=((1, 0), (1, 0)))
    assert calls == ["alone"]  # there is a border, and no need to write the image once more
    calls.clear()
    fast.conv2d_forward(np.ones((1, 7, 7, 8)), np.ones((3, 3, 8, 4)), padding=((1, 0), (1, 0)))
    assert calls == []  # by NumPy, for which that is nothing
    fast.conv2d_forward(np.ones((1, 60, 100, 8)), np.ones((3, 3, 8, 4)), stride=2)
    assert calls == []  # though it is much for one thread, for one multiplies
    fast.conv2d_forward(np.ones((1, 30, 60, 8)), np.ones((3, 3, 8, 64)), stride=2)
    assert calls == ["threads"]  # for several multiply


PLANS = [  # x, weight, stride: forward, gradient of the input, of the weight
    ((128, 32, 32, 3), (3, 3, 3, 16), 1, "direct direct direct"),
    ((32, 17, 17, 16), (3, 3, 16, 32), 2, "direct direct direct"),
    ((32, 5, 5, 17), (4, 4, 17, 511), 1, "columns columns columns"),
    ((8, 28, 28, 512), (1, 1, 512, 1), (4, 1), "columns columns columns"),
    ((2, 4, 4, 3), (3, 3, 3, 5), 1, "columns columns columns"),
    ((256, 32, 1, 5), (1, 1, 5, 8), 2, "columns columns columns"),  # its pixels need no copy
]


@pytest.mark.parametrize(("x", "weight", "stride", "expected"), PLANS)
def test_the_way_of_a_convolution(x, weight, stride, expected):
    conv = pytest.importorskip("minires.ops.fast.conv")
    f = np.dtype(np.float32)
    plan = conv.plan_of(x, f, weight, f, stride, 0, 1, 1)
    assert " ".join(way.__name__.rpartition(".")[2] for way in plan[1:4]) == expected


@pytest.mark.parametrize("tiles", [(True, True), (True, False), (False, True), (False, False)])
def test_tiles_for_the_image_mean_tiles_for_the_weights(tiles, monkeypatch):
    conv = pytest.importorskip("minires.ops.fast.conv")
    back, weight = tiles
    monkeypatch.setattr(choice, "backward_pays", lambda *_: back)
    monkeypatch.setattr(choice, "weight_pays", lambda *_: weight)
    f = np.dtype(np.float32)
    plan = conv.choose((2, 9, 9, 8), f, (5, 5, 8, 8), f, 1, 0, 1, 1)
    assert plan.back is (conv.direct if back else columns)
    assert plan.weight is (conv.direct if back or weight else columns)


def test_what_lies_behind_an_image_is_not_read(all_columns, monkeypatch):
    monkeypatch.setattr(columns, "MANY_RUNS", 0)
    room = np.full(1000, np.nan)
    x = room[300:480].reshape(2, 6, 5, 3)
    x[...] = 1
    y, cache = fast.conv2d_forward(x, np.ones((3, 4, 3, 2)), padding=((0, 2), (3, 1)), stride=2)
    assert np.isfinite(y).all()
    dx, dw, db = fast.conv2d_backward(np.ones_like(y), cache)
    assert all(np.isfinite(a).all() for a in (dx, dw, db))


@pytest.mark.parametrize(
    ("shape", "stride", "even"),
    [
        ((4, 8, 8, 5), (1, 4), True),
        ((4, 8, 8, 5), (2, 1), False),
        ((4, 8, 1, 5), (2, 1), True),
        ((4, 9, 1, 5), (2, 1), False),
        ((1, 9, 1, 5), (2, 1), True),
        ((1, 3, 9, 5), (3, 2), True),
        ((2, 3, 9, 5), (3, 2), False),
        ((4, 6, 7, 5), (1, 1), True),
    ],
)
@pytest.mark.parametrize("few", [-1, 2**40])
def test_pixels_at_a_constant_distance_are_not_copied(shape, stride, even, few, monkeypatch):
    monkeypatch.setattr(columns, "FEW_NUMBERS", few)
    x = RNG.standard_normal(shape)
    window = resolve_window("conv2d", shape[1:3], (1, 1), stride, 0, 1)
    assert columns.even_pixels(shape, window) == even
    cols = columns.columns(x, window, 8)
    assert np.shares_memory(cols, x) == even
    assert_array_equal(cols, reference.conv.rows(reference.conv.im2col(x, window)))


@pytest.mark.parametrize(
    "shape",
    [
        (3, 4, 5, 7),
        (30, 20, 20, 24),
        (2, 150, 150, 3),
        (1, 1, 1, 1),
        (64, 112, 112, 16),
        (9, 511),
        (400, 511),
    ],
)
@pytest.mark.parametrize("few", [0, 2**40])
@pytest.mark.parametrize("summands", [0, 2**40])
@pytest.mark.parametrize("noise", [0, 1])
def test_sums_over_pixels_keep_their_digits(shape, few, summands, noise, monkeypatch):
    monkeypatch.setattr(sums, "FEW", few)
    monkeypatch.setattr(sums, "FEW_SUMMANDS", summands)
    monkeypatch.setattr(sums, "FEW_PIXELS", summands)
    dy = (noise * RNG.standard_normal(shape) + 5.1).astype(np.float32)
    expected = dy.reshape(-1, shape[-1]).sum(axis=0, dtype=np.float64)
    found = sums.channel_sum(dy)
    assert found.dtype == np.float32
    assert_allclose(found, expected, rtol=4 * np.finfo(np.float32).eps)


def test_a_bias_of_another_length_is_an_error_before_anything_is_computed(all_columns):
    x, w = np.ones((2, 5, 5, 3)), np.ones((3, 3, 3, 4))
    with pytest.raises(ValueError, match=r"bias.*\(4,\)"):
        fast.prepare_conv2d_add_relu(x.shape, w, np.ones(5))
    with pytest.raises(ValueError, match=r"bias.*\(4,\)"):
        fast.conv2d_forward(x, w, np.ones(5))
    with pytest.raises(ValueError, match="dy"):
        fast.conv2d_backward(np.ones((2, 3, 3, 5)), fast.conv2d_forward(x, w)[1])


# ---- dense layers


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d", "f"), [(4, 3, 5), (700, 300, 90), (1, 2000, 1000), (0, 3, 2)])
def test_dense_layers_are_the_references(n, d, f, dtype):
    x, w, b = (RNG.standard_normal(s).astype(dtype) for s in ((n, d), (d, f), (f,)))
    for given in ((x, w), (np.asfortranarray(x), np.asfortranarray(w))):
        y, cache = fast.dense_forward(*given, b)
        expected, theirs = reference.dense_forward(x, w, b)
        assert y.dtype == dtype
        assert_allclose(y, expected, atol=TOLERANCE[dtype] * 50 * d)
        dy = RNG.standard_normal(y.shape).astype(dtype)
        ours, theirs = fast.dense_backward(dy, cache), reference.dense_backward(dy, theirs)
        for a, e in zip(ours, theirs, strict=True):
            assert_allclose(a, e, atol=TOLERANCE[dtype] * 50 * max(n, f))


def test_dense_layers_of_mixed_dtypes_and_other_shapes_are_left_to_the_reference():
    x, w = np.ones((3, 4), np.float32), np.ones((4, 2))
    assert fast.dense_forward(x, w, None)[0].dtype == np.float64
    with pytest.raises(ValueError, match="matmul"):
        fast.dense_forward(np.ones((3, 5)), w, None)


def test_large_dense_layers_have_the_same_bits_on_any_threads():
    numba = pytest.importorskip("numba")
    x, w = RNG.standard_normal((1500, 400)), RNG.standard_normal((400, 300))
    found = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        y, cache = fast.dense_forward(x, w, None)
        found.append((y, *fast.dense_backward(y, cache)))
        numba.set_num_threads(before)
    for ours, theirs in zip(*found, strict=True):
        assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "filters", "prepared", "expected"),
    [
        ((1, 8, 8, 64), 64, False, False),  # four tiles: weights are transformed for too little
        ((1, 8, 8, 64), 64, True, True),  # but kept
        ((1, 8, 8, 128), 128, True, False),
        ((4, 8, 8, 64), 64, False, True),
        ((8, 5, 5, 64), 64, False, False),  # more tiles, of whose pixels less than half is wanted
        ((16, 8, 8, 8), 8, False, False),  # too little to do
        ((16, 8, 8, 8), 8, True, True),
        ((3, 8, 8, 24), 24, False, False),  # a quarter of the lanes idle along both axes
        ((5, 8, 8, 8), 512, False, False),  # few channels for so many filters
        ((128, 8, 8, 8), 512, False, True),
    ],
)
def test_weights_are_transformed_where_there_are_tiles_enough_to_use_them(
    shape, filters, prepared, expected
):
    window = resolve_window("conv2d", shape[1:3], (3, 3), 1, 1, 1)
    given = shape, np.dtype(np.float32), (3, 3, shape[3], filters), window
    assert winograd.pays(*given, prepared=prepared) == expected


def test_products_with_large_matrices_run_on_threads_even_with_few_multiply_adds():
    assert matmul.much(896, 512, 1)
    assert matmul.much(1, 512, 896)
    assert not matmul.much(300, 1000, 1)
    assert matmul.much(512, 1, 896)
    assert not matmul.much(300, 400, 1)
    assert matmul.much(300, 400, 10)


def test_pixels_are_cut_where_there_is_little_to_add_up():
    assert matmul.blocks(279, 560, 2, True)[0] == matmul.TERMS
    assert matmul.blocks(279, 560, 2)[0] == matmul.ROWS  # terms are taps: each thread has pixels
    assert matmul.blocks(90, 50, 512, True)[0] == matmul.COLS


def test_an_outer_product_is_added_where_it_is_to_be():
    a, b, out = RNG.standard_normal((5, 1)), RNG.standard_normal((1, 32)), np.ones((5, 32))
    assert_allclose(product(a, b, out, adds=True), 1 + a * b)


def test_kept_weights_of_a_single_image_go_to_winograd(monkeypatch):
    x, w = np.ones((1, 8, 8, 64), np.float32), np.ones((3, 3, 64, 64), np.float32)
    ran = []
    forward = winograd.prepared
    monkeypatch.setattr(winograd, "prepared", lambda *given: ran.append(1) or forward(*given))
    fast.prepare_conv2d_add_relu(x.shape, w, padding=1)
    assert ran
    fast.conv2d_forward(x, w, padding=1)
    assert ran == [1]


@pytest.mark.parametrize("ops", [fast, reference])
def test_lists_are_remembered_as_tuples_are(ops):
    x, weight = np.ones((2, 7, 9, 3), np.float32), np.ones((2, 2, 3, 4), np.float32)
    lists = {"stride": [2, 1], "padding": [[1, 0], (0, 1)]}
    y, _ = ops.conv2d_forward(x, weight, **lists)
    before = window_module.remembered.cache_info(), conv.remembered.cache_info()
    again, cache = ops.conv2d_forward(x, weight, **lists)
    after = window_module.remembered.cache_info(), conv.remembered.cache_info()
    assert [info.misses for info in after] == [info.misses for info in before]
    assert after != before
    assert_array_equal(again, y)
    assert cache.window.padding == ((1, 0), (0, 1))


@pytest.mark.parametrize("ops", [fast, reference])
def test_an_error_names_the_list_that_was_given(ops):
    x, weight = np.ones((2, 7, 9, 3)), np.ones((2, 2, 3, 4))
    with pytest.raises(ValueError, match=r"stride to be .* got \[0, 1\]"):
        ops.conv2d_forward(x, weight, stride=[0, 1])
    ops.conv2d_forward(x, weight, stride=[1, 2])
    for odd in ([1.0, 2], [True, 2]):  # equal to what has just been remembered
        with pytest.raises(ValueError, match=r"stride to be .* got \["):
            ops.conv2d_forward(x, weight, stride=odd)
    with pytest.raises(ValueError, match=r"padding to be .* got \[\[1, 2, 3\], 0\]"):
        ops.conv2d_forward(x, weight, padding=[[1, 2, 3], 0])


def test_a_bias_may_lie_in_memory_in_any_way(all_columns, monkeypatch):
    monkeypatch.setattr(columns, "FEW_BIASED", 0)
    x, w = RNG.standard_normal((2, 5, 5, 3)), RNG.standard_normal((3, 3, 3, 23))
    bias = np.repeat(RNG.standard_normal(23), 2)[::2]
    found, _ = fast.conv2d_forward(x, w, bias)
    assert_allclose(found, reference.conv2d_forward(x, w, bias)[0])


def test_images_are_taken_in_groups_whose_columns_stay_in_the_cache():
    def sizes(N, side, C):
        window = resolve_window("conv2d", (side, side), (1, 1), 1, 0, 1)
        todo = columns.work((N, side, side, C), window, 5)
        return [len(part) for (part,) in columns.groups(todo, np.empty(N))]

    assert sizes(8, 16, 255) == [8]  # 2,048 rows of 255, below GROUP
    assert sizes(8, 16, 256) == [4, 4]
    assert sizes(7, 16, 2000) == [3, 4]  # no fewer than PIXELS rows
    assert sizes(2, 64, 2000) == [1, 1]  # no parts of images


@pytest.mark.parametrize(
    ("kernel", "stride", "products"), [((1, 1), 1, 1), ((1, 1), (2, 1), 2), ((1, 3), (1, 2), 3)]
)
def test_columns_that_are_a_view_take_no_room_so_all_images_are_taken_at_once(
    kernel, stride, products, all_columns, monkeypatch
):
    seen, real = [], columns.matmul

    def watched(a, b, *rest, **options):
        seen.append(a.shape)
        return real(a, b, *rest, **options)

    monkeypatch.setattr(columns, "matmul", watched)
    x = np.ones((8, 16, 33, 256), np.float32)
    weight = np.ones((*kernel, 256, 5), np.float32)
    y, cache = fast.conv2d_forward(x, weight, stride=stride)
    assert len(seen) == products
    seen.clear()
    fast.conv2d_weight_backward(y, cache)
    assert len(seen) == products


@pytest.mark.parametrize(
    ("runs", "shape", "filters", "expected"),
    [
        (2047, (1, 1), 1, True),  # one thread multiplies, and had better write as well
        (4 * 2047, (1, 1), 1, True),
        (4 * 2048, (1, 1), 1, False),
        (2047, (1000, 2), 1024, True),  # several multiply
        (2048, (1000, 2), 1024, False),
        (0, (1000, 131), 7, True),  # 8,187 lines of numbers, in a matrix below LARGE
        (0, (1000, 132), 7, False),
    ],
)
def test_columns_are_written_by_the_threads_that_multiply(runs, shape, filters, expected):
    runs -= 0 if runs == 0 else int(np.prod(shape)) // columns.LINE
    assert columns.little(runs, shape, filters) == expected


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "expected"),
    [
        ((2, 6, 6, 8), (1, 1), 1, 0, columns.image_itself),
        ((2, 6, 6, 8), (1, 1), 2, 0, columns.pixels_of),
        ((64, 60, 60, 1), (1, 1), 2, 0, columns.pixels_of),  # numbers at a constant distance
        ((64, 60, 60, 2), (1, 1), 2, 0, columns.by_threads),
        ((1, 200, 200, 1), (5, 1), 1, 2, columns.copied),  # the same
        ((1, 200, 200, 2), (5, 1), 1, 2, columns.by_threads),
        ((1, 9, 9, 8), (3, 3), 1, 0, columns.copied),
        ((1, 9, 9, 8), (3, 3), 1, 1, columns.by_one_thread),  # which needs no border
        ((1, 4, 4, 8), (3, 3), 1, 1, columns.copied),  # where there is next to nothing to do
        ((1, 60, 60, 3), (1, 1), 1, ((0, 1), (0, 0)), columns.by_one_thread),  # a large border
        ((16, 9, 2, 8), (3, 3), 1, 1, columns.copied),  # no window lies inside
    ],
)
def test_columns_are_written_in_the_way_that_is_fastest(shape, kernel, stride, padding, expected):
    window = resolve_window("conv2d", shape[1:3], kernel, stride, padding, 1)
    assert columns.work(shape, window, 4).write is expected


def before_a_guard(a):
    """`a` in memory behind which a page lies that nobody may touch."""
    libc, page = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE
    size = -(-a.nbytes // page) * page
    room = mmap.mmap(-1, size + page)
    end = ctypes.addressof(ctypes.c_char.from_buffer(room)) + size
    if libc.mprotect(ctypes.c_void_p(end), page, 0):
        pytest.skip("this system does not protect pages")
    guarded = np.frombuffer(room, a.dtype, a.size, size - a.nbytes).reshape(a.shape)
    guarded[...] = a
    return guarded


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect as on Linux")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [3, 8, 15, 35])
@pytest.mark.parametrize("filters", [8, 33])
@pytest.mark.parametrize("padding", [((0, 6), (2, 2)), 0], ids=["padded", "not"])
def test_kernels_read_nothing_behind_an_array(padding, filters, channels, dtype, monkeypatch):
    """They would end the process."""
    direct = pytest.importorskip("minires.ops.fast.direct")
    for name in ("room", "empty"):
        given = getattr(columns, name)
        monkeypatch.setattr(columns, name, lambda *a, given=given: before_a_guard(given(*a)))
    window = resolve_window("conv2d", (7, 8), (2, 4), 1, padding, 1)
    x = RNG.standard_normal((2, 7, 8, channels)).astype(dtype)
    w = RNG.standard_normal((2, 4, channels, filters)).astype(dtype)
    dy = RNG.standard_normal((2, *window.out, filters)).astype(dtype)
    x, w, dy = map(before_a_guard, (x, w, dy))
    memory.scratch(x.dtype, 1)[...] = np.inf  # nor do they add up what others have left
    found = columns.backward(x, w, dy, window)
    for a, b in zip(found[1:], direct.weight_gradient(x, dy, window), strict=True):
        assert_allclose(a, b, atol=1e-3 if dtype == np.float32 else 1e-10)
    dx = direct.input_gradient(x.shape, w, dy, window)
    assert_allclose(found[0], dx, atol=1e-3 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize(
    ("shape", "kernel", "by_kernel"),
    [
        ((2, 20, 20, 8), (3, 3), False),  # few runs, and few enough numbers for NumPy's memory
        ((1, 64, 64, 3), (3, 3), True),  # 12,288 runs
        ((1, 16, 16, 64), (2, 2), False),  # few runs, in our memory
        ((1, 32, 32, 64), (2, 2), True),  # 246,016 numbers
        ((16, 40, 40, 3), (1, 1), False),  # even pixels: not even copied
    ],
)
def test_a_kernel_writes_columns_of_many_runs(shape, kernel, by_kernel, monkeypatch):
    written = []
    real = columns.write_columns

    def note(*given):
        written.append(1)
        real(*given)

    note.alone = note
    monkeypatch.setattr(columns, "write_columns", note)
    x = RNG.standard_normal(shape).astype(np.float32)
    window = resolve_window("conv2d", shape[1:3], kernel, 1, 0, 1)
    found = columns.columns(x, window, 16)
    assert_array_equal(found, columns.windows(x, window).reshape(found.shape))
    assert bool(written) == by_kernel
