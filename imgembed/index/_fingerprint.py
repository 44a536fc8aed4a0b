"""Which embedder filled an index."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._differences import differences
from ..base import FingerprintError


@dataclass(frozen=True)
class FilledBy:
    """An embedder at the time when it filled an index.

    Parameters
    ----------
    fingerprint : str
    parts : dict of str to str
        What goes into the fingerprint, each part as Python shows it.
    """

    fingerprint: str
    parts: dict[str, str]

    @classmethod
    def of(cls, embedder: Any) -> "FilledBy | None":
        """What is to be known of an embedder; None of None."""
        if embedder is None:
            return None
        parts = embedder.fingerprint_parts()
        written = {name: repr(part) for name, part in parts.items()}
        return cls(embedder.fingerprint(), written)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "FilledBy":
        """What :func:`dataclasses.asdict` gave, from a file.

        Raises
        ------
        ValueError, TypeError or KeyError
            If it is another thing.
        """
        fingerprint, parts = fields["fingerprint"], dict(fields["parts"])
        if not all(isinstance(text, str) for text in (fingerprint, *parts, *parts.values())):
            raise ValueError(f"the fingerprint and its parts are {fingerprint!r:.80}, no texts")
        return cls(fingerprint, parts)

    def check(self, embedder: Any) -> None:
        """Raise a FingerprintError that explains the difference if this is another one."""
        other = FilledBy.of(embedder)
        assert other is not None
        if other.fingerprint == self.fingerprint:
            return
        changed = differences(self.parts, other.parts, str)
        raise FingerprintError(
            "the index was filled by another embedder, whose vectors must not be compared with "
            f"these: {changed}. Fingerprints {self.fingerprint[:12]}... of the index, "
            f"{other.fingerprint[:12]}... now. Take the embedder of the index, or fill it again."
        )
