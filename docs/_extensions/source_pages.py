"""Pages with the source of the library, and of what else a page links to.

The API links to the line where a thing is defined, and a page's link to a Python file of the
repository, or its path in backticks, leads to the page of that file.
"""

import importlib
import inspect
import posixpath
from pathlib import Path

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).parents[2]
FOLDERS = ("minires", "tests", "benchmarks", "tutorials")
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def setup(app):
    app.config.linkcode_resolve = link_of
    app.add_node(SourceLink)
    app.add_transform(TakeLinks)
    app.add_post_transform(ResolveLinks)
    app.connect("env-before-read-docs", remember)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False}


def remember(app, env, names):
    """Which files outside of the library a page has linked to, also in an earlier build."""
    env.linked_sources = getattr(env, "linked_sources", set())


def page_of(path):
    """The name of the page of a Python file."""
    return f"source/{path.removesuffix('.py')}"


def pages(app):
    """(name, context, template) of every page."""
    for path, file in PAGES.items():
        if not path.startswith("minires/") and path not in app.env.linked_sources:
            continue
        formatter = HtmlFormatter(cssclass="highlight", lineanchors="line", linenos="inline")
        body = highlight(file.read_text(encoding="utf-8"), PythonLexer(), formatter)
        yield page_of(path), {"title": path, "body": f"<h1>{path}</h1>\n{body}"}, "page.html"


def link_of(domain, info):
    """Where an object of the API is defined; the pages of the API lie in one folder."""
    thing = importlib.import_module(info["module"])
    try:
        for name in info["fullname"].split("."):
            thing = getattr(thing, name)
        thing = inspect.unwrap(thing.fget if isinstance(thing, property) else thing)
        file = Path(inspect.getsourcefile(thing)).relative_to(ROOT).as_posix()
        line = inspect.getsourcelines(thing)[1]
    except (AttributeError, TypeError, ValueError):
        return None  # a constant
    return f"../{page_of(file)}.html#line-{line}"


class SourceLink(nodes.Inline, nodes.TextElement):
    """A link to the page of a file, until the builder says where that is."""


class TakeLinks(SphinxTransform):
    """Marks links to Python files, and their paths in backticks."""

    default_priority = 500

    def apply(self):
        here = posixpath.dirname(f"docs/{self.env.docname}")
        for node in list(self.document.findall(addnodes.download_reference)):
            path = posixpath.normpath(posixpath.join(here, node["reftarget"]))
            if path in PAGES:
                self.link(node, path, node.children)
        for node in list(self.document.findall(nodes.literal)):
            path = node.astext().partition("::")[0]
            if path in PAGES and not inside(node, LEFT_ALONE):
                self.link(node, path, [node.deepcopy()])

    def link(self, node, path, children):
        self.env.linked_sources.add(path)
        node.replace_self(SourceLink("", "", *children, path=path))


# links, and headings, which are copied into the table of contents
LEFT_ALONE = SourceLink | nodes.reference | addnodes.pending_xref | nodes.title


def inside(node, kinds):
    """Whether a node is part of one of a kind."""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


class ResolveLinks(SphinxPostTransform):
    """Turns the marks into links."""

    default_priority = 100

    def run(self, **options):
        for node in list(self.document.findall(SourceLink)):
            uri = self.env._app.builder.get_relative_uri(self.env.docname, page_of(node["path"]))
            children = [child.deepcopy() for child in node.children]
            node.replace_self(nodes.reference("", "", *children, internal=True, refuri=uri))
