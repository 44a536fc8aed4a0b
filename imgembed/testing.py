"""Contracts, for users' own classes too: check_embedder, and check_index."""

import os
import pickle
import random
import re
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils import get_tags

from ._check_index import check_index
from .base import ImageEmbedder
from .cache import EmbeddingCache
from .images import ImageReadError, ImageReadWarning

__all__ = ["check_embedder", "check_index"]

# Largest difference of two vectors that count as the same, by the largest entry.
_TOLERANCE = 1e-5
_BROKEN = b"this is no image"


def check_embedder(embedder: ImageEmbedder, images: Sequence[NDArray[np.uint8]] = ()) -> None:
    """Check that an embedder keeps the contract of imgembed's embedders.

    Among others: construction does nothing, vectors are float32 with row i for ``X[i]``, an
    image gives the same vector alone, in a batch, shuffled, by any route and in another
    process, unreadable images are named, pickles and clones work, and nothing global or
    given is changed.

    Parameters
    ----------
    embedder : ImageEmbedder
        It is cloned, and stays as it is. Its class must be importable from a module. If it
        has a ``random_state``, an int makes it repeatable, which is required.
    images : sequence of ndarray of shape (height, width, 3), dtype uint8, optional
        What to try it on, at least four, and enough for its fit. By default six images of
        random blocks, of different sizes. An embedder whose tags say that it needs y is fitted
        with two classes, which take turns.

    Raises
    ------
    AssertionError
        If the contract is broken. The message says what was seen, a note which check it was.
    ValueError
        If there are fewer than four images.

    Notes
    -----
    An error that the embedder raises by itself passes through, with the note. Tables are
    checked with pandas and polars where they are installed.

    Examples
    --------
    >>> from imgembed import HOGEmbedder
    >>> from imgembed.testing import check_embedder
    >>> check_embedder(HOGEmbedder())
    """
    tried = list(images) or _random_images()
    if len(tried) < 4:
        raise ValueError(f"check_embedder needs at least four images, got {len(tried)}")
    case = _Case(embedder, tried)
    for check in _CHECKS:
        try:
            check(case)
        except Exception as error:
            error.add_note(f"in {check.__name__.lstrip('_')} of {embedder!r}")
            raise


@dataclass(frozen=True)
class _Case:
    """An embedder that is tried, and what it gives when nothing is unusual."""

    embedder: ImageEmbedder
    images: list[NDArray[np.uint8]]

    @property
    def new(self) -> ImageEmbedder:
        new: ImageEmbedder = clone(self.embedder)
        return new

    @property
    def labels(self) -> list[int] | None:
        """What fit takes as y: of embedders that need it, 0 and 1 by turns."""
        needed = get_tags(self.embedder).target_tags.required
        return [row % 2 for row in range(len(self.images))] if needed else None

    @cached_property
    def fitted(self) -> ImageEmbedder:
        return self.new.fit(self.images, self.labels)

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        return self.fitted.transform(self.images)

    def refitted(self, **parameters: Any) -> ImageEmbedder:
        changed: ImageEmbedder = self.new.set_params(**parameters)
        return changed.fit(self.images, self.labels)


def _random_images() -> list[NDArray[np.uint8]]:
    """Blocks of random colours, which have corners and edges for every method."""
    rng = np.random.default_rng(0)
    shapes = [(9, 12), (12, 9), (10, 10), (7, 16), (11, 11), (8, 8)]
    blocks = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    return [np.kron(block, np.ones((12, 12, 1), dtype=np.uint8)) for block in blocks]


def _assert_same(got: Any, wanted: Any, what: str) -> None:
    assert got.shape == wanted.shape, f"{what}: shape {got.shape} instead of {wanted.shape}"
    scale = max(1.0, float(np.abs(wanted).max(initial=0)))
    difference = float(np.abs(got - wanted).max(initial=0))
    assert difference <= _TOLERANCE * scale, f"{what}: vectors differ by {difference:.2g}"


def _assert_raises(kind: type[Exception], call: Callable[[], object], what: str) -> Exception:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{what} must raise {kind.__name__}, and raised nothing")


def _check_construction_does_nothing(case: _Case) -> None:
    new, given = case.new, case.embedder.get_params(deep=False)
    extra = sorted(set(vars(new)) - set(given))
    assert not extra, f"__init__ must only store its parameters; it also made {extra}"
    assert type(new).__name__ in repr(new)
    assert new.set_params(**given) is new, "set_params must return self"
    new.fit(case.images, case.labels)
    after = new.get_params(deep=False)
    changed = [name for name in given if repr(after[name]) != repr(given[name])]
    assert not changed, f"fit changed the parameters {changed}"


def _check_vectors(case: _Case) -> None:
    vectors = case.vectors
    assert isinstance(vectors, np.ndarray), f"transform gave a {type(vectors).__name__}"
    assert vectors.dtype == np.float32, f"vectors have dtype {vectors.dtype}, not float32"
    assert vectors.ndim == 2, f"vectors have shape {vectors.shape}"
    assert len(vectors) == len(case.images), f"{len(vectors)} rows for {len(case.images)} images"
    assert vectors.flags.c_contiguous, "vectors are not C-contiguous"
    assert np.isfinite(vectors).all(), "vectors of readable images are not finite"
    assert np.ptp(vectors, axis=0).any(), "all images have the same vector"
    new = case.new
    labels = case.labels or [0] * len(case.images)
    assert new.fit(case.images, y=labels) is new, "fit must return self"
    again = case.new.fit_transform(case.images, case.labels)
    _assert_same(again, vectors, "fit_transform and transform")


def _check_alone_as_in_a_batch(case: _Case) -> None:
    alone = np.concatenate([case.fitted.transform([image]) for image in case.images])
    _assert_same(alone, case.vectors, "each image alone, and all together")
    order = np.random.default_rng(0).permutation(len(case.images))
    shuffled = case.fitted.transform([case.images[i] for i in order])
    _assert_same(shuffled, case.vectors[order], "another order")
    for parameters in ({"batch_size": 1, "n_jobs": 1}, {"batch_size": 3, "n_jobs": 2}):
        _assert_same(
            case.refitted(**parameters).transform(case.images), case.vectors, f"{parameters}"
        )


def _check_routes(case: _Case) -> None:
    """All ways to give the same pixels give the same vector."""
    images = case.images[:3]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{row} ü.png") for row in range(len(images))]
        for path, image in zip(paths, images, strict=True):
            Image.fromarray(image).save(path)
        encoded = [path.read_bytes() for path in paths]
        routes: dict[str, Any] = {
            "Path": paths,
            "str": [str(path) for path in paths],
            "tuple": tuple(paths),
            "bytes": encoded,
            "PIL image": [Image.fromarray(image) for image in images],
            "RGBA array": [np.dstack([i, np.full(i.shape[:2], 255, np.uint8)]) for i in images],
            "Hugging Face cell with bytes": [{"bytes": b, "path": None} for b in encoded],
            "Hugging Face cell with path": [{"bytes": None, "path": str(p)} for p in paths],
            "array of str": np.array([str(path) for path in paths]),
            "column of str": np.array([[str(path)] for path in paths], dtype=object),
        }
        if pandas := _installed("pandas"):
            shuffled_index = range(len(paths), 0, -1)
            routes["pandas Series"] = pandas.Series(routes["str"], index=shuffled_index)
            routes["pandas DataFrame"] = pandas.DataFrame({"image": encoded})
        if polars := _installed("polars"):
            routes["polars Series"] = polars.Series("image", routes["str"])
            routes["polars DataFrame"] = polars.DataFrame({"image": encoded})
        for name, X in routes.items():
            _assert_same(
                case.fitted.transform(X), case.vectors[:3], f"images as {name}, and as arrays"
            )
    stacked = np.stack([case.images[0], case.images[0][::-1]])
    _assert_same(case.fitted.transform(stacked), case.fitted.transform(list(stacked)), "4-D array")


def _check_unreadable_images(case: _Case) -> None:
    X: list[object] = [*case.images[:2], _BROKEN, *case.images[2:], "no/such/file.jpg"]
    y = case.labels and [*case.labels[:2], 0, *case.labels[2:], 0]
    readable = [row for row in range(len(X)) if row not in (2, len(X) - 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error = _assert_raises(ImageReadError, lambda: case.fitted.transform(X), "a broken image")
    assert getattr(error, "row", None) == 2, f"the error must name row 2: {error}"
    tolerant = case.refitted(on_error="nan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vectors = tolerant.transform(X)
    told = [str(w.message) for w in caught if issubclass(w.category, ImageReadWarning)]
    assert len(told) == 1, f"one ImageReadWarning must list the unreadable rows, got {told}"
    assert "row 2 " in told[0], f"the warning must name row 2: {told[0]}"
    assert "no/such/file.jpg" in told[0], f"the warning must name the path: {told[0]}"
    assert np.isnan(vectors[[2, -1]]).all(), "rows of unreadable images must be NaN"
    _assert_same(vectors[readable], case.vectors, "images beside unreadable ones")
    vectors, errors = case.fitted.transform_with_errors(X)
    assert sorted(errors) == [2, len(X) - 1], f"transform_with_errors named rows {sorted(errors)}"
    _assert_same(vectors[readable], case.vectors, "transform_with_errors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageReadWarning)
        vectors = case.new.set_params(on_error="nan").fit_transform(X, y)
    _assert_same(vectors[readable], case.vectors, "fit_transform with unreadable images")


def _check_wrong_input(case: _Case) -> None:
    image = case.images[0]
    empty = case.fitted.transform([])
    assert empty.shape == (0, case.vectors.shape[1]), f"an empty X gave shape {empty.shape}"
    _assert_raises(ValueError, lambda: case.new.fit([]), "fit to an empty X")
    for what, X in {
        "one path": "image.jpg",
        "one image": image,
        "bytes": b"abc",
        "a generator": (i for i in case.images),
        "None": None,
    }.items():
        _assert_raises(TypeError, lambda X=X: case.fitted.transform(X), f"transform of {what}")  # type: ignore[misc]
    for name, value in {"batch_size": 0, "on_error": "ignore", "progress": "yes"}.items():
        broken = case.new.set_params(**{name: value})
        _assert_raises(
            ValueError,
            lambda e=broken: e.fit(case.images, case.labels),  # type: ignore[misc]
            f"{name}={value!r}",
        )


def _check_before_fit(case: _Case) -> None:
    tags = get_tags(case.new)
    assert not tags.input_tags.two_d_array, "the tags must not promise 2-D arrays as input"
    assert tags.transformer_tags is not None
    if tags.requires_fit:
        _assert_raises(
            NotFittedError, lambda: case.new.transform(case.images), "before fit, transform"
        )
        _assert_raises(NotFittedError, lambda: case.new.fingerprint(), "before fit, fingerprint")
    else:
        _assert_same(case.new.transform(case.images), case.vectors, "transform without fit")


def _check_pickles(case: _Case) -> None:
    again = pickle.loads(pickle.dumps(case.fitted))
    _assert_same(again.transform(case.images), case.vectors, "after pickling")
    assert again.fingerprint() == case.fitted.fingerprint(), "pickling changed the fingerprint"
    unfitted = pickle.loads(pickle.dumps(case.new)).fit(case.images, case.labels)
    _assert_same(unfitted.transform(case.images), case.vectors, "fitted after pickling")


_OTHER_PROCESS = """
import pickle, sys
import numpy as np
with open(sys.argv[1], "rb") as file:
    embedder, images = pickle.load(file)
np.save(sys.argv[2], embedder.transform(images))
"""


def _check_another_process(case: _Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        given, taken = Path(folder, "given.pickle"), Path(folder, "taken.npy")
        given.write_bytes(pickle.dumps((case.fitted, case.images)))
        done = subprocess.run(
            [sys.executable, "-c", _OTHER_PROCESS, str(given), str(taken)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"transform failed in another process: {done.stderr[-2000:]}"
        _assert_same(np.load(taken), case.vectors, "another process")


def _check_names_and_tables(case: _Case) -> None:
    names = list(case.fitted.get_feature_names_out())
    assert len(names) == len(set(names)) == case.vectors.shape[1], "one name for each feature"
    for library in filter(_installed, ("pandas", "polars")):
        table = clone(case.fitted).set_output(transform=library)
        frame = table.fit(case.images, case.labels).transform(case.images)
        assert type(frame).__module__.startswith(library), f"got a {type(frame)}"
        assert list(frame.columns) == names, f"{library}: columns are not the feature names"
        _assert_same(frame.to_numpy(), case.vectors, f"as {library} table")


def _check_fingerprint(case: _Case) -> None:
    fingerprint = case.fitted.fingerprint()
    assert re.fullmatch("[0-9a-f]{64}", fingerprint), f"no SHA-256: {fingerprint!r}"
    again = case.refitted(batch_size=3, n_jobs=2, on_error="nan", progress=False)
    assert again.fingerprint() == fingerprint, (
        "the fingerprint must be repeatable, and not depend on batch_size, n_jobs, on_error or "
        f"progress: {again.fingerprint_parts()} and {case.fitted.fingerprint_parts()}"
    )


def _check_nothing_else_changes(case: _Case) -> None:
    images = [image.copy() for image in case.images]
    with _unusual_random_states():
        before = _globals()
        case.new.fit_transform(case.images, case.labels)
        case.fitted.transform(case.images)
        for name, value in _globals().items():
            assert value == before[name], f"{name} was changed"
    for given, copy in zip(case.images, images, strict=True):
        assert np.array_equal(given, copy), "an image was changed"
    read_only = [image.copy() for image in images]
    for image in read_only:
        image.setflags(write=False)
    _assert_same(case.fitted.transform(read_only), case.vectors, "read-only arrays")


@contextmanager
def _unusual_random_states() -> Iterator[None]:
    """Random states that no embedder will set by chance; the old ones come back."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(271828182)
    np.random.seed(271828182)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _globals() -> dict[str, object]:
    """What belongs to the whole process; of torch and OpenCV only where they are loaded."""
    state: dict[str, object] = {
        "random's state": random.getstate(),
        "numpy.random's state": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "PIL.Image.MAX_IMAGE_PIXELS": Image.MAX_IMAGE_PIXELS,
        "the warning filters": list(warnings.filters),
    }
    if torch := sys.modules.get("torch"):
        state["torch's random state"] = torch.get_rng_state().numpy().tobytes()
        state["torch.get_num_threads()"] = torch.get_num_threads()
        state["torch.is_grad_enabled()"] = torch.is_grad_enabled()
        state["torch.get_default_dtype()"] = torch.get_default_dtype()
    if cv2 := sys.modules.get("cv2"):
        state["cv2.getNumThreads()"] = cv2.getNumThreads()
        state["cv2.useOptimized()"] = cv2.useOptimized()
    return state


class _LazyImages(Sequence[Any]):
    """Images that exist only while someone holds them; it counts how many do."""

    def __init__(self, image: NDArray[np.uint8], n_images: int) -> None:
        self.image, self.n_images = image, n_images
        self.n_alive = self.most_alive = 0

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, row: Any) -> NDArray[np.uint8]:  # type: ignore[override]
        if not 0 <= row < self.n_images:
            raise IndexError(row)
        image = self.image.copy()
        self.n_alive += 1
        self.most_alive = max(self.most_alive, self.n_alive)
        weakref.finalize(image, self._forget)
        return image

    def _forget(self) -> None:
        self.n_alive -= 1


def _check_constant_memory(case: _Case) -> None:
    fitted = case.refitted(batch_size=2, n_jobs=1)
    lazy = _LazyImages(case.images[0], 60)
    vectors = fitted.transform(lazy)
    assert lazy.most_alive <= 20, f"{lazy.most_alive} of 60 images were in memory at once"
    _assert_same(vectors, np.repeat(case.vectors[:1], 60, axis=0), "a lazy sequence")


def _check_pipeline(case: _Case) -> None:
    pipeline = clone(make_pipeline(case.new, Normalizer()))
    _assert_same(
        pipeline.fit(case.images, case.labels).transform(case.images),
        Normalizer().fit_transform(case.vectors),
        "in a pipeline",
    )


def _check_cache(case: _Case) -> None:
    if "cache" not in case.embedder.get_params(deep=False):
        return
    with tempfile.TemporaryDirectory() as folder:
        cache = EmbeddingCache(Path(folder, "cache"))
        cached = case.refitted(cache=cache)
        assert cached.fingerprint() == case.fitted.fingerprint(), "cache is in the fingerprint"
        images = [*case.images, _BROKEN]
        before = cache.info()
        for time in ("filling a cache", "from a cache"):
            vectors, errors = cached.transform_with_errors(images)
            _assert_same(vectors[:-1], case.vectors, time)
            assert list(errors) == [len(case.images)], f"{time}: errors in rows {list(errors)}"
            assert np.isnan(vectors[-1]).all(), f"{time}: an unreadable image has no row of NaN"
        n_found = cache.info().n_hits - before.n_hits
        assert n_found >= len(case.images), f"only {n_found} vectors were found in the cache"


def _installed(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        return None


_CHECKS = (
    _check_construction_does_nothing,
    _check_vectors,
    _check_alone_as_in_a_batch,
    _check_routes,
    _check_unreadable_images,
    _check_wrong_input,
    _check_before_fit,
    _check_pickles,
    _check_names_and_tables,
    _check_fingerprint,
    _check_nothing_else_changes,
    _check_constant_memory,
    _check_pipeline,
    _check_cache,
    _check_another_process,  # the slowest comes last
)
