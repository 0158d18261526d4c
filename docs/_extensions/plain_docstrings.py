"""Docstrings are written to be read in the source; here they become reStructuredText.

An indented block after an empty line is a formula, a table or code, shown as it stands, and so are
lines that begin with a bar. In the text between, stars and bars mean themselves. What is in single
backticks is code, and perhaps a link (`docstrings`).
"""

import ast
import re


def literal_blocks(lines):
    """Put a directive in front of every block that is indented after an empty line, or a table."""
    out, previous, i = [], 0, 0
    while i < len(lines):
        line = lines[i]
        after_gap = not out or not out[-1].strip()
        outside = previous if indent(line) > previous else indent(line) - 1
        if line.strip() and after_gap and (indent(line) > previous or line.lstrip()[0] == "|"):
            block = take_block(lines, i, outside)
            start = " " * max(outside, 0)
            out += [f"{start}.. code-block:: {language(block)}", ""]
            out += [f"{start}    {text[indent(block[0]) :]}".rstrip() for text in block] + [""]
            i += len(block)
            continue
        previous = indent(line) if line.strip() else previous
        out.append(line)
        i += 1
    return out


def take_block(lines, start, outside):
    """The lines from `start` that are further in than `outside`; of a table those with a bar."""
    table, end = lines[start].lstrip()[0] == "|", start
    while end < len(lines):
        line = lines[end]
        inside = line.lstrip()[:1] == "|" if table else not line.strip() or indent(line) > outside
        if not inside:
            break
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


def plain_text(lines):
    """Escape what would be taken for markup, outside of literal blocks and doctests."""
    out, paragraph, literal = [], [], None
    for line in [*lines, ""]:
        if literal is not None and line.strip() and indent(line) <= literal:
            literal = None
        if literal is None and line.lstrip().startswith(".. code-block::"):
            literal = indent(line)
        if line.strip() and literal is None and not set(line.strip()) <= {"-"}:
            paragraph.append(line)
            continue
        out += escaped("\n".join(paragraph)).split("\n") if paragraph else []
        paragraph = []
        out.append(line)
    return out[:-1]


def escaped(text):
    """One paragraph."""
    if text.lstrip().startswith(">>>"):
        return text
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(code(p) if p[:1] == "`" else without_markup(p) for p in parts)


def code(part):
    """A name stays as it is, to become a link; anything else becomes a literal."""
    inside = " ".join(part[1:-1].split())
    name = re.fullmatch(r"[A-Za-z_][\w.]*", inside)
    return f"\\ `{inside}`\\ " if name else f"\\ ``{inside}``\\ "


def without_markup(text):
    """Stars, but for *single words* and the *args of a parameter list, and bars."""
    text = text.replace("|", r"\|")
    text = re.sub(r"(?<![\w*])\*(\w[\w ]*)\*(?![\w*])", "\0\\1\0", text)
    text = re.sub(r"\*(?!\*?\w+(, \*|$| :))", r"\*", text, flags=re.MULTILINE)
    return text.replace("\0", "*")
