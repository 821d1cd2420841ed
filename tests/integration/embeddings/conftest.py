"""A service that counts, and articles on their way into a target of any kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import retl
from retl.connectors import DuckDB
from retl.model.report import ScanReport
from tests.fake_embeddings import KEY, EmbeddingService
from tests.routes.ends import PostgresEnd, ServerEnd
from tests.routes.fixtures import make_end
from tests.routes.route import End, Row

TARGETS = ("duckdb", "sqlite", "postgres", "mysql", "mariadb", "elasticsearch")


class Articles:
    """Articles in a DuckDB file, their target, and a pipeline that gives them vectors."""

    def __init__(self, folder: Path, target: End, service: EmbeddingService) -> None:
        self.path = folder / "articles.duckdb"
        self.target = target
        self.service = service
        self.to = target.called("articles")
        self.words: dict[str, Any] = {}
        """More words of the table."""
        self.embeddings: dict[str, Any] = {"of": "body", "url": service.url, "model": "small", "dimensions": 8}
        self.options: dict[str, Any] = {}
        """More words of the pipeline."""
        self.run("CREATE TABLE articles (id INTEGER PRIMARY KEY, body VARCHAR)")

    def run(self, *statements: str) -> list[Row]:
        rows: list[Row] = []
        with closing(duckdb.connect(str(self.path))) as connection:
            for statement in statements:
                rows = connection.execute(statement).fetchall()
        return rows

    def write(self, *rows: tuple[int, str | None]) -> None:
        with closing(duckdb.connect(str(self.path))) as connection:
            connection.executemany("INSERT OR REPLACE INTO articles VALUES (?, ?)", rows)

    def words_of(self) -> retl.Embeddings:
        return retl.Embeddings(**{"api_key": KEY, **self.embeddings})

    def pipeline(self) -> retl.Pipeline:
        table = retl.Table("articles", to=self.to, embeddings=self.words_of(), **self.words)
        return retl.Pipeline(
            "articles",
            source=DuckDB(str(self.path)),
            target=self.target.connector(),
            tables=[table],
            **self.options,
        )

    async def scan(self) -> ScanReport:
        (report,) = (await self.pipeline().run_once()).scans
        return report

    async def failed(self) -> ScanReport:
        """One scan that must not be done."""
        (report,) = (await self.pipeline().run_once(check=False)).scans
        assert report.status == "failed"
        return report

    def rows(self, *columns: str) -> list[Row]:
        return sorted(self.target.rows("articles", *(columns or ("id", "body"))))

    def vectors(self) -> dict[int, list[float] | None]:
        """The vector of each row, as numbers."""
        name = self.embeddings.get("into", "embedding")
        if isinstance(self.target, ServerEnd) and "vector(" in str(self.target.run(f"SHOW CREATE TABLE {self.to}")):
            # Its driver takes the bytes of a vector for text.
            return {
                number: numbers(found and bytes.fromhex(found))
                for number, found in self.target.run(f"SELECT id, HEX({name}) FROM {self.to}")
            }
        return {number: numbers(found) for number, found in self.target.rows("articles", "id", name)}


def numbers(found: Any) -> list[float] | None:
    """A vector, however its system gives it."""
    if found is None:
        return None
    if isinstance(found, str):
        found = json.loads(found)
    numbers = np.frombuffer(found, dtype="<f4") if isinstance(found, bytes) else np.array(found, dtype="<f4")
    return [float(one) for one in numbers]


@pytest.fixture(scope="session")
def one_service() -> Iterator[EmbeddingService]:
    with EmbeddingService().running() as service:
        yield service


@pytest.fixture
def service(one_service: EmbeddingService) -> EmbeddingService:
    """The service, as if it had just been started."""
    one_service.reset()
    return one_service


@pytest.fixture(params=TARGETS)
def articles(
    request: pytest.FixtureRequest, tmp_path: Path, service: EmbeddingService, at_once: None
) -> Iterator[Articles]:
    """The test runs once for each kind of target."""
    with ExitStack() as stack:
        yield make_articles(request.param, request, tmp_path, stack, service)


@pytest.fixture
def embedded(
    request: pytest.FixtureRequest, tmp_path: Path, service: EmbeddingService, at_once: None
) -> Iterator[Articles]:
    """Articles into an embedded database: for what does not depend on the target."""
    with ExitStack() as stack:
        yield make_articles("sqlite", request, tmp_path, stack, service)


def make_articles(
    system: str, request: pytest.FixtureRequest, folder: Path, stack: ExitStack, service: EmbeddingService
) -> Articles:
    end = make_end(system, "app", request, folder, stack)
    if isinstance(end, PostgresEnd):
        request.getfixturevalue(f"{system}_server").query("CREATE EXTENSION vector", database=end.database)
    return Articles(folder, end, service)
