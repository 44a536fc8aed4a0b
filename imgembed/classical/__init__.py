"""Features made by hand: local features, codebooks and what is built on them."""

from ._akaze import AKAZEEmbedder, AKAZEExtractor
from ._bovw import BagOfVisualWords
from ._extractor import LocalFeatureExtractor
from ._features import LocalFeatures
from ._fisher import FisherVector
from ._hog import HOGEmbedder
from ._matching import GeometricMatch, match_features, verify_match
from ._orb import ORBEmbedder, ORBExtractor
from ._sift import SIFTEmbedder, SIFTExtractor
from ._surf import SURFEmbedder, SURFExtractor, surf_available
from ._vlad import VLAD
from ._vocabulary import VisualVocabulary

__all__ = [
    "AKAZEEmbedder",
    "AKAZEExtractor",
    "BagOfVisualWords",
    "FisherVector",
    "GeometricMatch",
    "HOGEmbedder",
    "LocalFeatureExtractor",
    "LocalFeatures",
    "ORBEmbedder",
    "ORBExtractor",
    "SIFTEmbedder",
    "SIFTExtractor",
    "SURFEmbedder",
    "SURFExtractor",
    "VLAD",
    "VisualVocabulary",
    "match_features",
    "surf_available",
    "verify_match",
]
