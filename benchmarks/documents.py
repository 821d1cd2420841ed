"""Documents to vectors: 10,000 of 5 KB, the first load and a scan with 1 % changed, beside what a user could take instead.

All ask one local service for vectors, which counts the texts and answers at once, so that the figures are those of the
pipelines. retl writes PostgreSQL and DuckDB, CocoIndex PostgreSQL and a store of its own beside it. LangChain's
``index()`` and LlamaIndex's ingestion pipeline write into their stores in memory, which costs them less than a database
would. A contender takes part where it is installed. ``RETL_BENCH_DOCUMENTS`` is the number of documents.
"""

from __future__ import annotations

import importlib.util
import os
import random
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.documents_service import CountingService
from tests.servers import postgres

DOCUMENTS = int(os.environ.get("RETL_BENCH_DOCUMENTS", "10000"))
_GOAL = 5.0
_MOST_MB = 250
_RUNS = "benchmarks.documents_runs"
_CONTENDERS = (
    ("LangChain index()", "by_langchain", "langchain_classic"),
    ("LlamaIndex ingestion pipeline", "by_llama_index", "llama_index.core"),
)
_COCOINDEX = ("CocoIndex to PostgreSQL", "by_cocoindex", "benchmarks.documents_cocoindex")


def main() -> None:
    os.environ["COCOINDEX_DISABLE_USAGE_TRACKING"] = "1"  # a benchmark asks nobody else
    with CountingService().running() as service, postgres.any_server() as server:
        server.query("CREATE EXTENSION IF NOT EXISTS vector")
        found = {
            "retl to PostgreSQL": _run(service, "by_retl", "postgres", server.url()),
            "retl to DuckDB": _run(service, "by_retl", "duckdb", ""),
        }
        for title, function, module in _CONTENDERS:
            if _is_there(module):
                found[title] = _run(service, function)
        if _is_there("cocoindex"):
            with server.fresh_database() as database:
                server.query("CREATE EXTENSION vector", database=database)
                title, function, module = _COCOINDEX
                found[title] = _run(service, function, server.url(database), module=module)
    _tell(found)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _run(service: CountingService, function: str, *more: Any, module: str = _RUNS) -> dict[str, Any]:
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
    others = [run["second"] for title, run in found.items() if not title.startswith("retl")]
    ours = found["retl to PostgreSQL"]
    notes = [
        f"Memory: {ours['peak_mb']} MB of {_MOST_MB}, {common.verdict(ours['peak_mb'], _MOST_MB, at_least=False)}."
    ]
    if others:
        ratio = min(others) / ours["second"]
        told = common.verdict(ratio, _GOAL, at_least=True)
        notes.insert(0, f"The second scan is {ratio:.1f} times as fast as the best of the others: {told}.")
    common.table(f"{DOCUMENTS:,} documents of 5 KB to vectors", header, rows, " ".join(notes))
