"""Settings of the documentation site. CONTRIBUTING.md has the command that builds it, docs/decisions/site.md why it is Sphinx."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from generate import formulas, llms, pages

project = "nnseg"
author = "the nnseg authors"
copyright = author
release = importlib.metadata.version("nnseg")

extensions = ["myst_parser"]
smartquotes = False  # quotes in messages and patterns stay as they are typed
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # so that links such as page.md#heading are checked

html_theme = "furo"
html_title = f"nnseg {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"


def setup(app: object) -> None:
    """Have Sphinx call our functions."""
    pages.connect(app)
    formulas.connect(app)
    llms.connect(app)
