"""An embedder as small as a user may write one, and others that each break the contract.

check_embedder has another process import them, which takes long where torch is imported too.
"""

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgembed import ImageEmbedder


class MeanColour(ImageEmbedder):
    """As little as an embedder of a user may be."""

    def __init__(
        self,
        scale: float = 1.0,
        batch_size: int = 2,
        n_jobs: int | None = None,
        on_error: str = "raise",
        progress: bool | str = False,
        max_pixels: int = 10_000_000,
    ) -> None:
        self.scale = scale
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.on_error = on_error
        self.progress = progress
        self.max_pixels = max_pixels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags

    def _load(self) -> None:
        pass

    def _prepare(self, image: NDArray[np.uint8]) -> Any:
        return self.scale * image.mean(axis=(0, 1))

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        return np.stack(prepared).astype(np.float32)

    def _learned_digest(self) -> str:
        return ""

    @property
    def _n_features_out(self) -> int:
        return 3


class DependsOnBatch(MeanColour):
    """Like a network in training mode."""

    def _embed(self, prepared: list[Any]) -> NDArray[np.float32]:
        return super()._embed([one - np.mean(prepared) for one in prepared])


class ForgetsRows(MeanColour):
    """Leaves out what it cannot read, so that rows move."""

    def _embed_images(self, images: Any, on_error: str) -> Any:
        vectors, errors = super()._embed_images(images, "nan")
        return vectors[np.isfinite(vectors[:, 0])], errors


class WorksInDouble(MeanColour):
    def transform(self, X: Any) -> Any:
        return super().transform(X).astype(np.float64)


class Seeds(MeanColour):
    def _load(self) -> None:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002


class BuildsInInit(MeanColour):
    def __init__(self, scale: float = 1.0, batch_size: int = 2, n_jobs: int | None = None,
                 on_error: str = "raise", progress: bool | str = False,
                 max_pixels: int = 10_000_000) -> None:  # fmt: skip
        super().__init__(scale, batch_size, n_jobs, on_error, progress, max_pixels)
        self.network = object()


class PaintsOnImages(MeanColour):
    def transform(self, X: Any) -> Any:
        vectors = super().transform(X)
        for image in X:
            if isinstance(image, np.ndarray) and image.flags.writeable:
                image[0, 0] = 255 - image[0, 0]
        return vectors


class HoldsAllImages(MeanColour):
    def transform(self, X: Any) -> Any:
        return super().transform([X[i] for i in range(len(X))] if hasattr(X, "most_alive") else X)


class RandomFingerprint(MeanColour):
    def _learned_digest(self) -> str:
        return str(np.random.default_rng().random())


class CountsAfterUnpickling(MeanColour):
    def __setstate__(self, state: Any) -> None:
        super().__setstate__({**state, "scale": 2 * state["scale"]})
