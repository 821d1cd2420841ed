"""Documents that change, their rows in PostgreSQL, and what must hold of the two whenever a scan is killed."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from pathlib import Path
from random import Random
from typing import Any

from tests.adversity.jobs import Job
from tests.adversity.looks import Look
from tests.fake_embeddings import KEY, EmbeddingService
from tests.fake_embeddings.server import vector
from tests.fake_yuque import FakeYuque
from tests.fake_yuque.library import Document
from tests.integration.embeddings.conftest import numbers

TABLE = "documents"


class DocumentWorld(ABC):
    """Documents at a source, and a table of PostgreSQL that follows them."""

    def __init__(self, target: Look, random: Random) -> None:
        self.random = random
        self.target = target
        target.query("CREATE EXTENSION IF NOT EXISTS vector")

    @property
    @abstractmethod
    def job(self) -> Job:
        """What is run, and killed."""

    def hurries(self) -> bool:
        """Whether the next scan comes at once, before anything is looked at."""
        return self.random.random() < 0.3

    def go_on(self, *, ended: bool) -> None:
        """What happens between two scans."""
        if self.random.random() < (0.2 if ended else 0.05):
            self.target.remove()
            self.forget()
        if self.random.random() < (0.9 if ended else 0.4):
            self.change()

    @abstractmethod
    def change(self) -> None:
        """Something happens at the source."""

    @abstractmethod
    def forget(self) -> None:
        """The target is empty again."""

    def check(self, *, ended: bool) -> None:
        """Look at everything after a scan, killed or not."""
        self.target.settle()
        if "retl_manifest" in self.target.tables() and TABLE in self.target.tables():
            found = self.found()
            self.check_known(found)
            entries = {name for (name,) in self.target.query("SELECT name FROM retl_manifest")}
            assert entries == set(found), "the manifest tells of other documents than there are"
        if ended:
            assert self.found() == self.expected()

    @abstractmethod
    def found(self) -> dict[str, Any]:
        """What the target holds of each document, by its name."""

    @abstractmethod
    def expected(self) -> dict[str, Any]:
        """What it holds when all is done."""

    @abstractmethod
    def check_known(self, found: dict[str, Any]) -> None:
        """Each document is as it was at some moment, as a whole."""


# Files in chunks with vectors ---------------------------------------------------

FILES = 40
PARAGRAPHS = 12
SLICE_ROWS = 50
"""Two documents, by twenty-five chunks each."""
AT_ONCE = 2 * 2 * PARAGRAPHS
"""The texts of the slice that is asked for, and of the one that is committed meanwhile."""
_WORDS = ["bread", "butter", "trains", "river", "bridge", "winter", "summer", "garden", "stone", "paper", "window"]


class LibraryWorld(DocumentWorld):
    """A folder of Markdown, of which each paragraph becomes a chunk with a vector."""

    def __init__(self, target: Look, random: Random, folder: Path, service: EmbeddingService) -> None:
        super().__init__(target, random)
        self.service = service
        self._root = folder / "library"
        self._root.mkdir()
        self._now: dict[str, list[str]] = {}
        self._history: dict[str, list[list[str]]] = defaultdict(list)
        self._clock = 1_700_000_000
        self.paid_in_vain = 0
        """Texts that were asked for once more than they are different, until the target was emptied."""
        for number in range(FILES):
            self.write(f"{number:02}.md", [self._paragraph() for _ in range(PARAGRAPHS)])

    @property
    def job(self) -> Job:
        embeddings = {"of": "content", "url": self.service.url, "model": "small", "dimensions": 8, "api_key": KEY}
        return Job(
            source=f"{self._root}/",
            target=self.target.address,
            table={
                "name": "*.md",
                "to": TABLE,
                "format": "documents",
                "vanished": "delete",
                "max_shrink": 1.0,
                "slice_rows": SLICE_ROWS,
                "chunks": {"size": 120},
                "embeddings": {**embeddings, "batch": 4, "concurrency": 2},
            },
        )

    def write(self, name: str, paragraphs: list[str]) -> None:
        """A document that takes the place of another one at once, as those of careful people do."""
        hidden = self._root / f".{name}"
        hidden.write_text("\n\n".join(paragraphs), encoding="utf-8")
        self._clock += 1
        os.utime(hidden, (self._clock, self._clock))
        hidden.rename(self._root / name)
        self._now[name] = paragraphs
        self._history[name].append(paragraphs)

    def _paragraph(self) -> str:
        """A text that is like no other, of about a chunk."""
        return f"{' '.join(self.random.choices(_WORDS, k=14))} {self.random.randrange(10**12):012}."

    def change(self) -> None:
        for name in self.random.sample(sorted(self._now), self.random.randint(1, len(self._now) // 2)):
            paragraphs = list(self._now[name])
            for place in self.random.sample(range(len(paragraphs)), self.random.randint(1, 4)):
                paragraphs[place] = self._paragraph()
            self.write(name, paragraphs)
        for name in self.random.sample(sorted(self._now), self.random.randint(0, 2)):
            (self._root / name).unlink()
            del self._now[name]
        while len(self._now) < FILES - 3:
            name = f"{self.random.randrange(10**6):06}.md"
            self.write(name, [self._paragraph() for _ in range(PARAGRAPHS)])

    def forget(self) -> None:
        self.paid_in_vain += sum(self.service.asked.values()) - len(self.service.asked)
        self.service.forget()

    def found(self) -> dict[str, list[str]]:
        rows: dict[str, list[str]] = defaultdict(list)
        for name, _, content in self.target.query(f"SELECT _file, position, content FROM {TABLE} ORDER BY 1, 2"):
            rows[name].append(content)
        return dict(rows)

    def expected(self) -> dict[str, list[str]]:
        return self._now

    def check_known(self, found: dict[str, list[str]]) -> None:
        strangers = [name for name, chunks in found.items() if chunks not in self._history[name]]
        assert not strangers, f"documents half replaced: {strangers}"
        for content, made in self.target.query(f"SELECT content, embedding::text FROM {TABLE}"):
            assert numbers(made) == numbers(vector(content, 8))


# Yuque --------------------------------------------------------------------------

DOCUMENTS = 150


class HandbookWorld(DocumentWorld):
    """A book of Yuque, of which each document becomes a row."""

    def __init__(self, target: Look, random: Random, yuque: FakeYuque) -> None:
        super().__init__(target, random)
        self._yuque = yuque
        self._book = yuque.library.book("team/handbook")
        self._numbers = Counter[str]()
        self._history: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
        for _ in range(DOCUMENTS):
            self._new()
        self._remember()

    @property
    def job(self) -> Job:
        return Job(
            source=f"yuque:{self._yuque.url}",
            source_options={"token": self._yuque.token},
            target=self.target.address,
            table={
                "name": "team/handbook",
                "to": TABLE,
                "pre_action": "truncate",
                "vanished": "delete",
                "max_shrink": 1.0,
            },
        )

    def forget(self) -> None:
        return None

    def _new(self) -> None:
        self._numbers["title"] += 1
        self._book.write(f"页 {self._numbers['title']}", self._text())

    def _text(self) -> str:
        self._numbers["text"] += 1
        return f"# 正文 {self._numbers['text']}\n\n" + "'quoted' \"text\" \\ 🎉\t" * self.random.randrange(20)

    def change(self) -> None:
        there = self._there()
        for one in self.random.sample(there, self.random.randint(1, len(there) // 2)):
            what = self.random.random()
            if what < 0.7:
                one.change(body=self._text())
            elif what < 0.8:
                one.change(title=f"{one.title}'")
            elif what < 0.9:
                self._book.contents = [("Part", [one]), *[other for other in self._book.contents if other is not one]]
            else:
                one.delete()
        while len(self._there()) < DOCUMENTS - 10:
            self._new()
        self._remember()

    def _there(self) -> list[Document]:
        return sorted(
            (one for one in self._yuque.library.of(self._book) if one.deleted is None), key=lambda one: one.id
        )

    def _remember(self) -> None:
        for name, row in self.expected().items():
            self._history[name].add(row)

    def found(self) -> dict[str, tuple[Any, ...]]:
        rows = self.target.query(f"SELECT id::text, title, slug, body, path, updated_at, word_count FROM {TABLE}")
        assert len({name for name, *_ in rows}) == len(rows)
        return {name: tuple(row) for name, *row in rows}

    def expected(self) -> dict[str, tuple[Any, ...]]:
        paths = {one.id: one.title for one in self._book.contents if isinstance(one, Document)}
        for part in self._book.contents:
            if not isinstance(part, Document):
                paths |= {one.id: f"{part[0]}/{one.title}" for one in part[1]}
        return {str(one.id): _row(one, paths[one.id]) for one in self._there()}

    def check_known(self, found: dict[str, tuple[Any, ...]]) -> None:
        strangers = [row for name, row in found.items() if row not in self._history[name]]
        assert not strangers, f"rows that no document ever was: {strangers[:3]}"


def _row(one: Document, path: str) -> tuple[Any, ...]:
    body = one.bodies["body"]
    return (one.title, one.slug, body, path, one.updated, len(body))
