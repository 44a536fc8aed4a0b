"""find_duplicates: what is grouped, what is kept and why, and how that is told."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgembed import (
    CNNEmbedder,
    Duplicates,
    HOGEmbedder,
    ImageReadWarning,
    ORBEmbedder,
    find_duplicates,
    read_image,
)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, photographs: list[Path]) -> Path:
    """Photographs of one size; of one a copy, a small JPEG, a strong JPEG and a lossless PNG."""
    folder = tmp_path_factory.mktemp("photos")
    for path in photographs[:6]:
        with Image.open(path) as picture:
            picture.convert("RGB").resize((240, 200)).save(folder / f"{path.stem}.jpg", quality=90)
    cat = folder / "chelsea.jpg"
    assert cat.exists()
    (folder / "other").mkdir()
    shutil.copy(cat, folder / "other" / "again.jpg")
    with Image.open(cat) as picture:
        picture.resize((120, 100)).save(folder / "small.jpg")
        picture.save(folder / "strong.jpg", quality=15)
        picture.save(folder / "lossless.png")
    return folder


@pytest.fixture(scope="module")
def duplicates(collection: Path) -> Duplicates:
    return find_duplicates(collection)


def names(duplicates: Duplicates) -> list[str]:
    return [Path(str(duplicates.images[each.row])).name for each in duplicates.members]


def test_copies_of_all_kinds_are_one_group(duplicates: Duplicates) -> None:
    assert len(duplicates) == 1
    found = dict(zip(names(duplicates), duplicates.members, strict=True))
    assert set(found) == {"chelsea.jpg", "again.jpg", "small.jpg", "strong.jpg", "lossless.png"}
    # The PNG has as many pixels and more bytes.
    assert (found["lossless.png"].keep, found["lossless.png"].likeness) == (True, "itself")
    assert found["lossless.png"].reason == "most pixels, most bytes"
    assert found["chelsea.jpg"].likeness == found["again.jpg"].likeness == "same pixels"
    assert (found["small.jpg"].likeness, found["small.jpg"].reason) == ("similar", "fewer pixels")
    assert (found["strong.jpg"].likeness, found["strong.jpg"].reason) == ("similar", "fewer bytes")
    assert (found["small.jpg"].width, found["small.jpg"].height) == (120, 100)
    assert duplicates.threshold == 0.02


def test_rows_are_those_of_the_images(duplicates: Duplicates, collection: Path) -> None:
    (group,), (distances,) = duplicates.groups, duplicates.distances
    assert group.tolist() == [each.row for each in duplicates.members]
    assert duplicates.keep.tolist() == [group[0]]
    assert duplicates.remove.tolist() == sorted(group[1:].tolist())
    assert distances[0] == 0
    assert (np.diff(distances) >= 0).all()
    assert distances[-1] <= duplicates.threshold
    by_path = find_duplicates(list(duplicates.images))
    assert by_path.groups[0].tolist() == group.tolist()
    assert len(list(collection.rglob("*.*"))) == 10  # nothing is deleted


def test_distances_are_cosine_distances_from_the_kept_image(duplicates: Duplicates) -> None:
    embedder = HOGEmbedder(size=64, cell_size=16)
    vectors = embedder.fit_transform([duplicates.images[i] for i in duplicates.groups[0]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert duplicates.distances[0] == pytest.approx(1 - vectors @ vectors[0], abs=1e-6)


def test_identical_files_are_found_whatever_the_embedder_sees(tmp_path: Path) -> None:
    for name, value in {"a": 0, "b": 0, "c": 255}.items():  # HOG sees no edges
        Image.new("L", (64, 64), value).save(tmp_path / f"{name}.png")
    duplicates = find_duplicates(tmp_path)
    assert [each.tolist() for each in duplicates.groups] == [[0, 1]]
    kept, other = duplicates.members
    assert (kept.reason, other.likeness, other.reason) == (
        "first of the best",
        "identical",
        "not the first",
    )
    assert other.distance == 0


def test_images_in_memory_are_compared_too(make_noise: object, photographs: list[Path]) -> None:
    pixels = read_image(photographs[0])[::2, ::2]
    content = photographs[0].read_bytes()
    given = [pixels, content, Image.fromarray(pixels), {"bytes": content, "path": None}]
    duplicates = find_duplicates(given)
    assert [each.tolist() for each in duplicates.groups] == [[1, 3, 0, 2]]
    likeness = [each.likeness for each in duplicates.members]
    assert likeness == ["itself", "identical", "similar", "similar"]
    assert duplicates.members[0].n_bytes == len(content)
    assert duplicates.members[2].n_bytes == pixels.nbytes
    assert "row 0" in repr(duplicates)


def test_there_are_no_chains(photographs: list[Path]) -> None:
    with Image.open(photographs[0]) as picture:
        turned = [np.asarray(picture.resize((128, 128)).rotate(angle)) for angle in (0, 6, 12)]
    vectors = HOGEmbedder(size=64, cell_size=16).fit_transform(turned)
    first, next_, ends = (1 - vectors[i] @ vectors[j] for i, j in ((0, 1), (1, 2), (0, 2)))
    threshold = float(max(first, next_) + ends) / 2
    assert max(first, next_) < threshold < ends
    (group,) = find_duplicates(turned, threshold=threshold).groups
    assert len(group) == 2


def test_a_threshold_is_learned(shared_data: Path) -> None:
    folder = shared_data / "corel1k" / "images"
    paths = [folder / "horses" / f"7{n:02}.jpg" for n in range(60)]
    paths += [folder / "buses" / f"3{n:02}.jpg" for n in range(60)]
    with Image.open(paths[65]) as picture:
        small = picture.resize((picture.width // 2, picture.height // 2))
    duplicates = find_duplicates([*paths, small], HOGEmbedder(size=64, cell_size=16))
    assert 0.01 < duplicates.threshold < 0.04
    assert duplicates.threshold != 0.02
    assert [65, 120] in [group.tolist() for group in duplicates.groups]
    assert all(each.probability is not None for each in duplicates.members)
    assert min(each.probability or 0 for each in duplicates.members) > 0.97
    assert len(duplicates) <= 5  # series of horses


def test_many_copies_of_few_images_are_found(photographs: list[Path]) -> None:
    images = []
    for path in photographs[:8]:
        with Image.open(path) as picture:
            edges = (300, 250, 200, 150, 100)
            images += [picture.convert("RGB").resize((edge, edge)) for edge in edges]
    duplicates = find_duplicates(images)
    assert sum(len(group) == 5 for group in duplicates.groups) >= 6
    assert {group[0] % 5 for group in duplicates.groups} == {0}  # the largest is kept


def test_unreadable_images_are_named_and_in_no_group(collection: Path, tmp_path: Path) -> None:
    shutil.copytree(collection, tmp_path / "photos")
    for name in ("broken.jpg", "zzz.png"):
        (tmp_path / "photos" / name).write_bytes(b"not an image")
    with pytest.warns(ImageReadWarning, match="2 of 12 images cannot be read"):
        duplicates = find_duplicates(tmp_path / "photos")
    assert [Path(str(duplicates.images[row])).name for row in duplicates.errors] == [
        "broken.jpg",
        "zzz.png",
    ]
    assert [error.row for error in duplicates.errors.values()] == list(duplicates.errors)
    assert len(duplicates.groups[0]) == 5
    with pytest.raises(ValueError, match="none of 2 images can be read"):
        find_duplicates([tmp_path / "photos" / name for name in ("broken.jpg", "zzz.png")])


def test_any_embedder_may_compare(collection: Path) -> None:
    cnn = CNNEmbedder("tf_efficientnet_lite0", weights="bundled", engine="torch")
    duplicates = find_duplicates(collection, cnn, threshold=0.15)
    assert {"chelsea.jpg", "again.jpg", "lossless.png"} <= set(names(duplicates))
    unfitted = ORBEmbedder(n_words=20, random_state=0)
    assert find_duplicates(collection, unfitted, threshold=0.3).groups
    assert not hasattr(unfitted, "aggregator_")  # it was cloned
    orb = ORBEmbedder(n_words=20, random_state=0).fit(list(duplicates.images))
    words = orb.aggregator_
    assert find_duplicates(collection, orb, threshold=0.3).groups
    assert orb.aggregator_ is words  # it was used as it is


def test_no_duplicates_is_a_result(collection: Path) -> None:
    duplicates = find_duplicates([collection / "chelsea.jpg", collection / "camera.jpg"])
    assert (len(duplicates), bool(duplicates), duplicates.groups) == (0, False, [])
    assert duplicates.keep.dtype == duplicates.remove.dtype == np.int64
    assert repr(duplicates) == "No duplicates among 2 images; threshold 0.02"
    assert duplicates.to_pandas().columns[0] == "group"
    assert "No duplicates" in duplicates._repr_html_()
    with pytest.raises(ValueError, match="no duplicates to draw"):
        duplicates.plot()


@pytest.mark.parametrize(
    ("X", "embedder", "threshold", "told"),
    [
        ([], None, None, "at least one image"),
        ("EMPTY", None, None, "no images in the folder"),
        ("PHOTOS", None, 1.0, "got 1.0"),
        ("PHOTOS", None, -0.1, "got -0.1"),
        ("PHOTOS", None, float("nan"), "got nan"),
        ("PHOTOS", None, "0.1", "got '0.1'"),
        ("PHOTOS", HOGEmbedder(), None, "from 9 different images"),
    ],
)
def test_wrong_arguments_are_explained(
    X: object,
    embedder: HOGEmbedder | None,
    threshold: float,
    told: str,
    collection: Path,
    tmp_path: Path,
) -> None:
    places = {"EMPTY": tmp_path, "PHOTOS": collection}
    with pytest.raises(ValueError, match=r"threshold|image") as caught:
        find_duplicates(places.get(str(X), X), embedder, threshold=threshold)
    assert told in str(caught.value)


def test_the_text_says_what_to_keep_and_why(duplicates: Duplicates, collection: Path) -> None:
    first, second, *lines = repr(duplicates).splitlines()
    assert first.startswith("1 group of duplicates among 10 images, 4 to remove (")
    assert first.endswith("); threshold 0.02")
    assert second == "group 0"
    assert [line.split()[0] for line in lines] == ["keep"] + 4 * ["remove"]
    assert str(collection / "lossless.png") in lines[0]
    assert "120 x 100" in "".join(lines)


def test_the_table_has_a_row_an_image(duplicates: Duplicates, collection: Path) -> None:
    table = duplicates.to_pandas()
    assert len(table) == 5
    assert table.loc[table["keep"], "image"].tolist() == [str(collection / "lossless.png")]
    assert table["probability"].isna().all()  # the threshold was not learned


def test_the_page_shows_every_member_and_escapes_names(tmp_path: Path, collection: Path) -> None:
    for name in ("<b>.jpg", "x.jpg"):
        shutil.copy(collection / "chelsea.jpg", tmp_path / name)
    page = find_duplicates(tmp_path).to_html("a <i>")
    assert page.count("<img") == 2
    assert "&lt;b&gt;.jpg" in page
    assert "<b>.jpg" not in page
    assert "a <i>" not in page


def test_the_picture_has_an_axis_for_every_member(duplicates: Duplicates) -> None:
    axes = duplicates.plot()
    titles = [axis.get_title() for axis in axes.ravel()]
    assert sum(title.endswith("remove") for title in titles) == 4
    assert "lossless.png" in titles[0]
    assert duplicates._repr_html_().count("<img") == 5


def test_long_results_are_cut_and_say_so(photographs: list[Path]) -> None:
    content = [path.read_bytes() for path in photographs[:11]]
    duplicates = find_duplicates(content + content)
    assert len(duplicates) == 11
    assert repr(duplicates).endswith("... and 1 more group")
    assert "1 more group" in duplicates._repr_html_()
    assert "more group" not in duplicates.to_html()


@pytest.mark.slow
def test_the_guide_to_applications_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[1] / "docs" / "applications.md"
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, guide.name, "exec"), names)
    assert isinstance(names["duplicates"], Duplicates)
    assert len(names["duplicates"]) >= 14
    assert (tmp_path / "duplicates.png").is_file()
