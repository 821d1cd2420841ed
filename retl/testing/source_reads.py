"""The contract of a source: reaching it, describing it, reading a slice."""

from __future__ import annotations

import pickle
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pyarrow as pa
import pytest

from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, ConnectionFailed, RetlError
from retl.testing.oracle import in_order
from retl.testing.rows import read_slice, table_spec
from retl.testing.source_base import FULL, SCHEMA, TABLE, SourceBase, all_rows, odd_texts, rows_of


class SourceReads(SourceBase):
    """Everything but windows."""

    async def test_ping_says_who_answers(self) -> None:
        async with self.opened(rows_of([1])) as source:
            info = await source.ping()
            assert info.product
            assert source.source.system

    async def test_ping_of_a_system_that_does_not_answer_is_a_clear_error(self) -> None:
        source = self.unreachable()
        if source is None:
            pytest.skip("this system always answers")
        try:
            with pytest.raises((ConnectionFailed, ConfigError)):
                await source.ping()
        finally:
            await source.aclose()

    async def test_tables_are_listed_sorted(self) -> None:
        if not self.lists_tables:
            pytest.skip("this source lists no tables")
        await self.create("contract_b", SCHEMA.empty_table())
        await self.create("contract_a", SCHEMA.empty_table())
        async with self.opened() as source:
            names = await source.list_tables()
            assert names == sorted(names)
            assert {"contract_a", "contract_b"} <= set(names)

    async def test_describe_names_columns_and_key(self) -> None:
        if not self.lists_tables:
            pytest.skip("this source describes no tables")
        async with self.opened(rows_of([1])) as source:
            schema = await source.describe(TABLE)
            assert schema is not None
            assert schema.names == SCHEMA.names
            assert schema.key == ("id",)

    async def test_describe_of_a_table_that_is_not_there_is_none(self) -> None:
        if not self.lists_tables:
            pytest.skip("this source describes no tables")
        async with self.opened(rows_of([1])) as source:
            assert await source.describe("contract_nothing") is None

    async def test_plan_of_a_table_that_is_not_there_is_the_users_error(self) -> None:
        if not self.lists_tables:
            pytest.skip("this source has every table")
        async with self.opened(rows_of([1])) as source:
            with pytest.raises(ConfigError, match="contract_nothing"):
                await source.plan(table_spec("contract_nothing"), Checkpoint())

    @pytest.mark.parametrize(
        "words",
        [{"columns": ["idd"]}, {"exclude": ["idd"]}, {"rename": {"nam": "n"}}, {"key": "no"}, {"cursor": "upd"}],
    )
    async def test_plan_refuses_a_column_that_is_not_there(self, words: dict[str, object]) -> None:
        async with self.opened(rows_of([1])) as source:
            with pytest.raises(ConfigError):
                await source.plan(table_spec(TABLE, **words), Checkpoint())

    async def test_a_full_plan_reads_every_row_once(self) -> None:
        rows = [*rows_of(range(1, 51)), *rows_of([60, 61], updated_at=None)]
        async with self.opened(rows) as source:
            plan = await source.plan(FULL, Checkpoint())
            assert plan.schema.names == SCHEMA.names
            assert plan.key == ("id",)
            assert plan.rows in (None, len(rows))
            assert await all_rows(source, plan) == in_order(rows)

    async def test_an_empty_table_has_columns_and_no_rows(self) -> None:
        async with self.opened(rows_of([1])) as source:
            first = await source.plan(FULL, Checkpoint())
            await source.leave()
            await self.drop(TABLE)
            await self.create(TABLE, SCHEMA.empty_table())
            detail = {name: value for slice_ in first.slices for name, value in slice_.detail.items()}
            for table in (FULL, self.scanned(key="id")):
                plan = await source.plan(table, Checkpoint(detail=detail))
                assert plan.schema.names == SCHEMA.names
                assert await all_rows(source, plan) == []

    async def test_columns_are_chosen_and_renamed(self) -> None:
        async with self.opened(rows_of([1, 2])) as source:
            table = table_spec(TABLE, columns=["name", "id"], rename={"name": "label"}, key="id")
            plan = await source.plan(table, Checkpoint())
            assert plan.schema.names == ["label", "id"]
            assert await all_rows(source, plan) == [{"label": "row 1", "id": 1}, {"label": "row 2", "id": 2}]

    async def test_excluded_columns_are_left_out(self) -> None:
        async with self.opened(rows_of([1, 2])) as source:
            plan = await source.plan(table_spec(TABLE, exclude=["updated_at"], key="id"), Checkpoint())
            assert sorted(plan.schema.names) == ["id", "name"]
            assert await all_rows(source, plan) == [{"id": 1, "name": "row 1"}, {"id": 2, "name": "row 2"}]

    async def test_a_key_that_is_not_read_in_full_is_none(self) -> None:
        async with self.opened(rows_of([1])) as source:
            plan = await source.plan(table_spec(TABLE, columns=["name"]), Checkpoint())
            assert plan.key == ()

    async def test_batches_have_the_promised_columns_and_types_or_text(self) -> None:
        async with self.opened(rows_of(range(1, 10))) as source:
            plan = await source.plan(FULL, Checkpoint())
            for slice_ in plan.slices:
                async with aclosing(source.read(plan, slice_)) as batches:
                    async for batch in batches:
                        assert batch.schema.names == plan.schema.names
                        for sent, promised in zip(batch.schema, plan.schema, strict=True):
                            assert sent.type == promised.type or pa.types.is_string(sent.type)

    async def test_batches_are_bounded(self) -> None:
        async with self.opened(rows_of(range(self.many_rows))) as source:
            plan = await source.plan(FULL, Checkpoint())
            sizes = []
            for slice_ in plan.slices:
                async with aclosing(source.read(plan, slice_)) as batches:
                    sizes.extend([batch.num_rows async for batch in batches])
            assert sum(sizes) == self.many_rows
            assert max(sizes) <= self.most_batch_rows

    async def test_text_arrives_as_it_is(self) -> None:
        rows = odd_texts()
        async with self.opened(rows) as source:
            plan = await source.plan(FULL, Checkpoint())
            assert await all_rows(source, plan) == in_order(rows)

    async def test_a_plan_can_be_made_again(self) -> None:
        async with self.opened(rows_of(range(1, 21))) as source:
            first = await source.plan(self.scanned(key="id"), Checkpoint())
            second = await source.plan(self.scanned(key="id"), Checkpoint())
            assert first.slices == second.slices
            assert first.schema == second.schema

    async def test_slices_can_be_pickled(self) -> None:
        async with self.opened(rows_of(range(1, 21))) as source:
            plan = await source.plan(self.scanned(slice_rows=5), Checkpoint())
            assert tuple(pickle.loads(pickle.dumps(slice_)) for slice_ in plan.slices) == plan.slices

    async def test_a_slice_can_be_read_again(self) -> None:
        async with self.opened(rows_of(range(1, 41))) as source:
            plan = await source.plan(self.scanned(slice_rows=10), Checkpoint())
            for slice_ in plan.slices:
                first = in_order((await read_slice(source.scan(plan), slice_)).to_pylist())
                assert first == in_order((await read_slice(source.scan(plan), slice_)).to_pylist())

    async def test_a_slice_can_be_read_again_after_it_was_closed_early(self) -> None:
        rows = rows_of(range(self.many_rows))
        async with self.opened(rows) as source:
            plan = await source.plan(FULL, Checkpoint())
            batches = source.read(plan, plan.slices[0])
            await anext(batches)
            await batches.aclose()
            assert await all_rows(source, plan) == in_order(rows)

    async def test_an_iterator_that_was_never_begun_can_be_closed(self) -> None:
        async with self.opened(rows_of([1])) as source:
            plan = await source.plan(FULL, Checkpoint())
            await source.read(plan, plan.slices[0]).aclose()

    async def test_the_source_is_usable_after_a_cancelled_read(self) -> None:
        rows = rows_of(range(self.many_rows))
        async with self.opened(rows) as source:
            plan = await source.plan(FULL, Checkpoint())
            with anyio.CancelScope() as scope:
                async with aclosing(source.read(plan, plan.slices[0])) as batches:
                    async for _ in batches:
                        scope.cancel()
                        await anyio.lowlevel.checkpoint()
            assert scope.cancelled_caught
            again = await source.plan(FULL, Checkpoint())
            assert await all_rows(source, again) == in_order(rows)

    async def test_a_table_that_vanishes_after_the_plan_is_an_error_of_ours(self) -> None:
        self.needs_changes()
        if self.keeps_tables:
            pytest.skip("an open scan keeps its table")
        async with self.opened(rows_of([1])) as source:
            plan = await source.plan(FULL, Checkpoint())
            await self.drop(TABLE)
            with pytest.raises(RetlError):
                await all_rows(source, plan)

    async def test_closing_twice_and_unopened_is_harmless(self) -> None:
        await self.source().aclose()
        async with self.opened(rows_of([1])) as source:
            await source.ping()
            await source.aclose()
            await source.aclose()
