"""compare_embedders: which method is right for these images, and how good is it?"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state, check_scalar
from tqdm.auto import tqdm

from .._threads import map_ahead
from .._workers import n_threads_here
from ..base import PROGRESS_DELAY, check_choice
from ..evaluation import Interval, LabelProtocol, bootstrap_interval, permutation_test
from ..evaluation._distances import METRICS
from ..evaluation._ranks import parse_measure
from ..images import ChosenImages, ImageReadError, ImageReadWarning, check_images, read_image
from ._comparison import ComparedEmbedder, Comparison
from ._copies import Change, choose_copies, write_copies
from ._costs import Stopwatch
from ._run import NAN, Run, run_embedder
from ._task import Rows, Task

# Pixels along the shortest edge that suffice to tell whether an image can be read.
_READ_EDGE = 256


def compare_embedders(
    embedders: Mapping[str, Any] | Sequence[Any],
    X: Any,
    y: Any = None,
    *,
    is_query: Any = None,
    measure: str = "mean_average_precision",
    metric: str = "cosine",
    copies: Sequence[str] | Mapping[str, Change] | None = None,
    n_copied: int = 100,
    confidence: float = 0.95,
    random_state: Any = 0,
    progress: bool | str = "auto",
) -> Comparison:
    """Compare embedders on one's own images: quality, speed, memory, and what they fail on.

    With labels quality tells how well images of the same label are found. Without, some images
    are changed (cropped, rotated, ...), and quality tells how well their originals are found.

    Parameters
    ----------
    embedders : dict of str to embedder, or sequence of embedders
        Embedders, or Pipelines that begin with one and end with a transformer. None is changed.
        Without names they have those of their classes.
    X : sequence of n_images images
        Paths, bytes, PIL images, arrays; see :func:`imgembed.read_image`.
    y : sequence of hashable, of length n_images, optional
        What each image shows: a class, an object, the photograph it was copied from. None or NaN:
        a distractor, which answers nothing.
    is_query : array-like of shape (n_images,), dtype bool, optional
        Which images are queries; the others are searched and learned from. By default
        each image is sought among all others.
    measure : str, default="mean_average_precision"
        What quality is; see :func:`imgembed.evaluation.per_query`.
    metric : {"cosine", "euclidean", "ip"}, default="cosine"
        The distance by which images are searched.
    copies : sequence of str or dict of str to callable, optional
        How images are changed: names in :data:`imgembed.comparison.COPIES`, or functions of
        RGB pixels. By default all of :data:`~imgembed.comparison.COPIES`; with labels, an empty
        list leaves the changes out.
    n_copied : int, default=100
        How many images are changed; they are drawn from those that are searched.
    confidence : float, default=0.95
        Of the intervals.
    random_state : int, RandomState instance or None, default=0
        Draws the images that are changed, and the samples of intervals and tests.
    progress : {"auto", True, False}, default="auto"
        Whether to show progress bars, of the comparison and of the embedders.

    Returns
    -------
    comparison : Comparison
        A table, the best first; ``plot()`` draws quality against speed.

    Raises
    ------
    TypeError
        If ``embedders`` is a single embedder, or X is no sequence of images.
    ValueError
        If a parameter is wrong, labels do not fit, no label is answered, fewer than two images
        can be read, or each embedder fails.

    Warns
    -----
    ImageReadWarning
        Once, if images cannot be read. They are left out for all embedders.
    RuntimeWarning
        For each embedder that fails. Its row holds the error; the others go on.

    See Also
    --------
    imgembed.evaluation.evaluate : The same quality, of vectors.
    imgembed.evaluation.make_retrieval_scorer : To search for an embedder's parameters.

    Notes
    -----
    A fitted embedder, and one that needs no fit, is used as it is. Another is cloned and fitted to
    the images that are searched, never to queries that ``is_query`` tells: codebooks come from
    the gallery. By default, where all images are queries, codebooks have seen them, without
    labels. An embedder that learns from labels must not be tested by the labels that it has
    learned: it needs ``is_query``, or fails. One that was fitted elsewhere is trusted.

    Speed is that of this machine, with reading. Caches of embedders are not used. First use
    is the time to one vector by an embedder as it comes from a pickle: weights are loaded,
    programs compiled (an export that is kept on disk is found there), and what it imports counts
    for the first that needs it. Peak memory is by how much the process grows, sampled; what one
    method leaves behind can be used by the next, so that small differences mean nothing.

    Copies are made at 1024 pixels at most, and kept as JPEG of quality 95. Images whose pixels are
    the same count as one original. All intervals and tests take queries as independent.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import HOGEmbedder, compare_embedders
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    >>> comparison = compare_embedders([HOGEmbedder()], images, copies=["blur", "brightness"])
    >>> comparison.best.found
    {'blur': 1.0, 'brightness': 1.0}
    """
    with Stopwatch() as watch, TemporaryDirectory(prefix="imgembed-copies-") as folder:
        named, changes, images = _named(embedders), choose_copies(copies), check_images(X)
        _check_parameters(measure, metric, n_copied, confidence, progress)
        labels, queries = _check_labels(y, is_query, len(images), changes)
        digests, readable = _read_all(images)
        images, digests = ChosenImages(images, readable), digests[readable]
        protocol, database = None, np.arange(len(images))
        if labels is not None:
            labels = labels[readable]
            protocol = _protocol(labels, None if queries is None else queries[readable], measure)
            database = protocol.database_rows
        _check_k(measure, len(database))
        random = check_random_state(random_state)
        chosen = _choose(len(database), n_copied if changes else 0, random)
        task = Task(
            images, labels, protocol, database, tuple(changes),
            list(write_copies(images, database[chosen], changes, Path(folder))),
            _originals(digests[database], chosen), measure, metric,
        )  # fmt: skip
        runs = _run_all(named, task, progress)
        rows = _rows(runs, confidence, int(random.randint(2**31)))
    return Comparison(
        rows,
        measure,
        metric,
        by_labels=protocol is not None,
        n_images=len(images),
        n_searched=len(database),
        n_queries=len(rows[0].per_query),
        n_copied=len(chosen),
        confidence=confidence,
        seconds=watch.seconds,
    )


def _named(embedders: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    if isinstance(embedders, Mapping):
        named = {str(name): embedder for name, embedder in embedders.items()}
    elif isinstance(embedders, Sequence) and not isinstance(embedders, str):
        kinds = [type(embedder).__name__ for embedder in embedders]
        named = {
            kind if kinds.count(kind) == 1 else f"{kind}-{kinds[: i + 1].count(kind)}": embedder
            for i, (kind, embedder) in enumerate(zip(kinds, embedders, strict=True))
        }
    else:
        raise TypeError(
            "embedders must be a dict of names and embedders, or a list of embedders; got one "
            f"{type(embedders).__name__}"
        )
    for name, embedder in named.items():
        if not hasattr(embedder, "transform"):
            raise TypeError(f"{name!r} does not transform images: {embedder!r} is no embedder")
    if not named:
        raise ValueError("embedders is empty; give at least one embedder")
    return named


def _check_parameters(
    measure: str, metric: str, n_copied: int, confidence: float, progress: bool | str
) -> None:
    parse_measure(measure)
    check_choice("metric", metric, METRICS)
    check_choice("progress", progress, ("auto", True, False))
    check_scalar(n_copied, "n_copied", int, min_val=1)
    check_scalar(
        confidence, "confidence", float, min_val=0, max_val=1, include_boundaries="neither"
    )


def _check_labels(
    y: Any, is_query: Any, n_images: int, changes: Mapping[str, Change]
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Labels and which are queries, one for each image, before the long work begins."""
    if y is None:
        if is_query is not None:
            raise ValueError("is_query tells whose labels are sought: give y as well")
        if not changes:
            raise ValueError("there is nothing to compare by: give y, or leave copies as it is")
        return None, None
    listed = y.tolist() if isinstance(y, np.ndarray) else list(y)
    if len(listed) != n_images:
        raise ValueError(f"y must be a label for each of {n_images} images; got {len(listed)}")
    labels = np.empty(n_images, object)
    labels[:] = listed
    if is_query is None:
        return labels, None
    queries = np.asarray(is_query)
    if queries.shape != (n_images,) or not np.isin(queries, (0, 1)).all():
        raise ValueError(
            f"is_query must be True or False for each of {n_images} images; got an array of shape "
            f"{queries.shape} and dtype {queries.dtype}"
        )
    return labels, queries.astype(bool)


def _read_all(images: Sequence[object]) -> tuple[NDArray[np.str_], Rows]:
    """A digest of the pixels of each image, and the rows of those that can be read."""

    def digest(row: int) -> str | ImageReadError:
        try:
            pixels = read_image(images[row], shortest_edge=_READ_EDGE)
        except ImageReadError as error:
            return error.with_row(row)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()

    n_threads = n_threads_here(-1)
    found = list(map_ahead(digest, range(len(images)), n_threads, 4 * n_threads))
    errors = [one for one in found if isinstance(one, ImageReadError)]
    readable = [row for row, one in enumerate(found) if isinstance(one, str)]
    if len(readable) < 2:
        first = f"; the first that cannot: {errors[0]}" if errors else ""
        raise ValueError(
            f"{len(readable)} of {len(images)} images can be read, and two at least are needed to "
            f"search among{first}"
        )
    _warn_of_unreadable(errors, len(images))
    return np.array(list(map(str, found))), np.array(readable, np.int64)


def _warn_of_unreadable(errors: Sequence[ImageReadError], n_images: int) -> None:
    if errors:
        listed = "; ".join(f"row {e.row} ({e.source}): {e.reason}" for e in errors)
        warnings.warn(
            f"{len(errors)} of {n_images} images cannot be read and are left out: {listed}",
            ImageReadWarning,
            stacklevel=4,
        )


def _protocol(labels: NDArray[Any], is_query: NDArray[Any] | None, measure: str) -> LabelProtocol:
    protocol = LabelProtocol(labels, is_query, measures=[measure])
    each = (protocol.answers(slice(query, query + 1)) for query in range(protocol.n_queries))
    if not any((relevant & ~ignored).any() for relevant, ignored in each):
        raise ValueError(
            "no query has another image with its label to be found; without such labels leave out "
            "y, and embedders are compared by changed copies"
        )
    return protocol


def _check_k(measure: str, n_searched: int) -> None:
    _, k = parse_measure(measure)
    if k is not None and not 1 <= k <= n_searched:
        raise ValueError(
            f"k must be from 1 to the number of images that are searched, {n_searched}; got "
            f"{measure!r}"
        )


def _choose(n_searched: int, n_copied: int, random: np.random.RandomState) -> Rows:
    return np.sort(random.permutation(n_searched)[:n_copied])


def _originals(digests: NDArray[np.str_], chosen: Rows) -> list[Rows]:
    """Of each chosen image itself, and all that have its pixels."""
    return [np.flatnonzero(digests == digests[place]) for place in chosen]


def _run_all(
    named: Mapping[str, Any], task: Task, progress: bool | str
) -> dict[str, Run | Exception]:
    runs: dict[str, Run | Exception] = {}
    automatic = progress == "auto"
    with tqdm(
        total=len(named),
        unit="method",
        delay=PROGRESS_DELAY if automatic else 0,
        disable=None if automatic else not progress,
    ) as bar:
        for name, embedder in named.items():
            tell = partial(_tell, bar, name)
            try:
                runs[name] = run_embedder(embedder, task, progress, tell)
            except Exception as error:  # the others' results must not be lost
                runs[name] = error
                warnings.warn(
                    f"{name} failed and is not compared: {_explain(error)}",
                    RuntimeWarning,
                    stacklevel=3,
                )
            bar.update()
    return runs


def _tell(bar: Any, name: str, doing: str) -> None:
    bar.set_description(f"{name}: {doing}")


def _explain(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _rows(
    runs: Mapping[str, Run | Exception], confidence: float, seed: int
) -> tuple[ComparedEmbedder, ...]:
    """The best first, those that failed last."""
    done = {name: run for name, run in runs.items() if isinstance(run, Run)}
    failed = {name: run for name, run in runs.items() if isinstance(run, Exception)}
    if not done:
        listed = "; ".join(f"{name}: {_explain(error)}" for name, error in failed.items())
        raise ValueError(f"each embedder failed: {listed}") from next(iter(failed.values()))
    ordered = sorted(done, key=lambda name: -float(np.nanmean(done[name].per_query)))
    best = done[ordered[0]]
    rows = [_row(name, done[name], best, confidence, seed) for name in ordered]
    return (*rows, *(_failed_row(name, error) for name, error in failed.items()))


def _row(name: str, run: Run, best: Run, confidence: float, seed: int) -> ComparedEmbedder:
    values = run.per_query
    p_value = NAN
    if run is not best:
        p_value = permutation_test(best.per_query, values, random_state=seed).p_value
    return ComparedEmbedder(
        name,
        float(np.nanmean(values)),
        bootstrap_interval(values, confidence=confidence, random_state=seed),
        p_value,
        run.fit_rate,
        run.transform_rate,
        run.n_features,
        run.bytes_per_image,
        run.peak_memory,
        run.first_use,
        run.found,
        per_query=values,
    )


def _failed_row(name: str, error: Exception) -> ComparedEmbedder:
    nothing = Interval(NAN, NAN)
    return ComparedEmbedder(name, NAN, nothing, NAN, NAN, NAN, 0, 0, NAN, NAN, {}, _explain(error))
