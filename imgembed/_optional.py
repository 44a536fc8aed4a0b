"""Optional dependencies: imported where they are used, named when they are missing."""

from importlib import import_module
from types import ModuleType


def import_optional(module: str, *, extra: str, needed_by: str) -> ModuleType:
    """Import a module that an extra of imgembed installs.

    Parameters
    ----------
    module : str
        Name of the module, for example ``"matplotlib.pyplot"``.
    extra : str
        The extra that installs it, for example ``"plot"``.
    needed_by : str
        What needs it, as the reader of the error knows it.

    Returns
    -------
    module : module

    Raises
    ------
    ImportError
        If the module is not installed. A module that is installed but fails
        while importing raises its own error.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"{needed_by} needs the package {package!r}, which is not installed. "
            f'Install it with: python -m pip install "imgembed[{extra}]"',
            name=package,
        ) from error
