"""The cursor as the server sorts, filters and writes it: to its last digit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from retl.connectors.elasticsearch.server import Server
from retl.connectors.elasticsearch.source.hits import TIME_FORMAT
from retl.connectors.elasticsearch.types import CONFLICT, arrow_column, field_type
from retl.model.cursor import nanoseconds
from retl.model.errors import ConfigError
from retl.model.range import CursorRange
from retl.model.schema import field

SETTLE = timedelta(seconds=5)
"""Searches show a document one refresh after it was written: the least delay before a scan looks at it."""
_FRACTION = re.compile(r"(\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?")
_YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC)
_400_YEARS = 146_097 * 86_400
_WHOLE = ("byte", "short", "integer", "long", "unsigned_long")


@dataclass(frozen=True)
class CursorField:
    """The field that orders change."""

    path: str
    column: pa.Field
    kind: str
    mixed: bool = False
    """Whether some indices map it as ``date``, which reaches before 1970, and others as ``date_nanos``, which does not."""
    early: bool = False
    """Of such a pair: whether this is the order of times before 1970."""

    @classmethod
    def of(cls, path: str, spec: Mapping[str, Any], *, several: bool = False) -> CursorField:
        """Raises ``ConfigError`` for a field without an order."""
        kind = field_type(spec)
        if kind == CONFLICT:
            arrow_column(path, spec)
        if kind not in ("date", "date_nanos", *_WHOLE):
            raise ConfigError(
                f"the cursor {path!r} is of type {kind}.",
                remedy="choose a field of type date, date_nanos or a whole number.",
                system="elasticsearch",
            )
        if spec.get("doc_values") is False:
            raise ConfigError(
                f"the cursor {path!r} has doc_values: false in its mapping, so nobody can sort by it.",
                remedy="choose another field.",
                system="elasticsearch",
            )
        type_ = arrow_column(path, spec).type
        if pa.types.is_integer(type_) and kind != "unsigned_long":
            type_ = pa.int64()
        return cls(path, field(path, type_, native=kind), kind, mixed=several and kind == "date_nanos")

    @property
    def is_time(self) -> bool:
        return bool(pa.types.is_timestamp(self.column.type))

    def orders(self) -> list[CursorField]:
        """The orders in which a window is read in turn: the server cannot sort times before 1970 as nanoseconds."""
        return [replace(self, kind="date", early=True), self] if self.mixed else [self]

    @property
    def only(self) -> list[dict[str, Any]]:
        """The filter of this order, where there are two."""
        early = {"range": {self.path: {"lt": "1970-01-01", "format": TIME_FORMAT}}}
        if not self.mixed:
            return []
        return [early] if self.early else [{"bool": {"must_not": [early]}}]

    @property
    def can_be_ancient(self) -> bool:
        """Whether there may be times before the year 1, which cannot be a bound."""
        return self.kind == "date" and not self.mixed

    @property
    def order(self) -> str:
        """What watermarks need in common to be compared: a field may become finer without harm."""
        return "time" if self.is_time else "integer"

    def sort(self, direction: str, server: Server) -> dict[str, Any]:
        """Of several values in one document the lowest counts, so that no value lies above a bound that was passed."""
        how: dict[str, Any] = {"order": direction, "mode": "min", "unmapped_type": self.kind}
        if self.is_time:
            how["numeric_type"] = self.kind
            if server.sort_format:
                how["format"] = TIME_FORMAT
        return {self.path: how}

    def range(self, lower: str | None, upper: str, *, lower_exclusive: bool) -> dict[str, Any]:
        bounds: dict[str, Any] = {"lte": self._bound(upper)}
        if lower is not None:
            bounds["gt" if lower_exclusive else "gte"] = self._bound(lower)
        if self.mixed:
            # Indices without times before 1970 refuse such a bound: then all of that time is read.
            bounds = {word: bound for word, bound in bounds.items() if not before_1970(bound)}
            bounds = bounds if "lte" in bounds else {"lt": "1970-01-01"}
        return {"range": {self.path: {**bounds, **({"format": TIME_FORMAT} if self.is_time else {})}}}

    def within(self, wanted: CursorRange) -> list[dict[str, Any]]:
        """The filter of a range as the server writes its ends."""
        ends = {"gte": wanted.since, "lt": wanted.until}
        bounds = {word: self._bound(end) for word, end in ends.items() if end is not None}
        return [{"range": {self.path: {**bounds, **({"format": TIME_FORMAT} if self.is_time else {})}}}]

    def since_year_1(self) -> dict[str, Any]:
        return {"range": {self.path: {"gte": "0001-01-01", "format": TIME_FORMAT}}}

    def settled(self, settle: timedelta) -> dict[str, Any]:
        """The filter of what is old enough by the server's clock."""
        seconds = -(-nanoseconds(settle) // 1_000_000_000)
        return {"range": {self.path: {"lte": f"now-{seconds}s"}}}

    def ahead(self) -> dict[str, Any]:
        """The filter of what lies more than a day ahead of the server's clock: most likely a mistake."""
        far = {"range": {self.path: {"lte": "now+1d"}}}
        return {"bool": {"filter": [self.present()], "must_not": [far]}}

    def present(self) -> dict[str, Any]:
        return {"exists": {"field": self.path}}

    def absent(self) -> dict[str, Any]:
        return {"bool": {"must_not": [self.present()]}}

    def text(self, value: Any) -> str:
        """A sort value as a bound: where the server wrote a number, that number is a time too."""
        if not self.is_time or isinstance(value, str):
            return str(value)
        digits = 9 if self.kind == "date_nanos" else 3
        seconds, rest = divmod(int(value), 10**digits)
        # The calendar repeats every 400 years, and Python lacks some years.
        cycles, within = divmod(seconds - _YEAR_2000.timestamp(), _400_YEARS)
        moment = _YEAR_2000 + timedelta(seconds=within)
        year = moment.year + 400 * int(cycles)
        sign = "-" if year < 0 else "+" if year > 9999 else ""
        return f"{sign}{abs(year):04d}-{moment:%m-%dT%H:%M:%S}.{rest:0{digits}d}Z"

    def value(self, value: Any) -> Any:
        """A sort value as the column has it: the early order is in milliseconds, the column is not."""
        return self.text(value) if self.early else value

    def _bound(self, text: str) -> Any:
        """A bound in a query, to its last digit: the server would round it up."""
        if not self.is_time:
            return int(text)
        return _FRACTION.sub(lambda clock: f"{clock[1]}.{(clock[2] or '').ljust(9, '0')}", text.replace(" ", "T"))


def before_1970(time: str) -> bool:
    """Whether a time of the server lies before what nanoseconds reach."""
    return time.startswith("-") or (not time.startswith("+") and time[:4] < "1970")
