"""Pictures and pages: images and captions in, Axes or HTML out. Nothing is shown or saved."""

from ._grids import TextQuery, html_hits, html_page, image_name, plot_hits
from ._local_features import plot_keypoints, plot_matches, plot_words
from ._map import plot_map
from ._patches import (
    PatchSimilarity,
    patch_contributions,
    patch_similarity,
    plot_patch_similarity,
)
from ._projection import project_2d
from ._projector import export_projector
from ._sheets import html_contact_sheet, plot_contact_sheet

__all__ = [
    "PatchSimilarity",
    "TextQuery",
    "export_projector",
    "html_contact_sheet",
    "html_hits",
    "html_page",
    "image_name",
    "patch_contributions",
    "patch_similarity",
    "plot_contact_sheet",
    "plot_hits",
    "plot_keypoints",
    "plot_map",
    "plot_matches",
    "plot_patch_similarity",
    "plot_words",
    "project_2d",
]
