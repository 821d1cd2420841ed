"""Add the vectors to the rows of a load: those that the target has already, those that have just come, and the rest from the model."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa

from retl.connectors.base import CommitResult, TableWriter, Target
from retl.connectors.documents.embeddings.model import Model
from retl.connectors.rows.rejects import RejectCollector
from retl.connectors.rows.text import not_utf8, to_text
from retl.connectors.rows.vectors import to_canonical
from retl.model.checkpoint import FencedCheckpoint, check_rejects
from retl.model.embeddings import EmbeddingCounts, Embeddings
from retl.model.plan import WriteSpec
from retl.model.window import Slice
from retl.state.base import commit_with_rejects

_DIGITS = 32
"""Hexadecimal digits of a text's SHA-256 that tell it from all others."""
_PIECE_BYTES = 8 * 1024 * 1024
_RECENT_BYTES = 32 * 1024 * 1024
_COMMITTED_BYTES = 2 * 1024 * 1024
"""Of vectors that the target has by now, and can be asked for."""
_BYTES_PER_NUMBER = 12


def stamp(words: Embeddings, text: str | None) -> str:
    """What stands beside the vector of a text: the model, the dimensions, a hash of the text; without one, no hash."""
    if text is None or not text.strip():
        return words.maker
    return words.maker + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


class EmbeddingWriter(TableWriter):
    """A target's writer whose rows get vectors. Each text is asked for once, and only if the target has no vector of it."""

    def __init__(
        self,
        writer: TableWriter,
        spec: WriteSpec,
        words: Embeddings,
        model: Model,
        counts: EmbeddingCounts,
        *,
        target: Target,
    ) -> None:
        """``spec``: the load as it came, without the vectors."""
        self._writer = writer
        self._spec = spec
        self._words = words
        self._model = model
        self._target = target
        self._rejects = RejectCollector(spec)
        self._recent = _Recent(_RECENT_BYTES, _COMMITTED_BYTES)
        self._piece = max(16, _PIECE_BYTES // (_BYTES_PER_NUMBER * words.dimensions))
        self.overlaps = writer.overlaps
        self.embeddings = self._counts = counts

    async def write(self, batch: pa.RecordBatch) -> None:
        for start in range(0, batch.num_rows, self._piece):
            await self._write(batch.slice(start, self._piece))

    async def _write(self, batch: pa.RecordBatch) -> None:
        texts = _texts(batch.column(self._words.of))
        stamps = [stamp(self._words, text) for text in texts]
        wanted = {
            of: text for of, text in zip(stamps, texts, strict=True) if text is not None and of != self._words.maker
        }
        missing = await self._missing(wanted)
        rejected = await self._ask(missing) if missing else {}
        embedded = sum(of != self._words.maker for of in stamps)
        self._counts.texts += embedded
        self._counts.reused += embedded - len(missing)
        for of, reason in rejected.items():
            bad = pa.array([other == of for other in stamps])
            self._rejects.add_masked(batch, bad, f"the model refuses the text: {reason}", self._words.of)
        full = self._full(batch, stamps)
        if rejected:
            full = full.filter(pa.array([of not in rejected for of in stamps]))
        if full.num_rows:
            await self._writer.write(full)

    def _full(self, batch: pa.RecordBatch, stamps: Sequence[str]) -> pa.RecordBatch:
        vectors = pa.array([self._recent.get(of) for of in stamps], pa.string())
        names = [*batch.schema.names, self._words.into, self._words.made_of]
        return pa.RecordBatch.from_arrays([*batch.columns, vectors, pa.array(stamps, pa.string())], names=names)

    # Vectors ----------------------------------------------------------------

    async def _missing(self, wanted: dict[str, str]) -> dict[str, str]:
        """The texts whose vector neither the target nor this load has."""
        self._recent.begin()
        missing = {of: text for of, text in wanted.items() if of not in self._recent}
        if missing:
            for of, vector in (await self._there(list(missing))).items():
                self._recent.add(of, vector)
                missing.pop(of, None)
        return missing

    async def _there(self, stamps: Sequence[str]) -> dict[str, str]:
        """The vectors that the target has."""
        words = self._words
        found = await self._writer.lookup(words.made_of, stamps, [words.into])
        if found is None:
            found = await self._target.lookup(self._spec.table.to, words.made_of, stamps, [words.into])
        pairs = zip(found.column(words.made_of).to_pylist(), found.column(words.into).to_pylist(), strict=True)
        return {of: vector for of, vector in pairs if vector is not None}

    async def _ask(self, missing: dict[str, str]) -> dict[str, str]:
        """Have the model make these vectors; returns which texts it refuses, and why."""
        if self._spec.prove is not None:
            await self._spec.prove()  # what is paid for cannot be taken back
        answer = await self._model.embed(list(missing.values()))
        told = dict(enumerate(missing))
        vectors = to_canonical(answer.vectors).to_pylist()
        for number, vector in enumerate(vectors):
            if number not in answer.rejected:
                self._recent.add(told[number], vector)
        return {told[number]: reason for number, reason in answer.rejected.items()}

    # The rest of a load -----------------------------------------------------

    async def begin(self, slice_: Slice) -> None:
        await self._writer.begin(slice_)

    async def discard(self) -> None:
        self._rejects = RejectCollector(self._spec)
        await self._writer.discard()

    async def commit(self, fenced: FencedCheckpoint | None, slice_: Slice, rejects_left: int) -> CommitResult:
        rejects = self._rejects
        check_rejects(
            rejects.rows,
            rejects_left,
            "the model refused the text of {rows}",
            "leave them out with where, cut long texts into chunks, or raise max_rejects",
        )
        mine, self._rejects = tuple(rejects.rows), RejectCollector(self._spec)
        written = self._recent.added
        commit = self._writer.commit(fenced, slice_, rejects_left - len(mine))
        done = await commit_with_rejects(commit, mine, fenced, self._target.state_store() if mine else None)
        self._recent.committed = written
        return done

    async def count(self) -> int:
        return await self._writer.count()

    async def deletes(self) -> int:
        return await self._writer.deletes()

    async def finish(self, fenced: FencedCheckpoint | None) -> None:
        await self._writer.finish(fenced)
        self.finished = True


def _texts(column: pa.Array) -> list[str | None]:
    """The texts; one that is not UTF-8 has no vector: the target rejects its row."""
    column = to_text(column)
    broken = not_utf8(column)
    if broken is not None:
        kept = pa.array([not bad for bad in broken.to_pylist()])
        column = pa.array([text if good else None for text, good in _pairs(column, kept)], pa.string())
    texts: list[str | None] = column.to_pylist()
    return texts


def _pairs(column: pa.Array, kept: pa.Array) -> list[tuple[str | None, bool]]:
    return [(column[number].as_py() if good else None, good) for number, good in enumerate(kept.to_pylist())]


class _Recent:
    """The vectors of the texts of this batch, and as many older ones as fit: a slice that is read again asks for nothing twice.

    Of those that are committed it keeps a few.
    """

    def __init__(self, most: int, most_committed: int) -> None:
        self._most = most
        self._most_committed = most_committed
        self._size = 0
        self._found: OrderedDict[str, str] = OrderedDict()
        self.added = 0
        """How many there have ever been."""
        self.committed = 0
        """How many of these, from the first one on, are in the target."""

    def __contains__(self, of: str) -> bool:
        return of in self._found

    def get(self, of: str) -> str | None:
        return self._found.get(of)

    def begin(self) -> None:
        """Forget the oldest vectors beyond what may be kept: none that is added afterwards goes before the next call."""
        while self._size > (self._most if self._forgotten >= self.committed else self._most_committed):
            _, vector = self._found.popitem(last=False)
            self._size -= len(vector)

    @property
    def _forgotten(self) -> int:
        return self.added - len(self._found)

    def add(self, of: str, vector: str) -> None:
        if of not in self._found:
            self.added += 1
            self._found[of] = vector
            self._size += len(vector)
