"""What two recipes differ in, for the messages that refuse one of them."""

from collections.abc import Callable, Mapping
from typing import Any


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], show: Callable[[Any], str] = repr
) -> str:
    """What was changed, in words.

    Parameters
    ----------
    before, now : mapping of str to object
    show : callable, default=repr
        A value as text.

    Returns
    -------
    differences : str
        Such as "M was 8 and is 16; seed was not there and is 0"; empty if there is none.
    """
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return "; ".join(
        f"{name} was {_shown(name, before, show)} and is {_shown(name, now, show)}"
        for name in names
    )


def _shown(name: str, recipe: Mapping[str, Any], show: Callable[[Any], str]) -> str:
    return show(recipe[name]) if name in recipe else "not there"
