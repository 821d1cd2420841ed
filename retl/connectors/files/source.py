"""A source of files, wherever they lie."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import anyio.to_thread
import pyarrow as pa

from retl.connectors.base import Connector, Source, SourceScan, SystemInfo
from retl.connectors.documents.text.workers import WORKERS
from retl.connectors.files.changes import FACTS, Changes, compares_contents
from retl.connectors.files.documents import DocumentReader, SmallDocuments
from retl.connectors.files.formats import FormatOptions, merged, parse_options
from retl.connectors.files.reading import FileReader
from retl.connectors.files.scan import FileScan
from retl.connectors.files.selection import Selection, Verdict
from retl.connectors.files.shape import Shape, as_the_target, notices_columns, shape_of
from retl.connectors.files.small import SmallFiles, SmallReader
from retl.connectors.files.store import FileInfo, FileStore
from retl.model.actions import PreAction, Write
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, UnsupportedError
from retl.model.plan import SourcePlan
from retl.model.schema import TableSchema, pack, unpack
from retl.model.table import TableSpec
from retl.state.base import Manifest

_SAMPLED = 5
"""How many files the types of the columns are inferred from."""


class FileSource(Source):
    """Reads tables of files out of a store."""

    files: ClassVar[bool] = True
    schemas: ClassVar[bool] = False

    def __init__(self, store: FileStore) -> None:
        self._store = store
        self.system = store.system  # type: ignore[misc]  # that of the store

    async def ping(self) -> SystemInfo:
        return await self._store.ping()

    async def list_tables(self) -> list[str]:
        """The names of all files."""
        found: list[str] = []
        async with aclosing(self._store.list()) as pages:
            async for page in pages:
                found.extend(file.name for file in page)
        return found

    async def describe(self, table: str) -> TableSchema | None:
        spec = TableSpec(table, table)
        selection = Selection(spec)
        sample = await self._sample(selection)
        if not sample:
            return None
        reader = FileReader(self._store, parse_options({}), selection)
        return TableSchema(table, await _infer(reader, sample))

    def narrowed(self, table: TableSpec) -> TableSpec:
        """Truncating means the rows of each file that is read: they are replaced in one transaction."""
        _check_words(table)
        if table.pre_action is not PreAction.TRUNCATE:
            _check_key(table)
            return table
        column = table.files.provenance.get("file")
        if column is None:
            raise ConfigError(
                'pre_action = "truncate" deletes the rows of one file, and provenance has no column that names it.',
                remedy='name one, such as provenance = { file = "_file" }.',
            )
        keyed = bool(table.key) and table.files.key_conflict == "newest"
        return dataclasses.replace(
            table,
            pre_action=PreAction.NONE,
            scope=table.target_name(column),
            write=Write.UPSERT if keyed else Write.APPEND,
        )

    @asynccontextmanager
    async def open_scan(
        self, table: TableSpec, checkpoint: Checkpoint, manifest: Manifest
    ) -> AsyncGenerator[SourceScan, None]:
        table = self.narrowed(table)
        selection = Selection(table)
        options = parse_options(table.format)
        reader = self._reader(options, selection)
        known = _Known.of(checkpoint, table)
        columns = known.columns
        if columns is None:
            sample = await self._sample(selection)
            columns = as_the_target(await _infer(reader, sample), table, options) if sample else None
            known.hive = selection.hive_columns([file.name for file in sample]).names
        if columns is None:
            plan = SourcePlan(table, pa.schema([]), (), (), by_manifest=True, warnings=(self._nothing(table),))
            shape = Shape(pa.schema([]), plan.schema, (), (), pa.schema([]), {})
        else:
            shape = shape_of(table, selection, columns, pa.schema([pa.field(name, pa.string()) for name in known.hive]))
            plan = self._plan(table, shape, known)
        changes = Changes(
            table,
            self._store,
            manifest,
            selection,
            columns if columns is not None else pa.schema([]),
            known.facts(columns, table),
            fresh=known.fresh,
            unfinished=known.unfinished or checkpoint.refresh is not None,
        )
        small = self._small_reader(reader, shape, table)
        scan = FileScan(plan, shape, self._store, reader, small, changes, known.facts(columns, table))
        try:
            yield scan
        finally:
            await scan.close()

    def _reader(self, options: FormatOptions, selection: Selection) -> FileReader:
        if options.type != "documents":
            return FileReader(self._store, options, selection)
        WORKERS.hold(self)
        return DocumentReader(self._store, options, selection)

    def _small_reader(self, reader: FileReader, shape: Shape, table: TableSpec) -> SmallReader:
        if isinstance(reader, DocumentReader):
            return SmallDocuments(self._store, reader, shape, compares=compares_contents(table))
        return SmallFiles(self._store, reader, shape, check=notices_columns(table), compares=compares_contents(table))

    def _plan(self, table: TableSpec, shape: Shape, known: _Known) -> SourcePlan:
        patterns = ", ".join(table.files.patterns or (table.name,))
        return SourcePlan(
            table=table,
            schema=shape.schema,
            key=shape.key,
            slices=(),
            by_manifest=True,
            unique_key=not table.key and bool(shape.key),
            statements=(f"files {self._store.root}{patterns}",),
            warnings=known.warnings,
            finished=known.finished(shape.known),
        )

    def _nothing(self, table: TableSpec) -> str:
        patterns = ", ".join(table.files.patterns or (table.name,))
        return f"no file matches {patterns} below {self._store.root}; the target is left as it is until there is one."

    async def _sample(self, selection: Selection) -> list[FileInfo]:
        """A few files of the first page that has any, from its first to its last."""
        async with aclosing(self._store.list(selection.prefix)) as pages:
            async for page in pages:
                found = [file for file in page if selection.verdict(file) is Verdict.READ]
                if found:
                    step = max(1, (len(found) - 1) // (_SAMPLED - 1)) if len(found) > _SAMPLED else 1
                    return found[::step][: _SAMPLED - 1] + ([found[-1]] if len(found) >= _SAMPLED else [])
        return []

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(WORKERS.release, self)
        await self._store.aclose()


async def _infer(reader: FileReader, sample: list[FileInfo]) -> pa.Schema:
    """The columns of some files together. One that cannot be read does not count, unless all cannot."""
    found: list[pa.Schema] = []
    failure: RetlError | None = None
    for file in sample:
        try:
            found.append(await reader.columns(file))
        except ConnectionFailed:
            raise
        except RetlError as error:
            failure = failure or error
    if not found and failure is not None:
        raise failure
    return merged(found)


def _check_words(table: TableSpec) -> None:
    for word in ("cursor", "query", "where", "expressions"):
        if getattr(table, word):
            raise UnsupportedError(
                f"{word} has no meaning for files.",
                remedy="leave it out: what has changed is known by the files themselves."
                if word == "cursor"
                else "leave it out, and compute in the target.",
            )
    if table.files.key_conflict == "newest" and not (
        table.key and (table.pre_action is PreAction.TRUNCATE or table.scope)
    ):
        raise ConfigError(
            'key_conflict = "newest" says which file has a key that stands in two of them: it needs a key, and pre_action '
            '= "truncate".',
            remedy="name the key, or remove key_conflict.",
        )
    if table.files.vanished == "delete" and "file" not in table.files.provenance:
        raise ConfigError(
            'vanished = "delete" deletes the rows of a file, and provenance has no column that names it.',
            remedy='name one, such as provenance = { file = "_file" }.',
        )


_OTHER_FORMAT = (
    "the format of the files has changed since the last scan; files that have not changed are not read again. "
    "`retl reset` reads everything once."
)


def _check_key(table: TableSpec) -> None:
    """Without a key, rows that are not in a file any more would stay."""
    if table.format.get("type") == "documents":
        return  # a file is one row, and its name the key
    if table.pre_action is PreAction.NONE and table.scope is None and not table.key and table.write is Write.UPSERT:
        raise ConfigError(
            "the table has no key, so the rows of a file that changes could not be told from its old ones.",
            remedy='replace the rows of each file that changes, with pre_action = "truncate"; or name the columns that '
            "identify a row in key.",
        )


class _Known:
    """What the checkpoint remembers of a table of files."""

    def __init__(self, facts: Any, words: str) -> None:
        known = facts if isinstance(facts, dict) else {}
        self.fresh = not known
        self.unfinished = bool(known.get("unfinished"))
        same = known.get("words") == words
        self.columns = unpack(known.get("schema")) if same else None
        self.hive: list[str] = list(known.get("hive") or ())
        self.words = words
        self.warnings: tuple[str, ...] = ()
        if known and not same:
            self.warnings = (_OTHER_FORMAT,)

    @classmethod
    def of(cls, checkpoint: Checkpoint, table: TableSpec) -> _Known:
        return cls(checkpoint.detail.get(FACTS), _words(table))

    def facts(self, columns: pa.Schema | None, table: TableSpec) -> dict[str, Any]:
        """What a checkpoint remembers with a slice."""
        about = {"words": self.words, "hive": self.hive, "schema": None if columns is None else pack(columns)}
        return {FACTS: about | ({"unfinished": True} if table.replaces else {})}

    def finished(self, columns: pa.Schema) -> dict[str, Any]:
        """The same once the scan is finished."""
        return {FACTS: {"words": self.words, "hive": self.hive, "schema": pack(columns)}}


def _words(table: TableSpec) -> str:
    return hashlib.sha256(repr(sorted(table.format.items())).encode()).hexdigest()[:16]


class FileOptions(Connector, kw_only=True, forbid_unknown_fields=True):
    """A place where files lie: what the options of all stores share."""

    def source(self) -> Source:
        return FileSource(self.store())

    @abstractmethod
    def store(self) -> FileStore:
        """The store, not connected yet."""
