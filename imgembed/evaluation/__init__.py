"""Quality of a search: arrays in, numbers out."""

from ._evaluate import Evaluation, evaluate
from ._gains import ndcg, ndcg_per_query
from ._ground_truth import OxfordQuery, read_oxford_ground_truth
from ._leakage import LeakageReport, find_leakage
from ._measures import (
    average_precision,
    hit_rate_at_k,
    mean_average_precision,
    mean_average_precision_at_r,
    per_query,
    precision_at_k,
    r_precision,
    recall_at_k,
    trapezoidal_mean_average_precision,
    ukbench_score,
)
from ._neighbours import knn_accuracy, knn_correct
from ._protocols import LabelProtocol, ListProtocol, RetrievalProtocol
from ._published_protocols import (
    copydays_protocol,
    holidays_protocol,
    oxford_protocol,
    revisited_protocol,
    ukbench_protocol,
)
from ._scorer import RetrievalScorer, make_retrieval_scorer
from ._statistics import Interval, PermutationTest, bootstrap_interval, permutation_test

__all__ = [
    "Evaluation",
    "Interval",
    "LabelProtocol",
    "LeakageReport",
    "ListProtocol",
    "OxfordQuery",
    "PermutationTest",
    "RetrievalProtocol",
    "RetrievalScorer",
    "average_precision",
    "bootstrap_interval",
    "copydays_protocol",
    "evaluate",
    "find_leakage",
    "hit_rate_at_k",
    "holidays_protocol",
    "knn_accuracy",
    "knn_correct",
    "make_retrieval_scorer",
    "mean_average_precision",
    "mean_average_precision_at_r",
    "ndcg",
    "ndcg_per_query",
    "oxford_protocol",
    "per_query",
    "permutation_test",
    "precision_at_k",
    "r_precision",
    "read_oxford_ground_truth",
    "recall_at_k",
    "revisited_protocol",
    "trapezoidal_mean_average_precision",
    "ukbench_protocol",
    "ukbench_score",
]
