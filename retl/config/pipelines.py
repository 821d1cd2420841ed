"""Make ``Pipeline`` objects of the words of a job file: connectors, stores, and the rules that join several words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from retl.config.build import BAD, Builder, Problems
from retl.config.lines import Path
from retl.config.registry import Role, connector_types, find_connector
from retl.config.stores import Stores
from retl.config.words import PipelineOptions, PipelineWords
from retl.connectors.base import Source, Target
from retl.engine.context import DEFAULT_TTL
from retl.engine.hooks import checked_hooks
from retl.engine.lease import parse_lease_ttl
from retl.engine.queries import with_query
from retl.engine.timetable import own_schedule, pipeline_schedule
from retl.model.actions import Action, parse_actions
from retl.model.errors import ConfigError
from retl.model.options import TableOptions
from retl.model.secret import Secret
from retl.model.table import Table, check_declaration, is_pattern, resolve
from retl.pipeline import Pipeline
from retl.state.base import StateStore

_OPTIONS = [item.name for item in msgspec.structs.fields(TableOptions)]


def connect(builder: Builder, role: Role, raw: Mapping[str, Any], path: Path) -> Any:
    """A connector from its inline table, or ``BAD``."""
    kind = raw.get("type")
    if not isinstance(kind, str):
        known = ", ".join(connector_types(role))
        builder.problems.add(
            (*path, "type") if "type" in raw else path, f"type is missing; installed {role}s are {known}"
        )
        return BAD
    try:
        options = find_connector(role, kind)
    except ConfigError as error:
        builder.problems.add_error((*path, "type"), error)
        return BAD
    return builder.struct(options, raw, path, ignore="type")


def make_pipelines(
    words: Mapping[str, PipelineWords],
    defaults: PipelineOptions,
    raw: Mapping[str, Any],
    problems: Problems,
    stores: Stores,
) -> dict[str, Made]:
    """All pipelines of a file that can be made; adds the problems of the others to ``problems``."""
    made = {}
    for name, pipeline in words.items():
        maker = _Maker(name, pipeline, defaults, raw, problems)
        built = maker.make(stores)
        if built is not None:
            made[name] = Made(built, definition(pipeline, maker.tables, defaults, stores.word))
    return made


class Made(NamedTuple):
    """A pipeline, and the fingerprint of what it is declared as."""

    pipeline: Pipeline
    definition: str


def definition(words: PipelineWords, tables: Sequence[Table], defaults: PipelineOptions, store: str) -> str:
    """A fingerprint of everything that makes a pipeline: its words, the texts of its queries, the values of its secrets."""
    kinds = [type(side).__qualname__ for side in (words.source, words.target)]
    chosen = [kinds, msgspec.structs.replace(words, tables=tables), defaults, store]
    return hashlib.sha256(msgspec.json.encode(chosen, enc_hook=_comparable)).hexdigest()


def _comparable(value: Any) -> Any:
    if not isinstance(value, Secret):
        return repr(value)
    try:
        return [str(value), hashlib.sha256(value.reveal().encode("utf-8", "surrogatepass")).hexdigest()]
    except ConfigError:  # it is read when it is needed, and reported then
        return str(value)


def inherited(own: PipelineOptions, above: PipelineOptions) -> PipelineOptions:
    """The defaults of a file: its own, and those of the file that includes it where it says nothing."""
    values = {name: value for name in own.__struct_fields__ if (value := getattr(own, name)) is not None}
    if "interval" in values or "cron" in values:
        above = msgspec.structs.replace(above, interval=None, cron=None)
    return msgspec.structs.replace(above, **values)


class _Maker:
    """Makes one pipeline, and finds the line of each rule that its words break."""

    def __init__(
        self, name: str, words: PipelineWords, defaults: PipelineOptions, raw: Mapping[str, Any], problems: Problems
    ) -> None:
        self._name = name
        self._words = words
        self._defaults = defaults
        self._raw = raw
        self._problems = problems
        self._path: Path = ("pipelines", name)
        self._good = True
        self.tables: list[Table] = []

    def make(self, stores: Stores) -> Pipeline | None:
        source = self._try(self._words.source.source, "source")
        target = self._try(self._words.target.target, "target")
        store = self._try(lambda: stores.store(target), "target") if target is not None else None
        self._try(lambda: pipeline_schedule(self._declared(), **self._schedule()))
        if source is not None and target is not None:
            self._try(lambda: checked_hooks(self._words.hooks, source, target), "hooks")
        blacklist = self._try(lambda: parse_actions(self._setting("blacklist") or ()), "blacklist")
        self._check_tables(blacklist or frozenset())
        lease_ttl = self._try(self._lease_ttl)
        if not self._good:
            return None
        return cast(Pipeline | None, self._try(lambda: self._pipeline(source, target, store, lease_ttl)))

    def _pipeline(self, source: Source, target: Target, store: StateStore | None, lease_ttl: float) -> Pipeline:
        options: dict[str, Any] = {name: self._setting(name) for name in _OPTIONS}
        options["cursor"] = options["cursor"] or None
        for name in ("alerts", "channel_bytes", "jitter", "keep_rejects", "parallel_tables", "stall_timeout"):
            if (value := self._setting(name)) is not None:
                options[name] = value
        return Pipeline(
            self._name,
            source=source,
            target=target,
            tables=self.tables,
            blacklist=self._setting("blacklist") or (),
            state=store,
            lease_ttl=lease_ttl,
            hooks=self._words.hooks,
            **self._schedule(),
            **options,
        )

    def _setting(self, name: str) -> Any:
        own = getattr(self._words, name)
        return own if own is not None else getattr(self._defaults, name)

    def _schedule(self) -> dict[str, Any]:
        """A pipeline's own interval or cron replaces both defaults."""
        own = self._words.interval is not None or self._words.cron is not None
        owner = self._words if own else self._defaults
        zone = self._words.timezone
        if zone is None and (owner.cron is not None or any(table.cron is not None for table in self._declared())):
            zone = self._defaults.timezone
        return {"interval": owner.interval, "cron": owner.cron, "timezone": zone}

    def _declared(self) -> list[Table]:
        return [table for table in self._words.tables if isinstance(table, Table)]

    def _lease_ttl(self) -> float:
        ttl = self._setting("lease_ttl")
        return parse_lease_ttl(DEFAULT_TTL if ttl is None else ttl)

    def _check_tables(self, blacklist: frozenset[Action]) -> None:
        defaults = TableOptions(**{name: self._setting(name) for name in _OPTIONS})
        for number, table in enumerate(self._words.tables):
            if isinstance(table, Table):
                self._try(lambda table=table: own_schedule(table, self._schedule()["timezone"]), "tables", number)
            checked = self._try(lambda table=table: _checked(table, defaults, blacklist), "tables", number)
            self.tables += [] if checked is None else [checked]

    def _try(self, call: Callable[..., Any], *place: str | int) -> Any:
        """The result of ``call``; its ``ConfigError`` becomes a problem, at the option that its message names."""
        try:
            return call()
        except ConfigError as error:
            self._good = False
            self._problems.add_error(self._locate(error.message, place), error)
            return None

    def _locate(self, message: str, place: Sequence[str | int]) -> Path:
        """Rules name the options that they are about: the first one near the place is where to look."""
        path: Path = (*self._path, *place)
        owners = [path, self._path, ("defaults",)]
        for word in re.findall(r"[a-z_]+", re.sub(r"'[^']*'|\"[^\"]*\"", "", message)):
            for owner in owners:
                if word in _at(self._raw, owner):
                    return (*owner, word)
        return path


def _checked(table: Table | str, defaults: TableOptions, blacklist: frozenset[Action]) -> Table:
    """The table with the text of its query. Raises ``ConfigError`` for words that do not fit together."""
    table = Table(name=table) if isinstance(table, str) else table
    check_declaration(table)
    table = with_query(table)
    if not is_pattern(table):
        resolve(table, table.name or "", defaults, blacklist, inherited_cursor=None)
    return table


def _at(raw: Any, path: Path) -> Mapping[str, Any]:
    for part in path:
        if isinstance(raw, dict) and isinstance(part, str):
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int):
            raw = raw[part]
        else:
            return {}
    return raw if isinstance(raw, dict) else {}
