"""What a user may do to the fast ops without a crash or a wrong number, mostly in processes."""

import os
import pickle
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import minires

numba = pytest.importorskip("numba")

PACKAGE = Path(minires.__file__).parent
HERE = {"PYTHONPATH": str(PACKAGE.parent)}

# cheap to compile: what happens to kernels and their files is the same for all of them
CHEAP = """
import numpy as np
from minires.ops import fast, reference
def work(seed=0):
    x = np.random.default_rng(seed).standard_normal((2, 7, 6, 5))
    y = fast.relu_forward(x)[0]
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    return y
"""

# what has scratch memory and sums that are cut into parts
HEAVY = """
import numpy as np
from minires.ops import fast, reference
def problem(seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(s) for s in ((3, 9, 8, 5), (3, 3, 5, 4), (4,), (3, 9, 8, 4))]
def convolution(ops, x, w, b, dy):
    y, cache = ops.conv2d_forward(x, w, b, padding=1)
    return y, *ops.conv2d_backward(dy, cache)
def work(seed=0):
    return b"".join(a.tobytes() for a in convolution(fast, *problem(seed)))
def check():
    for a, b in zip(convolution(fast, *problem(0)), convolution(reference, *problem(0))):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder that the tests of this file share: the kernels are compiled once."""
    return tmp_path_factory.mktemp("cache")


def start(code, cache, **environment):
    """A fresh Python that runs `code`; its kernels are in `cache`, or where the user's are."""
    place = {} if cache is None else {"NUMBA_CACHE_DIR": str(cache)}
    environment = {**os.environ, **HERE, **place, **environment}
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process):
    """What it printed, if all went well."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.strip()


def run(code, cache, **environment):
    """What a fresh Python prints."""
    return output(start(code, cache, **environment))


def kernels(cache):
    return sorted(Path(cache).rglob("*.kernel"))


def times(cache):
    return [path.stat().st_mtime_ns for path in kernels(cache)]


# ---- when what is imported and compiled


def test_importing_neither_imports_numba_nor_compiles(tmp_path):
    code = "import sys, minires, minires.ops.fast; print('numba' in sys.modules)"
    assert run(code, tmp_path) == "False"
    assert not kernels(tmp_path)


def test_without_jit_the_reference_runs(tmp_path):
    code = """
import sys, minires as mr
from minires.ops import fast, reference
print(fast.implementation("conv2d_forward") is reference.conv2d_forward)
mr.set_num_threads(7)
print(mr.get_num_threads())
model = mr.models.resnet8(input_shape=(8, 8, 1), rng=0)
mr.fit(model, mr.data.load_digits(), mr.Adam(model.parameters()), epochs=1, rng=0, progress=False)
print("numba" in sys.modules)
"""
    assert run(code, tmp_path, NUMBA_DISABLE_JIT="1").split() == ["True", "1", "False"]


@pytest.mark.parametrize("way", ["file", "program"])
def test_however_the_jit_is_switched_off_the_reference_runs(way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where Numba looks for its file
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    code = "import numba; numba.config.DISABLE_JIT = 1\n" if way == "program" else ""
    if way == "file":
        pytest.importorskip("yaml")
        Path(".numba_config.yaml").write_text("disable_jit: 1")
    code += """
import minires as mr, numpy as np
from minires.ops import fast, reference
print(fast.implementation("relu_forward") is reference.relu_forward)
mr.set_num_threads(7)
print(mr.get_num_threads(), fast.relu_forward(np.array([-1.0, 2.0]))[0])
"""
    assert run(code, tmp_path) == "True\n1 [0. 2.]"


def test_a_jit_that_is_switched_off_between_two_ops_is_an_error_that_says_so(cache):
    code = """
import numba
work()
numba.config.DISABLE_JIT = 1
try:
    fast.add_forward(np.ones(3), np.ones(3))
except RuntimeError as error:
    print(error)
"""
    assert "DISABLE_JIT to stay as it was at the first fast op" in run(CHEAP + code, cache)


def test_where_numba_cannot_be_imported_the_reference_runs_with_a_warning(tmp_path):
    (tmp_path / "numba.py").write_text("raise ImportError('Numba needs NumPy 1.0 or less')")
    code = f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
from minires.ops import fast, reference
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    print(fast.implementation("relu_forward") is reference.relu_forward)
    fast.implementation("relu_backward")
print(len(caught), caught[0].message)
"""
    out = run(code, tmp_path)
    assert out.startswith("True\n1 Numba cannot be imported (Numba needs NumPy 1.0 or less)")


# ---- the files


def test_kernels_come_from_the_disk(cache):
    run(CHEAP + "work()", cache)
    before = times(cache)
    assert before
    run(CHEAP + "work()", cache)
    assert times(cache) == before


def test_a_kernel_is_stale_when_its_source_changes(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "minires", ignore=no_bytecode)
    code = "import numpy as np; from minires.ops import fast; x = np.array([2.0]);"
    code += "print(fast.add_forward(x, x)[0])"
    install = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    assert run(code, tmp_path, **install) == "4.0"
    source = package / "ops" / "fast" / "add.py"
    text = source.read_text()
    assert text.count("a[i] + b[i]") == 1
    source.write_text(text.replace("a[i] + b[i]", "a[i] - b[i]"))
    assert run(code, tmp_path, **install) == "0.0"


def no_bytecode(folder, names):
    return [name for name in names if name == "__pycache__"]


def test_a_kernel_is_stale_when_a_module_that_it_imports_has_changed(monkeypatch, tmp_path):
    from minires.ops.fast import cache

    assert {"winograd", "panels", "simd", "jit"} <= cache.sources("winograd")
    assert "pool" not in cache.sources("winograd")
    before, original = cache.version("winograd"), cache.source
    for name, changes in (("simd", True), ("pool", False)):
        changed = tmp_path / f"{name}.py"
        changed.write_bytes(original(name).read_bytes() + b"#")
        files = {name: changed}
        monkeypatch.setattr(cache, "source", lambda n, files=files: files.get(n, original(n)))
        cache.version.cache_clear()
        assert (cache.version("winograd") != before) == changes
    cache.version.cache_clear()


def triple(x):
    return 3 * x


def square(x):
    return x * x


def disk_cached(function):
    """A dispatcher of `function` with our cache, as for a kernel of the module `relu`."""
    from minires.ops.fast.cache import DiskCache

    function.__module__ = "minires.ops.fast.relu"
    dispatcher = numba.njit(function)
    dispatcher._cache = DiskCache(function, parallel=False)
    return dispatcher


def damage(path, data, other, rng, i):
    """Put something else in the place of a cache file, in one of 2,000 ways."""
    from minires.ops.fast.cache import seal

    kind = ("flip", "flip", "flip", "cut", "random", "longer", "odd")[i % 7]
    if kind == "flip":
        at = rng.integers(len(data))
        flipped = data[at] ^ (1 << rng.integers(8))
        path.write_bytes(data[:at] + bytes([flipped]) + data[at + 1 :])
    elif kind == "cut":
        path.write_bytes(data[: rng.integers(len(data))])
    elif kind == "random":
        path.write_bytes(rng.bytes(rng.integers(len(data))))
    elif kind == "longer":
        path.write_bytes(data + rng.bytes(rng.integers(1, 100)))
    else:
        nonsense = [b"", b"nonsense", pickle.dumps((1, 2)), pickle.dumps(None), data]
        sealed = [seal(path, text) + text for text in nonsense]
        odd = [b"", other, data[32:], 2 * data, *sealed, None, path]
        content = odd[i // 7 % len(odd)]
        if content is None:
            path.mkdir()
        elif content is path:
            path.symlink_to(path)  # which nobody can read
        else:
            path.write_bytes(content)


def test_a_file_keeps_a_kernels_machine_code_and_not_llvms(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kernel = disk_cached(triple)
    assert kernel(5.0) == 15.0
    found = kernel._cache.load_overload(kernel.signatures[0], kernel.targetctx)
    kept = found.library._shared_module
    assert not list(kept.functions)
    assert found.fndesc.llvm_cpython_wrapper_name in {name.name for name in kept.global_variables}
    assert found.entry_point(5.0) == 15.0


def test_2000_damaged_cache_files_are_neither_run_nor_raised(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    first, second = disk_cached(triple), disk_cached(square)
    assert (first(5.0), second(5.0)) == (15.0, 25.0)
    signature, target = first.signatures[0], first.targetctx
    (path,) = tmp_path.rglob("relu.triple-*.kernel")
    (other,) = tmp_path.rglob("relu.square-*.kernel")
    data, other = path.read_bytes(), other.read_bytes()
    assert first._cache.load_overload(signature, target) is not None
    rng = np.random.default_rng(0)
    for i in range(2000):
        damage(path, data, other, rng, i)
        assert first._cache.load_overload(signature, target) is None, i
        path.rmdir() if path.is_dir() else path.unlink()
    path.write_bytes(data)
    again = disk_cached(triple)
    assert again(5.0) == 15.0
    assert again.stats.cache_hits[signature] == 1


def test_a_damaged_cache_is_compiled_again(tmp_path):
    code = CHEAP + "work(); from minires.ops.fast import cache; print(len(cache.loaded))"
    assert run(code, tmp_path) == "0"
    assert run(code, tmp_path) == "1"
    (path,) = kernels(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    assert run(code, tmp_path) == "0"
    assert run(code, tmp_path) == "1"


def test_processes_that_compile_into_one_folder_at_once_do_not_meet(tmp_path):
    processes = [start(CHEAP + "print(work().sum())", tmp_path) for _ in range(4)]
    assert len({output(process) for process in processes}) == 1
    (path,) = kernels(tmp_path)
    assert [p for p in path.parent.iterdir() if p != path] == []  # nothing is left half written
    code = CHEAP + "work(); from minires.ops.fast import cache; print(len(cache.loaded))"
    assert run(code, tmp_path) == "1"


# /proc takes no new folder, not even from root
NO_HOME = {"HOME": "/proc/nowhere", "XDG_CACHE_HOME": ""}
LOST = """
import pathlib
def lost(cls):
    raise RuntimeError("Could not determine home directory.")
pathlib.Path.home = classmethod(lost)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder that refuses even root")
@pytest.mark.parametrize(
    ("folder", "before"),
    [("/proc/nowhere", ""), ("", ""), ("", LOST)],
    ids=["a cache that cannot be made", "a home that is not there", "no home at all"],
)
def test_a_read_only_install_without_a_place_for_kernels_costs_only_time(folder, before, tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "minires", ignore=no_bytecode)
    everything = sorted([package, *package.rglob("*")])
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        install = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        run(before + CHEAP + "work()", folder, **NO_HOME, **install)
        assert sorted([package, *package.rglob("*")]) == everything
    finally:
        for path in everything:
            path.chmod(0o755)


# ---- threads and forks


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_two_python_threads_with_a_thousand_calls_each(cache, layer):
    code = """
import threading
check()
expected = [work(seed) for seed in range(4)]
wrong = []
def caller(first):
    for i in range(1000):
        seed = (first + i) % 4
        if work(seed) != expected[seed]:
            wrong.append(i)
callers = [threading.Thread(target=caller, args=(first,)) for first in range(2)]
for thread in callers:
    thread.start()
for thread in callers:
    thread.join()
import numba
print(len(wrong), numba.threading_layer())
"""
    assert run(HEAVY + code, cache, NUMBA_THREADING_LAYER=layer) == f"0 {layer}"


FORK = """
import os, signal, warnings
warnings.simplefilter("ignore")
def child(expected):
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)  # a child that hangs is ended
        os._exit(0 if work() == expected else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_works_alone(cache):
    code = "expected = work(); print(child(expected), work() == expected)"
    assert run(HEAVY + FORK + code, cache) == "0 True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_forked_while_another_thread_is_inside_a_kernel_works_too(cache):
    code = """
import threading, time
expected = work()
x, w = np.ones((64, 32, 32, 16)), np.ones((3, 3, 16, 16))
stop, calls = threading.Event(), []
def busy():
    while not stop.is_set():
        fast.conv2d_forward(x, w, padding=1)
        calls.append(0)
thread = threading.Thread(target=busy)
thread.start()
while not calls:
    time.sleep(0.01)
codes, before = [], len(calls)
for i in range(10):
    time.sleep(0.001 * i)
    codes.append(child(expected))
stop.set()
thread.join()
print(codes == 10 * [0], len(calls) > before, work() == expected)
"""
    assert run(HEAVY + FORK + code, cache) == "True True True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize(
    "starter", ["minires.get_num_threads", "lambda: minires.set_num_threads(2)", "prange"]
)
def test_a_child_works_whoever_started_the_threads_before_the_fork(starter, cache):
    """Minires itself without running an op, or another program's parallel loop."""
    code = f"""
import minires, numba
prange = numba.get_num_threads  # as the first parallel function of a program does
({starter})()
def work():
    return fast.relu_forward(np.array([-1.0, 2.0]))[0].tolist()
print(child([0.0, 2.0]))
"""
    assert run(CHEAP + FORK + code, cache, NUMBA_NUM_THREADS="2") == "0"


def test_one_thread_gives_the_same_bits(cache):
    code = HEAVY + "import hashlib; print(hashlib.sha256(work()).hexdigest())"
    assert run(code, cache, NUMBA_NUM_THREADS="1") == run(code, cache)


def test_the_environment_is_left_as_it_was(cache):
    code = "import os; before = dict(os.environ); work(); print(dict(os.environ) == before)"
    assert run(HEAVY + code, cache) == "True"


TRAIN = """
import hashlib, sys
import numpy as np, minires as mr
def weights(threads):
    mr.set_num_threads(threads)
    model = mr.models.resnet8(input_shape=(12, 12, 3), rng=0)
    net = mr.fuse(model) if len(sys.argv) > 1 else model
    loss, optimizer = mr.SoftmaxCrossEntropy(), mr.Adam(model.parameters(), 1e-3)
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, labels = rng.standard_normal((16, 12, 12, 3), dtype=np.float32), rng.integers(0, 10, 16)
        mr.train_step(net, loss, optimizer, x, labels)
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.value.tobytes())
    return digest.hexdigest()
most = mr.get_num_threads()
print(*(weights(threads) for threads in (most, 1, most)))
"""


def test_weights_after_50_steps_are_the_same_on_any_number_of_threads_and_in_every_run():
    runs = [run(TRAIN, None, NUMBA_NUM_THREADS=n) for n in ("2", "1")]
    found = " ".join(runs).split()
    assert len(found) == 6
    assert len(set(found)) == 1


def test_set_num_threads_takes_from_one_to_what_there_is():
    most = minires.get_num_threads()
    try:
        minires.set_num_threads(1)
        assert minires.get_num_threads() == numba.get_num_threads() == 1
        with pytest.raises(ValueError, match=rf"at most {numba.config.NUMBA_NUM_THREADS}, .* got"):
            minires.set_num_threads(numba.config.NUMBA_NUM_THREADS + 1)
        for n in (0, -1, 1.0, "2", True, None):
            with pytest.raises(ValueError, match=r"n to be an integer >= 1, got"):
                minires.set_num_threads(n)
        assert minires.get_num_threads() == 1
    finally:
        minires.set_num_threads(most)


# ---- what the user sees


def terminal_output(code, cache):
    """What a fresh Python writes to stderr if that is a terminal."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 500, 0, 0))
    environment = {**os.environ, **HERE, "NUMBA_CACHE_DIR": str(cache)}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen([sys.executable, "-P", "-c", code], env=environment, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # its end, on Linux
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.wait() == 0
    return seen.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="no pty")
def test_a_terminal_is_told_of_each_kernel_once_and_nothing_stays(tmp_path):
    code = CHEAP + "work(); fast.add_forward(work(), work())"
    seen = terminal_output(code, tmp_path)
    where = rf"minires compiles its kernels, once; kept in {tmp_path}/minires"
    found = re.findall(rf"\r{where}: (\S+), (\d) done, \d+ s", seen)
    assert [name.split(".")[0] for name, _ in found] == ["relu", "add"]
    assert [done for _, done in found] == ["0", "1"]
    assert re.fullmatch(r"(\r[^\r]+\r +\r)+", seen)  # each line is wiped by as many blanks
    for shown, blank in re.findall(r"\r([^\r]+)\r( +)\r", seen):
        assert len(shown) == len(blank)
    assert terminal_output(code, tmp_path) == ""  # they come from the disk


def test_a_pipe_hears_nothing_of_compiling(tmp_path):
    process = start(CHEAP + "work()", tmp_path)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (0, "", "")
    assert kernels(tmp_path)


def test_a_notebook_gets_one_line_and_a_broken_stream_stops_nothing(tmp_path):
    code = """
import io, sys
class OutStream(io.StringIO):
    __module__ = "ipykernel.iostream"
class Broken(io.StringIO):
    def isatty(self):
        raise OSError("the terminal has gone")
stderr, sys.stderr = sys.stderr, OutStream()
work()
fast.add_forward(work(), work())
print(sys.stderr.getvalue())
for sys.stderr in (Broken(), None):
    fast.relu_backward(work(), work())
    fast.relu_forward(np.ones(3, "f"))
"""
    assert run(CHEAP + code, tmp_path) == (
        f"minires compiles its kernels, once; kept in {tmp_path}/minires"
    )


# ---- other processors


NARROW = {
    "256": ("haswell", "-avx512f,+avx2,+fma,+avx,+sse4.2,+popcnt"),
    "128": ("generic", "-avx512f,-avx2,-avx,-fma,+sse2"),
}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="features of another CPU")
def test_narrower_registers(cache):
    code = """
import numpy as np
from minires.ops import fast, reference
from minires.ops.fast import simd
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(s).astype("f") for s in ((2, 9, 9, 20), (3, 3, 20, 24)))
y, cache = fast.conv2d_forward(x, w, padding=1)
e, expected = reference.conv2d_forward(x, w, padding=1)
for a, b in zip((y, *fast.conv2d_backward(y, cache)), (e, *reference.conv2d_backward(e, expected))):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * abs(b).max())
print(simd.BITS)
"""

    def registers(bits):
        name, features = NARROW[bits]
        return run(code, cache, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)

    with ThreadPoolExecutor(2) as pool:  # each is a process of its own
        assert list(pool.map(registers, NARROW)) == list(NARROW)


# ---- a thread that is woken on the core of the one it is to help


def test_the_calling_thread_moves_after_two_late_kernels_in_a_row(monkeypatch):
    from minires.ops.fast import jit

    moves = []
    monkeypatch.setattr(jit, "leave_core", lambda: moves.append(1))
    turn = jit.Turn()
    for late in (True, False, True, False, True):
        turn.note(late, 1e-3)
    assert not moves
    turn.note(True, 1e-3)
    assert moves == [1]
    turn.note(True, 1e-3)
    assert moves == [1]


def test_short_kernels_for_which_a_thread_is_late_move_nobody(monkeypatch):
    from minires.ops.fast import jit

    moves = []
    monkeypatch.setattr(jit, "leave_core", lambda: moves.append(1))
    turn = jit.Turn()
    for _ in range(5):
        turn.note(True, 5e-6)
        turn.note(True, 1e-3)
    assert not moves


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone has cores to choose")
def test_moving_leaves_the_thread_free_to_run_everywhere():
    from minires.ops.fast import jit

    before = os.sched_getaffinity(0)
    for _ in range(5):
        here = jit.current_core()
        assert here in before
        jit.leave_core()
        assert os.sched_getaffinity(0) == before
