"""The site: every block of code on it runs, every command exists, every link leads somewhere."""

import ast
import contextlib
import doctest
import importlib
import importlib.util
import io
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import minires
from benchmarks.command import parser as benchmark_parser
from minires.cli import COMMANDS, main, make_parser
from minires.data import FILE_LOADERS, LOADERS
from minires.exercises import expect
from minires.runs import RECIPES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if not path.relative_to(DOCS).parts[0].startswith("_")
}
OUTER = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", "CHANGELOG.md")
    if (ROOT / name).exists()
}

NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]

# what a block may be, besides `python` and `sh`, which are run, and `output`, which is compared
SHOWN = {"text", "toml", "bibtex"}
DIRECTIVES = {"{toctree}", "{figure}", "{include}", "{literalinclude}", "{note}"}

# commands that are parsed and not run: they take long, or need files that are not here
NOT_RUN = {
    "minires demo": "a minute; the gate runs it",
    "minires warmup": "tests/test_cli.py runs it",
    "minires check": "tests/test_cli.py runs it",
    "minires flow --models plain20,resnet20,plain56,resnet56 --steps 100 --out flow": "a minute",
}
WITHOUT_FILES = {"training.md", "results.md"}  # of CIFAR-10; the gate runs them on the digits

# commands of other programs that a page may name, beside those of README and CONTRIBUTING
OTHERS = {
    "pip install -e .",
    "pip install torch",
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install .",
    'pip install ".[notebooks]"',
}


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    text: str
    line: int


def blocks(text):
    """The fenced blocks of a page, in order."""
    found, fence, start = [], None, 0
    lines = text.splitlines()
    for i, line in enumerate(lines):
        opened = re.match(r"\s*(`{3,}|:{3,})\s*(\S*)", line)
        if fence is None and opened:
            fence, start = opened, i
        elif fence is not None and line.strip() == fence[1]:
            body = textwrap.dedent("\n".join(lines[start + 1 : i]) + "\n")
            found.append(Block(fence[2], body, start + 1))
            fence = None
    assert fence is None, f"a block that begins in line {start + 1} has no end"
    return found


def commands(text):
    """The commands of a shell block, as lists of words."""
    text = text.replace("\\\n", " ")
    parts = [part for line in text.splitlines() for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def run_command(words, page):
    """Check a command with the parser that it would meet, and run it if it is quick."""
    line = shlex.join(words)
    if words[0] == "minires":
        make_parser().parse_args(words[1:])
        if line not in NOT_RUN and page not in WITHOUT_FILES:
            words = [name for word in words[1:] for name in spread(word)]
            assert main(words) == 0, line
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        benchmark_parser(importlib.import_module(words[2]), line).parse_args(words[3:])
    elif words[0] == "pytest" and Path(words[-1]).suffix == ".py" and Path(words[-1]).exists():
        subprocess.run([sys.executable, "-m", "pytest", "-q", *words[1:]], check=True)
    else:
        known = [commands(block.text) for text in OUTER.values() for block in blocks(text)]
        assert words in sum(known, [shlex.split(other) for other in OTHERS]), line


def spread(word):
    """What a shell makes of a word with stars."""
    return sorted(map(str, Path().glob(word))) if "*" in word else [word]


def run_python(block, names, page):
    """Execute a block and return what it printed."""
    first = re.match(r"# (\w+\.py)\n", block.text)
    if first:  # a file that the reader writes
        Path(first[1]).write_text(block.text, encoding="utf-8")
    if "import torch" in block.text:
        return run_torch(block)
    code = "\n" * block.line + block.text  # so that a traceback shows the page's line
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, page, "exec"), names)
    return out.getvalue()


def run_torch(block):
    """In a process of its own; where PyTorch is missing, what it saved here is taken."""
    stored = next(Path(__file__).with_name("oracles").glob("from_pytorch.npz"))
    if importlib.util.find_spec("torch") is None:
        shutil.copy(stored, stored.name)
        return ""
    subprocess.run([sys.executable, "-c", block.text], check=True)
    return ""


def assert_printed(got, wanted, where):
    """Compare what was printed with what the page states; `...` stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(wanted, got, flags), f"{where} printed\n{got}"


@pytest.mark.parametrize("page", [p for p in PAGES if not p.startswith("derivations/")])
def test_every_block_of_a_page_does_what_it_says(page, tmp_path, monkeypatch, capsys):
    """Those of derivations/ are run by test_derivations.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names, printed = {"__name__": "page"}, ""
    for block in blocks(PAGES[page]):
        where = f"{page}, line {block.line}"
        if block.kind == "python" and block.text.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block.text, names, page, page, block.line)
            assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0, where
        elif block.kind == "python":
            printed = run_python(block, names, page)
        elif block.kind == "output":
            assert_printed(printed, block.text, where)
        elif block.kind == "sh":
            for words in commands(block.text):
                run_command(words, page)
    for name in [name for name in sys.modules if f"# {name}.py\n" in PAGES[page]]:
        del sys.modules[name]


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_a_kind_that_is_known(page):
    kinds = [block.kind for block in blocks(PAGES[page])]
    assert not re.search(r"^\s*~~~", PAGES[page], re.MULTILINE)  # blocks() would not see it
    assert set(kinds) <= {"python", "sh", "output"} | SHOWN | DIRECTIVES
    before = dict(zip(kinds[1:], kinds, strict=False))
    assert before.get("output", "python") == "python", "an output stands behind what printed it"
    if page.startswith("derivations/"):
        assert "sh" not in kinds


@pytest.mark.parametrize("page", PAGES)
def test_an_indented_block_is_a_formula_and_no_command(page):
    assert not re.search(r"\n\n {4}(minires|python|pip|pytest|git|import|from) ", PAGES[page])


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_a_line_are_commands(page):
    """Those with a NAME to be filled in are not parsed."""
    for line in re.findall(r"`(minires [a-z][^`]*)`", PAGES[page]):
        words = shlex.split(line)
        if len(words) == 2:
            assert words[1] in NAMES
        elif not re.search(r"\b[A-Z]{2,}\b|\.\.\.", line):
            make_parser().parse_args(words[1:])


# ---- links


def headings(text):
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in PAGES), *OUTER])
def test_every_local_link_leads_somewhere(page):
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"```\w*\n.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in headings(file.read_text("utf-8")), f"{page} links to {target}"


@pytest.mark.parametrize("page", [*(f"docs/{page}" for page in PAGES), *OUTER])
def test_every_path_that_a_page_names_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:minires|tests|docs|benchmarks|tutorials)/[\w/.]+)", text):
        assert "NN" in path or (ROOT / path).exists(), f"{page} names {path}"


@pytest.mark.parametrize("name", ["data", "recipe"])
def test_the_page_on_training_names_every_choice(name):
    choices = RECIPES if name == "recipe" else [*LOADERS, *FILE_LOADERS]
    page = PAGES["training.md"]
    table = page[page.index(f"| `--{name}`") :].split("\n\n")[0]
    for choice in choices:
        assert f"`{choice}`" in table


def test_every_page_is_in_a_table_of_contents():
    listed = {"index"}
    for page, text in PAGES.items():
        for block in blocks(text):
            if block.kind == "{toctree}":
                entries = [line.strip() for line in block.text.splitlines()]
                folder = Path(page).parent
                listed |= {(folder / e).as_posix() for e in entries if e and not e.startswith(":")}
    assert {page.removesuffix(".md") for page in PAGES} <= listed


# ---- the API, and the code in docstrings

API = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.rst")}
MODULES = [info.name for info in pkgutil.walk_packages(minires.__path__, "minires.")]
MODULES.remove("minires.__main__")  # runs when it is imported
# no pages of their own: what the command line is made of, and what other modules share
INNER = (
    "minires.before_numpy",
    "minires.cli",
    "minires.checks",
    "minires.compile_helper",
    "minires.copyable",
    "minires.samples",
)


def documented():
    """({full name: the object} of all directives of the API, the modules among them)."""
    things, modules = {}, set()
    for text in API.values():
        current = ""
        for kind, name in re.findall(r"^\.\. ([\w]+):: ([\w.]+)$", text, re.MULTILINE):
            if kind in ("currentmodule", "automodule"):
                current = name
                modules |= {name} if kind == "automodule" else set()
            elif kind.startswith("auto") or kind == "data":
                things[f"{current}.{name}"] = getattr(importlib.import_module(current), name)
    return things, modules


def test_the_api_shows_all_public_names():
    things, _ = documented()
    shown = {id(thing) for thing in things.values()}
    # ops.fast has the names of ops.reference, see test_fast_ops.py
    outer = [name for name in MODULES if not name.startswith((*INNER, "minires.ops.fast"))]
    for module in [minires, *map(importlib.import_module, outer)]:
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            ready_made = module is minires.models and name in minires.models.BUILDERS
            inside = isinstance(thing, types.ModuleType) or name == "BUILDERS"
            if not (id(thing) in shown or ready_made or inside):
                raise AssertionError(f"no page of the API shows {module.__name__}.{name}")


def test_the_api_shows_all_modules():
    things, modules = documented()
    shown = modules | {getattr(thing, "__module__", "") for thing in things.values()}
    shown |= {module.rpartition(".")[0] for module in shown}
    assert [m for m in MODULES if m not in shown and not m.startswith(INNER)] == []


def extension(name):
    """A module of docs/_extensions that needs no Sphinx."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "_extensions" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_in_docstrings():
    """[(where, code)] of the blocks in docstrings that the site shows as Python."""
    text = extension("plain_docstrings")
    found = []
    for path in sorted((ROOT / "minires").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            documented = ast.Module | ast.ClassDef | ast.FunctionDef
            doc = ast.get_docstring(node) if isinstance(node, documented) else None
            lines = text.literal_blocks((doc or "").splitlines())
            for i, line in enumerate(lines):
                if line.strip() == ".. code-block:: python":
                    code = text.take_block(lines, i + 2, text.indent(line))
                    where = path.relative_to(ROOT).as_posix()
                    found.append((where, textwrap.dedent("\n".join(code))))
    return found


IN_A_KERNEL = "minires/ops/fast/simd.py"  # what Numba compiles; tests/test_fast_ops.py runs such


@pytest.mark.parametrize(
    ("where", "code"), [found for found in code_in_docstrings() if found[0] != IN_A_KERNEL]
)
def test_code_in_a_docstring_runs(where, code, tmp_path):
    model = minires.Sequential(
        fc=minires.Dense(3, 3, rng=0, ops=minires.ops.reference),
        sum=minires.Residual(minires.Dense(3, 3, rng=0, ops=minires.ops.reference)),
    )
    x, labels = np.ones((4, 3), np.float32), np.array([0, 1, 2, 0])
    names = vars(importlib.import_module("minires")) | {
        "model": model,
        "x": x,
        "labels": labels,
        "data": (x, labels),
        "loss": minires.SoftmaxCrossEntropy(),
        "optimizer": minires.SGD(model.parameters(), 0.1),
        "path": tmp_path / "checkpoint.npz",
        "plots": minires.plots,
        "MyLayer": minires.ReLU,
    }
    names |= vars(minires.checkpoint) | vars(minires.state)
    if "expect(" in code:
        dy, w = np.ones((4, 2)), np.ones((3, 2))
        dx, dw, db = dy @ w.T, x.T @ dy, dy.sum(axis=0)
        names |= {"dy": dy, "w": w, "dx": dx, "dw": dw, "db": db}
        names |= {"expect": expect, "dense_backward": lambda dy, x, w: (dx, dw, db)}
    exec(compile(code, where, "exec"), names)
    if "def test_my_layer" in code:
        names["x"] = np.array([[1.0, -2.0]])
        names["test_my_layer"]()


def test_docstrings_become_restructuredtext():
    text = extension("plain_docstrings")
    lines = [
        "y = x * w | z, in `ops` and `a * b`.",
        "",
        "Notes",
        "-----",
        "With more,",
        "",
        "    dx = dy * 2.",
        "",
        "behind it, and a *word*.",
    ]
    assert text.plain_text(text.literal_blocks(lines)) == [
        r"y = x \* w \| z, in \ `ops`\  and \ ``a * b``\ .",
        "",
        "Notes",
        "-----",
        "With more,",
        "",
        ".. code-block:: none",
        "",
        "    dx = dy * 2.",
        "",
        "",
        "behind it, and a *word*.",
    ]


def test_the_site_shows_the_notebooks_that_there_are_and_no_other(tmp_path):
    copied = extension("copied_notebooks")
    source, shown = tmp_path / "tutorials", tmp_path / "docs" / "tutorials"
    source.mkdir()
    shown.mkdir(parents=True)
    (source / "01_x.ipynb").write_text("new", encoding="utf-8")
    (shown / "01_x.ipynb").write_text("old", encoding="utf-8")
    (shown / "00_gone.ipynb").write_text("{}", encoding="utf-8")
    copied.copy(source, tmp_path / "docs")
    assert [path.name for path in shown.iterdir()] == ["01_x.ipynb"]
    assert (shown / "01_x.ipynb").read_text("utf-8") == "new"


def test_the_commands_of_contributing_are_those_of_the_gate_or_name_what_exists():
    gate = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for block in blocks(OUTER["CONTRIBUTING.md"]):
        for words in commands(block.text) if block.kind == "sh" else []:
            named = words[0] == "python" and (ROOT / words[1]).exists()
            assert named or words[0] in gate, shlex.join(words)
            for extras in re.findall(r"\[(.*)\]", shlex.join(words)):
                assert set(extras.split(",")) <= {"test", "lint", "docs", "notebooks"}
