"""The helper that compiles kernels ahead: who gets one, and what the two processes say."""

import multiprocessing
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

import minires.fusion
from minires.layers import Conv2d, Dense
from minires.ops import fast, reference
from minires.optimizers import SGD

if not fast.compiles():
    pytest.skip("no kernels are compiled here", allow_module_level=True)

from minires.ops.fast import ahead

FIRST_STEP = """
import sys
import numpy as np
from minires import fuse
from minires.losses import SoftmaxCrossEntropy
from minires.models import build
from minires.optimizers import SGD

model = fuse(build("resnet8", rng=0))
optimizer = SGD(model.parameters(), 0.1)
loss = SoftmaxCrossEntropy()
loss.forward(model.forward(np.ones((16, 32, 32, 3), np.float32), training=True), np.zeros(16, int))
model.backward(loss.backward())
optimizer.step()
cache, progress = (sys.modules["minires.ops.fast." + name] for name in ("cache", "progress"))
print(len(progress.progress.compiled), len(cache.loaded), "conv_norm.both" in cache.loaded)
print(float(sum(np.abs(p.value).sum() for p in model.parameters())))
"""


def first_step(folder, switch):
    """After a first step: kernels compiled, from the disk, a fused one's among these; weights."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(folder), ahead.SWITCH: switch}
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP], env=env, capture_output=True, text=True, check=True
    )
    counts, total = done.stdout.splitlines()
    compiled, loaded, fused = counts.split()
    return int(compiled), int(loaded), fused == "True", total


def test_a_first_step_finds_kernels_that_the_helper_has_compiled(tmp_path):
    if ahead.cores() < 2:
        pytest.skip("a helper needs a second core")
    compiled, loaded, fused, total = first_step(tmp_path, "1")
    assert loaded > 3
    assert fused
    assert (0, compiled + loaded, True, total) == first_step(tmp_path, "0")


@pytest.fixture
def expected(monkeypatch):
    """What is expected, and nothing yet."""
    for what in ("training", "fused"):
        monkeypatch.setitem(fast.expected, what, False)
    return fast.expected


@pytest.mark.parametrize(
    ("layer", "ops", "trains"),
    [
        (Conv2d(2, 3, 1, rng=0), fast, True),
        (Conv2d(2, 3, 1, rng=0), reference, False),
        (Conv2d(2, 3, 1, rng=0, dtype=np.float64), fast, False),
        (Dense(2, 3, rng=0), fast, False),
    ],
)
def test_an_optimiser_of_convolutions_expects_training(layer, ops, trains, expected):
    optimizer = SGD(layer.parameters(), 0.1, ops=ops)
    assert expected == {"training": trains, "fused": False}
    optimizer.step()
    assert expected == {"training": False, "fused": False}


def test_the_helper_ends_with_the_first_step(expected, monkeypatch):
    ended = []
    mine = ahead.Ahead()
    mine.helper = types.SimpleNamespace(stop=lambda: ended.append(1))
    monkeypatch.setattr(ahead, "ahead", mine)
    optimizer = SGD(Conv2d(2, 3, 1, rng=0).parameters(), 0.1, ops=fast)
    optimizer.step()
    optimizer.step()
    assert len(ended) == 1
    assert mine.helper is None


def test_fuse_expects_a_fused_network(expected):
    minires.fusion.fuse(minires.models.build("resnet8", rng=0))
    assert expected == {"training": False, "fused": True}


@pytest.fixture
def started(monkeypatch, expected):
    """How many helpers have been started; none ever is."""
    monkeypatch.setattr(ahead, "welcome", lambda folder: True)
    helpers = []
    monkeypatch.setattr(
        ahead, "Helper", lambda: helpers.append(1) or types.SimpleNamespace(makes=lambda name: True)
    )
    return helpers


def test_a_program_without_an_optimiser_gets_no_helper(started, tmp_path):
    assert not ahead.Ahead().makes(tmp_path / "a.kernel")
    assert not started


def test_a_program_gets_one_helper(started, expected, tmp_path):
    expected["training"] = True
    mine = ahead.Ahead()
    assert mine.makes(tmp_path / "a.kernel")
    assert mine.makes(tmp_path / "b.kernel")
    assert len(started) == 1


def test_a_forked_child_has_no_helper(started, expected, tmp_path):
    expected["training"] = True
    mine = ahead.Ahead()
    assert mine.makes(tmp_path / "a.kernel")
    mine.after_fork()
    assert not mine.makes(tmp_path / "b.kernel")
    assert len(started) == 1


@pytest.mark.parametrize("error", [PermissionError, RuntimeError])
def test_a_program_that_gets_no_helper_goes_on(error, monkeypatch, started, expected, tmp_path):
    def refuse():
        raise error

    expected["training"] = True
    monkeypatch.setattr(ahead, "Helper", refuse)
    assert not ahead.Ahead().makes(tmp_path / "a.kernel")


@pytest.fixture
def welcoming(monkeypatch):
    """A machine with two cores, whatever the tests run on."""
    monkeypatch.setattr(ahead, "cores", lambda: 2)
    monkeypatch.delenv(ahead.SWITCH, raising=False)


def test_a_helper_is_welcome_on_two_cores(welcoming, tmp_path):
    assert ahead.welcome(tmp_path / "not" / "there")


def test_no_helper_on_one_core(welcoming, monkeypatch, tmp_path):
    monkeypatch.setattr(ahead, "cores", lambda: 1)
    assert not ahead.welcome(tmp_path)


def test_no_helper_where_it_is_switched_off(welcoming, monkeypatch, tmp_path):
    monkeypatch.setenv(ahead.SWITCH, "0")
    assert not ahead.welcome(tmp_path)


def test_no_helper_where_nothing_can_be_kept(welcoming, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert not ahead.welcome(tmp_path)


def test_no_helper_in_a_frozen_program(welcoming, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not ahead.welcome(tmp_path)


def test_no_helper_for_a_worker(welcoming, monkeypatch, tmp_path):
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    assert not ahead.welcome(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_is_told():
    child = os.fork()
    if child == 0:
        os._exit(0 if ahead.ahead.tried else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_folder_that_nobody_may_enter_does_not_stop_training(welcoming, expected):
    class Locked(type(Path())):
        def exists(self):
            raise PermissionError

    expected["training"] = True
    assert not ahead.Ahead().makes(Locked("/locked/cache/a.kernel"))


@pytest.fixture
def helper(monkeypatch):
    """A helper that runs other code."""
    helpers = []

    def start(code):
        monkeypatch.setattr(ahead, "CODE", code)
        helpers.append(ahead.Helper())
        return helpers[-1]

    yield start
    for each in helpers:
        each.stop()


def wait_until_begun(helper, name):
    with helper.news:
        assert helper.news.wait_for(lambda: name in helper.begun or helper.over, timeout=60)


def test_what_the_helper_has_begun_is_waited_for(helper):
    slow = helper("import time; print('begun a', flush=True); time.sleep(0.3); print('done a')")
    wait_until_begun(slow, "a")
    assert slow.makes("a")


def test_other_words_of_the_helper_mean_nothing(helper):
    odd = helper("print('hello a'); print('done'); print('begun b', flush=True)")
    wait_until_begun(odd, "b")
    assert not odd.makes("a")


def test_a_helper_that_is_over_leaves_no_open_pipe(helper):
    over = helper("pass")
    with over.news:
        assert over.news.wait_for(lambda: over.over, timeout=60)
    assert over.process.stdout.closed
    assert over.process.stdin.closed
    over.tell("late")


def test_the_helper_looks_in_no_folder_that_moves(helper, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", *sys.path, Path("a")])
    asks = helper("print('done', '' in {path!r}, 'a' in {path!r})")
    with asks.news:
        assert asks.news.wait_for(lambda: asks.over, timeout=60)
    assert asks.done == {"False True"}


def test_nobody_waits_for_a_helper_that_has_died(helper):
    dead = helper("print('begun a', flush=True)")
    wait_until_begun(dead, "a")
    assert not dead.makes("a")
    assert dead.process.returncode == 0


def test_the_helper_is_told_what_this_process_compiles(helper):
    code = "import sys; sys.stdin.readline(); print('done', sys.stdin.readline())"
    echo = helper(code)
    assert not echo.makes("b")
    with echo.news:
        assert echo.news.wait_for(lambda: echo.over, timeout=60)
    assert echo.makes("b")


def test_the_helper_ends_with_the_program():
    code = "from minires.ops.fast.ahead import Helper; print(Helper().process.pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_the_helper_ends_when_the_program_is_killed():
    code = """
import os, signal
from minires.ops.fast.ahead import Helper
print(Helper().process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(600):
        if not alive(pid):
            return
        time.sleep(0.1)
    pytest.fail("the helper is still there after a minute")


def alive(pid):
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
