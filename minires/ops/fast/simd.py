"""Two types for Numba: `Vec`, one SIMD register, and `Tile`, a block of registers.

A CPU adds and multiplies 4, 8 or 16 numbers with one instruction, and it reaches its ceiling only
if some 8 to 16 such sums run side by side and stay in registers. Compilers rarely arrange that by
themselves, so these types say it: a kernel built on them is an ordinary Python loop,

    t = zeros(a, ROWS, 2)
    for k in range(K):
        t = outer(t, a, i + k, row_step, b, j + k * F, lanes(b))
    store_tile(t, y, o, F, lanes(b))

and `outer` becomes ROWS * 2 multiply-adds on registers. Everything that is LLVM IR stands in this
file. Arrays are one-dimensional and C-contiguous; i, j, o are offsets, steps are in numbers.

The width of a register and the shape of a tile follow the CPU that Numba compiles for:

| registers      | WIDE tile | TALL tile | in use                                          |
|----------------|-----------|-----------|-------------------------------------------------|
| 32 of 512 bit  | 8 x 2     | 16 x 1    | 16 sums, 2 columns of b, 1 number of a          |
| 16 of 256 bit  | 4 x 2     | 8 x 1     | 8 sums, 2 columns of b, 1 number of a           |
| 16 of 128 bit  | 4 x 2     | 8 x 1     | the same                                        |

Read next: `conv.py`.
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic, models, overload, register_model


def target():
    """Name and features of the CPU that Numba compiles for.

    NUMBA_CPU_NAME and NUMBA_CPU_FEATURES have their say in it.
    """
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    return name, features.split(",")


def register_bits(features):
    """Width of a SIMD register of a CPU with these features."""
    return 512 if "+avx512f" in features else 256 if "+avx2" in features else 128


NAME, FEATURES = target()
BITS = register_bits(FEATURES)
AMD = NAME.startswith("znver")  # what LLVM knows as Zen; any other CPU is treated like Intel's
ROWS = 8 if BITS == 512 else 4  # of a tile two registers wide
I32, BYTES = ir.IntType(32), ir.IntType(8).as_pointer()
L1, L2 = 3, 2  # where a line goes that is asked for; L2 lest it drives out what is in use


class Vec(types.Type):
    """One register: 4, 8 or 16 numbers."""

    def __init__(self, dtype):
        self.dtype, self.lanes = dtype, BITS // dtype.bitwidth
        super().__init__(f"Vec({dtype}, {BITS})")

    def llvm(self):
        number = ir.FloatType() if self.dtype.bitwidth == 32 else ir.DoubleType()
        return ir.VectorType(number, self.lanes)


class Tile(types.Type):
    """rows x cols registers."""

    def __init__(self, vec, rows, cols):
        self.vec, self.rows, self.cols = vec, rows, cols
        super().__init__(f"Tile({vec}, {rows}, {cols})")

    def llvm(self):
        return ir.ArrayType(self.vec.llvm(), self.rows * self.cols)


@register_model(Vec)
@register_model(Tile)
class RegisterModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.llvm())


# ---- LLVM IR: what the types below are made of. `b` is the builder, which appends instructions.


def address(context, b, array_type, array, i):
    """The pointer to array[i]."""
    return b.gep(context.make_array(array_type)(context, b, array).data, [i])


def read(b, pointer, vec):
    """One register from memory, at any address: only the alignment of a number is promised."""
    pointer = b.bitcast(pointer, vec.llvm().as_pointer())
    return b.load(pointer, align=vec.dtype.bitwidth // 8)


def write(b, pointer, vec, value):
    """One register to memory."""
    pointer = b.bitcast(pointer, vec.llvm().as_pointer())
    b.store(value, pointer, align=vec.dtype.bitwidth // 8)


def spread(b, number, vec):
    """The same number in every lane: put it into lane 0, then shuffle with a mask of zeros.

    LLVM knows the pair as one instruction, a broadcast, which a multiply-add may even contain.
    """
    blank = ir.Constant(vec.llvm(), ir.Undefined)
    mask = ir.Constant(ir.VectorType(I32, vec.lanes), None)
    return b.shuffle_vector(b.insert_element(blank, number, I32(0)), blank, mask)


def multiply_add(b, vec, x, y, z):
    """x * y + z, rounded once where the CPU has the instruction.

    llvm.fmuladd, not llvm.fma: on a CPU without the instruction the latter calls the C library.
    """
    kind = vec.llvm()
    name = f"llvm.fmuladd.v{vec.lanes}f{vec.dtype.bitwidth}"
    function = cgutils.get_or_insert_function(b.module, ir.FunctionType(kind, [kind] * 3), name)
    return b.call(function, [x, y, z])


# ---- Vec


@intrinsic
def lanes(typing, a):
    """Numbers of array `a` in one register: a constant when the kernel is compiled."""

    def emit(context, b, signature, values):
        return context.get_constant(types.intp, BITS // a.dtype.bitwidth)

    return types.intp(a), emit


@intrinsic
def load(typing, a, i):
    """a[i : i + lanes]."""
    vec = Vec(a.dtype)

    def emit(context, b, signature, values):
        return read(b, address(context, b, signature.args[0], *values), vec)

    return vec(a, types.intp), emit


@intrinsic
def store(typing, a, i, value):
    """a[i : i + lanes] = value."""

    def emit(context, b, signature, values):
        array, i, vector = values
        write(b, address(context, b, signature.args[0], array, i), value, vector)
        return context.get_dummy_value()

    return types.void(a, types.intp, value), emit


def lanes_between(b, vec, first, last):
    """The mask of the lanes first, first + 1, ... last - 1, for LLVM's masked loads and stores."""
    numbers = ir.Constant(ir.VectorType(I32, vec.lanes), list(range(vec.lanes)))
    blank = ir.Constant(numbers.type, ir.Undefined)

    def everywhere(n):
        n = b.insert_element(blank, b.trunc(n, I32), I32(0))
        return b.shuffle_vector(n, blank, ir.Constant(numbers.type, None))

    before = b.icmp_signed("<", numbers, everywhere(last))
    return b.and_(before, b.icmp_signed("<=", everywhere(first), numbers))


def masked(b, name, vec, result, kinds):
    """The masked load or store of LLVM for registers of one kind."""
    name = f"llvm.masked.{name}.v{vec.lanes}f{vec.dtype.bitwidth}.p0"
    return cgutils.get_or_insert_function(b.module, ir.FunctionType(result, kinds), name)


@intrinsic
def load_between(typing, a, i, first, last):
    """Lanes first, first + 1, ... last - 1 of `load(a, i)`, and 0 in the others.

    These are not read: they may lie outside of the array.
    """
    vec = Vec(a.dtype)

    def emit(context, b, signature, values):
        array, i, first, last = values
        kind, mask = vec.llvm(), lanes_between(b, vec, first, last)
        place = b.bitcast(address(context, b, signature.args[0], array, i), kind.as_pointer())
        function = masked(b, "load", vec, kind, [place.type, I32, mask.type, kind])
        align = I32(vec.dtype.bitwidth // 8)
        return b.call(function, [place, align, mask, ir.Constant(kind, None)])

    return vec(a, *[types.intp] * 3), emit


@intrinsic
def store_first(typing, a, i, n, value):
    """a[i : i + n] = the first n lanes, or all if there are fewer; nothing else is touched."""
    vec = Vec(a.dtype)

    def emit(context, b, signature, values):
        array, i, n, vector = values
        kind, mask = vec.llvm(), lanes_between(b, vec, ir.Constant(n.type, 0), n)
        place = b.bitcast(address(context, b, signature.args[0], array, i), kind.as_pointer())
        kinds = [kind, place.type, I32, mask.type]
        function = masked(b, "store", vec, ir.VoidType(), kinds)
        b.call(function, [vector, place, I32(vec.dtype.bitwidth // 8), mask])
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, value), emit


def ask_for_line(b, pointer, writes, level):
    """Ask for the cache line behind a pointer, to read it or to write to it."""
    kind = ir.FunctionType(ir.VoidType(), [BYTES, I32, I32, I32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(function, [b.bitcast(pointer, BYTES), I32(int(writes)), I32(level), I32(1)])  # 1: data


@intrinsic
def prefetch(typing, a, i):
    """Ask for the cache line of a[i] without waiting for it; nothing happens if `i` is outside."""

    def emit(context, b, signature, values):
        ask_for_line(b, address(context, b, signature.args[0], *values), False, L2)
        return context.get_dummy_value()

    return types.void(a, types.intp), emit


@intrinsic
def same(typing, a, number):
    """A register with `number` in every lane, for numbers like those of array `a`."""
    vec = Vec(a.dtype)

    def emit(context, b, signature, values):
        return spread(b, context.cast(b, values[1], number, a.dtype), vec)

    return vec(a, number), emit


@intrinsic
def relu(typing, x):
    """x where it is above 0 or NaN, else 0."""

    def emit(context, b, signature, values):
        zero = ir.Constant(x.llvm(), None)
        return b.select(b.fcmp_ordered("<=", values[0], zero), zero, values[0])

    return x(x), emit


@intrinsic
def where_positive(typing, x, y):
    """y where x is above 0, else 0."""

    def emit(context, b, signature, values):
        zero = ir.Constant(x.llvm(), None)
        return b.select(b.fcmp_ordered(">", values[0], zero), values[1], zero)

    return x(x, x), emit


@intrinsic
def axpy(typing, s, x, y):
    """s * x + y for a number s and registers x, y."""

    def emit(context, b, signature, values):
        number = context.cast(b, values[0], s, x.dtype)
        return multiply_add(b, x, spread(b, number, x), *values[1:])

    return x(s, x, x), emit


@intrinsic
def lane(typing, x, c):
    """Number c of a register."""

    def emit(context, b, signature, values):
        return b.extract_element(*values)

    return x.dtype(x, types.intp), emit


def define_operator(symbol, instruction):
    """Make +, -, * or / of two registers one instruction."""

    @intrinsic
    def apply(typing, x, y):
        def emit(context, b, signature, values):
            return getattr(b, instruction)(*values)

        return x(x, y), emit

    @overload(symbol)
    def choose(x, y):
        if isinstance(x, Vec) and x == y:
            return lambda x, y: apply(x, y)


define_operator(operator.add, "fadd")
define_operator(operator.sub, "fsub")
define_operator(operator.mul, "fmul")
define_operator(operator.truediv, "fdiv")


# ---- Tile. The loops over rows and columns run while the kernel is compiled, so that every
# ---- register has its own name and LLVM keeps it where it is.


@intrinsic(prefer_literal=True)
def zeros(typing, a, rows, cols):
    """A tile of zeros for numbers like those of `a`."""
    tile = Tile(Vec(a.dtype), rows.literal_value, cols.literal_value)

    def emit(context, b, signature, values):
        return ir.Constant(tile.llvm(), None)

    return tile(a, rows, cols), emit


def places(context, b, tile, array_type, array, i, row_step, col_step):
    """The number of each register of a tile, and the address it belongs to."""
    for r in range(tile.rows):
        for c in range(tile.cols):
            steps = b.add(b.mul(row_step, row_step.type(r)), b.mul(col_step, col_step.type(c)))
            yield r * tile.cols + c, address(context, b, array_type, array, b.add(i, steps))


@intrinsic
def expect_tile(typing, t, a, i, row_step, col_step):
    """Ask for the cache lines that `store_tile` will write to, without waiting for them.

    A store to a line that is far away is done when the line has come, and later stores wait behind
    it. Asked for before a tile's sums are begun, the lines come meanwhile.
    """

    def emit(context, b, signature, values):
        for _, pointer in places(context, b, t, signature.args[1], *values[1:]):
            ask_for_line(b, pointer, True, L1)
        return context.get_dummy_value()

    return types.void(t, a, *[types.intp] * 3), emit


@intrinsic
def load_tile(typing, t, a, i, row_step, col_step):
    """The tile whose register (r, c) is a[i + r * row_step + c * col_step : ... + lanes]."""

    def emit(context, b, signature, values):
        tile, *rest = values
        for q, pointer in places(context, b, t, signature.args[1], *rest):
            tile = b.insert_value(tile, read(b, pointer, t.vec), q)
        return tile

    return t(t, a, *[types.intp] * 3), emit


@intrinsic
def store_tile(typing, t, a, i, row_step, col_step):
    """The inverse of `load_tile`."""

    def emit(context, b, signature, values):
        tile, *rest = values
        for q, pointer in places(context, b, t, signature.args[1], *rest):
            write(b, pointer, t.vec, b.extract_value(tile, q))
        return context.get_dummy_value()

    return types.void(t, a, *[types.intp] * 3), emit


@intrinsic
def add_tile(typing, t, a, i, row_step, col_step):
    """Like `store_tile`, but adds to what is there."""

    def emit(context, b, signature, values):
        tile, *rest = values
        for q, pointer in places(context, b, t, signature.args[1], *rest):
            total = b.fadd(read(b, pointer, t.vec), b.extract_value(tile, q))
            write(b, pointer, t.vec, total)
        return context.get_dummy_value()

    return types.void(t, a, *[types.intp] * 3), emit


def define_outer(folds):
    """Returns the intrinsic that adds an outer product to a tile.

    t[r, c] += a[i + r * row_step] * b[j + c * col_step : ... + lanes]

    Parameters
    ----------
    folds : bool
        Whether numbers of `a` are to be operands of multiply-adds in memory, see `outer_fixed`.
    """

    @intrinsic
    def outer(typing, t, a, i, row_step, b, j, col_step):
        def emit(context, build, signature, values):
            tile, x, i, row_step, y, j, col_step = values
            _, x_type, _, _, y_type, _, _ = signature.args
            columns = []
            for c in range(t.cols):
                place = build.add(j, build.mul(col_step, col_step.type(c)))
                columns.append(read(build, address(context, build, y_type, y, place), t.vec))
            start = again = address(context, build, x_type, x, i)
            if folds:
                start = anchored(build, start)
                again = anchored(build, start) if t.cols > 1 else start
            for r in range(t.rows):
                step = build.mul(row_step, row_step.type(r))
                row = spread(build, build.load(build.gep(start, [step])), t.vec)
                for c, column in enumerate(columns):
                    if folds and c == 1 and r < t.rows // 2:
                        row = spread(build, build.load(build.gep(again, [step])), t.vec)
                    q = r * t.cols + c
                    total = multiply_add(build, t.vec, row, column, build.extract_value(tile, q))
                    tile = build.insert_value(tile, total, q)
            return tile

        return t(t, a, types.intp, types.intp, b, types.intp, types.intp), emit

    return outer


def anchored(b, pointer):
    """The same pointer, of which LLVM is not to know what it is made of: an instruction of no text.

    So it takes one register, and what is a constant number of bytes behind it takes no other. As
    the instruction might do anything, LLVM does not see either that two of them give the same.
    """
    function = ir.FunctionType(pointer.type, [pointer.type])
    return b.call(ir.InlineAsm(function, "", "=r,0"), [pointer])


outer = define_outer(folds=False)
# The same for a row_step that is a constant once the kernel is inlined. A multiply-add on registers
# of 512 bits can read a number from memory and repeat it in every lane: one micro-operation, if the
# address is a register and a constant. LLVM likes two registers as much, but Intel's cores make two
# micro-operations of that, and they begin six in a cycle, three while another program runs on the
# core's second hardware thread. So the address is one register here, and half of the rows of a wide
# tile read their number once for each column, to save the instruction that only repeats it; with
# more of them, the loads would take longer than the multiply-adds. (Seen in loops of 256 such
# multiply-adds, written by hand: 4.0 a nanosecond so, and with two registers 3.9 in one minute and
# 2.8 in another; Intel Xeon with AMX, 2026-12-01. Zen 4 is left out: it was not measured.)
outer_fixed = define_outer(folds=BITS == 512 and not AMD)
