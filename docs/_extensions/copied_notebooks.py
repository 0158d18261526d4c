"""Copies tutorials/*.ipynb, which lie outside what Sphinx reads, into docs/tutorials/."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def setup(app):
    app.connect("config-inited", lambda app, config: copy(ROOT / "tutorials", app.srcdir))
    return {"parallel_read_safe": True}


def copy(source, docs):
    """Bring docs/tutorials/ to the state of `source`, and leave alone what is as it should be."""
    target = Path(docs) / "tutorials"
    target.mkdir(exist_ok=True)
    wanted = {path.name: moved(path.read_text("utf-8")) for path in source.glob("[0-9]*.ipynb")}
    for path in target.glob("*.ipynb"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = target / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")


def moved(text):
    """A notebook whose Markdown links lead to the same files from one folder further down."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = [follow(line) for line in lines(cell["source"])]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def lines(source):
    """A cell's text as a list of lines; the format allows both."""
    return source.splitlines(keepends=True) if isinstance(source, str) else source


def follow(line):
    """`](../docs/x.md)` becomes `](../x.md)`, and `](../minires/x.py)` `](../../minires/x.py)`."""
    line = re.sub(r"\]\(\.\./(?!docs/)", "](../../", line)
    return line.replace("](../docs/", "](../")
