"""The project's own checks: ``nox -s tests``, and the others that ``nox --list`` names."""

import os
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "typecheck"]
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
# Sessions that need the library share one environment: torch alone is gigabytes.
SHARED = Path(".nox", "shared")
ON_ALL_CORES = ("-n", "auto", "--maxprocesses=4", "--dist=worksteal")


def _needs(*groups: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(PROJECT, *groups)


def _run_with_library(session: nox.Session, *command: str, needs: tuple[str, ...] = ()) -> None:
    """Run a module in the shared environment, with the library installed in place."""
    python = SHARED.absolute() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        session.run("python", "-m", "venv", str(SHARED))
    install = ("-m", "pip", "install", "--quiet", "-e", ".[all]", *needs)
    session.run(str(python), *install, external=True)
    session.run(str(python), *command, external=True)


def _run_marked(session: nox.Session, marker: str, path: str, *groups: str) -> None:
    """Run the tests that the test suite leaves out, by their marker."""
    command = ("-m", "pytest", "-m", marker, path, *session.posargs)
    _run_with_library(session, *command, needs=_needs("test", *groups))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite, on all cores; more arguments go to pytest."""
    session.env["OMP_NUM_THREADS"] = "1"  # or the threads of one process wait for another's
    command = ("-m", "pytest", *ON_ALL_CORES, *session.posargs)
    _run_with_library(session, *command, needs=_needs("test"))


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take long: compiling, exporting large networks."""
    _run_marked(session, "slow", "tests")


@nox.session
def faults(session: nox.Session) -> None:
    """Run the matrix of faults; each pair of operations takes IMGEMBED_FAULT_SECONDS (60)."""
    session.env["OPENBLAS_NUM_THREADS"] = "1"
    command = ("-m", "pytest", *ON_ALL_CORES, "-m", "faults", "tests/test_faults.py")
    _run_with_library(session, *command, *session.posargs, needs=_needs("test"))


@nox.session
def browser(session: nox.Session) -> None:
    """Run the tests of the pages in Chromium; IMGEMBED_CHROMIUM names one that is elsewhere."""
    _run_marked(session, "browser", "tests/test_browser.py", "browser")


@nox.session
def postgres(session: nox.Session) -> None:
    """Run the tests of PostgresIndex against a server of their own, which ends with them."""
    _run_marked(session, "postgres", "tests", "postgres-test")


@nox.session
def milvus(session: nox.Session) -> None:
    """Run the tests of MilvusIndex against servers of their own, which end with them."""
    _run_marked(session, "milvus", "tests", "milvus-test")


@nox.session
def clickhouse(session: nox.Session) -> None:
    """Run the tests of ClickHouseIndex against ClickHouse in children of theirs, and in-process."""
    _run_marked(session, "clickhouse", "tests", "clickhouse-test")


@nox.session
def cluster(session: nox.Session) -> None:
    """Run the tests on a Dask cluster of this computer, of which workers are killed."""
    _run_marked(session, "cluster", "tests/test_cluster.py")


@nox.session
def ray(session: nox.Session) -> None:
    """Run the tests of EmbedBatch in Ray Data."""
    _run_marked(session, "ray", "tests/test_cluster.py", "ray-test")


@nox.session
def spark(session: nox.Session) -> None:
    """Run the tests of EmbedBatch in Spark, which needs Java."""
    _run_marked(session, "spark", "tests/test_cluster.py", "spark-test")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, and the floors of the house."""
    session.install("--quiet", *_needs("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", env={"PYTHONPATH": os.getcwd()})


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types, strictly."""
    _run_with_library(session, "-m", "mypy", needs=_needs("typecheck"))


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; warnings are errors."""
    options = ("-W", "--keep-going", "-b", "html", "docs", "docs/_build")
    _run_with_library(session, "-m", "sphinx", *options, needs=_needs("docs"))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure quality and speed on the images under ../shared/data (or ``--images FOLDER``)."""
    # These two slow OpenBLAS down for the sake of old libraries; the others need them not.
    session.env.update(dict.fromkeys(("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")))
    names = (
        "quality throughput engines local_features finetuning contrastive index cache evaluation"
        " comparison duplicates cluster"
    )
    for name in names.split():
        script = f"benchmarks/{name}.py"
        _run_with_library(session, script, *session.posargs, needs=_needs("bench"))


@nox.session
def peers(session: nox.Session) -> None:
    """Look for known faults in this library and in its peers."""
    _run_with_library(session, "benchmarks/peers.py", *session.posargs, needs=_needs("peers"))


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demonstration as a user would."""
    _run_with_library(session, "-m", "imgembed", "demo", *session.posargs)
