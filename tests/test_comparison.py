"""Embedders compared: by labels, by changed copies, with what they cost and where they fail."""

import gc
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.utils import Tags

from imgembed import (
    Comparison,
    HOGEmbedder,
    ImageReadWarning,
    ORBEmbedder,
    compare_embedders,
    read_image,
)
from imgembed.comparison import COPIES, _costs
from imgembed.comparison._costs import MemoryWatch
from imgembed.comparison._task import is_label
from imgembed.evaluation import LabelProtocol, evaluate, permutation_test

Pixels = NDArray[np.uint8]
QUICK = ["crop", "brightness"]
LABELS = ["a", "b", "c"] * 8


@pytest.fixture(scope="module", autouse=True)
def _collect_quickly() -> Iterator[None]:
    """Each embedder is measured after a collection, which need not look at all of pytest."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    """Three pictures of blocks, eight noisy photographs of each."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    pictures = np.kron(blocks, np.ones((1, 8, 8, 1), np.uint8))
    noise = rng.normal(0, 40, (24, 64, 64, 3))
    return list(np.clip(np.tile(pictures, (8, 1, 1, 1)) + noise, 0, 255).astype(np.uint8))


class Colours(TransformerMixin, BaseEstimator):
    """The mean colour; it learns nothing, and remembers what it was given."""

    def __init__(self, seconds: float = 0.0, channels: tuple[int, ...] = (0, 1, 2)) -> None:
        self.seconds = seconds
        self.channels = channels

    def fit(self, X: Any, y: Any = None) -> Self:
        self.n_seen_ = len(X)
        self.labels_ = None if y is None else np.asarray(y).tolist()
        _clock.now += self.seconds
        _seen.append((self.n_seen_, self.labels_))
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        means = [read_image(X[i]).mean(axis=(0, 1)) for i in range(len(X))]
        return np.array(means, np.float32)[:, self.channels]


class LearningColours(Colours):
    """It needs labels."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


class Loading(Colours):
    """It loads for some time at first, and leaves what it has loaded out of its pickle."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "loaded_"}

    def transform(self, X: Any) -> NDArray[np.float32]:
        if not hasattr(self, "loaded_"):
            _clock.now += self.seconds
            self.loaded_ = True
        return super().transform(X)


class LearningAndLoading(Loading):
    """It learns, and what it has loaded for that it has to load again elsewhere."""

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_seen_")

    def fit(self, X: Any, y: Any = None) -> Self:
        self.loaded_ = True
        return super().fit(X, y)


class Broken(Colours):
    """It fails."""

    def transform(self, X: Any) -> NDArray[np.float32]:
        raise OSError("no <weights> here")


class Clock:
    """It goes on by a millisecond when it is looked at, and by what embedders say they take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 0.001
        return self.now


_clock = Clock()
_seen: list[tuple[int, list[Any] | None]] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    _seen.clear()


@pytest.fixture(scope="module")
def compared(images: list[Pixels]) -> Comparison:
    methods = {"HOG": HOGEmbedder(size=64), "colour": Colours(), "grey": Colours(channels=(1,))}
    return compare_embedders(methods, images, LABELS, copies=["crop", "turn"], n_copied=10)


def test_quality_by_labels_is_what_evaluate_says(
    images: list[Pixels], compared: Comparison
) -> None:
    protocol = LabelProtocol(LABELS, measures=["mean_average_precision"])
    for name, embedder in (("HOG", HOGEmbedder(size=64)), ("colour", Colours())):
        vectors = embedder.fit_transform(images)
        wanted = evaluate(vectors, protocol)
        row = compared[name]
        assert row.quality == pytest.approx(wanted.means["mean_average_precision"])
        assert row.per_query == pytest.approx(wanted.per_query["mean_average_precision"])
        assert row.interval.low <= row.quality <= row.interval.high
        assert row.n_features == vectors.shape[1]
        assert row.bytes_per_image == vectors[0].nbytes
    assert (compared.n_images, compared.n_queries, compared.n_searched) == (24, 24, 24)
    assert compared.by_labels


def test_the_best_comes_first_and_others_are_tested_against_it(compared: Comparison) -> None:
    qualities = [row.quality for row in compared.rows]
    assert qualities == sorted(qualities, reverse=True)
    assert compared.best is compared.rows[0]
    assert np.isnan(compared.best.p_value)
    assert compared["grey"].p_value < 0.05  # one direction: all cosines are 1
    last = compared.rows[-1].name
    test = compared.compare(compared.best.name, last)
    wanted = permutation_test(compared.best.per_query, compared[last].per_query, random_state=0)
    assert test == wanted
    assert test.difference == pytest.approx(qualities[0] - qualities[-1])
    with pytest.raises(KeyError, match=r"there is no 'SIFT'; compared were \["):
        compared["SIFT"]


def test_the_change_that_it_fails_on_is_named(compared: Comparison) -> None:
    assert compared["HOG"].weakness == "turn"
    found = compared["HOG"].found
    assert found["turn"] < found["crop"]
    assert compared["HOG"].copies_found == pytest.approx(np.mean(list(found.values())))
    assert compared["colour"].found["turn"] == 1  # colours stay where they are


def test_nothing_is_named_where_all_is_found(images: list[Pixels]) -> None:
    compared = compare_embedders([Colours()], images, copies=["turn"], n_copied=4)
    assert compared.best.weakness is None
    assert repr(compared).splitlines()[2].endswith("nothing")


def test_without_labels_quality_is_about_copies(images: list[Pixels]) -> None:
    turned = compare_embedders({"colour": Colours()}, images, copies=["turn"], n_copied=7)
    assert (turned.n_queries, turned.n_copied, turned.by_labels) == (7, 7, False)
    assert turned.best.quality == 1
    # By hand: the reciprocal rank of each original, the mean over its two copies.
    both = compare_embedders({"HOG": HOGEmbedder(size=64)}, images, copies=QUICK, n_copied=24)
    embedder = HOGEmbedder(size=64)
    vectors = embedder.transform(images)
    ranks = []
    for change in QUICK:
        copies = embedder.transform([as_jpeg(COPIES[change](image)) for image in images])
        far = -copies @ vectors.T / np.linalg.norm(vectors, axis=1)
        ranks.append((far <= np.diag(far)[:, np.newaxis]).sum(axis=1))
    assert both.best.per_query == pytest.approx((1 / np.array(ranks)).mean(axis=0))
    assert both.best.found["crop"] == pytest.approx((ranks[0] == 1).mean())


def as_jpeg(pixels: Pixels) -> bytes:
    """A copy as it is kept."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def test_equal_images_are_one_original(images: list[Pixels]) -> None:
    twice = [*images[:4], *images[:4]]
    compared = compare_embedders({"colour": Colours()}, twice, copies=["mirror"])
    assert compared.best.quality == 1
    assert compared.best.found == {"mirror": 1}


def test_what_fails_is_told_and_loses_nothing(images: list[Pixels]) -> None:
    methods = {"broken": Broken(), "colour": Colours()}
    with pytest.warns(RuntimeWarning, match="broken failed and is not compared: OSError: no <wei"):
        compared = compare_embedders(methods, images, LABELS, copies=QUICK)
    assert [row.name for row in compared.rows] == ["colour", "broken"]
    assert compared["broken"].error == "OSError: no <weights> here"
    assert np.isnan(compared["broken"].quality)
    assert "broken failed: OSError: no <weights> here" in repr(compared)
    assert "no &lt;weights&gt; here" in compared._repr_html_()
    assert compared.plot().get_title() == "failed: broken"
    assert compared.to_pandas().loc["broken", "error"] == "OSError: no <weights> here"
    with pytest.raises(ValueError, match="'broken' failed, there is nothing to compare"):
        compared.compare("colour", "broken")


def test_it_is_an_error_if_all_fail(images: list[Pixels]) -> None:
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ValueError, match="each embedder failed: Broken: OSError: no <weights>"),
    ):
        compare_embedders([Broken()], images, LABELS)


def test_images_that_cannot_be_read_are_left_out_once(images: list[Pixels], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with_bad: list[Any] = [*images[:5], tmp_path / "bad.jpg", *images[5:]]
    labels = [*LABELS[:5], "a", *LABELS[5:]]
    with pytest.warns(ImageReadWarning, match=r"1 of 25 .* row 5 \(.*bad.jpg") as told:
        compared = compare_embedders([Colours(), HOGEmbedder(size=64)], with_bad, labels, copies=[])
    assert len(told) == 1
    assert compared.n_images == 24
    without = compare_embedders([Colours()], images, LABELS, copies=[])
    assert compared["Colours"].per_query == pytest.approx(without["Colours"].per_query)


def test_codebooks_come_from_what_is_searched_and_never_from_queries(images: list[Pixels]) -> None:
    is_query = np.arange(24) < 6
    compare_embedders([Colours()], images, LABELS, is_query=is_query, copies=[])
    assert _seen == [(18, LABELS[6:])]
    _seen.clear()
    compare_embedders([Colours()], images, copies=QUICK)
    assert _seen == [(24, None)]


def test_who_learns_from_labels_is_not_tested_by_them(images: list[Pixels]) -> None:
    methods = {"colour": Colours(), "learned": LearningColours()}
    with pytest.warns(RuntimeWarning, match="would be tested by what it has learned: give is_q"):
        compare_embedders(methods, images, LABELS, copies=[])
    with pytest.warns(RuntimeWarning, match="it learns from labels: give y"):
        compare_embedders(methods, images, copies=QUICK)
    _seen.clear()
    with_strays = [*LABELS[:-2], None, np.nan]
    is_query = np.arange(24) < 12
    split = compare_embedders(
        [make_pipeline(LearningColours(), PCA(2))], images, with_strays, is_query=is_query,
        copies=[],
    )  # fmt: skip
    assert _seen == [(10, LABELS[12:-2])]
    assert (split.n_queries, split.n_searched) == (12, 12)


def test_a_fitted_embedder_is_used_as_it_is(images: list[Pixels]) -> None:
    fitted, unfitted = ORBEmbedder(n_words=5, random_state=0).fit(images), Colours()
    fingerprint = fitted.fingerprint()
    compared = compare_embedders([fitted, unfitted], images, copies=QUICK, n_copied=5)
    assert np.isnan(compared["ORBEmbedder"].fit_rate)
    assert fitted.fingerprint() == fingerprint
    assert not hasattr(unfitted, "n_seen_")
    assert compared["Colours"].fit_rate > 0


def test_caches_are_not_used(images: list[Pixels], tmp_path: Path) -> None:
    embedder = HOGEmbedder(size=64, cache=tmp_path / "cache")
    compare_embedders([embedder], images, copies=QUICK)
    assert not (tmp_path / "cache").exists()
    assert embedder.cache == tmp_path / "cache"


def test_costs_are_where_they_arise(images: list[Pixels], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_costs, "time", _clock)
    loaded = Loading(seconds=3)
    loaded.transform(images[:1])
    methods = {
        "slow to fit": Colours(seconds=3),
        "slow to load": loaded,
        "slow to do both": LearningAndLoading(seconds=3),
    }
    compared = compare_embedders(methods, images, copies=QUICK, n_copied=3)
    fitting, loading = compared["slow to fit"], compared["slow to load"]
    assert fitting.fit_rate == pytest.approx(24 / 3, rel=0.01)
    assert np.isnan(loading.fit_rate)
    assert fitting.first_use < 0.1
    assert loading.first_use == pytest.approx(3, rel=0.01)  # though it has been used before
    assert compared["slow to do both"].fit_rate == pytest.approx(24 / 3, rel=0.01)
    assert compared["slow to do both"].first_use == pytest.approx(3, rel=0.01)
    assert loading.transform_rate > 24  # loading is not counted again


def test_memory_is_watched_where_the_system_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_costs, "_STATM", Path("/no/such/file"))
    with MemoryWatch() as watch:
        pass
    assert np.isnan(watch.rise)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_a_rise_of_memory_is_seen_even_if_it_goes_again() -> None:
    with MemoryWatch() as watch:
        large = np.ones(8_000_000)
        time.sleep(0.3)
        del large
    assert 60e6 < watch.rise < 200e6


def test_same_call_same_table(images: list[Pixels]) -> None:
    one, other = (
        compare_embedders({"HOG": HOGEmbedder(size=64), "c": Colours()}, images, n_copied=6)
        for _ in range(2)
    )
    for row in one.rows:
        again = other[row.name]
        assert (row.quality, row.interval, row.found) == (
            again.quality,
            again.interval,
            again.found,
        )


def test_pipelines_and_embedders_without_names(images: list[Pixels]) -> None:
    short = make_pipeline(HOGEmbedder(size=64), PCA(2, random_state=0))
    compared = compare_embedders(
        [HOGEmbedder(size=64), HOGEmbedder(size=32), short], images, LABELS, copies=[]
    )
    assert {row.name for row in compared.rows} == {"HOGEmbedder-1", "HOGEmbedder-2", "Pipeline"}
    assert compared["Pipeline"].n_features == 2
    assert compared.best.weakness is None
    assert "fails on" in repr(compared)
    assert "copies whose" not in repr(compared) + compared._repr_html_()


def test_a_change_of_ones_own(images: list[Pixels]) -> None:
    compared = compare_embedders(
        {"HOG": HOGEmbedder(size=64)},
        images,
        copies={"<same>": lambda pixels: pixels, "black": np.zeros_like},
    )
    assert compared.best.found == {"<same>": 1, "black": 0}
    assert "&lt;same&gt;" in compared._repr_html_()
    with pytest.raises(ZeroDivisionError) as raised:
        compare_embedders([Colours()], images, copies={"wrong": lambda pixels: 1 // 0})
    assert raised.value.__notes__ == ["while making the changed copy 'wrong'"]


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_changes_take_any_size_and_are_the_same_each_time(
    height: int, width: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for change in COPIES.values():
        changed = change(pixels.copy())
        assert changed.dtype == np.uint8
        assert changed.shape[2] == 3
        assert (changed == change(pixels.copy())).all()


@pytest.mark.parametrize("shape", [(60, 90, 3), (90, 60, 3), (64, 64, 3)])
def test_changes_do_what_they_say(shape: tuple[int, ...]) -> None:
    height, width = shape[:2]
    white = np.full(shape, 255, np.uint8)
    assert COPIES["rotate"](white).min() == 255  # no dark corners
    crop = COPIES["crop"](white)
    assert crop.shape[0] * crop.shape[1] == pytest.approx(height * width / 2, rel=0.05)
    assert COPIES["turn"](white).shape == (width, height, 3)
    assert COPIES["scale"](white).shape[:2] == pytest.approx((height / 4, width / 4), abs=1)
    assert COPIES["brightness"](np.full(shape, 100, np.uint8)).max() == 170
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, shape, dtype=np.uint8)
    assert COPIES["blur"](rough).std() < rough.std()
    assert (COPIES["mirror"](rough) == rough[:, ::-1]).all()
    assert (COPIES["jpeg"](rough) != rough).any()


def test_large_photographs_are_copied_at_a_small_size(tmp_path: Path) -> None:
    for i in range(2):
        Image.new("RGB", (3000, 1500), (200 * i, 0, 50)).save(tmp_path / f"{i}.jpg")
    sizes: list[tuple[int, ...]] = []

    def look(pixels: Pixels) -> Pixels:
        sizes.append(pixels.shape)
        return pixels

    compare_embedders([Colours()], sorted(tmp_path.glob("*.jpg")), copies={"look": look})
    assert sizes == [(512, 1024, 3)] * 2


def test_the_picture_has_a_point_for_each(compared: Comparison) -> None:
    axes = compared.plot()
    assert axes.get_xscale() == "log"
    assert {text.get_text() for text in axes.texts} == {"HOG", "colour", "grey"}
    assert not any(text.get_parse_math() for text in axes.texts)  # a name may hold dollars
    for container, row in zip(axes.containers, compared.rows, strict=True):
        assert container.lines[0].get_xydata()[0] == pytest.approx(
            (row.transform_rate, row.quality)
        )
        (ends,) = container.lines[2][0].get_segments()
        assert ends[:, 1] == pytest.approx(row.interval)


def test_the_page_is_whole_and_leaves_no_figure(compared: Comparison) -> None:
    page = compared.to_html("a < b")
    assert "<title>a &lt; b</title>" in page
    assert page.count("data:image/png;base64,") == 1
    assert "turn" in page
    assert not plt.get_fignums()


def test_the_text_is_a_table(compared: Comparison) -> None:
    heading, head, *lines = repr(compared).splitlines()
    assert heading.startswith("mean_average_precision (cosine) of 24 queries by label among 24")
    assert "95% interval" in head
    assert [line.split()[0] for line in lines[:3]] == [row.name for row in compared.rows]
    assert len({len(line) for line in (head, *lines[:3])}) == 1
    assert "best" in lines[0]
    assert "Share of 10 changed copies whose original is found first" in lines


def test_the_table_goes_to_pandas(compared: Comparison) -> None:
    table = compared.to_pandas()
    assert table.index.tolist() == [row.name for row in compared.rows]
    assert table.loc["HOG", "found_turn"] == compared["HOG"].found["turn"]
    assert table.loc["HOG", "quality"] == compared["HOG"].quality
    assert table.error.tolist() == [""] * 3


@pytest.mark.parametrize(("module", "method"), [("matplotlib", "plot"), ("pandas", "to_pandas")])
def test_what_is_not_installed_is_named(
    module: str, method: str, compared: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == module] + [module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"Comparison\.{method} needs .*imgembed\["):
        getattr(compared, method)()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"measure": "accuracy"}, "no measure"),
        ({"measure": "recall@25"}, "k must be from 1 to .* 24; got 'recall@25'"),
        ({"metric": "manhattan"}, "metric must be one of"),
        ({"copies": ["shear"]}, r"out of \['crop', .*got \['shear'\]"),
        ({"copies": "crop"}, r"a list of names .* got \['crop'\]"),
        ({"n_copied": 0}, "n_copied == 0, must be >= 1"),
        ({"confidence": 1.0}, "confidence == 1.0, must be < 1"),
        ({"progress": "no"}, "progress must be one of"),
        ({"y": LABELS[:-1]}, "y must be a label for each of 24 images; got 23"),
        ({"y": range(24)}, "no query has another image with its label"),
        ({"y": [None] * 24}, "no query has another image with its label"),
        ({"is_query": [True] * 24}, "give y as well"),
        ({"y": LABELS, "is_query": [True]}, "is_query must be True or False for each of 24"),
        ({"copies": []}, "nothing to compare by"),
        ({"X": []}, "0 of 0 images can be read"),
        ({"X": [b"", b""]}, "0 of 2 images can be read.*row 0.*it has no bytes"),
        ({"embedders": {}}, "embedders is empty"),
    ],
)
def test_wrong_input_is_explained(
    wrong: dict[str, Any], message: str, images: list[Pixels]
) -> None:
    with pytest.raises(ValueError, match=message):
        compare_embedders(**{"embedders": [Colours()], "X": images, **wrong})


def test_what_is_no_embedder_is_explained(images: list[Pixels]) -> None:
    with pytest.raises(TypeError, match="a list of embedders; got one HOGEmbedder"):
        compare_embedders(HOGEmbedder(), images)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'str' does not transform images: 'SIFT' is no embedder"):
        compare_embedders(["SIFT"], images)


def test_nothing_is_printed_without_progress(
    images: list[Pixels], capsys: pytest.CaptureFixture[str]
) -> None:
    compare_embedders([HOGEmbedder(size=64, progress=True)], images, copies=[], y=LABELS,
                      progress=False)  # fmt: skip
    assert capsys.readouterr() == ("", "")
    compare_embedders([clone(HOGEmbedder(size=64))], images, LABELS, copies=[], progress=True)
    assert "HOGEmbedder: search: 100%" in capsys.readouterr().err


def test_none_and_nan_are_no_labels() -> None:
    assert [is_label(label) for label in (None, np.nan, 0, "", "a")] == [False] * 2 + [True] * 3
