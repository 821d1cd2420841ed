"""``--fail-if "lag > 10m"``: conditions on a status, in a grammar of three words."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, get_args

from retl.model.duration import format_duration, parse_duration
from retl.model.errors import ConfigError
from retl.model.status import PipelineState, PipelineStatus, TableStatus

GRAMMAR = '"lag > 10m", "last_success > 1h", "failures > 3", "rejects > 0" or "state = stopped"'

_WORDS = re.compile(r"\s*([a-z_]+)\s*(<=|>=|!=|=|<|>)\s*(\S+(?: \S+)*)\s*")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_EQUALS: dict[str, Callable[[Any, Any], bool]] = {"=": operator.eq, "!=": operator.ne}
_OPERATORS = {
    "lag": _ORDERS,
    "last_success": _ORDERS,
    "failures": _ORDERS | _EQUALS,
    "rejects": _ORDERS | _EQUALS,
    "state": _EQUALS,
}


@dataclass(frozen=True)
class Condition:
    """One condition. It holds for a pipeline if it does for one of the tables that it declares, or for itself."""

    text: str
    name: str
    holds: Callable[[Any, Any], bool]
    value: Any

    def met(self, status: PipelineStatus) -> list[str]:
        """Where it holds, and with what, in words."""
        return [
            f"{place}: {self.name} is {_shown(found)}" for place, found in self._values(status) if self._is_met(found)
        ]

    def _is_met(self, found: Any) -> bool:
        return found is not None and self.holds(found, self.value)

    def _values(self, status: PipelineStatus) -> Iterator[tuple[str, Any]]:
        if self.name == "state":
            yield status.pipeline, status.state
            return
        tables = [table for table in status.tables if table.declared]
        if self.name == "failures" and status.failures:
            yield status.pipeline, status.failures
        if self.name == "last_success" and not tables:
            yield status.pipeline, math.inf
        for table in tables:
            yield f"{status.pipeline}.{table.table}", self._of_table(table)

    def _of_table(self, table: TableStatus) -> float | int | None:
        if self.name == "lag":
            return table.lag
        if self.name == "last_success":
            return math.inf if table.last_success is None else (datetime.now(UTC) - table.last_success).total_seconds()
        return table.failures if self.name == "failures" else table.rejects


def parse_condition(text: str) -> Condition:
    """Read a condition. Raises ``ConfigError`` for anything that is not one."""
    found = _WORDS.fullmatch(text)
    if found is None or found[1] not in _OPERATORS or found[2] not in _OPERATORS[found[1]]:
        raise ConfigError(f"--fail-if {text!r} is not a condition.", remedy=f"write {GRAMMAR}.")
    name, sign, value = found.groups()
    return Condition(text.strip(), name, _OPERATORS[name][sign], _value(name, value, text))


def _value(name: str, value: str, text: str) -> Any:
    if name in ("lag", "last_success"):
        return parse_duration(value, what=f"--fail-if: {name}").total_seconds()
    states = get_args(PipelineState)
    if name == "state" and value not in states:
        raise ConfigError(f"--fail-if {text!r}: there is no state {value!r}.", remedy=f"there are {', '.join(states)}.")
    if name != "state" and not re.fullmatch("[0-9]{1,18}", value):
        raise ConfigError(f"--fail-if {text!r}: {value!r} is not a whole number.", remedy=f"write {GRAMMAR}.")
    return value if name == "state" else int(value)


def _shown(found: Any) -> str:
    if found == math.inf:
        return "never"
    return format_duration(found) if isinstance(found, float) else str(found)
