"""The site: every block of code on it runs, every command exists, every link leads somewhere."""

import contextlib
import doctest
import importlib
import importlib.util
import io
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.command import parser as benchmark_parser
from minires.cli import COMMANDS, main, make_parser

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


def test_every_page_is_in_a_table_of_contents():
    listed = {"index"}
    for page, text in PAGES.items():
        for block in blocks(text):
            if block.kind == "{toctree}":
                entries = [line.strip() for line in block.text.splitlines()]
                folder = Path(page).parent
                listed |= {(folder / e).as_posix() for e in entries if e and not e.startswith(":")}
    assert {page.removesuffix(".md") for page in PAGES} <= listed
