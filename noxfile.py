"""The project's own checks: ``nox -s tests``, and the others that ``nox --list`` names."""

import os
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "typecheck"]
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")


def _install(session: nox.Session, *groups: str, extra: str = "all") -> None:
    needs = nox.project.dependency_groups(PROJECT, *groups) if groups else ()
    session.install(f".[{extra}]", *needs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite; more arguments go to pytest."""
    _install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, the floors of the house, and docstrings."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", env={"PYTHONPATH": os.getcwd()})
    files = sorted(str(p) for p in Path("imgembed").rglob("*.py"))
    session.run("python", "-m", "numpydoc.hooks.validate_docstrings", *files)


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types, strictly."""
    _install(session, "typecheck")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; warnings are errors."""
    _install(session, "docs")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure quality and speed on the images under ../shared/data (or the given folder)."""
    _install(session)
    # These two slow OpenBLAS down for the sake of old libraries; the others need them not.
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        session.env.pop(name, None)
    for script in ("quality.py", "throughput.py"):
        session.run("python", f"benchmarks/{script}", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demonstration as a user would."""
    _install(session, extra="demo")
    session.run("imgembed", "demo", *session.posargs)
