"""While an example of the gallery runs, a warning is an error."""

import warnings
from typing import Any

_before: list[Any] = []


def make_warnings_errors(gallery_conf: dict[str, Any], name: str, when: str) -> None:
    """Raise warnings from here on, or stop it.

    Parameters
    ----------
    gallery_conf : dict
        Settings of sphinx-gallery.
    name : str
        The file of the example.
    when : {"before", "after"}
        Whether the example is about to run or has run.
    """
    if when == "before":
        _before[:] = warnings.filters
        warnings.filterwarnings("error")
    else:
        warnings.filters[:] = _before  # type: ignore[index]
