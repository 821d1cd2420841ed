"""When a target's table counts as lost, and when its loss does no harm."""

from __future__ import annotations

from typing import Any, cast

import pytest

from retl.connectors.base import Target, TargetTable
from retl.engine.targets import check_claims, starting_point, take_claim
from retl.model.checkpoint import Checkpoint, Fence
from retl.model.errors import ConfigError, GuardStopped
from retl.model.table import TableSpec
from retl.model.window import Position
from retl.state.base import Claim
from retl.state.memory import MemoryStore
from retl.testing import table_spec

GONE, EMPTY, FULL = TargetTable(False, True), TargetTable(True, True), TargetTable(True, False)
SEEN = {"watermark": "7", "cursor": "at"}
PLACE = {"position": Position("1", "2", 3, 1), "cursor": "at"}
DETAIL = {"detail": {"partition p1": "version 3"}}
INCREMENTAL: dict[str, Any] = {"cursor": "at", "key": "id"}


class Fixed:
    """A target with one answer."""

    def __init__(self, found: TargetTable | None) -> None:
        self._found = found

    async def look(self, table: TableSpec) -> TargetTable | None:
        return self._found


@pytest.mark.parametrize(
    ("words", "checkpoint", "found", "lost"),
    [
        (INCREMENTAL, {**SEEN, "written": 5}, GONE, True),
        (INCREMENTAL, {**SEEN, "written": 0}, GONE, True),
        (INCREMENTAL, {**PLACE, "written": 5}, GONE, True),
        (INCREMENTAL, {**SEEN, "written": 5}, EMPTY, True),
        (INCREMENTAL, {**SEEN, "written": 0}, EMPTY, False),
        (INCREMENTAL, {**SEEN, "written": 5}, FULL, False),
        (INCREMENTAL, {**SEEN, "written": 5}, None, False),
        (INCREMENTAL, {"written": 5}, GONE, False),
        (INCREMENTAL, {**SEEN, "written": 5, "target": "one"}, TargetTable(True, False, "two"), True),
        (INCREMENTAL, {**SEEN, "written": 5, "target": "one"}, TargetTable(True, False, "one"), False),
        (INCREMENTAL, {**SEEN, "written": 5, "target": "one"}, FULL, False),
        (INCREMENTAL, {**SEEN, "written": 5}, TargetTable(True, False, "two"), False),
        ({"key": "id"}, {**SEEN, "written": 5}, GONE, False),
        ({"key": "id"}, {**DETAIL, "written": 5}, GONE, True),
        ({"key": "id"}, {**DETAIL, "written": 5}, EMPTY, True),
        ({"pre_action": "swap"}, {**DETAIL, **SEEN, "written": 5}, GONE, False),
        ({"pre_action": "truncate"}, {**DETAIL, "written": 5, "target": "one"}, TargetTable(True, True, "two"), False),
    ],
)
async def test_a_table_is_lost_where_the_scan_would_leave_out_what_was_in_it(
    words: dict[str, Any], checkpoint: dict[str, Any], found: TargetTable | None, lost: bool
) -> None:
    target, before, warnings = cast(Target, Fixed(found)), Checkpoint(**checkpoint), list[str]()
    if lost:
        with pytest.raises(GuardStopped, match="retl reset"):
            await starting_point(target, table_spec("t", **words), before, warnings.append)
        again = table_spec("t", lost_target="reload", **words)
        assert await starting_point(target, again, before, warnings.append) == (Checkpoint(), found)
    else:
        assert await starting_point(target, table_spec("t", **words), before, warnings.append) == (before, found)
    assert len(warnings) == lost


@pytest.mark.parametrize(
    ("mine", "other", "refused"), [(True, True, True), (True, False, True), (False, True, True), (False, False, False)]
)
def test_two_pipelines_share_a_table_that_none_of_them_replaces(mine: bool, other: bool, refused: bool) -> None:
    claims = [Claim("p", "old name", "here", True), Claim("q", "t", "here", other)]
    if refused:
        with pytest.raises(ConfigError, match="written by the pipeline 'q' too"):
            check_claims(Claim("p", "t", "here", mine), claims)
    else:
        check_claims(Claim("p", "t", "here", mine), claims)


async def test_a_claim_is_written_once_and_again_where_it_changes() -> None:
    class Counting(MemoryStore):
        written = 0

        async def claim(self, fence: Fence, claim: Claim) -> None:
            self.written += 1
            await super().claim(fence, claim)

    store = Counting()
    fence = await store.take_lease(await store.read_lease("p"), "me", 30.0)
    assert fence is not None
    for replaces, written in ((False, 1), (False, 1), (True, 2), (True, 2)):
        await take_claim(store, fence, Claim("p", "t", "here", replaces))
        assert store.written == written
