"""Make the notebooks from their sources and run them: python tutorials/build.py [01 07 ...]

A source is `NN_name.py` in jupytext's percent format, the notebook `NN_name.ipynb` beside it. A
cell whose tag is check-K may fail, since the exercise before it is left to the learner; any other
must not.
Needs pip install -e ".[notebooks]".
"""

import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SECONDS = 600  # for one cell, on the slowest machine


def sources(*numbers):
    """The sources, all or those whose names begin with one of the numbers."""
    return [
        path
        for path in sorted(FOLDER.glob("[0-9][0-9]_*.py"))
        if not numbers or path.name[:2] in numbers
    ]


def notebook_of(source):
    """The notebook of a source, not yet run; equal sources give equal notebooks."""
    text = source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="py:percent")
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i}"
        cell.metadata.pop("lines_to_next_cell", None)
        if any(tag.startswith("check-") for tag in cell.metadata.get("tags", ())):
            cell.metadata["tags"].append("raises-exception")  # so that Run All goes on
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    return notebook


def run(notebook):
    """Run a notebook in place, in the folder of this file."""
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute()


def main(numbers):
    """Write the notebooks of the numbers given, or all."""
    for source in sources(*numbers):
        notebook = notebook_of(source)
        begin = time.perf_counter()
        run(notebook)
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        print(f"{source.stem}: {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
