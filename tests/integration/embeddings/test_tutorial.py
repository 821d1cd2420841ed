"""The page that shows PostgreSQL: its job and its SQL, on a real server."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

import retl
from retl.config import load_jobs
from tests.fake_embeddings import KEY, EmbeddingService
from tests.servers.postgres import PostgresServer

PAGE = Path(__file__).parents[3] / "docs" / "pipelines" / "documents-to-vectors.md"


def block(language: str, start: str) -> str:
    """The text of a block of the page, by what it is about."""
    found: list[str] = re.findall(
        rf"^```{language}[^\n]*\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return next(text for text in found if start in text)


def test_the_job_for_postgres_finds_the_answer_to_a_question(
    postgres_server: PostgresServer,
    service: EmbeddingService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "travel.md").write_text("# Trains\n\nThe night train to Prague leaves at ten.", "utf-8")
    (tmp_path / "notes" / "kitchen.md").write_text("# Bread\n\nLet the sourdough rise for twelve hours.", "utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("DB_PASSWORD", postgres_server.password)
    with postgres_server.fresh_database() as database:
        with psycopg.connect(postgres_server.url(database), autocommit=True) as connection:
            connection.execute(block("sql", "CREATE EXTENSION"))
        job = block("toml", "[pipelines.notes.tables.embeddings]")
        for said, here in (
            (
                "postgresql://app@db:5432/app",
                postgres_server.url(database).replace(f":{postgres_server.password}@", "@"),
            ),
            ("https://api.openai.com/v1", service.url),
            ("text-embedding-3-small", "large"),
            ("dimensions = 1536", "dimensions = 12"),
        ):
            assert said in job
            job = job.replace(said, here)
        (tmp_path / "jobs.toml").write_text(job, encoding="utf-8")

        pipeline = load_jobs(tmp_path / "jobs.toml").pipelines["notes"]
        (report,) = anyio.run(pipeline.run_once).scans

        assert report.embeddings is not None and report.embeddings.asked == 2 and report.embeddings.cost
        words: dict[str, Any] = tomllib.loads(job)["pipelines"]["notes"]["tables"][0]["embeddings"]
        given = {name: words[name] for name in ("of", "url", "model", "dimensions")}
        asked = retl.Embeddings(**given, api_key=KEY)
        (question,) = anyio.run(retl.embed, asked, ["night train to Prague"])
        with psycopg.connect(postgres_server.url(database)) as connection:
            select = block("sql", "ORDER BY embedding").replace("$1", "%s").rstrip(";\n")
            found = connection.execute(select, [question]).fetchall()
    assert [row[0] for row in found] == ["travel.md", "kitchen.md"]
