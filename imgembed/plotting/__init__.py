"""Pictures and pages: images and captions in, Axes or HTML out. Nothing is shown or saved."""

from ._grids import TextQuery, html_hits, html_page, image_name, plot_hits
from ._local_features import plot_keypoints, plot_matches, plot_words

__all__ = [
    "TextQuery",
    "html_hits",
    "html_page",
    "image_name",
    "plot_hits",
    "plot_keypoints",
    "plot_matches",
    "plot_words",
]
