"""Embedders as files: what is learned and how it was set, and nothing that could be executed."""

from ._files import load_embedder, save_embedder
from ._packing import EmbedderFileError

__all__ = ["EmbedderFileError", "load_embedder", "save_embedder"]
