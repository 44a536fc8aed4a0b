"""One embedder, run on the images of a comparison."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from ..images import ChosenImages
from ._costs import MemoryWatch, Stopwatch
from ._task import Floats, Rows, Task

NAN = float("nan")


@dataclass(frozen=True)
class Run:
    """What running an embedder gave.

    Parameters
    ----------
    per_query : ndarray of shape (n_queries,), dtype float64
        The measure.
    found : dict of str to float
        Of each change, the share of copies whose original is found first.
    n_features, bytes_per_image : int
    fit_rate, transform_rate : float
        Images a second; NaN if there was nothing to fit.
    first_use : float
        Seconds from the embedder to its first vector.
    peak_memory : float
        Bytes.
    """

    per_query: Floats
    found: dict[str, float]
    n_features: int
    bytes_per_image: int
    fit_rate: float
    transform_rate: float
    first_use: float
    peak_memory: float


def run_embedder(
    embedder: Any, task: Task, progress: bool | str, tell: Callable[[str], None]
) -> Run:
    """Fit a copy of an embedder if it needs that, embed all images and copies, and judge.

    Parameters
    ----------
    embedder : transformer
        It is left as it is.
    task : Task
    progress : {"auto", True, False}
    tell : callable
        Is told what goes on.

    Returns
    -------
    run : Run
    """
    with MemoryWatch() as memory:
        tell("fit")
        own, fit_rate = _ready(embedder, task, progress)
        tell("transform")
        with Stopwatch() as first:
            own.transform(ChosenImages(task.images, np.array([0])))
        with Stopwatch() as watch:
            vectors = _dense(own.transform(task.images))
        tell("copies")
        copies = _dense(own.transform(task.copies)) if task.copies else vectors[:0]
    tell("search")
    per_query, found = task.judge(vectors, copies)
    return Run(
        per_query,
        found,
        n_features=vectors.shape[1],
        bytes_per_image=vectors.nbytes // len(vectors),
        fit_rate=fit_rate,
        transform_rate=len(vectors) / watch.seconds,
        first_use=first.seconds,
        peak_memory=memory.rise,
    )


def _ready(embedder: Any, task: Task, progress: bool | str) -> tuple[Any, float]:
    """An embedder of its own that is ready and has loaded nothing yet, and its images a second."""
    if _is_fitted(embedder):
        return _alone(copy.deepcopy(embedder), progress), NAN
    own = _alone(clone(embedder), progress)
    rows = _rows_to_learn_from(own, task)
    labels = None if task.labels is None else np.array(task.labels[rows].tolist())
    with Stopwatch() as watch:
        own.fit(ChosenImages(task.images, rows), labels)
    # As an embedder is after it was pickled: networks leave out what they can load again.
    return copy.deepcopy(own), len(rows) / watch.seconds


def _is_fitted(embedder: Any) -> bool:
    try:
        check_is_fitted(embedder)
    except NotFittedError:
        return False
    return True


def _alone(own: Any, progress: bool | str) -> Any:
    """Without its cache: time would be the cache's."""
    for step in _steps(own):
        names = step.get_params(deep=False)
        for name, value in (("cache", None), ("progress", progress)):
            if name in names:
                step.set_params(**{name: value})
    return own


def _rows_to_learn_from(embedder: Any, task: Task) -> Rows:
    if not any(get_tags(step).target_tags.required for step in _steps(embedder)):
        return task.database
    if task.protocol is None:
        raise ValueError("it learns from labels: give y, and is_query for images to test it with")
    if task.protocol.query_rows is None or np.isin(task.protocol.query_rows, task.database).any():
        raise ValueError(
            "it learns from labels, and would be tested by what it has learned: give is_query, so "
            "that it learns from the other images only, or fit it to other images and give it "
            "fitted"
        )
    return task.labelled


def _steps(embedder: Any) -> Sequence[Any]:
    if isinstance(embedder, Pipeline):
        return [step for _, step in embedder.steps if step not in (None, "passthrough")]
    return [embedder]


def _dense(vectors: Any) -> NDArray[Any]:
    return np.asarray(vectors.toarray() if hasattr(vectors, "toarray") else vectors)
