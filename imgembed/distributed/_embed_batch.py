"""EmbedBatch: a batch of a table in, the batch with a column of vectors out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._on_workers import EmbedTask
from .._workers import PackedTask, kept_to, resident
from ..base import ImageEmbedder
from ..images import check_images


class EmbedBatch:
    """A function of a batch, for engines that go through tables: Ray Data, Spark and the like.

    It may be pickled, and loads its embedder once in each process, whatever the number of batches.

    Parameters
    ----------
    embedder : ImageEmbedder
        Fitted, if it learns from images. It is loaded here first, so that a process where the
        weights are others says so. Its ``n_jobs`` counts for each process if it is a number above
        0, and is one thread otherwise, as the engine runs a process for each processor.
    column : str, default="image"
        The column with the images: paths, bytes, arrays.
    out : str, default="embedding"
        The column for the vectors.

    See Also
    --------
    embed_dataset : The same work in shards, on a Dask cluster or in one process.

    Examples
    --------
    >>> import numpy as np
    >>> from imgembed import EmbedBatch, HOGEmbedder
    >>> embed = EmbedBatch(HOGEmbedder())
    >>> batch = embed({"image": np.zeros((2, 60, 80, 3), np.uint8), "price": np.array([3, 4])})
    >>> batch["price"], batch["embedding"].shape
    (array([3, 4]), (2, 1764))

    ``dataset.map_batches(embed)`` in Ray Data; the guide has Spark.
    """

    def __init__(
        self, embedder: ImageEmbedder, column: str = "image", out: str = "embedding"
    ) -> None:
        embedder.fingerprint()
        self.column, self.out = column, out
        self._name = repr(embedder)
        self._task = PackedTask.of(EmbedTask(embedder, max(1, embedder.n_jobs or 1)))

    def __call__(self, batch: Any) -> Any:
        """Embed the images of a batch.

        Parameters
        ----------
        batch : dict of str to ndarray, pandas.DataFrame or pyarrow.Table

        Returns
        -------
        batch : dict, pandas.DataFrame or pyarrow.Table
            A new one, with the column of vectors: float32 of shape (n_rows, n_features); in a
            DataFrame an array in each row, in a Table lists of fixed size.

        Raises
        ------
        ImageReadError
            If an image cannot be read and the embedder has ``on_error="raise"``; its row is that
            in the batch.
        """
        if hasattr(batch, "append_column"):  # a pyarrow Table
            vectors = self._embed(batch.column(self.column).to_pylist())
            return batch.append_column(self.out, _arrow_lists(vectors))
        vectors = self._embed(batch[self.column])
        if hasattr(batch, "assign"):  # a pandas DataFrame
            return batch.assign(**{self.out: list(vectors)})
        return {**batch, self.out: vectors}

    def __repr__(self) -> str:
        return f"EmbedBatch({self._name}, column={self.column!r}, out={self.out!r})"

    def _embed(self, images: Sequence[object]) -> NDArray[np.float32]:
        with kept_to(self._task.n_threads):
            task: Any = resident(self._task.token, [self._task.content])
            vectors: NDArray[np.float32] = task.embedder.transform(check_images(images))
            return vectors


def _arrow_lists(vectors: NDArray[np.float32]) -> Any:
    import pyarrow

    values = pyarrow.array(vectors.reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(values, vectors.shape[1])
