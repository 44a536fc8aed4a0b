"""Known faults of image search, looked for in imgembed and in its peers.

    python benchmarks/peers.py [--only FAULT ...] [--library NAME ...]

Every library is tried in a process of its own, which may crash; where it would download weights, as
peer_weights.py says; and if it is not installed, the table says so. Prints a table of faults by
libraries, in Markdown, and below it what was seen.
"""

import argparse
import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

from peer_faults import (
    EMBEDDER_CHECKS,
    FAULTS,
    Outcome,
    cause_of_death,
    what_it_says,
    wrong,
)
from peer_indexes import INDEXES
from peer_libraries import EMBEDDERS, Embedder, NotApplicableError
from peer_weights import photographs
from PIL import Image

LIBRARIES = tuple(dict.fromkeys([*EMBEDDERS, *INDEXES]))
SECONDS = 1800  # of one library
_MARK = "outcome: "  # before a line of an outcome, among what libraries print


def main() -> None:
    """Run every library in a process of its own, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--library", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return run_checks(arguments.child, arguments.only)
    outcomes = {name: run_library(name, arguments.only) for name in arguments.library}
    print_table(outcomes, arguments.only)
    return None


def run_library(name: str, faults: list[str]) -> dict[str, Outcome]:
    """The outcomes of a library; after a crash the checks that are left are run anew."""
    if importlib.util.find_spec(name) is None:
        return dict.fromkeys(faults, Outcome("not installed"))
    found: dict[str, Outcome] = {}
    while left := [fault for fault in faults if fault not in found]:
        # A query of the wrong width may damage what is next to the index in memory.
        together = [fault for fault in left if fault in EMBEDDER_CHECKS] or left[:1]
        done = _in_child(name, together)
        for line in done.stdout.splitlines():
            if line.startswith(_MARK):
                told = json.loads(line.removeprefix(_MARK))
                fault = told.pop("fault")
                found[fault] = Outcome(**told)
        if done.returncode:
            undone = [fault for fault in together if fault not in found]
            fault, death = (undone or together[-1:])[0], cause_of_death(done.returncode)
            seen = f"{found[fault].seen}; then the" if fault in found else "the"
            found[fault] = wrong(f"{seen} process dies: {death}")
    return found


def _in_child(name: str, faults: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, __file__, "--child", name, "--only", *faults],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def run_checks(name: str, faults: list[str]) -> None:
    """In the process of a library: look for faults, and print a line for each."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for fault in faults:
            outcome = look_for(fault, name, Path(folder))
            print(_MARK + json.dumps({"fault": fault, **asdict(outcome)}), flush=True)


def look_for(fault: str, name: str, folder: Path) -> Outcome:
    """Whether a library has a fault."""
    check = FAULTS[fault]
    if name not in (EMBEDDERS if check in EMBEDDER_CHECKS.values() else INDEXES):
        return Outcome("not applicable")
    try:
        if check in EMBEDDER_CHECKS.values():
            return check(_embedder(name), write_photographs(folder))
        return check(INDEXES[name], folder)
    except NotApplicableError as reason:
        return Outcome("not applicable", str(reason))
    except Exception as error:  # whatever a library raises is what was seen
        return Outcome("error", what_it_says(error))


@functools.cache
def _embedder(name: str) -> Embedder:
    return EMBEDDERS[name]()


def write_photographs(folder: Path) -> list[Path]:
    """Four small photographs, as lossless files."""
    paths = [folder / f"{path.stem}.png" for path in photographs()[::2]]
    for path, source in zip(paths, photographs()[::2], strict=True):
        if not path.exists():
            Image.open(source).convert("RGB").resize((192, 128)).save(path)
    return paths


def print_table(outcomes: dict[str, dict[str, Outcome]], faults: list[str]) -> None:
    """Verdicts by fault and library, and below what was seen."""
    names = list(outcomes)
    print("| | " + " | ".join(f"{name} {_version(name)}".strip() for name in names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for fault in faults:
        print(f"| {fault} | " + " | ".join(outcomes[n][fault].verdict for n in names) + " |")
    for fault in faults:
        told = [(n, outcomes[n][fault]) for n in names if outcomes[n][fault].seen]
        print(f"\n{fault}: {(FAULTS[fault].__doc__ or '').strip()}\n")
        for name, outcome in told:
            print(f"- {name}: {outcome.verdict}: {outcome.seen}")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
