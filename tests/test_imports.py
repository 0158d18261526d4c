"""The floors of the house: a module imports from its own floor or from below."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minires

PACKAGE = Path(minires.__file__).parent
FLOORS = [
    {"before_numpy", "checks"},
    {"ops", "data"},
    {"copyable", "core", "initializers", "threads"},
    {"layers"},
    {"losses", "models"},
    {"finite", "fusion", "gradcheck", "optimizers", "schedules", "history", "samples"}
    | {"checkpoint", "state"},
    {"compile_helper", "flow", "training"},
    {"testing", "plots", "keras", "experiments", "runs", "exercises"},
    {"cli", "__main__"},
]
FLOOR_OF = {name: i for i, floor in enumerate(FLOORS) for name in floor}


def modules():
    """[(floor's name, path, imported module names)] of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part != "__init__":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield part, path, [name for node in ast.walk(tree) for name in imported(node)]


def imported(node):
    """Full names of the modules that an import statement may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def test_every_module_has_a_floor():
    assert {part for part, _, _ in modules()} == set(FLOOR_OF)


def test_imports_point_down():
    for part, path, names in modules():
        for name in names:
            pieces = name.split(".")
            if pieces[0] == "minires" and len(pieces) > 1 and pieces[1] in FLOOR_OF:
                assert FLOOR_OF[pieces[1]] <= FLOOR_OF[part], f"{path} imports {name} from above"


def test_inside_the_package_nothing_is_imported_from_the_root_but_modules_and_the_version():
    for _, path, _ in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "minires":
                names = {alias.name for alias in node.names}
                assert names <= set(FLOOR_OF) | {"__version__"}, f"{path} imports {names}"


def test_only_plots_imports_matplotlib():
    found = {
        part
        for part, _, names in modules()
        if any(name.split(".")[0] == "matplotlib" for name in names)
    }
    assert found == {"plots"}


def test_ops_and_data_know_numpy_and_no_parameter():
    for part, path, names in modules():
        if part in ("ops", "data"):
            roots = {name.split(".")[0] for name in names} - sys.stdlib_module_names
            numba = {"numba", "llvmlite", "threadpoolctl"} if path.parent.name == "fast" else set()
            files = {"PIL", "pooch", "requests", "tqdm"} if part == "data" else set()
            assert roots <= {"minires", "numpy"} | numba | files, path


def test_importing_minires_loads_neither_matplotlib_nor_numba_nor_hypothesis():
    code = "import minires, sys; print(*sys.modules)"
    run = [sys.executable, "-c", code]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "numba", "hypothesis"} & set(loaded)


def test_every_public_name_is_there():
    for name in minires.__all__:
        assert getattr(minires, name) is not None


BESIDE_A_THREAD = """
import _thread, time
import numpy
started = []
def wait():
    started.append(True)
    time.sleep(5)
_thread.start_new_thread(wait, ())
while not started: time.sleep(.01)
import minires
"""  # which might be in a product, and which `threading` does not know
TIMEOUT = """
import ctypes, os, threadpoolctl
libraries = threadpoolctl.ThreadpoolController().lib_controllers
blas = ctypes.CDLL([lib.filepath for lib in libraries if lib.user_api == "blas"][0])
timeout = getattr(blas, "openblas_thread_timeout", lambda: "no OpenBLAS")
print(timeout(), os.environ.get("OPENBLAS_THREAD_TIMEOUT"))
"""


@pytest.mark.parametrize(
    ("first", "given", "expected"),
    [
        ("import minires", None, "18 None"),
        ("import minires.layers", None, "18 None"),
        ("import minires", "22", "22 22"),
        ("import numpy, minires", None, "18 None"),
        ("import numpy, minires", "22", "22 22"),
        (BESIDE_A_THREAD, None, "0 None"),
    ],
)
def test_threads_of_blas_soon_sleep_unless_somebody_says_otherwise(
    first, given, expected, monkeypatch
):
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    if given:
        monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", given)
    run = [sys.executable, "-c", f"{first}\n{TIMEOUT}"]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    if "no OpenBLAS" in found:
        pytest.skip("NumPy's BLAS is no OpenBLAS that says how long its threads stay awake")
    assert found == expected


PRODUCTS = """
import os, threadpoolctl
import numpy as np
def tasks():
    return len(os.listdir("/proc/self/task"))
def has_threads_of_its_own(library):
    return getattr(library, "threading_layer", None) == "pthreads"
library = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers[0]
library.set_num_threads(2)
a = np.random.default_rng(0).standard_normal((600, 600))
y, before = a @ a, tasks()
import minires
print(tasks() == 1 or not has_threads_of_its_own(library))
print((a @ a == y).all(), tasks() == before, library.get_num_threads() == 2)
"""
ENVIRONMENT = """
import os
before = dict(os.environ)
import numpy, minires
print(before == dict(os.environ))
"""
BROKEN = """
import sys
sys.modules["threadpoolctl"] = None
import numpy, minires
print(True)
"""


@pytest.mark.parametrize("code", [PRODUCTS, ENVIRONMENT, BROKEN])
def test_blas_is_as_before_where_numpy_came_first(code, monkeypatch):
    for name in ("OPENBLAS_THREAD_TIMEOUT", "KMP_DUPLICATE_LIB_OK"):
        monkeypatch.delenv(name, raising=False)
    if not Path("/proc/self/task").exists():
        pytest.skip("only Linux lists the threads of a process there")
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert set(found) == {"True"}
