"""Methods compared on the user's own images: images and embedders in, a table out."""

from ._compare import compare_embedders
from ._comparison import ComparedEmbedder, Comparison
from ._copies import COPIES

__all__ = ["COPIES", "ComparedEmbedder", "Comparison", "compare_embedders"]
