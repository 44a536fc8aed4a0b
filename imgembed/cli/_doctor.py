"""imgembed doctor: which parts work here, and what to do for the others."""

import os
import platform
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple

import click

import imgembed

from ._options import json_option, print_json

_HUB = "https://huggingface.co"
_HUB_TIMEOUT = 3.0  # seconds
# Of these only one may be installed: they hold the same module, and overwrite each other.
_OPENCVS = (
    "opencv-python", "opencv-python-headless", "opencv-contrib-python",
    "opencv-contrib-python-headless",
)  # fmt: skip
_MARKS = {"works": "ok", "broken": "BROKEN", "absent": "-"}


class Check(NamedTuple):
    """What was found of one part.

    Parameters
    ----------
    part : str
    state : {"works", "broken", "absent"}
        "absent" is no error: the part is optional.
    told : str
        A version, or what is wrong.
    fix : str, default=""
        A command, or what else to do.
    """

    part: str
    state: str
    told: str
    fix: str = ""


@click.command(short_help="Say which parts work here.")
@json_option
def doctor(as_json: bool) -> None:
    """Say which parts of imgembed work here, and how to get the others."""
    checks = list(_checks())
    if as_json:
        print_json({"checks": [check._asdict() for check in checks]})
    else:
        for check in checks:
            click.echo(f"{_MARKS[check.state]:7} {check.part:22} {check.told}")
            if check.fix:
                click.echo(f"{'':30} -> {check.fix}")
    if any(check.state == "broken" for check in checks):
        raise click.exceptions.Exit(1)


def _checks() -> Iterator[Check]:
    yield Check("python", "works", f"{platform.python_version()} ({sys.executable})")
    yield Check("imgembed", "works", imgembed.__version__)
    yield from _packages()
    yield _one_opencv()
    yield _surf()
    yield from _devices()
    yield _bundled_weights()
    yield _hub()


def _packages() -> Iterator[Check]:
    """The packages that imgembed needs, then its extras."""
    try:
        extras = metadata.metadata("imgembed").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        told = "runs from its source; its requirements are not known"
        yield Check("packages", "absent", told, "python -m pip install .")
        return
    needed = _wanting("")
    fix = "python -m pip install --upgrade imgembed"
    yield Check("packages", *(("broken", needed, fix) if needed else ("works", "all are there")))
    for extra in extras:
        missing = _wanting(extra)
        fix = f'python -m pip install "imgembed[{extra}]"'
        yield Check(f"extra {extra}", *(("absent", missing, fix) if missing else ("works", "")))


def _wanting(extra: str) -> str:
    """The requirements of an extra, or of imgembed itself, that are not fulfilled."""
    from packaging.requirements import Requirement

    wanting = []
    for text in metadata.requires("imgembed") or []:
        need = Requirement(text)
        here = need.marker is None or need.marker.evaluate({"extra": extra})
        if here and (need.marker is not None or not extra):
            wanting += _misfit(need)
    return ", ".join(wanting)


def _misfit(need: Any) -> list[str]:
    names = _OPENCVS if need.name in _OPENCVS else (need.name,)
    versions = [version for version in map(_version, names) if version is not None]
    if not versions:
        return [f"{need.name} is missing"]
    if any(need.specifier.contains(version, prereleases=True) for version in versions):
        return []
    return [f"{need.name} is {versions[0]}, must be {need.specifier}"]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _one_opencv() -> Check:
    found = [name for name in _OPENCVS if _version(name) is not None]
    again = "python -m pip install --force-reinstall --no-deps opencv-contrib-python"
    if len(found) > 1:
        told = f"{' and '.join(found)} overwrite each other"
        return Check(
            "opencv", "broken", told, f"python -m pip uninstall {' '.join(found)}; {again}"
        )
    try:
        import cv2
    except ImportError as error:  # as on servers without the libraries of a screen
        headless = "python -m pip install opencv-contrib-python-headless"
        return Check(
            "opencv", "broken", str(error), f"python -m pip uninstall {found[0]}; {headless}"
        )
    if not hasattr(cv2, "xfeatures2d"):
        return Check("opencv", "broken", f"{cv2.__version__}, without its contributed part", again)
    return Check("opencv", "works", cv2.__version__)


def _surf() -> Check:
    try:
        available = imgembed.classical.surf_available()
    except ImportError:
        return Check("SURF", "absent", "needs OpenCV")
    if available:
        return Check("SURF", "works", "in this build of OpenCV")
    fix = (
        'CMAKE_ARGS="-DOPENCV_ENABLE_NONFREE=ON" python -m pip install --force-reinstall '
        "--no-binary opencv-contrib-python opencv-contrib-python"
    )
    return Check("SURF", "absent", "not in this build of OpenCV; SIFT and AKAZE are", fix)


def _devices() -> Iterator[Check]:
    import torch

    yield Check("torch", "works", f"{torch.__version__}, {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        yield Check("CUDA", "works", torch.cuda.get_device_name())
    else:
        yield Check("CUDA", "absent", "no GPU, or a torch that was built without it")
    mps = torch.backends.mps.is_available()
    yield Check("MPS", "works" if mps else "absent", "" if mps else "no GPU of Apple")


def _bundled_weights() -> Check:
    """Embed an image, which tries torch, timm and the reader as well."""
    import numpy as np

    part = "bundled weights"
    try:
        embedder = imgembed.make_embedder("lite0").set_params(engine="torch")
        vectors = embedder.transform([np.zeros((32, 32, 3), np.uint8)])
    except ImportError as error:
        return Check(part, "absent", str(error), 'python -m pip install "imgembed[offline]"')
    except Exception as error:  # whatever is wrong with a network, the other checks go on
        return Check(part, "broken", f"{type(error).__name__}: {error}")
    return Check(part, "works", f"lite0, {vectors.shape[1]} features")


def _hub() -> Check:
    """Whether weights can be downloaded; without a network all else works."""
    part, fix = "hub of weights", "take weights='bundled' or a file, or connect to the network"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check(part, "absent", "HF_HUB_OFFLINE forbids it", "unset HF_HUB_OFFLINE")
    address = os.environ.get("HF_ENDPOINT", _HUB)
    if not address.startswith(("https://", "http://")):
        return Check(part, "broken", f"HF_ENDPOINT={address!r} is no address", "unset HF_ENDPOINT")
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT):  # noqa: S310
            return Check(part, "works", f"{address} answers")
    except urllib.error.HTTPError as error:
        return Check(part, "works", f"{address} answers ({error.code})")
    except (OSError, ValueError) as error:
        return Check(part, "absent", f"{address} cannot be reached ({error})", fix)
