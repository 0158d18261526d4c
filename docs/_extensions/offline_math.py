"""The site needs no network: MathJax is shipped with the pages, and no page loads anything else."""

import importlib.util
import re
import shutil
from pathlib import Path

from sphinx.errors import ExtensionError

PACKAGE = "sphinx-mathjax-offline"  # MathJax 3.2.2 as files; its own hook would copy 24 MB
# formulas, their fonts, what they load when asked to, and the menu with its English speech
NEEDED = (
    "tex-chtml.js",
    "output/chtml/fonts/woff-v2/*.woff",
    "input/tex/extensions/*.js",
    "a11y/*.js",
    "sre/mathmaps/base.json",
    "sre/mathmaps/en.json",
    "sre/mathmaps/nemeth.json",
    "ui/*.js",
)


def setup(app):
    app.config.mathjax_path = f"mathjax/{NEEDED[0]}"
    app.connect("build-finished", copy)
    app.connect("build-finished", refuse_network)
    return {"parallel_read_safe": True}


def copy(app, error):
    """Copy what is needed into the site."""
    if error is not None or app.builder.format != "html":
        return
    source = Path(importlib.util.find_spec(PACKAGE).origin).parent / "static" / "mathjax"
    for pattern in NEEDED:
        found = list(source.glob(pattern))
        if not found:
            raise ExtensionError(f"{PACKAGE} expects {pattern} in {source}, got none")
        for path in found:
            target = Path(app.outdir) / "_static" / "mathjax" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def refuse_network(app, error):
    """Raise if a page asks the browser for a script, a style or a picture from elsewhere."""
    if error is not None or app.builder.format != "html":
        return
    for page in Path(app.outdir).rglob("*.html"):
        tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text(encoding="utf-8"))
        for tag in tags:
            if re.search(r"""(?:src|href)=["'](?:https?:)?//""", tag):
                raise ExtensionError(f"expected pages that need no network, got {tag} in {page}")
    for sheet in Path(app.outdir).rglob("*.css"):
        for tag in re.findall(r"""(?:@import|url\()[^;)]*""", sheet.read_text(encoding="utf-8")):
            if re.search(r"""(?:https?:)?//""", tag.partition("data:")[0]):
                raise ExtensionError(f"expected styles that need no network, got {tag} in {sheet}")
