"""The command line: thin, over the public names, which load when a command uses them."""

from ._main import main

__all__ = ["main"]
