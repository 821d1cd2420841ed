"""Documents that replace those of their file: new ones are written over the old, then what is left of these is deleted.

There is no transaction here. Each document bears a mark of the scan that wrote it; what has the name of the file and
another mark is left of an earlier scan. An ``_id`` is made of the key, so a scan that begins again writes the same ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from retl.connectors.elasticsearch import catalog
from retl.connectors.elasticsearch.catalog import Definition, ExistingIndex
from retl.connectors.elasticsearch.connection import Client, quoted
from retl.connectors.elasticsearch.target import truncate
from retl.connectors.elasticsearch.target.conflicts import Conflicts
from retl.connectors.elasticsearch.target.encode import MARK, Lines
from retl.connectors.elasticsearch.target.loader import Bulk, Reject
from retl.connectors.elasticsearch.types import field_type
from retl.model.actions import Action
from retl.model.errors import ConfigError, TargetError, UnsupportedError
from retl.model.plan import WriteSpec
from retl.model.window import Scope

_EXACT = ("keyword", "constant_keyword", "wildcard")


def check_by_file(spec: WriteSpec, existing: ExistingIndex | None) -> None:
    """Raise for an index whose documents cannot be replaced file by file."""
    if spec.table.scope is None:
        return
    if Action.UPDATE in spec.blacklist:
        raise ConfigError(
            "a file that changes is written over its old documents, and the blacklist forbids UPDATE.",
            remedy="take UPDATE off the blacklist.",
        )
    if existing is None:
        return
    if existing.kind == "data_stream" or len(existing.indices) > 1:
        what = "a data stream" if existing.kind == "data_stream" else f"an alias of {len(existing.indices)} indices"
        raise UnsupportedError(
            f"{existing.name!r} is {what}, in which the documents of one file cannot be written over.",
            remedy="write an index, or an alias of one.",
        )
    if at := catalog.at(existing.definition.properties, spec.table.scope):
        _exact_field(existing.name, spec.table.scope, at)
    if Action.ALTER in spec.blacklist and catalog.at(existing.definition.properties, MARK) is None:
        raise ConfigError(
            f"the mapping of {existing.name!r} lacks the field {MARK!r}, the mark of a scan, and the blacklist forbids ALTER.",
            remedy=f'add it yourself: PUT /{existing.written}/_mapping {{"properties": {{"{MARK}": {{"type": "keyword"}}}}}}.',
        )


def _exact_field(index: str, column: str, mapped: Mapping[str, Any]) -> tuple[str, int | None]:
    """The field that finds a whole name, and the longest one that it knows."""
    views = {column: mapped, **{f"{column}.{name}": view for name, view in (mapped.get("fields") or {}).items()}}
    for path, view in views.items():
        if field_type(view) in _EXACT and "normalizer" not in view and view.get("index", True):
            return path, view.get("ignore_above")
    raise ConfigError(
        f"{index!r} maps {column!r}, the name of the file, as {field_type(mapped)}, which finds no whole name.",
        remedy="map it as keyword in a new index, or name another column in provenance.",
    )


class FileDocuments:
    """The documents of files in one index."""

    def __init__(self, client: Client, spec: WriteSpec, index: str) -> None:
        self._client = client
        self._spec = spec
        self._index = index

    async def delete_others(self, scope: Scope, written: int) -> None:
        """Delete the documents of these files that this scan has not written. ``written``: how many it has.

        Raises where none of them bears the mark: then those that were just written would go.
        """
        named = await self._named(scope)
        others = {"bool": {"filter": [named], "must_not": self._marked if self._spec.table.scope else []}}
        if not await truncate.count_matching(self._client, self._index, others):
            return
        own = {"bool": {"filter": [named, *self._marked]}}
        if written and not await truncate.count_matching(self._client, self._index, own):
            raise TargetError(
                f"the {written:,} documents that were written to {self._index!r} do not have the field {MARK!r}.",
                remedy="see whether an ingest pipeline of the target, or somebody else, removes it.",
            )
        await truncate.delete_documents(self._client, self._index, others)

    @property
    def _marked(self) -> list[dict[str, Any]]:
        return [{"term": {MARK: self._spec.scan_id}}]

    async def _named(self, scope: Scope) -> dict[str, Any]:
        found = await self._client.call("GET", f"/{quoted(self._index)}/_mapping")
        (about,) = found.values()
        mapped = catalog.at(Definition(about["mappings"]).properties, scope.column)
        if mapped is None:  # no document has it
            return {"terms": {scope.column: []}}
        path, longest = _exact_field(self._index, scope.column, mapped)
        too_long = next((name for name in scope.values if longest is not None and len(name) > longest), None)
        if too_long is not None:
            raise ConfigError(
                f"{self._index!r} does not index names of more than {longest} characters, such as {too_long!r} in {path!r}.",
                remedy="map the column as keyword without ignore_above, in a new index.",
            )
        return {"terms": {path: list(scope.values)}}


class RowsOfFiles(Conflicts):
    """Settles rows whose key has a document: of the same file they replace it, of another one they are rejects."""

    def __init__(
        self, client: Client, spec: WriteSpec, index: str, reject: Reject, prove: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(client, index, prove)
        self._spec = spec
        self._reject = reject

    def replacing(self, bulk: Bulk, lines: Lines, found: Sequence[Mapping[str, Any]]) -> list[int]:
        return [number for number, there in enumerate(found) if self._replaces(bulk, lines, number, there)]

    def _replaces(self, bulk: Bulk, lines: Lines, number: int, there: Mapping[str, Any]) -> bool:
        """Whether a row takes the place of a document; else it is counted, or rejected."""
        column = str(self._spec.table.scope)
        source = there.get("_source") or {}
        if not there.get("found"):
            return True
        if (file := source.get(column)) != lines.rows.column(column)[number].as_py():
            of = f"of the file {file!r}" if file else "of no file"
            self._reject(lines, number, f"its key is that of a document {of}", self._spec.key[0])
            return False
        if source.get(MARK) != self._spec.scan_id:
            return True
        if source == _document(lines, number):  # the answer to the first try was lost
            bulk.written += 1
        else:
            self._reject(lines, number, "its key stands twice in the file", self._spec.key[0])
        return False


def _document(lines: Lines, number: int) -> Any:
    return msgspec.json.decode(lines.items[number].as_py().split(b"\n", 1)[1])
