"""Sphinx configuration: the API reference by numpydoc, the gallery from ``examples/``; needs no network."""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("MPLBACKEND", "Agg")

import mttab  # noqa: E402

project = "mttab"
author = copyright = "The mttab developers"
version = release = mttab.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
default_role = "py:obj"
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"migration": [], "**": ["page-toc"]},
    "header_links_before_dropdown": 6,
}
html_sidebars = {"index": [], "migration": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "ExampleTitleSortKey",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 5,
    "backreferences_dir": None,
    "doc_module": ("mttab",),
    "write_computation_times": False,
}


LITERAL = re.compile(r"(``.*?``|`.*?`)")
TRAILING = re.compile(r"""(?<![\w*\\.:/])([A-Za-z]\w*)_(?=[\s,;."')\]]|$)""")
BARS = re.compile(r"\|(\S[^|]*)\|")


def as_plain_text(app, what, name, obj, options, lines):
    """Fitted names such as tasks_, and absolute values: reST would take the one for a link, the other for a macro."""
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...", "..", ":", "+", "|")):
            continue
        parts = LITERAL.split(line)
        parts[::2] = [BARS.sub(r"\\|\1\\|", TRAILING.sub(r"\1\\_", part)) for part in parts[::2]]
        lines[i] = "".join(parts)


def setup(app):
    """Look at docstrings once numpydoc has made reST of them."""
    app.connect("autodoc-process-docstring", as_plain_text, priority=900)
