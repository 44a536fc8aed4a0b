"""What a report says of the embedder and the index of a search."""

from dataclasses import dataclass
from typing import Any

from ..index import RecallEstimate
from ..search import ImageSearch
from ._gallery import shown_value

Facts = list[tuple[str, str]]


@dataclass(frozen=True)
class Part:
    """A part of a search.

    Parameters
    ----------
    name : str
        Of its class.
    facts : list of (str, str)
        What it has learned or measured.
    parameters : list of (str, str)
        Name and value.
    """

    name: str
    facts: Facts
    parameters: Facts


def embedder_facts(search: ImageSearch) -> Part:
    """What is known of the embedder.

    Parameters
    ----------
    search : ImageSearch

    Returns
    -------
    part : Part
    """
    facts = [
        ("features", str(search.index_.n_features_in_)),
        ("fingerprint", (search.fingerprint_ or "none")[:16]),
    ]
    return Part(type(search.embedder_).__name__, facts, _parameters(search.embedder_))


def index_facts(search: ImageSearch) -> Part:
    """What is known of the index, and of what stands behind it.

    Parameters
    ----------
    search : ImageSearch

    Returns
    -------
    part : Part
    """
    index = search.index_
    facts = [
        ("images", f"{len(index):,}"),
        ("search", "exact" if index.algorithm_ == "exact" else "graph (HNSW)"),
        ("recall", recall_text(index.recall_estimate_)),
        ("recall of storage", recall_text(index.storage_recall_)),
        ("verification", "none" if search.reranker_ is None else type(search.reranker_).__name__),
        ("expansion", "none" if search.expansion is None else repr(search.expansion)),
    ]
    if index.storage == "float32":
        facts = [fact for fact in facts if fact[0] != "recall of storage"]
    return Part(type(index).__name__, facts, _parameters(index))


def recall_text(estimate: RecallEstimate) -> str:
    """The recall of an index in words.

    Parameters
    ----------
    estimate : RecallEstimate

    Returns
    -------
    text : str

    Examples
    --------
    >>> from imgembed import RecallEstimate
    >>> from imgembed.pages._facts import recall_text
    >>> recall_text(RecallEstimate(0.97, 0.95, 0.98, n_neighbors=5, ef=40, n_queries=200))
    '0.970 (95 % interval 0.950 to 0.980) of the 5 nearest, measured with 200 queries at ef=40'
    """
    if not estimate.n_queries:
        return "1, for all vectors are compared"
    text = (
        f"{estimate.recall:.3f} (95 % interval {estimate.low:.3f} to {estimate.high:.3f}) of the "
        f"{estimate.n_neighbors} nearest, measured with {estimate.n_queries} queries"
    )
    return f"{text} at ef={estimate.ef}" if estimate.ef else text


def _parameters(estimator: Any) -> Facts:
    parameters = estimator.get_params(deep=False)
    return [(name, _shown(value)) for name, value in sorted(parameters.items())]


def _shown(value: Any) -> str:
    return shown_value(value if isinstance(value, float) else repr(value))
