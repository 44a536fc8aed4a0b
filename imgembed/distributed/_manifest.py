"""The manifest: what decides a dataset of embeddings, so that no other work is mixed in."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from .._differences import differences
from ..base import ImageEmbedder, digest_images

MANIFEST_NAME = "manifest.json"
_KIND = "imgembed dataset 1"
# What the first run and the next must have in common.
_DECISIVE = ("fingerprint", "images", "n_images", "ids", "batch_size", "format")


class DatasetError(RuntimeError):
    """A dataset of embeddings cannot be used; the message says why, and what to do.

    Examples
    --------
    >>> import tempfile
    >>> from imgembed import DatasetError, EmbeddedDataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     try:
    ...         EmbeddedDataset.open(folder)
    ...     except DatasetError:
    ...         print("embed it first")
    embed it first
    """


class DatasetMismatchError(DatasetError):
    """A folder has a dataset of another embedder, of other images, or in other batches."""


@dataclass(frozen=True)
class Manifest:
    """What decides a dataset.

    Parameters
    ----------
    fingerprint : str
        Of the embedder.
    fingerprint_parts : dict of str to object
        To explain the fingerprint.
    images : str
        Digest of the list of images.
    n_images, n_features : int
    ids : str or None
        Digest of the ids; None if they are the rows.
    batch_size : int
        Images of a shard.
    format : {"npy", "parquet"}
    version : str
        Of imgembed. Another one may go on, as the fingerprint decides.
    """

    fingerprint: str
    fingerprint_parts: dict[str, Any]
    images: str
    n_images: int
    n_features: int
    ids: str | None
    batch_size: int
    format: str
    version: str

    @classmethod
    def of(
        cls,
        embedder: ImageEmbedder,
        images: Sequence[object],
        ids: Sequence[str] | Sequence[int] | None,
        batch_size: int,
        format: str,  # noqa: A002
    ) -> Self:
        """The manifest of work that is to be done.

        Parameters
        ----------
        embedder : ImageEmbedder
        images : sequence of n_images images
        ids : sequence of n_images str or int, or None
        batch_size : int
        format : str

        Returns
        -------
        manifest : Manifest
        """
        parts = embedder.fingerprint_parts()
        return cls(
            fingerprint=embedder.fingerprint(),
            fingerprint_parts=json.loads(json.dumps(parts, default=repr)),
            images=digest_images(images),
            n_images=len(images),
            n_features=embedder._n_features_out,
            ids=None if ids is None else hashlib.sha256(json.dumps(ids).encode()).hexdigest(),
            batch_size=batch_size,
            format=format,
            version=sys.modules["imgembed"].__version__,  # whose door may not be imported here
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The manifest of a folder; None if it has none.

        Parameters
        ----------
        folder : Path

        Returns
        -------
        manifest : Manifest or None

        Raises
        ------
        DatasetError
            If it is damaged, or of another program.
        """
        try:
            text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            content = json.loads(text)
            if content.pop("kind") != _KIND:
                raise ValueError(f"it is not of the kind {_KIND!r}")
            manifest = cls(**content)
            manifest._check()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{MANIFEST_NAME!r} in {str(folder)!r} is damaged, or of another program or "
                f"version ({error}); take another folder, or delete this one"
            ) from error
        return manifest

    def to_json(self) -> bytes:
        """The content of the file.

        Returns
        -------
        content : bytes
        """
        return json.dumps({"kind": _KIND, **asdict(self)}, indent=1).encode()

    @property
    def batches(self) -> list[range]:
        """The rows of each shard."""
        rows, size = range(self.n_images), self.batch_size
        return [rows[start : start + size] for start in range(0, self.n_images, size)]

    def check_same(self, before: "Manifest", folder: Path) -> None:
        """Raise unless the same work has been begun before.

        Parameters
        ----------
        before : Manifest
            That of the folder.
        folder : Path

        Raises
        ------
        DatasetMismatchError
            It names what is different.
        """
        changed = [name for name in _DECISIVE if getattr(self, name) != getattr(before, name)]
        if changed:
            listed = "; ".join(self._explain(name, before) for name in changed)
            raise DatasetMismatchError(
                f"{str(folder)!r} holds a dataset that was made otherwise: {listed}. Take another "
                "folder, or delete this one"
            )

    def _explain(self, name: str, before: "Manifest") -> str:
        if name == "fingerprint":
            changed = differences(before.fingerprint_parts, self.fingerprint_parts)
            return f"the embedder is another one ({changed})"
        if name == "images":
            return "the list of images is another one"
        if name == "ids":
            return "the ids are others"
        then, now = getattr(before, name), getattr(self, name)
        return f"{name.replace('n_images', 'the number of images')} was {then!r} and is {now!r}"

    def _check(self) -> None:
        for name in ("n_images", "n_features", "batch_size"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}")
        if self.batch_size == 0:
            raise ValueError("batch_size is 0")
