"""The derivations: every backward has a page that shows its code, and every block on it runs."""

import ast
import inspect
import re
import types
from pathlib import Path

import numpy as np
import pytest

import minires.layers
import minires.losses
from minires.ops import reference

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "derivations"
TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
INCLUDE = r"^```\{literalinclude\} (\S+)\n((?::.*\n)*)```$"


def included(text):
    """[(file, object)] of the code that a page shows."""
    found = re.findall(INCLUDE, text, re.MULTILINE)
    return [((FOLDER / file).resolve(), options_of(lines)["pyobject"]) for file, lines in found]


def options_of(lines):
    return dict(re.findall(r"^:(\w+): (.*)$", lines, re.MULTILINE))


def blocks_of(page):
    return re.findall(r"^```python\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE)


def run_blocks(page):
    """The names that the page's Python blocks leave behind."""
    names = {}
    for block in blocks_of(page):
        exec(compile(block, f"{page}.md", "exec"), names)
    return names


def defined_in(path):
    """Functions, classes and methods of a file, as `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            inside = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
            names.update(f"{node.name}.{name}" for name in inside)
    return names


SHOWN = {(path, name) for text in TEXTS.values() for path, name in included(text)}


@pytest.mark.parametrize("page", TEXTS)
def test_every_python_block_of_a_page_runs_in_order(page):
    assert blocks_of(page)
    assert all("assert" in block for block in blocks_of(page))
    run_blocks(page)


def test_every_page_shows_code():
    assert all(included(text) for text in TEXTS.values())


@pytest.mark.parametrize(("path", "name"), sorted(SHOWN))
def test_the_code_that_a_page_shows_exists(path, name):
    assert path.is_relative_to(ROOT / "minires")
    assert name in defined_in(path)


@pytest.mark.parametrize("page", TEXTS)
def test_a_page_names_and_links_the_code_that_it_shows(page):
    """Where an include is not carried out, as on GitHub, its text alone must say what to read."""
    prose = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    for path, name in included(TEXTS[page]):
        assert f"](../../{path.relative_to(ROOT).as_posix()})" in prose
        assert f"`{name}`" in prose


def test_every_include_is_read():
    """A misspelt option would hide an include from the tests here."""
    for text in TEXTS.values():
        assert text.count("{literalinclude}") == len(included(text))


@pytest.mark.parametrize("name", [name for name in reference.__all__ if "backward" in name])
def test_every_backward_op_is_on_a_page(name):
    path = Path(inspect.getfile(getattr(reference, name)))
    assert (path, name) in SHOWN


def own_backwards():
    """Backward passes of layers and losses that call no op: their maths is their own."""
    layers = [getattr(minires.layers, name) for name in minires.layers.__all__]
    losses = [c for c in vars(minires.losses).values() if inspect.isclass(c)]
    methods = [
        (owner, name)
        for owner in dict.fromkeys(layers + losses)
        for name in ("_backward", "backward")
        if name in vars(owner)
    ]
    return [
        (owner, name)
        for owner, name in methods
        if not re.search(r"ops\.\w+_backward", inspect.getsource(getattr(owner, name)))
    ]


@pytest.mark.parametrize(("owner", "name"), own_backwards())
def test_every_backward_that_calls_no_op_is_on_a_page(owner, name):
    assert (Path(inspect.getfile(owner)), f"{owner.__name__}.{name}") in SHOWN


def test_the_index_lists_every_page():
    pages = [page for page in TEXTS if page != "index"]
    table = re.findall(r"^\| \[.*?\]\((\w+)\.md\)", TEXTS["index"], re.MULTILINE)
    toctree = re.search(r"^```\{toctree\}\n(?::.*\n)*\n((?:\w+\n)*)```$", TEXTS["index"], re.M)
    assert sorted(table) == pages
    assert toctree[1].split() == table


@pytest.mark.parametrize("page", TEXTS)
def test_the_maths_survives_markdown(page):
    r"""GitHub takes the backslash from \, and \{, breaks lines nowhere, and forbids some macros."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    displayed = re.findall(r"^\$\$\n(.*?)^\$\$$", text, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\$\$\n.*?^\$\$$", "", text, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"(?<![^\s(])\$([^$\s](?:[^$]*[^$\s])?)\$(?![\w$])", text)
    assert text.count("$") == 2 * len(inline)
    for maths in displayed + inline:
        assert not re.search(r"\\[^\w\s]|\\operatorname|\\mbox|\\phantom|\*", maths), maths


def test_the_page_on_winograd_has_the_matrices_of_the_kernels():
    """The transforms of the kernels, with numbers for registers, applied to the unit vectors."""
    pytest.importorskip("numba")
    from minires.ops.fast import transforms

    names = run_blocks("winograd")
    plain = {"axpy": lambda a, x, y: a * x + y}
    kernels = {"bt": names["B"].T, "at": names["A"].T, "a": names["A"]}
    kernels |= {"g": names["G"], "gt": names["G"].T}
    for name, matrix in kernels.items():
        code = getattr(transforms, name).py_func.__code__
        applied = types.FunctionType(code, plain)(tuple(np.eye(matrix.shape[1])))
        np.testing.assert_allclose(np.array(applied), matrix, rtol=1e-15, atol=1e-15)
