"""When somebody is told that a pipeline fares badly, what he is told, and what is remembered of that."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from retl.model.duration import Duration, format_duration, parse_duration
from retl.model.errors import ConfigError
from retl.model.hidden import hide, shown
from retl.model.plain import EPOCH, Plain
from retl.model.secret import Secret

Condition = Literal["failures", "last_success", "rejects"]

_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_LONGEST_ERROR = 1_000


class Notice(Plain, frozen=True, kw_only=True):
    """What an alert tells. Times are in UTC, ``age`` is seconds."""

    pipeline: str
    table: str = ""
    """The table; empty where the runs of the pipeline itself fail."""
    condition: Condition
    """Why: ``failures``, ``last_success`` or ``rejects``."""
    recovered: bool = False
    """Whether it is over."""
    message: str
    """All of it in a sentence."""
    at: datetime = EPOCH
    since: datetime | None = None
    """Since when it fails, or when it was brought up to date last."""
    failures: int = 0
    """How often it has failed, one after the other."""
    age: float | None = None
    """How many seconds ago it was brought up to date last, where that is why."""
    rejects: int = 0
    """How many rejects of the table are kept."""
    error: str | None = None
    """The last error."""


Send = Callable[[Notice], Awaitable[None]]
"""What delivers a notice."""

FIELDS = tuple(item.name for item in msgspec.structs.fields(Notice))


class Alert(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Tells somebody when something fails, is not brought up to date or is rejected, and when that is over. Once, whatever replicas run."""

    webhook: Secret | str | None = None
    """The address that notices are posted to. It is a secret, and shown nowhere."""
    call: Callable[[Notice], Any] | None = None
    """In place of a webhook, in Python: a function, plain or async, that is given each `Notice`. A plain one runs in a thread."""
    failures: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Tell when a table, or the runs of the pipeline, have failed so often one after the other."""
    last_success: Duration | None = None
    """Tell when the last success of a table is longer ago than this."""
    rejects: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Tell when more rejects of a table are kept than this."""
    recovered: bool = True
    """Tell too when it is over."""
    template: Mapping[str, Any] | str | None = None
    """What is posted in place of the notice: a table, which becomes JSON, or a text. `{message}`, `{pipeline}`, `{table}` and the other fields of a notice are filled in."""
    headers: Mapping[str, Secret | str] = {}
    """Headers of the request, such as `Authorization`; they are secrets too."""

    def __post_init__(self) -> None:
        """Refuse what could never tell anything; keep what is secret out of every repr."""
        if (self.webhook is None) == (self.call is None):
            raise ConfigError(
                "an alert needs either a webhook or a call.", remedy='give it one, such as webhook = "${WEBHOOK_URL}".'
            )
        if self.call is not None and not callable(self.call):
            raise ConfigError("call is no function.", remedy="give a function in Python; a job file takes a webhook.")
        if (self.failures, self.last_success, self.rejects) == (None, None, None):
            raise ConfigError(
                "an alert needs to know when to tell.",
                remedy='give it failures = 3, last_success = "1h" or rejects = 100.',
            )
        for name, least in (("failures", 1), ("rejects", 0)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ConfigError(f"{name} is {value!r}.", remedy=f"give a whole number, at least {least}.")
        if self.last_success is not None:
            parse_duration(self.last_success, what="last_success")
        for name in _placeholders(self.template):
            if name not in FIELDS:
                raise ConfigError(
                    f"template has {{{name}}}, which no notice has.", remedy=f"a notice has {', '.join(FIELDS)}."
                )
        msgspec.structs.force_setattr(self, "webhook", _secret(self.webhook))
        msgspec.structs.force_setattr(
            self, "headers", {name: _secret(value) for name, value in dict(self.headers).items()}
        )

    @property
    def limit(self) -> float | None:
        """``last_success`` in seconds."""
        return (
            None
            if self.last_success is None
            else parse_duration(self.last_success, what="last_success").total_seconds()
        )

    @property
    def key(self) -> str:
        """By what the state store knows it: what it waits for, however it tells that."""
        return f"failures={self.failures} last_success={self.limit} rejects={self.rejects}"


def _secret(value: Secret | str | None) -> Secret | None:
    if value is None or isinstance(value, Secret):
        return value
    hide(value)
    return Secret(lambda: value, "an alert")


def body_of(alert: Alert, notice: Notice) -> bytes | str:
    """What is posted: JSON as bytes, or a text."""
    if alert.template is None:
        return json.dumps({**notice.to_dict(), "text": notice.message}).encode()
    filled = _filled(_tree(alert.template), {name: _text(value) for name, value in notice.to_dict().items()})
    return filled if isinstance(filled, str) else json.dumps(filled).encode()


def _tree(template: Mapping[str, Any] | str) -> Any:
    """A template; a text that is JSON stands for what it says, so that what is filled in is escaped."""
    if isinstance(template, str):
        try:
            found = json.loads(template)
        except ValueError:
            return template
        return found if isinstance(found, dict | list) else template
    return template


def _filled(template: Any, values: Mapping[str, str]) -> Any:
    if isinstance(template, str):
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), template)
    if isinstance(template, Mapping):
        return {key: _filled(value, values) for key, value in template.items()}
    return [_filled(value, values) for value in template] if isinstance(template, list | tuple) else template


def _placeholders(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        yield from _PLACEHOLDER.findall(template)
    elif isinstance(template, Mapping | list | tuple):
        for value in template.values() if isinstance(template, Mapping) else template:
            yield from _placeholders(value)


def _text(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# What is remembered -------------------------------------------------------------


class TableFares(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a table fares; what of it fails is kept for the next process."""

    failures: int = 0
    since: datetime | None = None
    last_success: datetime | None = None
    error: str | None = None


class Told(msgspec.Struct, frozen=True):
    """A notice that is to be delivered, or has been, and stands until it is over."""

    notice: Notice
    delivered: bool = False


class AlertState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the owner of a pipeline has to know of the alerts of his predecessors."""

    tables: dict[str, TableFares] = {}
    """Those that fail; with the name "" the runs of the pipeline."""
    told: dict[str, Told] = {}


def notice_of(
    pipeline: str, table: str, condition: Condition, found: TableFares, *, at: datetime, age: float | None, rejects: int
) -> Notice:
    """A notice about what is the case."""
    what = f"{pipeline} / {table}" if table else f"{pipeline}: the run"
    ago = "" if age is None else format_duration(age)
    times = f" {found.failures} times in a row" if found.failures > 1 else ""
    message = {
        "failures": f"{what} has failed{times}: {found.error}",
        "last_success": f"{what} was brought up to date {ago} ago for the last time",
        "rejects": f"{what} has {rejects:,} rejects",
    }[condition]
    error = found.error if condition != "rejects" else None
    return Notice(
        pipeline=pipeline,
        table=table,
        condition=condition,
        message=shown(message, _LONGEST_ERROR),
        at=at,
        since=found.last_success if condition == "last_success" else found.since,
        failures=found.failures,
        age=age if condition == "last_success" else None,
        rejects=rejects if condition == "rejects" else 0,
        error=None if error is None else shown(error, _LONGEST_ERROR),
    )


def recovery_of(notice: Notice, *, at: datetime, rejects: int) -> Notice:
    """The notice that what another one told is over."""
    what = f"{notice.pipeline} / {notice.table}" if notice.table else f"{notice.pipeline}: the run"
    message = {
        "failures": f"{what} works again",
        "last_success": f"{what} is up to date again",
        "rejects": f"{what} has {rejects:,} rejects left",
    }[notice.condition]
    return msgspec.structs.replace(
        notice, recovered=True, message=shown(message), at=at, rejects=rejects, age=None, error=None
    )
