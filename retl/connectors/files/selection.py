"""Which files belong to a table, and what their names tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from urllib.parse import unquote

import pyarrow as pa

from retl.connectors.documents.text.kinds import kind_of
from retl.connectors.files.formats.options import unpacked_name
from retl.connectors.files.patterns import Pattern, compile_pattern
from retl.connectors.files.store import FileInfo
from retl.model.errors import ConfigError
from retl.model.table import TableSpec

_UNFINISHED = re.compile(
    r"(?:.*/)?(?:\.[^/]*|_SUCCESS|_(?:committed|started)_[^/]*|_temporary/.*|\.[^/]*/.*|~[^/]*"
    r"|[^/]*(?:~|\.tmp|\.temp|\.part|\.partial|\.filepart|\.crdownload|\.swp|\.lock|\.inprogress))",
    re.DOTALL,
)
_HIVE = re.compile(r"([A-Za-z_]\w*)=([^/]*)")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class Verdict(Enum):
    """What becomes of a file that was listed."""

    READ = "read"
    OTHER = "other"
    """It is there, and not to be read: another pattern, too small, too old."""
    WAITING = "waiting"
    """It may still be written to."""
    ARCHIVED = "archived"
    TEXTLESS = "textless"
    """It is of a kind that has no text, where documents are read."""


class Selection:
    """The files of one table."""

    def __init__(self, table: TableSpec, *, now: datetime | None = None) -> None:
        self._rules = table.files
        self._patterns = [compile_pattern(text) for text in table.files.patterns or (table.name,)]
        self._ignore = [compile_pattern(text) for text in table.files.ignore]
        self._now = now or datetime.now(UTC)
        self._documents = table.format.get("type") == "documents"
        self.columns = self._columns()

    @property
    def prefix(self) -> str:
        """What every name of the table begins with."""
        prefixes = [pattern.prefix for pattern in self._patterns]
        first, last = min(prefixes), max(prefixes)
        pairs = zip(first, last, strict=False)
        return first[: next((number for number, (one, other) in enumerate(pairs) if one != other), len(first))]

    def verdict(self, file: FileInfo) -> Verdict:
        """What becomes of a file."""
        rules = self._rules
        if self._matching(file.name) is None or (rules.since is not None and file.name < rules.since):
            return Verdict.OTHER
        if is_unfinished(file.name) or any(pattern.match(file.name) is not None for pattern in self._ignore):
            return Verdict.OTHER
        if self._documents and kind_of(unpacked_name(file.name)) is None:
            return Verdict.TEXTLESS
        if file.size < rules.min_size or (rules.max_size is not None and file.size > rules.max_size):
            return Verdict.OTHER
        if file.modified is not None:
            if rules.modified_since is not None and file.modified < rules.modified_since:
                return Verdict.OTHER
            if rules.min_age is not None and self._now - file.modified < rules.min_age:
                return Verdict.WAITING
        return Verdict.ARCHIVED if file.archived else Verdict.READ

    def _matching(self, name: str) -> tuple[Pattern, dict[str, str]] | None:
        for pattern in self._patterns:
            found = pattern.match(name)
            if found is not None:
                return pattern, found
        return None

    # What names tell --------------------------------------------------------

    def _columns(self) -> pa.Schema:
        """The columns that the groups of the patterns become."""
        fields: dict[str, pa.Field] = {}
        for pattern in self._patterns:
            for name in pattern.groups:
                column = pa.field(name, _type_of(pattern.dates.get(name)))
                if not fields.setdefault(name, column).equals(column):
                    raise ConfigError(f"two patterns have the group {name!r} in different forms.")
        return pa.schema(list(fields.values()))

    def hive_columns(self, names: Sequence[str]) -> pa.Schema:
        """The columns that folders such as ``year=2024`` become, as some files show them."""
        if not self._rules.hive:
            return pa.schema([])
        found = dict.fromkeys(key for name in names for key, _ in _HIVE.findall(_folder(name)))
        return pa.schema([pa.field(name, pa.string()) for name in found if name not in self.columns.names])

    def values(self, name: str) -> dict[str, str | datetime | None]:
        """The values that the name of a file tells, by column. Raises ``ValueError`` for a date that no calendar has."""
        told: dict[str, str | datetime | None] = {}
        if self._rules.hive:
            told = {key: None if value == _HIVE_NULL else unquote(value) for key, value in _HIVE.findall(_folder(name))}
        found = self._matching(name)
        if found is not None:
            pattern, groups = found
            for group, value in groups.items():
                date = pattern.dates.get(group)
                told[group] = datetime.strptime(value, date) if date is not None else value  # noqa: DTZ007  # as written
        return told


def is_unfinished(name: str) -> bool:
    """Whether a name is one of hidden, temporary or unfinished files."""
    return _UNFINISHED.fullmatch(name) is not None


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _type_of(date: str | None) -> pa.DataType:
    if date is None:
        return pa.string()
    return pa.timestamp("us") if re.search(r"%[HMSf]", date) else pa.date32()
