"""Sphinx configuration. Build with ``sphinx-build -W -b html docs docs/_build``; no network is needed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from xsda.version import __version__

project = "xsda"
author = "The xsda developers"
copyright = "the xsda developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"xsda {__version__}"

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

napoleon_google_docstring = False
napoleon_use_param = False  # keeps "sampler, steps" together
napoleon_use_rtype = False
autodoc_typehints = "none"  # signatures would drown in them; the docstrings say what is expected
autodoc_member_order = "bysource"
autodoc_mock_imports = ["matplotlib"]
