"""Docstrings are written to be read in the source; here they become reStructuredText.

An indented block after an empty line is a formula, a table or code, shown as it stands. A name in
single backticks is code, and a link where the API has a page for it.
"""

import ast
import re

from docutils import nodes


def setup(app):
    app.config.default_role = "py:obj"
    app.connect("autodoc-process-docstring", prepare, priority=100)  # before numpydoc
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}


def prepare(app, what, name, obj, options, lines):
    """Rewrite the lines of a docstring in place."""
    lines[:] = literal_blocks(lines)


def literal_blocks(lines):
    """Put a directive in front of every block that is indented after an empty line."""
    out, previous, i = [], 0, 0
    while i < len(lines):
        line = lines[i]
        if not line.strip():
            out.append(line)
        elif indent(line) > previous and out and not out[-1].strip():
            block = take_block(lines, i, previous)
            out += [" " * previous + f".. code-block:: {language(block)}", "", *block, ""]
            i += len(block)
            continue
        else:
            previous = indent(line)
            out.append(line)
        i += 1
    return out


def take_block(lines, start, outside):
    """The lines from `start` that are empty or further in than `outside`."""
    end = start
    while end < len(lines) and (not lines[end].strip() or indent(lines[end]) > outside):
        end += 1
    return lines[start:end]


def indent(line):
    return len(line) - len(line.lstrip())


def language(block):
    """What a block is: `python` if it parses and calls or imports something, or `none`."""
    text = "\n".join(line[indent(block[0]) :] for line in block)
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return "none"
    calls = ast.Call | ast.ImportFrom | ast.Import
    return "python" if any(isinstance(node, calls) for node in ast.walk(tree)) else "none"


def resolve(app, env, node, contnode):
    """A name in single backticks: a link if it ends the full name of one object, else code."""
    if node.get("refdomain") != "py":
        return None
    target, objects = node["reftarget"], env.get_domain("py").objects
    short = re.sub(r"^mr\.", "minires.", target)
    found = [name for name in objects if name == short or name.endswith(f".{short}")]
    if len(found) == 1:
        entry = objects[found[0]]
        uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
        return nodes.reference("", "", contnode, internal=True, refuri=f"{uri}#{entry.node_id}")
    return contnode if node["reftype"] == "obj" else None
