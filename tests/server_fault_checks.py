"""What must hold of an index, whichever server holds it, when the server fails or refuses."""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from imgembed import FingerprintError, HOGEmbedder, ServerUnavailableError
from imgembed.servers._server_index import ServerIndex

Vectors = NDArray[np.float32]


@contextmanager
def raises_and_hides(
    secret: str, error: type[BaseException], match: str | None = None
) -> Iterator[None]:
    """As pytest.raises; and neither the error nor anything that led to it tells the secret."""
    with pytest.raises(error, match=match) as caught:
        yield
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert secret not in repr(caught.value)


def check_that_its_server_is_down(
    index: ServerIndex, load: Callable[[], ServerIndex], vectors: Vectors, secret: str
) -> None:
    for call in (lambda: index.kneighbors(vectors), lambda: index.add(vectors)):
        start = time.monotonic()
        with raises_and_hides(secret, ServerUnavailableError, "cannot be reached"):
            call()
        assert time.monotonic() - start < 20
    with raises_and_hides(secret, ServerUnavailableError):
        load()


def check_a_change_is_whole_or_not_at_all(index: ServerIndex, vectors: Vectors) -> None:
    index.fit(vectors)
    with pytest.raises(ValueError, match="holds integer"):
        index.add(vectors, records={"new": [1] * (len(vectors) - 1) + ["text"]})
    assert index.columns_ == {}
    assert len(index) == len(vectors)


def check_another_embedder_is_refused(loaded: ServerIndex, vectors: Vectors) -> None:
    """Of an index that a HOGEmbedder has filled with these vectors, loaded again."""
    for call in (
        lambda: loaded.kneighbors(vectors, embedder=HOGEmbedder(n_orientations=5)),
        lambda: loaded.add(vectors, embedder=HOGEmbedder(n_orientations=5)),
    ):
        with pytest.raises(FingerprintError, match="another embedder"):
            call()
    assert len(loaded) == len(vectors)
