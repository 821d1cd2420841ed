"""The checks before a run: do both systems answer, and what would a scan of each table do. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retl.connectors.base import Source, SystemInfo, Target
from retl.engine.backfill import keeper_of
from retl.engine.config import PipelineConfig
from retl.engine.drift import check_plan
from retl.engine.hooks import planned
from retl.engine.log import as_retl_error
from retl.engine.targets import begin_from, check_claims, claim_of, with_types
from retl.engine.wanted import Wanted, not_offered
from retl.model.checkpoint import Checkpoint
from retl.model.errors import RetlError, StateError, TransientError
from retl.model.plan import SourcePlan, SourcePreview, TargetPreview, WriteSpec
from retl.model.table import TableSpec
from retl.state.base import Claim, Manifest

_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class TablePlan:
    """What a scan of one table would do."""

    table: TableSpec
    source: SourcePlan
    target: TargetPreview
    warnings: tuple[str, ...] = ()
    claim: Claim | None = None
    """The target's table and how it is written, if the target can tell its tables from others."""
    preview: tuple[str, ...] = ()
    """What the source tells people of the scan; where it compares with the manifest, the columns; and the first rows."""
    hooks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The statements of the pipeline's hooks by when they run, with where: ``{"before_run": ("source: REFRESH ...",)}``."""


@dataclass(frozen=True)
class Finding:
    """One line of a ``check``: the subject, and what was found."""

    level: Literal["ok", "warning", "error"]
    subject: str
    message: str
    claim: Claim | None = None
    """What a good table writes, to compare with other pipelines."""


class Preflight:
    """The work of ``check`` and ``plan``."""

    def __init__(self, config: PipelineConfig) -> None:
        self._config = config

    async def check(self) -> list[Finding]:
        """A finding for each system and each table, whatever goes wrong."""
        config = self._config
        findings: list[Finding] = []
        systems: tuple[tuple[str, Source | Target], ...] = (("source", config.source), ("target", config.target))
        reachable = [await self._ping(findings, role, system) for role, system in systems]
        if not all(reachable):
            return findings
        errors: list[Exception] = []
        try:
            specs = await config.tables.specs(config.source, config.target, errors)
        except Exception as error:
            return [*findings, Finding("error", "tables", str(as_retl_error(error, pipeline=config.name)))]
        findings.extend(
            Finding("error", getattr(unresolved, "table", "") or "tables", str(unresolved)) for unresolved in errors
        )
        for spec in specs:
            findings.extend(await self._check_spec(spec))
        return findings

    async def _ping(self, findings: list[Finding], role: str, system: Source | Target) -> bool:
        try:
            info: SystemInfo = await system.ping()
        except Exception as error:
            findings.append(
                Finding("error", role, str(as_retl_error(error, pipeline=self._config.name, system=system.system)))
            )
            return False
        text = " ".join(part for part in (info.product, info.version, info.detail) if part)
        findings.append(Finding("ok", role, text))
        findings.extend(Finding("warning", role, warning) for warning in info.warnings)
        return True

    async def _check_spec(self, spec: TableSpec) -> list[Finding]:
        try:
            plan = await self.plan(spec)
        except Exception as error:
            return [Finding("error", spec.name, str(as_retl_error(error, pipeline=self._config.name, table=spec.name)))]
        rows = "" if plan.source.rows is None else f", {plan.source.rows:,} rows to read"
        mode = "full scan" if spec.full else f"incremental by {spec.cursor}"
        ok = Finding("ok", spec.name, f"-> {spec.to}: {mode}{rows}", plan.claim)
        return [ok, *(Finding("warning", spec.name, warning) for warning in plan.warnings)]

    async def plans(self, errors: list[Exception] | None) -> list[TablePlan]:
        """The plans of all tables. With ``errors`` one that cannot be planned does not hide the others."""
        found: list[TablePlan] = []
        for spec in await self._config.tables.specs(self._config.source, self._config.target, errors):
            try:
                found.append(await self.plan(spec))
            except Exception as error:
                # A transient error and a damaged state concern every table: once is enough.
                if errors is None or isinstance(error, TransientError | StateError):
                    raise
                errors.append(as_retl_error(error, pipeline=self._config.name, table=spec.name))
        return found

    async def backfill(self, wanted: Wanted) -> TablePlan:
        """What a backfill of one table would do. Raises the ``RetlError`` that it would end in."""
        config, errors = self._config, list[Exception]()
        specs = await config.tables.specs(config.source, config.target, errors)
        found = next((spec for spec in specs if wanted.has(spec.name)), None)
        if found is not None:
            return await self.plan(wanted.narrowed(found, config.source))
        (name,) = wanted.absent(())
        raise next((error for error in errors if wanted.concerns(error, [name])), not_offered(config.name, name))

    async def plan(self, spec: TableSpec) -> TablePlan:
        """What a scan of one table would do. Raises the ``RetlError`` that it would end in."""
        config = self._config
        try:
            stored = (await config.store.load(config.name)).get(spec.name, Checkpoint())
            claim = await claim_of(
                config.name, spec, config.target, state_in_target=config.state_in_target, source=config.source
            )
            if claim is not None:
                check_claims(claim, await config.store.claims(claim.target))
            warnings: list[str] = []
            checkpoint, _ = await begin_from(keeper_of(spec), config.target, spec, stored, warnings.append)
            manifest = Manifest(config.store, config.name, spec.name)
            table = await with_types(config.source, config.target, spec)
            async with config.source.open_scan(table, checkpoint, manifest) as scan:
                source, preview = scan.plan, await scan.preview()
                target = await self._preview(spec, checkpoint, source, warnings)
            told = claim if await config.target.location(spec.to) is not None else None
        except RetlError as error:
            error.with_context(pipeline=config.name, table=spec.name)
            raise
        lines, hooks = tuple(_lines(source, preview)), planned(config.hooks)
        return TablePlan(spec, source, target, (*warnings, *target.warnings), told, lines, hooks)

    async def _preview(
        self, spec: TableSpec, checkpoint: Checkpoint, source: SourcePlan, warnings: list[str]
    ) -> TargetPreview:
        check_plan(source.table, checkpoint, source, warnings.append)
        if source.by_manifest and not source.schema.names:
            return TargetPreview()  # nothing has ever been there
        load = WriteSpec(
            pipeline=self._config.name,
            table=spec,
            schema=source.schema,
            key=source.key,
            scan_id="plan",
            blacklist=self._config.blacklist,
            checkpoint=checkpoint,
            unique_key=source.unique_key,
        )
        return await self._config.target.preview(load)


def _lines(source: SourcePlan, preview: SourcePreview) -> Iterator[str]:
    yield from preview.lines
    if source.by_manifest:
        yield from (f"column {column.name}: {column.type}" for column in source.schema)
    if preview.rows is not None:
        yield from map(_row_text, preview.rows.select(source.schema.names).to_pylist())


def _row_text(row: dict[str, Any]) -> str:
    return "row " + ", ".join(f"{name} = {'NULL' if value is None else _shown(value)}" for name, value in row.items())


def _shown(value: Any) -> str:
    """A value on one line of a terminal: a document may be a book."""
    text = " ".join(str(value)[: 2 * _LONGEST_SHOWN].split())
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
