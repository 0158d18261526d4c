"""MathJax, shipped with the pages: the files that they need, out of the package that has them."""

import importlib.util
import shutil
from pathlib import Path

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
    return {"parallel_read_safe": True}


def copy(app, error):
    """Copy what is needed into the site."""
    if error is not None or app.builder.format != "html":
        return
    source = Path(importlib.util.find_spec(PACKAGE).origin).parent / "static" / "mathjax"
    for pattern in NEEDED:
        found = list(source.glob(pattern))
        if not found:
            raise FileNotFoundError(f"{PACKAGE} expects {pattern} in {source}, got none")
        for path in found:
            target = Path(app.outdir) / "_static" / "mathjax" / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
