"""What a user may do to the fast ops without a crash or a wrong number. Each case is a process."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("numba")

STEP = """
import numpy as np
from minires.ops import fast, reference
def work(seed=0):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_normal((2, 7, 6, 5)), rng.standard_normal((3, 3, 5, 4))
    y, cache = fast.conv2d_forward(x, w, padding=1)
    e, expected = reference.conv2d_forward(x, w, padding=1)
    np.testing.assert_allclose(y, e, rtol=1e-12, atol=1e-12)
    return y
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache folder that the tests of this file share: the kernels are compiled once."""
    return tmp_path_factory.mktemp("cache")


def run(code, cache, **environment):
    """What a fresh Python prints."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), **environment}
    result = subprocess.run(
        [sys.executable, "-c", STEP + code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def kernels(cache):
    return sorted(Path(cache).rglob("*.kernel"))


def test_importing_neither_imports_numba_nor_compiles(cache):
    code = "import sys, minires, minires.ops.fast; print('numba' in sys.modules)"
    assert run(code, cache) == "False"


def test_without_jit_the_reference_runs(cache):
    code = "import sys; work(); print(fast.implementation('conv2d_forward') is"
    code += " reference.conv2d_forward, 'numba' in sys.modules)"
    assert run(code, cache, NUMBA_DISABLE_JIT="1") == "True False"


def test_kernels_come_from_the_disk(cache):
    run("work()", cache)
    assert kernels(cache)
    times = [path.stat().st_mtime_ns for path in kernels(cache)]
    run("work()", cache)
    assert [path.stat().st_mtime_ns for path in kernels(cache)] == times


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


def test_a_damaged_cache_is_compiled_again(cache):
    run("work()", cache)
    assert kernels(cache)
    for path, damage in zip(kernels(cache), itertools.cycle(["flip", "cut", "empty", "random"])):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        new = {"flip": data, "cut": data[:100], "empty": b"", "random": os.urandom(999)}[damage]
        path.write_bytes(new)
    run("work()", cache)


@pytest.mark.parametrize(
    ("folder", "home"), [("/proc/nowhere", "/nowhere"), ("", "/nowhere")], ids=["told", "home"]
)
def test_a_cache_that_cannot_be_written_costs_only_time(folder, home):
    run("work()", folder, HOME=home, XDG_CACHE_HOME="")


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_python_threads_take_turns(cache, layer):
    code = """
from concurrent.futures import ThreadPoolExecutor
expected = [work(seed).tobytes() for seed in range(4)]
with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda i: work(i % 4).tobytes(), range(200)))
print(all(bits == expected[i % 4] for i, bits in enumerate(found)))
"""
    assert run(code, cache, NUMBA_THREADING_LAYER=layer) == "True"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_works_alone(cache):
    code = """
import os, warnings
warnings.simplefilter("ignore")
bits = work().tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if work().tobytes() == bits else 1)
_, status = os.waitpid(child, 0)
work()
print(os.waitstatus_to_exitcode(status))
"""
    assert run(code, cache) == "0"


def test_one_thread_gives_the_same_bits(cache):
    code = "import hashlib; print(hashlib.sha256(work().tobytes()).hexdigest())"
    assert run(code, cache, NUMBA_NUM_THREADS="1") == run(code, cache)


def test_the_environment_is_left_as_it_was(cache):
    code = "before = dict(os.environ); work(); print(dict(os.environ) == before)"
    assert run("import os; " + code, cache) == "True"


NARROW = {
    "256 bit": "-avx512f,+avx2,+fma,+avx,+sse4.2,+popcnt",
    "128 bit": "-avx512f,-avx2,-avx,-fma,+sse2",
}


def test_narrower_registers(cache):
    import platform

    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("features of another CPU")
    code = """
rng = np.random.default_rng(0)
x, w = (rng.standard_normal(s).astype("f") for s in ((2, 9, 9, 20), (3, 3, 20, 24)))
y, cache = fast.conv2d_forward(x, w, padding=1)
e, expected = reference.conv2d_forward(x, w, padding=1)
for a, b in zip((y, *fast.conv2d_backward(y, cache)), (e, *reference.conv2d_backward(e, expected))):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * abs(b).max())
from minires.ops.fast import simd
print(simd.BITS)
"""

    def registers(features):
        name = "haswell" if "+avx2" in features else "generic"
        return run(code, cache, NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features)

    with ThreadPoolExecutor(2) as pool:  # each is a process of its own
        assert list(pool.map(registers, NARROW.values())) == ["256", "128"]
