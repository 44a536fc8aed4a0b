"""Settings of Sphinx."""

from imgembed import __version__

project = "imgembed"
copyright = "The imgembed developers"  # noqa: A001
release = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "myst_parser", "numpydoc"]
exclude_patterns = ["_build"]
autosummary_generate = True
numpydoc_show_class_members = False
html_theme = "alabaster"
