"""A kernel's parts on several threads: `run_parts`, and how the parts are compiled.

Numba's `prange` compiles the body of its loop three times over (the body, a wrapper, the function
around both), each time down to machine code, and all of it again for one thread. Here the body is
a function of its own, `part(k, ...)`. It is compiled once and as far as LLVM's language; machine
code is made once, for the kernel as a whole. Numba's thread pool calls the parts through the few
instructions that `define_task` writes. Each thread has a range of parts, the same at each call, for
their data may still be in its core's cache; when it is through it helps the others, so that a core
which another program slows down does not hold up the rest. But it leaves them the last quarter of
their parts, and at least one: who helps at the end saves little, and takes what the other's cache
holds, of which the other must fetch the results for the next kernel.

Measured: the kernels of a first ResNet-20 training step take 14 s to compile instead of 41 s
(AMD EPYC, Zen 4, 2 cores, 2026-11). A ResNet-20 step at batch 32, layer by layer, while the two
cores have no cache in common (`docs/benchmarks.md`): 37.4 ms when threads helped to the last part,
34.9 so, 33.5 when none helped; where they share one all three take 28 (2026-11-30, in turns; no
command here brings the other two back).
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering
from numba.extending import intrinsic


class Unfinished(JITCodeLibrary):
    """LLVM code that is neither optimised nor made machine code before it is part of a kernel."""

    def _optimize_final_module(self):
        """Left to the kernel, which knows what it inlines."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


class PartCompiler(Compiler):
    """Numba's compiler for functions that only kernels call."""

    def __init__(self, typingctx, targetctx, *rest):
        super().__init__(typingctx, targetctx, *rest)
        self.state.library = Unfinished(targetctx.codegen(), "part of a kernel")
        self.state.targetctx.get_executable = not_executable

    def define_pipelines(self):
        """Numba's passes, with arrays that are only borrowed."""
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        instead = {NativeLowering: BorrowedArrays}
        manager.passes = [(instead.get(kind, kind), what) for kind, what in manager.passes]
        return [manager]


@register_pass(mutates_CFG=True, analysis_only=False)
class BorrowedArrays(NativeLowering):
    """Parts own no memory, so references need not be counted. One that allocates would leak."""

    def run_pass(self, state):
        state.targetctx.enable_nrt = False
        return super().run_pass(state)


def not_executable(library, fndesc, env):
    """Numba asks for something callable, of its own for each function; nobody calls it."""
    return object().__dir__


PART_OPTIONS = {
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": PartCompiler,
}


@intrinsic
def run_parts(typing, part, n, threads, last_first, args):
    """part(k, *args) for each k < n: on all threads, or one after the other on this one.

    Parameters
    ----------
    part : jitted function that returns nothing
    n : int
    threads : bool
    last_first : bool
        Whether each thread begins at the end of its range.
    args : tuple

    Returns
    -------
    late : bool
        Whether a thread had nothing left to do when another had not begun yet.
    """
    signature = part.get_call_type(typing, (types.intp, *args.types), {})

    def emit(context, b, _, values):
        _, n, threads, last_first, args = values
        compiled = part.dispatcher.get_compile_result(signature)
        context.active_code_library.add_linking_library(compiled.library)
        size = cgutils.get_or_insert_function(b.module, ir.FunctionType(INT, []), "get_num_threads")
        count = b.select(threads, b.zext(b.call(size, []), SIZE), SIZE(1))
        lines = b.add(count, SIZE(1))  # one for each thread, and one for who has begun
        counters = b.alloca(SIZE, size=b.mul(lines, SIZE(LINE)))
        counters.align = 8 * LINE
        cgutils.memset(b, counters, b.mul(lines, SIZE(8 * LINE)), 0)
        shared = cgutils.pack_struct(b, [args, INT(0), INT(0), counters, count, n, last_first])
        shared = cgutils.alloca_once_value(b, shared)
        task = define_task(context, b.module, compiled.fndesc, shared.type)
        call_task(b, task, threads, count, shared)
        failed = b.icmp_signed("!=", b.load(failure(b, shared)), INT(0))
        with cgutils.if_unlikely(b, failed):
            context.call_conv.return_user_exc(b, MemoryError, ("in a part of a kernel",))
        return b.icmp_signed("!=", b.load(field(b, shared, LATE)), INT(0))

    return types.boolean(part, types.intp, types.boolean, types.boolean, args), emit


# ---- LLVM IR; `b` is the builder, which appends instructions

VOID, INT, SIZE = ir.VoidType(), ir.IntType(32), ir.IntType(64)
BYTES, SIZES = ir.IntType(8).as_pointer(), SIZE.as_pointer()
TASK = ir.FunctionType(VOID, [BYTES.as_pointer(), SIZES, SIZES, BYTES])  # what the pool calls


HELP = 4  # the last of so many parts of a range is left to its owner
LINE = 16  # numbers for which a counter has room: two cache lines, which cores fetch together
ARGS, FAILED, LATE, COUNTERS, THREADS, PARTS, LAST_FIRST = range(7)  # the fields of `shared`


def field(b, shared, index):
    """The address of a field of what all threads share."""
    return b.gep(shared, [INT(0), INT(index)])


def failure(b, shared):
    """The address of the number that a failing part sets to 1."""
    return field(b, shared, FAILED)


def counter(b, counters, index):
    """The address of a counter; each has cache lines of its own."""
    return b.gep(counters, [b.mul(index, SIZE(LINE))])


def range_of(b, owner, parts, threads):
    """The parts of a thread: the first, how many."""
    start = b.udiv(b.mul(owner, parts), threads)
    stop = b.udiv(b.mul(b.add(owner, SIZE(1)), parts), threads)
    return start, b.sub(stop, start)


def call_part(context, b, call, values, shared):
    """One part; what goes wrong in it is written down."""
    status, _ = context.call_conv.call_function(b, *call, values)
    with cgutils.if_unlikely(b, status.is_error):
        b.store(INT(1), failure(b, shared))


def define_task(context, module, part, shared_type):
    """task(first, _, _, shared): the parts of one thread's range, then some that others have left.

    The thread is the distance of `first` from `shared`: the pool moves that pointer by one byte for
    each task. A range's counter says how many of its parts somebody has begun.
    """
    task = ir.Function(module, TASK, name=f"{part.mangled_name}.task")
    task.linkage = "internal"
    first, _, _, data = task.args
    b = ir.IRBuilder(task.append_basic_block("entry"))
    shared = b.bitcast(data, shared_type)
    args, counters, threads, parts, last_first = (
        b.load(field(b, shared, index)) for index in (ARGS, COUNTERS, THREADS, PARTS, LAST_FIRST)
    )
    arrived = counter(b, counters, threads)
    b.atomic_rmw("add", arrived, SIZE(1), "monotonic")
    call = context.declare_function(module, part), part.restype, part.argtypes
    thread = b.sub(b.ptrtoint(b.load(first), SIZE), b.ptrtoint(data, SIZE))
    with cgutils.for_range(b, threads) as others:
        owner = b.urem(b.add(thread, others.index), threads)
        start, size = range_of(b, owner, parts, threads)
        own = b.icmp_signed("==", others.index, SIZE(0))
        open_to_us = b.select(own, size, b.udiv(b.mul(size, SIZE(HELP - 1)), SIZE(HELP)))
        begun = counter(b, counters, owner)
        again, take, act, end = map(task.append_basic_block, ("again", "take", "act", "end"))
        b.branch(again)
        b.position_at_end(again)
        seen = b.load_atomic(begun, "monotonic", align=8)
        b.cbranch(b.icmp_signed("<", seen, open_to_us), take, end)
        b.position_at_end(take)
        index = b.atomic_rmw("add", begun, SIZE(1), "monotonic")
        b.cbranch(b.icmp_signed("<", index, size), act, end)
        b.position_at_end(act)
        from_end = b.sub(b.sub(b.add(start, size), SIZE(1)), index)
        k = b.select(last_first, from_end, b.add(start, index))
        values = [k, *cgutils.unpack_tuple(b, args)]
        call_part(context, b, call, values, shared)
        b.branch(again)
        b.position_at_end(end)
    everybody = b.icmp_signed("==", b.load_atomic(arrived, "monotonic", align=8), threads)
    with cgutils.if_unlikely(b, b.not_(everybody)):
        b.store(INT(1), field(b, shared, LATE))
    b.ret_void()
    return task


def call_task(b, task, threads, count, shared):
    """One task for each of `count` threads of the pool, or one on this thread."""
    data = b.bitcast(shared, BYTES)
    given = [cgutils.alloca_once_value(b, value) for value in (data, count, SIZE(1))] + [data]
    pool = ir.FunctionType(VOID, [TASK.as_pointer(), *TASK.args, SIZE, SIZE, INT])
    pool = cgutils.get_or_insert_function(b.module, pool, "numba_parallel_for")
    with b.if_else(threads) as (several, alone):
        with several:
            b.call(pool, [task, *given, SIZE(0), SIZE(1), b.trunc(count, INT)])
        with alone:
            b.call(task, given)
