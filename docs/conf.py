"""Settings of Sphinx."""

import os
import sys
from pathlib import Path
from typing import Any

from imgembed import __version__

os.environ["HF_HUB_OFFLINE"] = "1"  # the examples need no network, and must not try one
sys.path.insert(0, str(Path(__file__).parent))  # for strict_examples

project = "imgembed"
copyright = "The imgembed developers"  # noqa: A001
release = __version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "myst_parser",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say more
numpydoc_show_class_members = False
myst_heading_anchors = 3

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "subsection_order": [
        "../examples/methods",
        "../examples/learning",
        "../examples/searching",
        "../examples/choosing",
    ],
    "doc_module": ("imgembed",),
    "backreferences_dir": "generated/backreferences",
    "reference_url": {"imgembed": None},
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib", "strict_examples.make_warnings_errors"),
    "reset_modules_order": "both",
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "furo"
html_title = f"imgembed {release}"
html_show_sourcelink = False
html_copy_source = False


def setup(app: Any) -> None:
    """Tell Sphinx what the reference leaves out."""
    app.connect("autodoc-skip-member", _skip_what_others_wrote)


def _skip_what_others_wrote(
    app: Any, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what is inherited from scikit-learn, tuples and str, whose pages have it."""
    written = getattr(member, "fget", None) or getattr(member, "__func__", member)
    module = getattr(written, "__module__", None) or ""
    return None if module.startswith("imgembed") else True
