"""The frame: a lazy front door, rooms with one door each, a README that works."""

import ast
import inspect
import operator
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from numpydoc.validate import validate
from PIL import Image

import imgembed
from imgembed._optional import import_optional

PROJECT = Path(__file__).parents[1]
PACKAGE = Path(imgembed.__file__).parent


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import imgembed; dir(imgembed); "
        "print(sorted(set(sys.modules) - before))"
    )
    loaded = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True))
    heavy = {"PIL", "cv2", "hnswlib", "joblib", "matplotlib", "numpy", "pandas", "scipy", "sklearn",
             "timm", "torch", "tqdm"}  # fmt: skip
    assert heavy.isdisjoint(name.partition(".")[0] for name in loaded)
    # What is not loaded takes no time; what remains is of Python's own.
    assert len(loaded) < 60


def test_the_front_door_shows_and_gives_all_public_names() -> None:
    assert set(imgembed.__all__) <= set(dir(imgembed))
    for name in imgembed.__all__:
        value = getattr(imgembed, name)
        assert value.__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        imgembed.Nothing  # noqa: B018


def test_static_types_know_the_names_that_load_lazily() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert typed == set(imgembed.__all__)


# What the house does otherwise than numpydoc: returned values have names, which say enough.
STYLE_OF_THE_HOUSE = {"ES01", "PR07", "PR08", "RT02", "RT03", "SA01"}
# Their parameters are those that a subclass must have, and its examples are theirs.
BASES = {"ImageEmbedder", "classical.LocalFeatureExtractor"}


def public_names() -> list[str]:
    """All public classes and functions, and the methods that are written here."""
    names = [name for name in imgembed.__all__ if not inspect.ismodule(getattr(imgembed, name))]
    for room in sorted(set(imgembed.__all__) - set(names)):  # in one order, for several processes
        module = getattr(imgembed, room)
        named = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
        names += [
            f"{room}.{name}"
            for name in named
            if getattr(getattr(module, name), "__module__", "").startswith(f"imgembed.{room}")
        ]
    for name in names.copy():
        names += [
            f"{name}.{method}"
            for method, member in inspect.getmembers(operator.attrgetter(name)(imgembed))
            if not method.startswith("_") and _is_written_here(member)
        ]
    return names


def _is_written_here(member: object) -> bool:
    function = member.fget if isinstance(member, property) else member
    return inspect.isfunction(function) and function.__module__.startswith("imgembed")


@pytest.mark.parametrize("name", public_names())
def test_public_docstrings_are_numpydoc(name: str) -> None:
    ignored = STYLE_OF_THE_HOUSE | ({"PR02", "EX01"} if name in BASES else set())
    if _is_method(name) or _is_error(name):
        ignored.add("EX01")  # the class, or what raises it, has the example
    errors = validate(f"imgembed.{name}")["errors"]
    assert [error for error in errors if error[0] not in ignored] == []


def _is_method(name: str) -> bool:
    owner = name.rpartition(".")[0]
    return bool(owner) and inspect.isclass(operator.attrgetter(owner)(imgembed))


def _is_error(name: str) -> bool:
    member = operator.attrgetter(name)(imgembed)
    return inspect.isclass(member) and issubclass(member, Exception)


# What only one room may do.
ROOMS = {
    r"Image\.open\(|cv2\.imread|cv2\.imdecode": ("images.py",),
    r"import hnswlib": ("index/_hnsw.py",),
    r"torch\.(load|save|jit\.\w+)\(": ("deep/_archives.py",),
    # Objects are read without torch, which a search by HOG or SIFT does not load.
    r"import safetensors": ("deep/_archives.py", "embedder_files/_packing.py"),
    r'"open_clip"': ("deep/_open_clip.py",),
    # The doctor looks at torch itself.
    r"^\s*(import|from) (torch|timm)\b": ("deep/", "training/", "cli/_doctor.py"),
}


@pytest.mark.parametrize("pattern", ROOMS)
def test_each_thing_is_done_in_one_room(pattern: str) -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found
    assert {path for path in found if not path.startswith(ROOMS[pattern])} == set()


def test_a_missing_extra_is_named() -> None:
    with pytest.raises(ImportError, match=r"a_plot needs.*'nowhere'.*imgembed\[plot\]"):
        import_optional("nowhere.module", extra="plot", needed_by="a_plot")


def test_an_installed_module_that_fails_raises_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("import what_it_needs")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_it_needs"):
        import_optional("broken_module", extra="plot", needed_by="a_plot")


@pytest.fixture
def _photos(tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the code in the documentation names, in the working folder."""
    for row, path in enumerate(photographs[:8]):
        kind = tmp_path / "photos" / ("a" if row % 2 else "b")
        kind.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.convert("RGB").save(kind / f"{path.stem}.jpg")
    Image.open(photographs[0]).convert("RGB").save(tmp_path / "query.jpg")
    monkeypatch.chdir(tmp_path)


def run_code_in(document: str) -> dict[str, Any]:
    text = (PROJECT / document).read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, document, "exec"), names)
    return names


@pytest.mark.usefixtures("_photos")
def test_the_code_in_the_readme_runs(tmp_path: Path) -> None:
    names = run_code_in("README.md")
    assert names["vectors"].shape == (8, 1280)
    assert (tmp_path / "hits.png").is_file()


@pytest.mark.usefixtures("_photos")
def test_the_code_in_the_guide_to_networks_runs(tmp_path: Path) -> None:
    names = run_code_in("docs/networks.md")
    assert names["vectors"].shape == names["stored"].shape == (8, 1280)
    assert names["residuals"].shape == (8, 4 * 1280)
    tuned = imgembed.FineTunedEmbedder.load(tmp_path / "tuned")
    assert tuned.fingerprint() == names["tuned"].fingerprint()
    vectors = names["again"].transform(names["paths"])
    assert abs(vectors - names["moco"].transform(names["paths"])).max() < 1e-4


@pytest.mark.usefixtures("_photos")
def test_the_code_in_the_guide_to_local_features_runs(tmp_path: Path) -> None:
    names = run_code_in("docs/local_features.md")
    assert names["match"].verified
    assert names["bags"].shape == (8, 500)
    for picture in ("matches", "keypoints", "words"):
        assert (tmp_path / f"{picture}.png").is_file()


def test_the_code_in_the_guide_to_the_index_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_code_in("docs/searching.md")
    assert names["found"].ids[0][:2] == ["copy0", "photo0"]
    prices = [record["price"] for hits in names["cheap"].records for record in hits]
    assert len(prices) == 10
    assert max(prices) < 50
    assert names["graph"].recall_estimate_.recall >= 0.95
    assert ["photo7", "copy7"] in names["groups"]
    assert names["unknown"].ids == [[]]
    assert names["known"].ids == [["copy0", "photo0"]]
    assert "new" not in imgembed.NearestNeighborIndex.load("shop")
    assert names["small"].storage_recall_.recall > 0.95
    assert len(set(names["clusters"])) > 100
    assert names["knn"][0].shape == (2200, 15)
