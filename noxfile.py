"""The checks of the project, each in an environment of its own: ``nox -s lint types tests``."""

from __future__ import annotations

import re

import nox
from packaging.version import Version

nox.options.sessions = ["lint", "types", "tests", "docs"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHON_VERSIONS = nox.project.python_versions(PYPROJECT)


def install(session: nox.Session, *groups: str, constraints: str | None = None) -> None:
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    limits = ["-c", constraints] if constraints else []
    session.install("-e", ".[all]", *requirements, *limits)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and imports."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strictly."""
    install(session, "lint", "test")
    session.run("mypy")


@nox.session(python=PYTHON_VERSIONS)
def tests(session: nox.Session) -> None:
    """All tests with ordinary numbers, on every supported Python that is installed here."""
    install(session, "test")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHON_VERSIONS[0])
def lowest(session: nox.Session) -> None:
    """All tests with the lowest versions that the project says it works with."""
    constraints = session.cache_dir / "lowest.txt"
    constraints.write_text("\n".join(lowest_versions()))
    install(session, "test", constraints=str(constraints))
    session.run("pip", "list")
    session.run("pytest", *session.posargs)


def lowest_versions() -> list[str]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    lowest: dict[str, Version] = {}
    for requirement in declared:
        if bound := re.match(r"([\w.-]+)>=([\w.]+)", requirement):
            # An extra may need more than the package itself.
            lowest[bound[1]] = max(lowest.get(bound[1], Version("0")), Version(bound[2]))
    return [f"{name}=={version}" for name, version in lowest.items()]


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation; a broken link is an error."""
    install(session, "docs")
    session.run("mkdocs", "build", "--strict")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """The measurements, as a table."""
    install(session, "test")
    # The newest DuckDB whose extensions come as packages, so that all contenders have the same one.
    extensions = (
        "duckdb-extension-sqlite-scanner",
        "duckdb-extension-mysql",
        "duckdb-extension-postgres-scanner",
        "duckdb-extensions",
    )
    session.install("duckdb==1.5.5", *(f"{name}==1.5.5" for name in extensions))
    session.install("langchain-classic", "langchain-text-splitters", "llama-index-core", "openai")
    session.install("--no-deps", "ingestr==1.1.22", "sling-linux-amd64==1.4.11")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def quick(session: nox.Session) -> None:
    """What a change of a few lines needs in a few minutes: no server, no other process."""
    install(session, "test")
    # Each process waits now and then, so there are more of them than the tier needs cores. The tier itself leaves out
    # the other tests; what is not named need not even be collected.
    suites = (f"tests/acceptance/test_{name}.py" for name in ("scan_rules", "refreshes", "field_notes"))
    folders = ("tests/unit", "tests/property", "tests/contract", *suites)
    session.run("pytest", "--tier=quick", "--numprocesses=3", "--dist=worksteal", *folders, *session.posargs)


@nox.session
def adversity(session: nox.Session) -> None:
    """All tests on every system: 200 kills a route, 5,000 lives, every step of a scan. It takes two to three hours."""
    install(session, "test")
    session.run(
        "pytest",
        "--tier=adversity",
        # Kills and cuts wait now and then: more of them than processors.
        "--numprocesses=3",
        "--dist=loadfile",
        "--no-loadscope-reorder",
        "--timeout=7200",
        "--override-ini=faulthandler_timeout=0",
        *session.posargs,
    )


@nox.session
def mutants(session: nox.Session) -> None:
    """Small changes that would lose, double, leak or show half: does a test of their room notice each?"""
    install(session, "test")
    session.run("python", "-m", "tests.mutants", *session.posargs)
