"""Settings: what decides how vectors are stored and searched."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Settings:
    """What decides how nodes are stored and searched: parameters of the index at fit."""

    metric: str
    algorithm: str
    n_neighbors: int
    M: int
    ef_construction: int
    ef_search: int | None
    target_recall: float
    storage: str
    seed: int

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The settings that a file holds; what parameters may be is checked by the index.

        Raises
        ------
        ValueError or TypeError
            If they are others, or what must be whole is not.
        """
        settings = cls(**fields)
        whole = [settings.n_neighbors, settings.M, settings.ef_construction, settings.seed]
        whole += [] if settings.ef_search is None else [settings.ef_search]
        if any(type(number) is not int for number in whole) or not 0 <= settings.seed < 2**32:
            raise ValueError(f"{whole} are not whole numbers, or not such as a search takes")
        return settings

    @property
    def space(self) -> str:
        """The graph's measure: for unit vectors the inner product is the cosine."""
        return "l2" if self.metric == "euclidean" else "ip"
