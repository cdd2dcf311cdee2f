# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds the documentation; nothing is fetched from the network."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS / "_ext")]

# CASA's measures data come from the package casadata, whatever is in the user's own set-up. CASA
# opens its log in the directory where it is imported.
os.environ.setdefault("CASASITECONFIG", str(ROOT / "examples" / "casasiteconfig.py"))
with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
    import ptclean.run

project = "ptclean"
version = release = ptclean.__version__
copyright = "the authors of ptclean"

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "ptclean_reference",
]
exclude_patterns = ["_build", "README.md"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Types are in the docstrings, in words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "ptclean"
html_static_path = ["_static"]
html_css_files = ["ptclean.css"]
html_show_sphinx = False
html_copy_source = False
