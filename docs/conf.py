"""Sphinx reads this file: `sphinx-build -W --keep-going -b html docs site`.

The site is made from what is stored: notebooks are shown with the outputs they hold, nothing is
run, and no page asks for a file from the network. What Sphinx does not do by itself is in
`_extensions`.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_extensions"), str(DOCS.parent)]

import minires  # noqa: E402

project = "minires"
author = "The minires developers"
copyright = author
version = release = minires.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.linkcode",
    "numpydoc",
    "sphinx_copybutton",
    "copied_notebooks",
    "docstrings",
    "offline_math",
    "source_pages",
]
exclude_patterns = ["_*"]
nitpicky = True
smartquotes = False  # "same" is a value
highlight_language = "none"  # a block without a language is text

# ---- pages and notebooks

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_image_options = {"alt": "what the cell above draws"}
copybutton_exclude = ".linenos, .gp, .go"

# ---- the API, from the docstrings

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # `ops=default_ops`, not where the module lies on this machine
autodoc_typehints = "none"  # the docstrings say the shapes
numpydoc_show_class_members = False

# ---- how it looks

html_theme = "furo"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_title = "minires"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_scaled_image_link = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
