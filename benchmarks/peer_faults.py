"""The faults that peers.py looks for: each is a function whose docstring says what is right.

Shares are of the median distance between the vectors of different photographs: a vector that is
wrong by 1 is as far from the right one as another photograph is.
"""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peer_indexes
from peer_indexes import INDEXES, Answers, Index, random_vectors
from peer_libraries import Embedder, NotApplicableError
from peer_weights import Vectors
from PIL import Image, ImageFile

# Vectors that differ by less, as a share of the distance of two photographs, are the same.
SAME = 0.01


@dataclass(frozen=True)
class Outcome:
    """A verdict, and what was seen."""

    verdict: str  # "right", "wrong", "error", "not applicable" or "not installed"
    seen: str = ""


def right(seen: str = "") -> Outcome:
    return Outcome("right", seen)


def wrong(seen: str) -> Outcome:
    return Outcome("wrong", seen)


def cause_of_death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def what_it_says(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["without a message"]
    return f"{type(error).__name__}: {lines[0][:110]}"


# What may be wrong with embedders. Each takes a library and the files of four photographs.


def training_mode(library: Embedder, paths: list[Path]) -> Outcome:
    """The vectors are those of the network in evaluation mode, which leaves it as it was."""
    library = type(library)()
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in library.modules()]
    got = library.embed(paths)
    n_changed = 0
    for module, state in zip(library.modules(), states, strict=True):
        now = module.state_dict()
        n_changed += sum(not bool((now[key] == value).all()) for key, value in state.items())
        module.load_state_dict(state)
        module.eval()
    wanted = library.embed(paths)
    outcome = same(library, paths, got, wanted)
    if n_changed:
        return wrong(f"{outcome.seen}; {n_changed} tensors of the network changed")
    return outcome


def alone_or_in_a_list(library: Embedder, paths: list[Path]) -> Outcome:
    """An image alone has the vector that it has in a list."""
    outcomes = {}
    for network in library.networks:
        other = library if network == library.network else type(library)(network)
        alone = np.stack([other.embed_alone(path) for path in paths])
        try:
            outcomes[network] = same(other, paths, alone, other.embed(paths))
        except Exception as error:  # one network of several
            outcomes[network] = Outcome("error", "a list raises " + what_it_says(error))
    return worst(outcomes)


def batch_size(library: Embedder, paths: list[Path]) -> Outcome:
    """Vectors do not depend on the size of the batch or the order of the images."""
    library = type(library)()
    wanted = library.embed(paths)
    reversed_ = library.embed(paths[::-1])[::-1]
    outcomes = {"another order": same(library, paths, reversed_, wanted)}
    for size in (1, 3):
        try:
            library.set_batch_size(size)
        except NotApplicableError as reason:
            return same(library, paths, reversed_, wanted, f"; {reason}")
        outcomes[f"batches of {size}"] = same(library, paths, library.embed(paths), wanted)
    return worst(outcomes)


def transformer(library: Embedder, paths: list[Path]) -> Outcome:
    """The vector of a vision transformer is a pooling of its tokens after the last norm."""
    got, poolings = library.of_transformer(paths[0])
    fitting = [pooling for pooling in poolings if pooling.shape == got.shape]
    if not fitting:
        return wrong(f"{len(got):,} features instead of {len(poolings[0])}")
    nearest = min(float(np.linalg.norm(got - one) / np.linalg.norm(one)) for one in fitting)
    if nearest < SAME:
        return right(f"within {nearest:.2%} of its length" if nearest > 1e-4 else "")
    return wrong(f"differs from the pooled tokens by {nearest:.0%} of its length")


def normalisation(library: Embedder, paths: list[Path]) -> Outcome:
    """A network is shown pixels on the scale that its weights were trained on."""
    path = paths[0].with_name("flat.png")
    Image.new("RGB", (256, 256), (200, 120, 40)).save(path)
    got, wanted = (np.ravel(one)[:: max(1, one.size // 3)][:3] for one in library.as_shown(path))
    if np.allclose(got, wanted, atol=0.02, rtol=0.001):
        return right()
    return wrong(f"pixels of (200, 120, 40) become {_row(got)} instead of {_row(wanted)}")


def _row(shown: Vectors) -> str:
    return "(" + ", ".join(f"{value:.2f}" for value in shown) + ")"


def exif_orientation(library: Embedder, paths: list[Path]) -> Outcome:
    """A JPEG that a camera has marked as turned has the vector of the upright picture."""
    turned, upright = (paths[0].with_name(name) for name in ("turned.jpg", "upright.png"))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.open(paths[0]).rotate(90, expand=True).save(turned, exif=exif, quality=95)
    Image.open(turned).transpose(Image.Transpose.ROTATE_270).save(upright)
    return alike(library, paths, turned, upright)


def hidden_colours(library: Embedder, paths: list[Path]) -> Outcome:
    """Colours below transparent pixels, which nobody sees, change nothing."""
    first, second = (paths[0].with_name(f"hidden{n}.png") for n in range(2))
    for seed, path in enumerate((first, second)):
        pixels = np.asarray(Image.open(paths[0]).convert("RGBA")).copy()
        pixels[:, 96:, 3] = 0
        noise = np.random.default_rng(seed).integers(0, 256, (16, 12, 3), dtype=np.uint8)
        pixels[:, 96:, :3] = np.kron(noise, np.ones((8, 8, 1), np.uint8))
        Image.fromarray(pixels).save(path)
    return alike(library, paths, first, second)


def sixteen_bits(library: Embedder, paths: list[Path]) -> Outcome:
    """A grey PNG of 16 bits has the vector of the same picture of 8 bits."""
    deep, plain = (paths[0].with_name(f"grey{bits}.png") for bits in (16, 8))
    grey = Image.open(paths[0]).convert("L")
    grey.convert("RGB").save(plain)
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(deep)
    return alike(library, paths, deep, plain)


def grey_files(library: Embedder, paths: list[Path]) -> Outcome:
    """A grey file has the vector of the same pixels as RGB."""
    grey, plain = (paths[0].with_name(name) for name in ("grey.png", "grey_rgb.png"))
    Image.open(paths[0]).convert("L").save(grey)
    Image.open(grey).convert("RGB").save(plain)
    return alike(library, paths, grey, plain)


def cmyk_files(library: Embedder, paths: list[Path]) -> Outcome:
    """A JPEG for printing, in CMYK, has the vector of the same picture in RGB."""
    printed, plain = (paths[0].with_name(name) for name in ("cmyk.jpg", "cmyk_rgb.png"))
    Image.open(paths[0]).convert("CMYK").save(printed, quality=95)
    Image.open(printed).convert("RGB").save(plain)
    return alike(library, paths, printed, plain)


def unreadable_file(library: Embedder, paths: list[Path]) -> Outcome:
    """A file that is no image is named, and no row stands for another file."""
    broken = paths[0].with_name("broken.png")
    broken.write_bytes(b"this is no image")
    return with_bad_file(library, paths, broken)


def truncated_file(library: Embedder, paths: list[Path]) -> Outcome:
    """Half a JPEG is no picture, and is named."""
    cut = paths[0].with_name("cut.jpg")
    Image.open(paths[0]).save(cut, quality=95)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    return with_bad_file(library, paths, cut)


def process_state(library: Embedder, paths: list[Path]) -> Outcome:
    """Embedding leaves random states, threads and settings of the process as they were."""
    library.embed(paths)  # what is loaded lazily is loaded
    before = _state_of_process()
    library.embed(paths)
    after = _state_of_process()
    changed = [name for name, value in before.items() if after[name] != value]
    return wrong(f"changed: {', '.join(changed)}") if changed else right()


def _state_of_process() -> dict[str, Any]:
    import cv2
    import torch

    return {
        "random": random.getstate(),
        "numpy.random": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "torch's random state": torch.get_rng_state().tolist(),
        "torch's threads": torch.get_num_threads(),
        "torch's gradients": torch.is_grad_enabled(),
        "OpenCV's threads": cv2.getNumThreads(),
        "warning filters": list(warnings.filters),
        "Pillow's pixel limit": Image.MAX_IMAGE_PIXELS,
        "Pillow's truncated files": ImageFile.LOAD_TRUNCATED_IMAGES,
        "environment": dict(os.environ),
    }


def same(
    library: Embedder, paths: list[Path], got: Vectors, wanted: Vectors, note: str = ""
) -> Outcome:
    """Whether vectors are the same, by the largest difference as a share of the usual distance."""
    usual = library.usual_distance(paths)
    share = float(np.linalg.norm(np.atleast_2d(got - wanted), axis=1).max() / usual)
    return right(note.lstrip("; ")) if share < SAME else wrong(f"differs by {share:.2f}{note}")


def alike(library: Embedder, paths: list[Path], got: Path, wanted: Path) -> Outcome:
    """Whether two files have the same vector."""
    return same(library, paths, library.embed([got])[0], library.embed([wanted])[0])


def worst(outcomes: dict[str, Outcome]) -> Outcome:
    """One outcome of several: wrong if one is."""
    seen = [f"{name}: {one.seen or one.verdict}" for name, one in outcomes.items()]
    bad = [one.verdict for one in outcomes.values() if one.verdict != "right"]
    if not bad:
        return right(f"{', '.join(outcomes)}" if len(outcomes) > 1 else "")
    return Outcome("wrong" if "wrong" in bad else bad[0], "; ".join(seen))


def with_bad_file(library: Embedder, paths: list[Path], bad: Path) -> Outcome:
    """What becomes of a list in which one file cannot be read."""
    files = [*paths[:2], bad, *paths[2:]]
    try:
        vectors = library.embed(files)
    except Exception as error:  # whatever is raised, is not silent
        named = "names the file" if bad.name in str(error) else "does not name the file"
        return right(f"{type(error).__name__}, which {named}")
    if len(vectors) == len(files):
        return wrong("it has a vector")
    if not library.rows_are_named:
        return wrong(f"{len(vectors)} rows for {len(files)} files, without a word")
    others = same(library, paths, vectors, library.embed(paths))
    return right("left out and logged; vectors go by file names") if others == right() else others


# What may be wrong with indexes. Each takes the class of an index and a folder.


def too_many_neighbours(index: type[Index], folder: Path) -> Outcome:
    """More neighbours than there are vectors: an error that says so, or all that there are."""
    vectors = random_vectors(4)
    try:
        _, rows = index(vectors).query(vectors[:1], 10)
    except Exception as error:  # what it says is what matters
        says_so = any(word in str(error) for word in ("10", "n_samples", "4"))
        return right(what_it_says(error)) if says_so else wrong(f"raises {what_it_says(error)}")
    found = [int(row) for row in rows[0] if row >= 0]
    if sorted(found) == [0, 1, 2, 3]:
        return right(f"all 4, {'filled up with -1' if len(rows[0]) == 10 else 'and no more'}")
    return wrong(f"rows {found}")


def wrong_width(index: type[Index], folder: Path) -> Outcome:
    """A query of another width than the vectors is refused, and the index answers as before."""
    vectors = random_vectors(300)
    built = index(vectors)
    before = built.query(vectors, 3)
    errors, answered = [], []
    for width in (8, 64, 4096):
        query = np.random.default_rng(1).normal(size=(200, width)).astype(np.float32)
        try:
            built.query(query, 3)
            answered.append(f"{width}")
        except Exception as error:  # what it says is what matters
            errors.append(what_it_says(error))
    if answered:
        return wrong(f"queries of widths {', '.join(answered)} instead of 16 are answered")
    if not _equal(built.query(vectors, 3), before):
        return wrong("the index answers differently afterwards")
    return right(errors[0]) if "16" in errors[0] else Outcome("error", errors[0])


def not_a_number(index: type[Index], folder: Path) -> Outcome:
    """Where 1 % of the vectors are NaN, they are refused, or the others are found."""
    vectors = np.random.default_rng(0).normal(size=(2000, 16)).astype(np.float32)
    vectors[::100] = np.nan
    try:
        built = index(vectors)
    except Exception as error:  # what it says is what matters
        return right(what_it_says(error))
    finite = np.flatnonzero(np.isfinite(vectors[:, 0]))
    _, rows = built.query(vectors[finite], 1)
    found = float(np.mean(rows[:, 0] == finite))
    if found > 0.99:
        return right("taken in, and the others are found")
    return wrong(f"of the others only {found:.0%} find themselves")


def damaged_file(index: type[Index], folder: Path) -> Outcome:
    """A file with one changed byte, or cut off, is refused or answers as before."""
    saved = folder / "saved"
    saved.mkdir()
    index(random_vectors(300)).save(saved)
    name = next(key for key, value in INDEXES.items() if value is index)
    wanted = _reopened(name, saved)
    counts: dict[str, int] = {}
    damages = list(_damages(saved))
    for path, content in damages:
        whole = path.read_bytes()
        path.write_bytes(content)
        got = _reopened(name, saved)
        path.write_bytes(whole)
        kind = got if isinstance(got, str) else "as before" if got == wanted else "other answers"
        counts[kind] = counts.get(kind, 0) + 1
    seen = ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items()))
    bad = set(counts) - {"refused", "as before"}
    return (wrong if bad else right)(f"of {len(damages)} damages: {seen}")


def _damages(folder: Path) -> list[tuple[Path, bytes]]:
    """Of the files of a saved index: bytes inverted at 24 places, more in front, and a cut."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    found = []
    for path in files:
        content = path.read_bytes()
        places = np.unique(np.geomspace(1, len(content), 24 // len(files) + 1).astype(int) - 1)
        for place in places:
            damaged = bytearray(content)
            damaged[place] ^= 0xFF
            found.append((path, bytes(damaged)))
        found.append((path, content[: len(content) // 2]))
    return found


def _reopened(name: str, folder: Path) -> Any:
    """The answers of a saved index in another process, or what became of it."""
    command = [sys.executable, peer_indexes.__file__, name, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode < 0:
        return f"crash ({cause_of_death(done.returncode)})"
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else "refused"


def _equal(got: Answers, wanted: Answers) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(got, wanted, strict=True))


EMBEDDER_CHECKS: dict[str, Callable[[Embedder, list[Path]], Outcome]] = {
    "training mode": training_mode,
    "alone or in a list": alone_or_in_a_list,
    "batch size and order": batch_size,
    "vision transformer": transformer,
    "normalisation": normalisation,
    "EXIF orientation": exif_orientation,
    "hidden colours": hidden_colours,
    "16-bit grey": sixteen_bits,
    "grey file": grey_files,
    "CMYK file": cmyk_files,
    "unreadable file": unreadable_file,
    "truncated file": truncated_file,
    "state of the process": process_state,
}
INDEX_CHECKS: dict[str, Callable[[type[Index], Path], Outcome]] = {
    "too many neighbours": too_many_neighbours,
    "query of wrong width": wrong_width,
    "NaN vectors": not_a_number,
    "damaged index file": damaged_file,
}
FAULTS: dict[str, Callable[[Any, Any], Outcome]] = {**EMBEDDER_CHECKS, **INDEX_CHECKS}
