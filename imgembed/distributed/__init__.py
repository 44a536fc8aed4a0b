"""Embedding past one process: data sets written in shards, and batches for Ray Data and Spark."""

from ._dataset import EmbeddedDataset, EmbeddedShard
from ._embed_batch import EmbedBatch
from ._embed_dataset import embed_dataset
from ._manifest import DatasetError, DatasetMismatchError
from ._shards import DatasetWriteError

__all__ = [
    "DatasetError",
    "DatasetMismatchError",
    "DatasetWriteError",
    "EmbedBatch",
    "EmbeddedDataset",
    "EmbeddedShard",
    "embed_dataset",
]
