"""Take over the target tables of other pipelines."""

from __future__ import annotations

from retl.engine.config import PipelineConfig
from retl.engine.targets import claim_of, hand_over
from retl.model.checkpoint import Fence


async def adopted(config: PipelineConfig, fence: Fence, table: str | None) -> set[str]:
    """Claim the target of a table, or of all; returns the names of the pipelines that had them."""
    others: set[str] = set()
    for spec in await config.tables.specs(config.source, config.target):
        claim = await claim_of(config.name, spec, config.target, state_in_target=config.state_in_target)
        if claim is not None and table in (None, spec.name):
            others |= await hand_over(config.store, fence, claim)
    return others
