"""Sphinx configuration. Build with ``sphinx-build -W -b html docs docs/_build``; no network is needed.

``XSDA_DOCS_ONLINE=1`` adds links into the documentation of numpy, xarray, dask and torch, which needs the network.
"""

import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from xsda.version import __version__

project = "xsda"
author = "The xsda developers"
copyright = "the xsda developers"
release = version = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "results",
]
if os.environ.get("XSDA_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "xarray": ("https://docs.xarray.dev/en/stable", None),
        "dask": ("https://docs.dask.org/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

exclude_patterns = ["_build", "figures"]
html_theme = "furo"
html_title = f"xsda {__version__}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown with the outputs that are stored in them
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

napoleon_google_docstring = False
napoleon_use_param = False  # keeps "sampler, steps" together
napoleon_use_rtype = False
autodoc_typehints = "none"  # signatures would drown in them; the docstrings say what is expected
autosummary_generate = False  # the tables link to entries on the same page
autodoc_member_order = "bysource"
autodoc_mock_imports = ["matplotlib"]

# the notebooks live in examples/, where people open them; the pages are copies
docs = Path(__file__).parent
for notebook in (docs.parent / "examples").glob("*.ipynb"):
    shutil.copy(notebook, docs / "notebooks")


def escape_stars(app, what, name, obj, options, lines):
    """``*space`` in a shape is not the start of emphasised text."""
    for i, line in enumerate(lines):
        parts = line.split("``")
        lines[i] = "``".join(part if k % 2 else part.replace("*space", "\\*space") for k, part in enumerate(parts))


def setup(app):
    app.connect("autodoc-process-docstring", escape_stars)
