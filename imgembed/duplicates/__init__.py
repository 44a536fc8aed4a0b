"""Near-duplicates of a collection: which images are the same, and which to keep of them."""

from ._find import find_duplicates
from ._result import DuplicateImage, Duplicates

__all__ = ["DuplicateImage", "Duplicates", "find_duplicates"]
