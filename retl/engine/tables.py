"""The declared tables, made concrete against what the source has."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

from retl.connectors.base import Source, Target
from retl.engine.log import as_retl_error
from retl.engine.queries import with_query
from retl.model.actions import Action, PreAction
from retl.model.errors import ConfigError, RetlError, UnsupportedError
from retl.model.naming import Naming, matching, plain_name
from retl.model.options import TableOptions
from retl.model.table import Table, TableSpec, check_declaration, check_options, resolve
from retl.model.typed import check_length, wrong_type


class Tables:
    """The tables of one pipeline. Raises ``ConfigError`` for words that are wrong whatever the source has."""

    def __init__(
        self,
        pipeline: str,
        declared: Sequence[Table],
        defaults: TableOptions,
        blacklist: frozenset[Action],
        source: Source,
        target: Target,
    ) -> None:
        if not declared:
            raise ConfigError("the pipeline has no tables.", remedy="name at least one.")
        self._pipeline = pipeline
        self.declared: list[Table] = []
        self.defaults = defaults
        self._blacklist = blacklist
        self._documents = target.documents
        self._files = source.files
        self._naming = Naming(source.schemas, target.schemas)
        self._resolved: dict[int, TableSpec] = {}
        self._writers: dict[str, str] = {}
        """The table that is written to each name of the target."""
        seen: set[str] = set()
        check_options(defaults)
        for given in declared:
            self._check(given)
            check_declaration(given)
            table = with_query(given)
            self.declared.append(table)
            if table.name is not None:
                if table.name in seen:
                    # The checkpoint has this name: each of the two would use the other's watermark.
                    raise ConfigError(
                        f"the table {table.name!r} is declared twice.",
                        remedy="give the second one a pipeline of its own, or read it by a query with another name.",
                        table=table.name,
                    )
                seen.add(table.name)
                # A table that inherits its cursor is checked again when its columns are known.
                to = self._with_defaults(table, table.name, None).to
                if to in self._writers:
                    raise _two_writers([self._writers[to], table.name], to)
                self._writers[to] = table.name

    def _check(self, table: Table) -> None:
        if not isinstance(table, Table):
            raise wrong_type("a table", table, 'retl.Table("orders"), or its name as text')
        try:
            check_options(table)
            check_length("the name of a table", table.name)
        except ConfigError as error:
            error.with_context(table=str(table.name or table.match or ""))
            raise

    @property
    def names(self) -> list[str]:
        """The tables that are declared by name."""
        return [table.name for table in self.declared if table.name is not None]

    def declares(self, name: str) -> bool:
        """Whether a table of this name is declared, by its name or by a pattern."""
        patterns = (table.match for table in self.declared if table.match is not None)
        return name in self.names or any(matching(pattern, [name]) for pattern in patterns)

    def in_words(self) -> str:
        """The declared names and patterns, for people."""
        return ", ".join(table.name or f"what matches {table.match!r}" for table in self.declared)

    def target_of(self, name: str) -> str | None:
        """The target's name of a table, if it is known yet."""
        return next((spec.to for spec in self._resolved.values() if spec.name == name), None)

    async def specs(self, source: Source, target: Target, errors: list[Exception] | None = None) -> list[TableSpec]:
        """The concrete tables, as of now. With ``errors`` a table that cannot be resolved does not hide the others.

        Each name of the target has one table: the one that was written there before. If two
        new tables want one name, neither gets it. Patterns never find what the pipeline
        itself writes.
        """
        specs: list[TableSpec] = []
        offered: list[str] | None = None
        for number, table in enumerate(self.declared):
            try:
                if table.match is None:
                    specs.append(await self._named(source, number, table))
                    continue
                if offered is None:
                    offered = await source.list_tables()
                taken = {*self.names, *(spec.name for spec in specs)}
                found = matching(table.match, offered)
                if not found:
                    raise ConfigError(
                        f"no table of the source matches {table.match!r}.",
                        remedy="see `retl tables` for what there is.",
                    )
                specs.extend([await self._resolve(source, table, name) for name in found if name not in taken])
            except Exception as error:
                with_context = as_retl_error(error, pipeline=self._pipeline, table=table.name or table.match or "")
                if errors is None and with_context is error:
                    raise
                if errors is None:
                    raise with_context from error
                errors.append(with_context)
        own = await self._own(specs, source, target) if offered is not None else ()
        specs = self._without_sql([spec for spec in specs if spec.name not in own], target, errors)
        specs = self._mirrored(specs, target, errors)
        specs = await self._without_aliases(specs, target, errors)
        return self._with_one_writer(specs, offered or (), errors)

    def _mirrored(self, specs: Sequence[TableSpec], target: Target, errors: list[Exception] | None) -> list[TableSpec]:
        """The tables without those that this target cannot mirror."""
        unable = [spec for spec in specs if spec.pre_action is PreAction.MIRROR and not target.mirrors]
        error = UnsupportedError(
            f'a {target.system} target cannot compare its rows with others, as pre_action = "mirror" asks.',
            remedy='use pre_action = "swap", which replaces the table as a whole, or "none".',
            system=target.system,
        )
        return self._without(unable, error, specs, errors)

    def _without_sql(
        self, specs: Sequence[TableSpec], target: Target, errors: list[Exception] | None
    ) -> list[TableSpec]:
        """The tables without those whose own statements this target cannot run."""
        unable = [] if target.runs_sql else [spec for spec in specs if spec.before_sql or spec.after_sql]
        error = UnsupportedError(
            f"a {target.system} target runs no SQL, as before_sql and after_sql ask.",
            remedy="remove them; in Python, Hooks(before_scan=..., after_scan=...) calls a function of yours.",
            system=target.system,
        )
        return self._without(unable, error, specs, errors)

    def _without(
        self,
        unable: Sequence[TableSpec],
        like: RetlError,
        specs: Sequence[TableSpec],
        errors: list[Exception] | None,
    ) -> list[TableSpec]:
        """The tables but those of which the target is unable: an error for each, raised where nobody collects them."""
        for spec in unable:
            error = copy(like).with_context(pipeline=self._pipeline, table=spec.name)
            if errors is None:
                raise error
            errors.append(error)
        return [spec for spec in specs if spec not in unable]

    async def _without_aliases(
        self, specs: Sequence[TableSpec], target: Target, errors: list[Exception] | None
    ) -> list[TableSpec]:
        """Without the tables that another one already writes, under another spelling of the target's name."""
        first: dict[str, TableSpec] = {}
        kept = []
        for spec in specs:
            other = first.setdefault(plain_name(spec.to).casefold(), spec)
            place = await target.location(spec.to) if other.to != spec.to else None
            if place is None or place != await target.location(other.to):
                kept.append(spec)
                continue
            error = _two_writers([other.name, spec.name], other.to, kept=other.name)
            error.with_context(pipeline=self._pipeline, table=spec.name)
            if errors is None:
                raise error
            errors.append(error)
        return kept

    async def _own(self, specs: Sequence[TableSpec], source: Source, target: Target) -> set[str]:
        """The tables found by a pattern that this pipeline itself writes, because both sides are one system."""
        writers: dict[str, list[TableSpec]] = {}
        for spec in specs:
            writers.setdefault(plain_name(spec.to).casefold(), []).append(spec)
        own: set[str] = set()
        for found in (spec for spec in specs if spec.name not in self.names):
            others = [spec for spec in writers.get(plain_name(found.name).casefold(), ()) if spec is not found]
            here = await source.location(found.name) if others else None
            if here is not None and here in [await target.location(other.to) for other in others]:
                own.add(found.name)
        return own

    def _with_one_writer(
        self, specs: Sequence[TableSpec], offered: Sequence[str], errors: list[Exception] | None
    ) -> list[TableSpec]:
        # A table that could not be resolved just now keeps its name, too.
        there = {*self.names, *offered}
        wanted = {to: [name] for to, name in self._writers.items() if name in there}
        for spec in specs:
            names = wanted.setdefault(spec.to, [])
            if spec.name not in names:
                names.append(spec.name)
        for to, names in wanted.items():
            if len(names) == 1:
                self._writers[to] = names[0]
                continue
            kept = names[0] if names[0] == self._writers.get(to) else None
            error = _two_writers(names, to, kept=kept)
            error.with_context(pipeline=self._pipeline, table=names[1] if kept else names[0])
            if errors is None:
                raise error
            errors.append(error)
        return [spec for spec in specs if self._writers.get(spec.to) == spec.name]

    def _with_defaults(self, table: Table, name: str, inherited_cursor: str | None) -> TableSpec:
        return resolve(
            table,
            name,
            self.defaults,
            self._blacklist,
            inherited_cursor=inherited_cursor,
            naming=self._naming,
            by_file=self._files,
        )

    async def _named(self, source: Source, number: int, table: Table) -> TableSpec:
        if number not in self._resolved:
            assert table.name is not None
            self._resolved[number] = await self._resolve(source, table, table.name)
        return self._resolved[number]

    async def _resolve(self, source: Source, table: Table, name: str) -> TableSpec:
        inherited = self.defaults.cursor or None
        if table.cursor is None and inherited is not None and table.query is None:
            schema = await source.describe(name)
            if schema is not None and not schema.has(inherited):
                inherited = None
        spec = self._with_defaults(table, name, inherited)
        _check_files(spec, source)
        # A document that comes whole has no place for a vector.
        narrowed = source.narrowed(replace(spec, documents=self._documents and spec.embeddings is None))
        _check_deletes(narrowed, self._blacklist)
        return narrowed


def _check_files(spec: TableSpec, source: Source) -> None:
    """Refuse the words of files where the source reads none: they would mean nothing."""
    unknown = [] if source.files else [word for word in spec.files.given if word not in source.file_words]
    if unknown:
        raise ConfigError(
            f"{unknown[0]} is a word for files, and a {source.system} source reads none.",
            remedy="remove it.",
            table=spec.name,
        )


def _check_deletes(spec: TableSpec, blacklist: frozenset[Action]) -> None:
    """Refuse a table whose rows are deleted file by file, where the blacklist forbids that."""
    deletes = spec.scope is not None or (spec.files.vanished == "delete" and not spec.replaces)
    if deletes and Action.DELETE in blacklist:
        word = 'pre_action = "truncate"' if spec.scope is not None else 'vanished = "delete"'
        raise ConfigError(
            f"{word} deletes the rows of a file, and the blacklist forbids DELETE.",
            remedy='take DELETE off the blacklist; or have rows updated by their key alone, with pre_action = "none" and '
            'vanished = "keep".',
            table=spec.name,
        )


def _two_writers(names: Sequence[str], to: str, *, kept: str | None = None) -> ConfigError:
    """The error of two tables with one target; ``kept`` is the one that is written nevertheless."""
    listed = f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"
    what_now = f"; only {kept!r} is" if kept is not None else ""
    return ConfigError(
        f"the tables {listed} would {'both' if len(names) == 2 else 'all'} be written to {to!r}{what_now}.",
        remedy=f"declare {names[-1]!r} by its name, with another name in to.",
    )
