"""Documents to vectors: 10,000 of 5 KB, the first load and a scan with 1 % changed, beside what a user could take instead.

All ask one local service for vectors, which counts the texts and answers at once, so that the figures are those of the
pipelines. retl writes PostgreSQL and DuckDB, CocoIndex PostgreSQL and a store of its own beside it. LangChain's
``index()`` and LlamaIndex's ingestion pipeline write into their stores in memory, which costs them less than a database
would. A contender takes part where it is installed. ``RETL_BENCH_DOCUMENTS`` is the number of documents.

Some load for minutes. ``RETL_BENCH_ONLY`` (words of the contenders' names, with commas between them) runs them one by one on the
same documents, and ``RETL_BENCH_KEPT`` names a file that keeps what each has needed: the table shows all that it holds.
"""

from __future__ import annotations

import importlib.util
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.documents_service import CountingService
from tests.servers import postgres
from tests.servers.postgres import PostgresServer

DOCUMENTS = int(os.environ.get("RETL_BENCH_DOCUMENTS", "10000"))
_GOAL = 5.0
_MOST_MB = 250
_RUNS = "benchmarks.documents_runs"
_OURS = "retl to PostgreSQL"
_COCOINDEX = "benchmarks.documents_cocoindex"
_Run = Callable[[CountingService, PostgresServer], dict[str, Any]]


def main() -> None:
    os.environ["COCOINDEX_DISABLE_USAGE_TRACKING"] = "1"  # a benchmark asks nobody else
    with CountingService().running() as service, postgres.any_server() as server:
        found = {title: run(service, server) for title, run in common.wanted(_contenders())}
    _tell(common.kept(found))


def _contenders() -> list[tuple[str, _Run]]:
    """Those that are installed."""
    every: list[tuple[str, str, _Run]] = [
        (_OURS, "retl", _in_database(_RUNS, "by_retl", "postgres")),
        ("retl to DuckDB", "retl", lambda service, _: _run(service, _RUNS, "by_retl", "duckdb", "")),
        ("LangChain index()", "langchain_classic", lambda service, _: _run(service, _RUNS, "by_langchain")),
        (
            "LlamaIndex ingestion pipeline",
            "llama_index.core",
            lambda service, _: _run(service, _RUNS, "by_llama_index"),
        ),
        ("CocoIndex to PostgreSQL", "cocoindex", _in_database(_COCOINDEX, "by_cocoindex")),
    ]
    return [(title, run) for title, module, run in every if _is_there(module)]


def _in_database(module: str, function: str, *words: str) -> _Run:
    """A run with a database of its own, whose address comes last."""

    def run(service: CountingService, server: PostgresServer) -> dict[str, Any]:
        with server.fresh_database() as database:
            server.query("CREATE EXTENSION vector", database=database)
            return _run(service, module, function, *words, server.url(database))

    return run


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _run(service: CountingService, module: str, function: str, *more: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "documents"
        root.mkdir()
        write(root, DOCUMENTS)
        return common.in_own_process(module, function, str(root), service.url, *more)


def write(root: Path, number: int) -> None:
    """Markdown of about 5 KB each: eight sections of three paragraphs."""
    chance = random.Random("documents")
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 9))) for _ in range(3_000)]
    for document in range(number):
        sections = (_section(chance, words, f"{document}.{section}") for section in range(8))
        (root / f"{document:06}.md").write_text("\n\n".join(sections))


def _section(chance: random.Random, words: list[str], name: str) -> str:
    paragraphs = (" ".join(chance.choices(words, k=30)) + "." for _ in range(3))
    return "\n\n".join([f"## Section {name}", *paragraphs])


def _tell(found: dict[str, dict[str, Any]]) -> None:
    rows = [
        (
            title,
            round(run["first"], 1),
            round(run["second"], 2),
            round(run["second_busy"], 2),
            f"{run['first_asked']:,}",
            f"{run['second_asked']:,}",
            run["peak_mb"],
        )
        for title, run in found.items()
    ]
    header = ("by", "first load s", "1 % changed s", "of it processor s", "texts asked", "asked again", "peak MB")
    notes = [*_ratio(found), *_memory(found)]
    common.table(f"{DOCUMENTS:,} documents of 5 KB to vectors", header, rows, " ".join(notes))


def _ratio(found: dict[str, dict[str, Any]]) -> list[str]:
    ours = found.get(_OURS)
    others = [run["second"] for title, run in found.items() if not title.startswith("retl")]
    if ours is None or not others:
        return []
    ratio = min(others) / ours["second"]
    told = common.verdict(ratio, _GOAL, at_least=True)
    return [f"The second scan is {ratio:.1f} times as fast as the best of the others: {told}."]


def _memory(found: dict[str, dict[str, Any]]) -> list[str]:
    peaks = {title: run["peak_mb"] for title, run in found.items() if title.startswith("retl")}
    return [
        f"Memory, {title}: {peak} MB of {_MOST_MB}, {common.verdict(peak, _MOST_MB, at_least=False)}."
        for title, peak in peaks.items()
    ]
