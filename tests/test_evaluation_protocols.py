"""Protocols by hand, their ground truth, and vectors evaluated in blocks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import read_ground_truth
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances
from test_evaluation import (
    plain_revisited_precision,
    plain_trapezoids,
    plainly_ranked,
)

from imgembed import HOGEmbedder
from imgembed.evaluation import (
    LabelProtocol,
    ListProtocol,
    OxfordQuery,
    RetrievalProtocol,
    _distances,
    copydays_protocol,
    evaluate,
    find_leakage,
    holidays_protocol,
    oxford_protocol,
    per_query,
    read_oxford_ground_truth,
    revisited_protocol,
    ukbench_protocol,
)


def at(*places: float) -> NDArray[np.float64]:
    """Vectors on a line."""
    return np.array(places, dtype=np.float64)[:, np.newaxis]


def only(protocol: RetrievalProtocol, vectors: Any, query_vectors: Any = None) -> list[float]:
    """The values of the first measure of a protocol, with vectors on a line."""
    found = evaluate(vectors, protocol, query_vectors=query_vectors, metric="euclidean")
    return list(found.per_query[protocol.measures[0]])


def test_each_image_is_sought_among_the_others() -> None:
    protocol = LabelProtocol(["a", "b", "a", "b"])
    # From 0: b at 1, a at 3, b at 7. From 1: a, a, b. From 3: b, a, b. From 7: a, b, a.
    np.testing.assert_allclose(only(protocol, at(0, 1, 3, 7)), [1 / 2, 1 / 3, 1 / 2, 1 / 2])


def test_queries_are_sought_among_the_database() -> None:
    protocol = LabelProtocol([1, 1, 1, 2, 2], [True, True, False, False, False])
    # Both queries are of the first label, and only one image of it is in the database.
    np.testing.assert_allclose(only(protocol, at(0, 4, 3, 1, 9)), [1 / 2, 1])
    assert protocol.n_queries == 2
    assert protocol.database_rows.tolist() == [2, 3, 4]


@pytest.mark.parametrize("nothing", [None, np.nan])
def test_distractors_answer_nothing(nothing: Any) -> None:
    protocol = LabelProtocol(["a", "a", nothing, nothing], [1, 0, 0, 1])
    values = only(protocol, at(0, 2, 1, 1))
    np.testing.assert_allclose(values, [1 / 2, np.nan])


def test_holidays_asks_with_the_first_of_each_group() -> None:
    names = ["100000.jpg", "100001.jpg", "100002.jpg", Path("jpg/100100.jpg"), "100101.jpg"]
    protocol = holidays_protocol(names)
    # From 0, without itself: 100100 at 1, 100001 at 2, 100101 at 3, 100002 at 4.
    # Trapezoids: (0 + 1/2)/2 and (1/3 + 2/4)/2, times 1/2 each. From 1: 100000, 100001, 100101.
    places = at(0, 2, 4, 1, 3)
    first = ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    # From 1, 0 and 2 are equally near; 100101 at a distance of 2 is third, before 4.
    np.testing.assert_allclose(only(protocol, places), [first, (0 + 1 / 3) / 2])


def test_ukbench_counts_the_query_itself() -> None:
    protocol = ukbench_protocol(8)
    # The fourth of each object lies with the other object.
    values = only(protocol, at(0, 1, 2, 103, 100, 101, 102.5, 3.5))
    np.testing.assert_allclose(values, [3, 3, 3, 1, 3, 3, 3, 1])
    assert evaluate(at(*range(8)), protocol, metric="euclidean").means["ukbench_score"] < 4
    with pytest.raises(ValueError, match="4 images of each object; got 10"):
        ukbench_protocol(10)


def test_copydays_seeks_originals_among_distractors() -> None:
    originals = ["original/200000.jpg", "original/200100.jpg"]
    paths = [*originals, "c/crops/50/200000.jpg", "strong/200105.jpg"]
    protocol = copydays_protocol(paths, n_distractors=1)
    # The crop is nearest to its original; the strong attack to the distractor, then its own.
    values = only(protocol, at(0, 10, 1, 12, 13))
    np.testing.assert_allclose(values, [1, (0 + 1 / 2) / 2])


@pytest.mark.parametrize("make", [holidays_protocol, copydays_protocol])
def test_file_names_must_be_numbers(make: Any) -> None:
    with pytest.raises(ValueError, match=r"1 file names are no numbers.*'readme'"):
        make(["original/100000.jpg", "strong/readme.txt"])


@pytest.fixture
def oxford_files(tmp_path: Path) -> Path:
    """Ground truth of two queries in the published layout, of Oxford and of Paris."""
    for name, texts in {
        "all_souls_1": ("oxc1_all_souls_000013 136.5 34.1 648.5 955.7", "a\nb\n", "c\n", "d\n"),
        "defense_1": ("paris_defense_000605 1 2 3 4\n", "c\n", "", "a\nb\n"),
    }.items():
        for kind, text in zip(("query", "good", "ok", "junk"), texts, strict=True):
            (tmp_path / f"{name}_{kind}.txt").write_text(text)
    return tmp_path


def test_oxford_ground_truth_is_read(oxford_files: Path) -> None:
    first, second = read_oxford_ground_truth(oxford_files)
    box = (136.5, 34.1, 648.5, 955.7)
    assert first == OxfordQuery("all_souls_1", "all_souls_000013", box, ("a", "b"), ("c",), ("d",))
    assert second.image == "paris_defense_000605"
    assert second.ok == ()


def test_damaged_ground_truth_of_oxford_is_named(oxford_files: Path, tmp_path: Path) -> None:
    (oxford_files / "defense_1_query.txt").write_text("paris_defense_000605 1 2 3")
    with pytest.raises(ValueError, match=r"defense_1_query.txt must hold"):
        read_oxford_ground_truth(oxford_files)
    (oxford_files / "all_souls_1_ok.txt").unlink()
    with pytest.raises(FileNotFoundError, match="all_souls_1_ok"):
        read_oxford_ground_truth(oxford_files)
    with pytest.raises(FileNotFoundError, match=r"no \*_query.txt in"):
        read_oxford_ground_truth(tmp_path / "nowhere")


def test_junk_is_taken_out_of_the_ranking_of_oxford(oxford_files: Path) -> None:
    queries = read_oxford_ground_truth(oxford_files)
    names = ["jpg/d.jpg", "a.jpg", "x.jpg", "b.jpg", "c.jpg"]
    protocol = oxford_protocol(queries, names)
    # The first query ranks d (junk), a, x, b, c: trapezoids at 1, 3, 4 without the junk.
    first = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 3 + 3 / 4) / 2) / 3
    # The second ranks c last of d, x, c, since a and b are junk for it.
    values = only(protocol, at(1, 2, 3, 4, 5), at(0, 0))
    np.testing.assert_allclose(values, [first, (0 + 1 / 3) / 2])


def test_images_missing_from_oxford_are_errors_or_dropped(oxford_files: Path) -> None:
    queries = read_oxford_ground_truth(oxford_files)
    with pytest.raises(ValueError, match=r"2 images of the ground truth.*'c'"):
        oxford_protocol(queries, ["a", "b"])
    dropped = oxford_protocol(queries, ["a", "b"], missing="drop")
    values = only(dropped, at(1, 2), at(0, 0))
    np.testing.assert_allclose(values, [1, np.nan])
    with pytest.raises(ValueError, match="names must differ"):
        oxford_protocol(queries, ["a.jpg", "b.jpg", "other/a.jpg"])
    with pytest.raises(ValueError, match="missing must be"):
        oxford_protocol(queries, ["a", "b"], missing="ignore")


GND = [
    {"easy": np.array([2, 4]), "hard": np.array([1]), "junk": np.array([0])},
    {"easy": np.array([], dtype=int), "hard": np.array([3, 5]), "junk": []},
]


@pytest.mark.parametrize(
    ("difficulty", "average_precision", "precision_at_5"),
    [
        # Ranked 0 1 2 3 4 5. First query easy: 0 and 1 out, so 2 and 4 are at 1 and 3 of 4.
        ("easy", [(1 + (1 / 2 + 2 / 3) / 2) / 2, np.nan], [2 / 3, np.nan]),
        # Medium: 0 out, so 1, 2, 4 are at 1, 2, 4; second: 3, 5 at 4 and 6.
        (
            "medium",
            [(1 + 1 + (2 / 3 + 3 / 4) / 2) / 3, ((0 + 1 / 4) / 2 + (1 / 5 + 2 / 6) / 2) / 2],
            [3 / 4, 1 / 5],
        ),
        # Hard: 0, 2, 4 out, so 1 is first; second as before.
        ("hard", [1, ((0 + 1 / 4) / 2 + (1 / 5 + 2 / 6) / 2) / 2], [1, 1 / 5]),
    ],
)
def test_revisited_oxford_is_easy_medium_and_hard(
    difficulty: str, average_precision: list[float], precision_at_5: list[float]
) -> None:
    protocol = revisited_protocol(GND, 6, difficulty)
    found = evaluate(
        at(*range(1, 7)), protocol, query_vectors=at(0, 0), metric="euclidean",
        measures=["trapezoidal_mean_average_precision", "revisited_precision@5"],
    )  # fmt: skip
    for values, wanted in zip(
        found.per_query.values(), (average_precision, precision_at_5), strict=True
    ):
        np.testing.assert_allclose(values, wanted)
    assert found.means["revisited_precision@5"] == pytest.approx(np.nanmean(precision_at_5))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 9999), difficulty=st.sampled_from(["easy", "medium", "hard"]))
def test_revisited_is_what_plain_loops_say(seed: int, difficulty: str) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 4, (5, 30))  # 0 is irrelevant
    kinds[:, :2] = 1, 2  # something answers
    gnd = [
        {name: np.flatnonzero(row == kind) for kind, name in enumerate(("easy", "hard", "junk"), 1)}
        for row in kinds
    ]
    vectors, queries = rng.normal(size=(30, 4)), rng.normal(size=(5, 4))
    found = evaluate(vectors, revisited_protocol(gnd, 30, difficulty), query_vectors=queries)
    sought = np.isin(kinds, {"easy": [1], "medium": [1, 2], "hard": [2]}[difficulty])
    removed = (kinds > 0) & ~sought
    scores = -pairwise_distances(queries, vectors, metric="cosine")
    ranked = [plainly_ranked(*each) for each in zip(scores, sought, removed, strict=True)]
    np.testing.assert_allclose(
        found.per_query["trapezoidal_mean_average_precision"],
        [plain_trapezoids(each) for each in ranked],
    )
    for k in (1, 5, 10):
        np.testing.assert_allclose(
            found.per_query[f"revisited_precision@{k}"],
            [plain_revisited_precision(each, k) for each in ranked],
        )


def test_ground_truth_of_revisited_is_checked() -> None:
    with pytest.raises(ValueError, match=r"relevant\[0\] must hold numbers .* from 0 to 2; got"):
        revisited_protocol(GND, 3)
    with pytest.raises(ValueError, match="needs the lists"):
        revisited_protocol([{"ok": [1]}], 3)
    with pytest.raises(ValueError, match="difficulty must be"):
        revisited_protocol(GND, 6, "extreme")


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "ip"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_blocks_give_what_the_whole_matrix_gives(
    metric: str, n_jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 80)
    is_query = rng.random(80) < 0.4
    vectors = rng.normal(size=(80, 7)) + labels[:, np.newaxis] / 3 + 50 * (metric == "euclidean")
    queries, database = vectors[is_query], vectors[~is_query]
    if metric == "ip":
        scores = queries @ database.T
    else:
        scores = -pairwise_distances(queries, database, metric=metric)
    relevant = labels[is_query][:, np.newaxis] == labels[~is_query]
    monkeypatch.setattr(_distances, "_BLOCK_ENTRIES", 5 * len(database))
    found = evaluate(vectors, LabelProtocol(labels, is_query), metric=metric, n_jobs=n_jobs)
    for measure, values in found.per_query.items():
        np.testing.assert_allclose(values, per_query(measure, scores, relevant))


def test_an_embedder_that_sees_nothing_gains_nothing() -> None:
    labels = np.repeat(["a", "b"], 50)
    for vectors in (np.zeros((100, 3)), np.full((100, 40), 0.1, np.float32)):
        means = evaluate(vectors, LabelProtocol(labels)).means
        assert means["precision@1"] == 0
        assert means["mean_average_precision"] < 0.4


def test_a_result_tells_itself() -> None:
    found = evaluate(np.eye(4), LabelProtocol("aabb"), measures=["recall@2"])
    assert repr(found) == "Evaluation(recall@2=0.0000; 4 queries, 4 images)"
    assert "<td>recall@2</td><td>0.0000</td>" in found._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("ab", [1]), "is_query must be True or False for each of 2"),
        (("ab", [2, 0]), "is_query must be"),
        (("ab", None, [1]), "in_database must be"),
        (("ab", [0, 0]), "must be queries and images.*0 queries"),
        (("", None), "must be queries and images"),
        (("ab", None, None, "kept"), "query_itself must be"),
    ],
)
def test_protocols_of_labels_are_checked(arguments: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        LabelProtocol(*arguments)


@pytest.mark.parametrize(
    ("relevant", "ignored", "rows", "told"),
    [
        ([[3]], None, None, r"relevant\[0\] must hold"),
        ([[0]], [[-1]], None, r"ignored\[0\] must hold"),
        ([[0]], [[1], [2]], None, "ignored must have one entry a query, 1; got 2"),
        ([[0]], None, [1, 2], "query_rows must have one entry a query"),
        ([], None, None, "must be queries"),
    ],
)
def test_protocols_of_lists_are_checked(relevant: Any, ignored: Any, rows: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ListProtocol(relevant, ignored, n_images=3, query_rows=rows)


@pytest.mark.parametrize(
    ("vectors", "changes", "told"),
    [
        (np.eye(3), {}, "speaks of 4 images; got 3"),
        (np.eye(4)[0], {}, "vectors must have shape"),
        (np.eye(4) * np.nan, {}, "4 rows of vectors hold NaN"),
        (np.eye(4), {"query_vectors": np.eye(4)}, "do not give query_vectors"),
        (np.eye(4), {"metric": "l2"}, "metric must be one of"),
        (np.eye(4), {"measures": ["map"]}, "no measure 'map'"),
        (np.eye(4), {"measures": []}, "at least one measure"),
        (np.eye(4), {"measures": ["recall@5"]}, "k must be from 1 to .*4"),
    ],
)
def test_vectors_that_do_not_fit_the_protocol_are_errors(
    vectors: Any, changes: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        evaluate(vectors, LabelProtocol("aabb"), **changes)


def test_vectors_of_queries_must_fit() -> None:
    protocol = ListProtocol([[0], [1]], n_images=3)
    for queries, told in (
        (None, "give query_vectors"),
        (np.eye(3), "has 2 queries; got 3"),
        (np.eye(2), "2 features and the images 3"),
    ):
        with pytest.raises(ValueError, match=told):
            evaluate(np.eye(3), protocol, query_vectors=queries)
    with pytest.raises(ValueError, match="no query has a relevant image"):
        evaluate(np.eye(3), LabelProtocol("abc"))


def test_numbers_on_real_photographs_make_sense(shared_data: Path) -> None:
    folder = shared_data / "copies_corel"
    rows = [
        row
        for row in read_ground_truth(folder / "groups.csv")
        if row["transform"] in ("original", "jpeg10", "crop50")
    ]
    vectors = HOGEmbedder(progress=False).fit_transform([folder / row["path"] for row in rows])
    kinds = np.array([row["transform"] for row in rows])
    groups = [row["group"] for row in rows]
    found = evaluate(vectors, LabelProtocol(groups, kinds != "original"))
    precision = found.per_query["mean_average_precision"]
    of_query = kinds[kinds != "original"]
    assert precision[of_query == "jpeg10"].mean() > 0.99
    assert 0.05 < precision[of_query == "crop50"].mean() < 0.9
    leaks = find_leakage(vectors[kinds == "original"], vectors[kinds == "jpeg10"])
    assert leaks.share > 0.5
    first, second = (np.array(groups)[kinds == kind] for kind in ("original", "jpeg10"))
    assert (first[leaks.train_rows] == second[leaks.test_rows]).all()
