"""The documentation: every public name is in the reference, and snippets can be typed."""

import ast
import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import imgembed

DOCS = Path(__file__).parents[1] / "docs"
GUIDES = sorted([*DOCS.glob("*.md"), DOCS.parent / "README.md"])
EXAMPLES = sorted((DOCS.parent / "examples").glob("*/plot_*.py"))
# Names of pages that Sphinx writes itself, over those of the same name.
PAGES_OF_SPHINX = {"search", "genindex", "modindex"}
ROOMS = [name for name in imgembed.__all__ if hasattr(getattr(imgembed, name), "__path__")]


def listed_names() -> set[str]:
    """Names in the lists of docs/api.rst, without the name of the package."""
    reference = (DOCS / "api.rst").read_text(encoding="utf-8")
    summaries = re.findall(r"^   ([A-Za-z_][\w.]*)$", reference, re.MULTILINE)
    by_hand = re.findall(r"^\.\. auto\w+:: (?:imgembed\.)?([\w.]+)$", reference, re.MULTILINE)
    return {*summaries, *by_hand}


def public_names() -> list[str]:
    """Every public name, by the shortest way to import it."""
    names = [name for name in imgembed.__all__ if name not in {*ROOMS, "testing"}]
    for room in ROOMS:
        for name in getattr(imgembed, room).__all__:
            names.append(name if name in imgembed.__all__ else f"{room}.{name}")
    return sorted(set(names))


def snippets(guide: Path) -> list[str]:
    return re.findall(r"```py(?:thon)?\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)


def imported_from_imgembed(code: str) -> list[tuple[str, str]]:
    return [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "imgembed"
        for alias in node.names
    ]


@pytest.mark.parametrize("name", public_names())
def test_a_public_name_is_in_the_reference(name: str) -> None:
    assert name in listed_names(), f"add {name} to its section of docs/api.rst"


@pytest.mark.parametrize("name", sorted(listed_names()))
def test_a_name_in_the_reference_exists(name: str) -> None:
    value: object = imgembed
    for part in name.split("."):
        value = getattr(value, part)
    assert value.__doc__


def test_the_rooms_with_names_of_their_own_are_known() -> None:
    assert {"classical", "evaluation", "plotting"} <= set(ROOMS)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_snippets_compile_and_import_what_exists(guide: Path) -> None:
    for code in snippets(guide):
        for module, name in imported_from_imgembed(code):
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"


@pytest.fixture
def _photos(tmp_path: Path, photographs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that snippets name, in the working folder."""
    for row, path in enumerate(photographs[:8]):
        kind = tmp_path / "photos" / ("a" if row % 2 else "b")
        kind.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.convert("RGB").resize((160, 120)).save(kind / f"{path.stem}.jpg")
    shutil.copy(tmp_path / "photos" / "b" / "astronaut.jpg", tmp_path / "query.jpg")
    monkeypatch.chdir(tmp_path)


def run_snippets(guide: str) -> dict[str, Any]:
    """What the snippets that need no other library leave, run one after the other."""
    names: dict[str, Any] = {}
    text = (DOCS / guide).read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(code, guide, "exec"), names)
    return names


@pytest.mark.usefixtures("_photos")
def test_the_code_in_the_first_guide_runs(tmp_path: Path) -> None:
    names = run_snippets("getting_started.md")
    assert names["hits"].images[int(names["hits"].ids[0, 0])].name == "astronaut.jpg"
    assert names["vectors"].shape == (8, 1280)
    assert (tmp_path / "hits.png").is_file()


@pytest.mark.usefixtures("_photos")
def test_the_code_on_large_collections_runs() -> None:
    names = run_snippets("scaling.md")
    assert names["small"].shape == (8, 4)
    assert names["vectors"].shape == names["stored"].shape == (8, 1280)


def test_the_code_on_security_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run_snippets("persistence_and_security.md")
    assert "cell_size" in capsys.readouterr().out


@pytest.mark.usefixtures("_photos")
def test_the_code_for_those_who_come_from_elsewhere_runs() -> None:
    assert len(run_snippets("coming_from.md")["to_remove"]) == 0


def test_no_page_of_the_guide_is_written_over_by_sphinx() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = re.findall(r"^[\w/]+$", index, re.MULTILINE)
    assert "methods" in pages
    assert PAGES_OF_SPHINX.isdisjoint(pages)


def test_every_guide_is_in_the_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = set(re.findall(r"^[\w/]+$", index, re.MULTILINE))
    assert {path.name for path in DOCS.glob("*.md")} - {"index.md"} == {
        f"{page}.md" for page in pages if (DOCS / f"{page}.md").is_file()
    }


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_import_what_exists(example: Path) -> None:
    for module, name in imported_from_imgembed(example.read_text(encoding="utf-8")):
        assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
