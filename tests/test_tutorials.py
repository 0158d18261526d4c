"""The notebooks are their sources, run; exercises refuse what is wrong and take what is right.

`pytest -m notebooks` runs them; the tests without that mark only read them.
"""

import re
import runpy
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")

FOLDER = Path(__file__).parents[1] / "tutorials"
BUILD = runpy.run_path(str(FOLDER / "build.py"), run_name="build")
SOURCES = {path.stem: path for path in BUILD["sources"]()}
WRONG = Path(__file__).parent / "wrong_answers"
UNSOLVED = "not yet. Got None: write", "not yet. Got Ellipsis: write"
each = pytest.mark.parametrize("name", SOURCES)


def read(name):
    return nbformat.read(SOURCES[name].with_suffix(".ipynb"), as_version=4)


def tagged(notebook, kind):
    """{number: cell} of the cells with a tag such as "exercise-2"."""
    found = {}
    for cell in notebook.cells:
        for tag in cell.metadata.get("tags", ()):
            if match := re.fullmatch(rf"{kind}-(\d+)", tag):
                assert match[1] not in found, f"two cells are {tag}"
                found[int(match[1])] = cell
    return found


def solution(cell):
    """The code in a folded solution."""
    match = re.search(r"<details>.*?```python\n(.*?)\n```.*?</details>", cell.source, re.DOTALL)
    return match[1]


def mistakes(name):
    return runpy.run_path(str(WRONG / f"{name}.py"))["WRONG"]


def error_of(cell):
    """What a cell ended with, or None."""
    errors = [output for output in cell.get("outputs", ()) if output.output_type == "error"]
    return errors[0] if errors else None


# ---- by reading


def test_there_are_twelve_and_each_source_has_its_notebook():
    assert [name[:2] for name in SOURCES] == [f"{i:02}" for i in range(1, 13)]
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SOURCES)


@each
def test_notebook_and_source_are_equal(name):
    committed, made = read(name), BUILD["notebook_of"](SOURCES[name])
    assert len(committed.cells) == len(made.cells)
    for old, new in zip(committed.cells, made.cells, strict=True):
        assert (old.cell_type, old.source, old.metadata) == (
            new.cell_type,
            new.source,
            new.metadata,
        )


@each
def test_every_cell_was_run_and_none_warned_or_failed_but_the_checks(name):
    notebook = read(name)
    checks = [cell.id for cell in tagged(notebook, "check").values()]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert not [o for o in cell.outputs if o.get("name") == "stderr"], cell.source
        assert (error_of(cell) is not None) == (cell.id in checks), cell.source


@each
def test_an_unsolved_exercise_is_told_what_is_missing(name):
    for number, cell in tagged(read(name), "check").items():
        error = error_of(cell)
        assert error.ename == "ExerciseError", f"check {number}: {error.ename}: {error.evalue}"
        assert any(words in error.evalue for words in UNSOLVED), error.evalue
        assert error.traceback == [error.evalue]  # no stack trace


@each
def test_two_to_four_exercises_each_with_check_and_solution(name):
    notebook = read(name)
    exercises, checks, solutions = (
        tagged(notebook, kind) for kind in ("exercise", "check", "solution")
    )
    assert list(exercises) == list(checks) == list(solutions) == list(range(1, len(exercises) + 1))
    assert 2 <= len(exercises) <= 4


@each
def test_it_says_what_for_and_what_to_remember_and_asserts_what_it_claims(name):
    notebook = read(name)
    words = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in ("**What you will be able to do.**", "## What to remember", "## Where to read on"):
        assert part in words
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert any(re.search(r"^assert ", source, re.MULTILINE) for source in code)


@each
def test_every_solution_meets_typical_mistakes(name):
    found = tagged(read(name), "solution")
    for number, right, _, _ in mistakes(name):
        assert right in solution(found[number]), f"solution {number} does not hold {right!r}"
    assert {number for number, *_ in mistakes(name)} == set(found)
    assert len(mistakes(name)) >= 10


# ---- by running


def run_code(client, code):
    """Run code in a living kernel; the error it ends with, or None."""
    cell = nbformat.v4.new_code_cell(code, metadata={"tags": ["raises-exception"]})
    client.nb.cells.append(cell)
    client.execute_cell(cell, len(client.nb.cells) - 1)
    return error_of(cell)


@pytest.mark.notebooks
@each
def test_it_runs_and_its_exercises_judge_right(name, tmp_path, monkeypatch):
    client_class = pytest.importorskip("nbclient").NotebookClient
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = BUILD["notebook_of"](SOURCES[name])
    exercises, checks = tagged(notebook, "exercise"), tagged(notebook, "check")
    solutions = {k: solution(cell) for k, cell in tagged(notebook, "solution").items()}
    client = client_class(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    with client.setup_kernel():
        for i, cell in enumerate(list(notebook.cells)):
            client.execute_cell(cell, i)
        for cell in [cell for cell in notebook.cells if cell.cell_type == "code"]:
            assert not [o for o in cell.outputs if o.get("name") == "stderr"], cell.outputs
            if cell in checks.values():
                assert any(words in error_of(cell).evalue for words in UNSOLVED)
        for number in exercises:
            for k, right, wrong, words in mistakes(name):
                if k == number:
                    run_code(client, solutions[k].replace(right, wrong))
                    error = run_code(client, checks[k].source)
                    assert error is not None, f"exercise {k} takes {wrong!r} for {right!r}"
                    assert words in error.evalue, f"{wrong!r} is told {error.evalue!r}"
            assert run_code(client, solutions[number]) is None
            error = run_code(client, checks[number].source)
            assert error is None, f"the solution of exercise {number} is told {error.evalue}"
