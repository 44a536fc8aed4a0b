"""Retrieval as a score of scikit-learn."""

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from imgembed import HOGEmbedder
from imgembed.evaluation import LabelProtocol, evaluate, make_retrieval_scorer


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Stripes, upright and lying, 24 of each, in noise: small cells cannot tell them apart."""
    rng = np.random.default_rng(0)
    stripes = np.repeat(np.tile([0, 90], 4), 8)
    upright = np.broadcast_to(stripes, (64, 64))
    noise = rng.integers(0, 160, (48, 64, 64))
    pictures = [upright if i % 2 else upright.T for i in range(48)] + noise
    return np.repeat(pictures[..., np.newaxis], 3, axis=3).astype(np.uint8)


LABELS = ["lying", "upright"] * 24


def test_parameters_of_an_embedder_are_searched(images: NDArray[np.uint8]) -> None:
    search = GridSearchCV(
        make_pipeline(HOGEmbedder(size=64, progress=False), PCA(4, random_state=0)),
        {"hogembedder__n_orientations": [1, 9]},
        scoring=make_retrieval_scorer("mean_average_precision"),
        cv=2,
        error_score="raise",
    )
    search.fit(images, LABELS)
    blind, seeing = search.cv_results_["mean_test_score"]
    assert search.best_params_ == {"hogembedder__n_orientations": 9}
    assert seeing > 0.9 > blind  # one direction tells nothing of where stripes run


def test_a_score_is_what_evaluate_says(images: NDArray[np.uint8]) -> None:
    embedder = HOGEmbedder(size=64, progress=False).fit(images)
    score = make_retrieval_scorer("recall@5", metric="euclidean")(embedder, images, LABELS)
    protocol = LabelProtocol(LABELS, measures=["recall@5"])
    wanted = evaluate(embedder.transform(images), protocol, metric="euclidean")
    assert score == wanted.means["recall@5"]


def test_scorers_go_to_other_processes() -> None:
    scorer = make_retrieval_scorer("precision@1", metric="euclidean")
    copy = pickle.loads(pickle.dumps(scorer))
    identity = FunctionTransformer()
    assert copy(identity, [[0], [1], [5], [6]], "aabb") == 1
    assert repr(copy) == "make_retrieval_scorer('precision@1', metric='euclidean')"


class SparseIdentity(TransformerMixin, BaseEstimator):
    """Sparse vectors, as bags of words are."""

    def fit(self, X: Any, y: Any = None) -> "SparseIdentity":
        return self

    def transform(self, X: Any) -> Any:
        return csr_array(X)


def test_sparse_vectors_are_scored() -> None:
    vectors = np.repeat(np.eye(2), 4, axis=0)
    labels = np.repeat([0, 1], 4)
    scorer = make_retrieval_scorer()
    assert cross_val_score(SparseIdentity(), vectors, labels, scoring=scorer, cv=2).min() == 1


def test_what_cannot_be_scored_is_told() -> None:
    scorer = make_retrieval_scorer()
    with pytest.raises(TypeError, match="LogisticRegression does not transform"):
        scorer(LogisticRegression(), np.eye(2), [0, 1])
    with pytest.raises(TypeError, match="needs labels"):
        scorer(FunctionTransformer(), np.eye(2), None)
    with pytest.raises(ValueError, match="no query has a relevant image"):
        scorer(FunctionTransformer(), np.eye(2), [0, 1])
    with pytest.raises(ValueError, match="no measure"):
        make_retrieval_scorer("accuracy")
    with pytest.raises(ValueError, match="metric must be"):
        make_retrieval_scorer(metric="manhattan")
