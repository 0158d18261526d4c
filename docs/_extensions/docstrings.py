"""Docstrings become pages: their text by `plain_docstrings`, and names in backticks links."""

import re

from docutils import nodes
from plain_docstrings import literal_blocks, plain_text


def setup(app):
    app.config.default_role = "py:obj"
    app.connect("autodoc-process-docstring", prepare, priority=100)  # before numpydoc
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}


def prepare(app, what, name, obj, options, lines):
    """Rewrite the lines of a docstring in place."""
    lines[:] = plain_text(literal_blocks(lines))


LINKED = ("class", "exception", "function")  # `report` is a word more often than a method


def resolve(app, env, node, contnode):
    """A name in single backticks: a link if it ends the full name of one object, else code."""
    if node.get("refdomain") != "py":
        return None
    target, objects = node["reftarget"], env.get_domain("py").objects
    short = re.sub(r"^mr\.", "minires.", target)
    found = [
        entry
        for name, entry in objects.items()
        if f".{name}".endswith(f".{short}") and ("." in short or entry.objtype in LINKED)
    ]
    if len(found) == 1:
        (entry,) = found
        uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
        return nodes.reference("", "", contnode, internal=True, refuri=f"{uri}#{entry.node_id}")
    return contnode if node["reftype"] == "obj" else None
