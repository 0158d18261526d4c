"""Copies tutorials/*.ipynb, which lie outside what Sphinx reads, into docs/tutorials/."""

from pathlib import Path

ROOT = Path(__file__).parents[2]


def setup(app):
    app.connect("config-inited", lambda app, config: copy(ROOT / "tutorials", app.srcdir))
    return {"parallel_read_safe": True}


def copy(source, docs):
    """Bring docs/tutorials/ to the state of `source`, and leave alone what is as it should be."""
    target = Path(docs) / "tutorials"
    target.mkdir(exist_ok=True)
    wanted = {path.name: path.read_text("utf-8") for path in source.glob("[0-9]*.ipynb")}
    for path in target.glob("*.ipynb"):
        if path.name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = target / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, encoding="utf-8")
