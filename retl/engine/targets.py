"""Check the target's table before a scan: who writes it, and is it still the one that the checkpoint means?"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable

from retl.connectors.base import Source, Target, TargetTable
from retl.engine.backfill import Keeper
from retl.engine.config import PipelineConfig
from retl.model.checkpoint import Checkpoint, Fence
from retl.model.errors import ConfigError, GuardStopped
from retl.model.table import TableSpec
from retl.state.base import Claim, StateStore


async def claim_of(
    pipeline: str, table: TableSpec, target: Target, *, state_in_target: bool, source: Source | None = None
) -> Claim | None:
    """What a scan claims; ``None`` if the target cannot tell its tables from others.

    Raises ``ConfigError`` for a table of ``source`` that is its own target.
    """
    place = await target.location(table.to)
    if source is not None and place is not None:
        await _check_other_table(source, table, place)
    if place is None and state_in_target:
        place = f"{target.system}:{table.to}"  # a store inside the target only knows this target
    return Claim(pipeline, table.name, place, table.replaces) if place is not None else None


async def _check_other_table(source: Source, table: TableSpec, place: str) -> None:
    """Refuse a table that is its own target: a refresh would empty what it is about to read."""
    if table.query is None and await source.location(table.name) == place:
        raise ConfigError(
            f"the table {table.name!r} is its own target: source and target are one system, and {table.to!r} is the table that is read.",
            remedy="give the target another name with to, or write into another database.",
        )


async def take_claim(store: StateStore, fence: Fence, claim: Claim) -> None:
    """Claim a table. Raises ``ConfigError`` if another pipeline's scans and ours would undo each other."""
    found = await store.claims(claim.target)
    check_claims(claim, found)
    if claim in found:
        return
    await store.claim(fence, claim)
    try:
        check_claims(claim, await store.claims(claim.target))  # another pipeline may have claimed it at the same moment
    except ConfigError:
        await store.release_claims(claim.pipeline, claim.table)
        raise


async def hand_over(store: StateStore, fence: Fence, claim: Claim) -> set[str]:
    """Take a table over from other pipelines; returns their names."""
    others = [other for other in await store.claims(claim.target) if other.pipeline != claim.pipeline]
    for other in others:
        await store.release_claims(other.pipeline, other.table)
    await store.claim(fence, claim)
    return {other.pipeline for other in others}


async def adopted(config: PipelineConfig, fence: Fence, table: str | None) -> set[str]:
    """Claim the target of a table, or of all; returns the names of the pipelines that had them."""
    others: set[str] = set()
    for spec in await config.tables.specs(config.source, config.target):
        claim = await claim_of(config.name, spec, config.target, state_in_target=config.state_in_target)
        if claim is not None and table in (None, spec.name):
            others |= await hand_over(config.store, fence, claim)
    return others


async def with_types(source: Source, target: Target, table: TableSpec, found: TargetTable | None = None) -> TableSpec:
    """The table with the columns that its target has, for a source whose own have no types. ``found``: it, a moment ago."""
    if not source.files:
        return table
    columns = found.columns if found is not None else None
    if columns is None and (there := await target.describe(table.to)) is not None:
        columns = there.columns
    return table if columns is None else dataclasses.replace(table, existing=columns)


def check_claims(mine: Claim, found: list[Claim]) -> None:
    """Raise ``ConfigError`` if one of two pipelines replaces the table that both write."""
    for other in found:
        if other.pipeline == mine.pipeline or not (mine.replaces or other.replaces):
            continue
        how = "which replaces it" if other.replaces else "and this one would replace it"
        raise ConfigError(
            f"the target table is written by the pipeline {other.pipeline!r} too, from its table {other.table!r}, {how}: "
            "each would undo what the other has written.",
            remedy=f"give one of them another target table with to. If {other.pipeline!r} writes it no longer, hand it over: "
            f"`retl adopt --only {shlex.quote(mine.pipeline)} --table {shlex.quote(mine.table)}`.",
        )


async def begin_from(
    keeper: Keeper, target: Target, table: TableSpec, stored: Checkpoint, warn: Callable[[str], None]
) -> tuple[Checkpoint, TargetTable | None]:
    """The checkpoint that a scan continues from, and the target's table as it is. See ``starting_point``."""
    if table.range is None:
        return await starting_point(target, table, keeper.begin(table, stored, warn), warn)
    # What was lost is told by the watermark, and not by how far a backfill is.
    _, found = await starting_point(target, table, stored, warn)
    return keeper.begin(table, stored, warn), found


async def starting_point(
    target: Target, table: TableSpec, checkpoint: Checkpoint, warn: Callable[[str], None]
) -> tuple[Checkpoint, TargetTable | None]:
    """The checkpoint to continue from, and the target's table as it is, if the target can tell.

    A checkpoint whose table is gone would never bring its rows back: raises
    ``GuardStopped``, or with ``lost_target = "reload"`` starts over. So does a table that
    its target calls outdated.
    """
    found = await target.look(table)
    reason = found.outdated if found is not None else None
    if reason is not None and table.range is not None:
        raise GuardStopped(
            f"{reason}, so a part of the rows is not enough.", remedy="let a scan read everything first."
        )
    if reason is not None:
        warn(f"{reason}, so the scan reads everything.")
        return Checkpoint(), found
    lost = _what_was_lost(table, checkpoint, found)
    if lost is None:
        return checkpoint, found
    if table.lost_target == "reload":
        warn(f'{lost}; lost_target is "reload", so the scan reads everything again.')
        return Checkpoint(), found
    raise GuardStopped(
        f"{lost}; a scan from there on would never bring back what is missing.",
        remedy=f"restore the table, or run `retl reset --table {shlex.quote(table.name)}`: its next scan then reads "
        'everything once. lost_target = "reload" does that by itself.',
    )


def _what_was_lost(table: TableSpec, checkpoint: Checkpoint, found: TargetTable | None) -> str | None:
    """What was lost, in words; ``None`` if nothing, if the target cannot tell, or if the scan reads everything anyway."""
    if found is None or not _leaves_out(table, checkpoint):
        return None
    since = f"the watermark {checkpoint.watermark}" if checkpoint.watermark is not None else "an earlier scan"
    if not found.exists:
        return f"the target table {table.to!r} is gone, but the checkpoint continues from {since}"
    if found.empty and checkpoint.written:
        return (
            f"the target table {table.to!r} is empty, though {checkpoint.written:,} rows were written to it, "
            f"and the checkpoint continues from {since}"
        )
    if None not in (found.identity, checkpoint.target) and found.identity != checkpoint.target:
        return (
            f"the target table {table.to!r} is not the one that was written before: it was dropped and made again, "
            f"and the checkpoint continues from {since}"
        )
    return None


def _leaves_out(table: TableSpec, checkpoint: Checkpoint) -> bool:
    """Whether a scan from this checkpoint leaves out rows that it counts as delivered."""
    if table.replaces:
        return False
    incremental = checkpoint.watermark is not None or checkpoint.position is not None
    return (incremental and not table.full) or bool(checkpoint.detail)
