"""The contract of a target: reaching it, describing it, and what rows become in it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from retl.model.actions import Action, PreAction
from retl.model.errors import ConfigError, ConnectionFailed, RepeatedKey, SchemaDrift, UnsupportedError
from retl.testing.oracle import Oracle, in_order
from retl.testing.rows import table_spec
from retl.testing.source_base import NOON, odd_texts
from retl.testing.target_base import SCHEMA, TABLE, UPSERT, TargetBase, rows_of, table_of, write

WIDER = SCHEMA.append(pa.field("note", pa.string()))


class TargetWrites(TargetBase):
    """Everything but when rows become visible."""

    async def test_the_state_of_a_table_is_told_or_nothing_is(self) -> None:
        """A checkpoint whose table was lost is never passed over: the engine asks before every scan."""
        self.needs_tables()
        async with self.session() as session:
            missing = await session.target.inspect(TABLE)
            if missing is None:
                pytest.skip("this target cannot tell")
            assert not missing.exists
            await session.scan([])
            made = await session.target.inspect(TABLE)
            assert made is not None
            assert (made.exists, made.empty) == (True, True)
            await session.scan(rows_of([1, 2]))
            filled = await session.target.inspect(TABLE)
            assert filled is not None
            assert (filled.exists, filled.empty) == (True, False)
            assert filled.identity == made.identity

    async def test_a_place_is_told_whether_there_is_a_table_or_not(self) -> None:
        """What is one table has one place, and what is another has another."""
        self.needs_tables()
        async with self.session() as session:
            before = await session.target.location(TABLE)
            if before is None:
                pytest.skip("this target cannot tell")
            await session.scan(rows_of([1]))
            assert await session.target.location(TABLE) == before
            assert await session.target.location(TABLE + "_2") not in (before, None)

    async def test_ping_says_who_answers(self) -> None:
        target = self.target()
        info = await target.ping()
        assert info.product
        assert target.system
        await target.aclose()

    async def test_ping_of_a_system_that_does_not_answer_is_a_clear_error(self) -> None:
        target = self.unreachable()
        if target is None:
            pytest.skip("this system always answers")
        try:
            with pytest.raises((ConnectionFailed, ConfigError)):
                await target.ping()
        finally:
            await target.aclose()

    async def test_a_table_that_is_not_there_has_no_columns_and_no_rows(self) -> None:
        async with self.session() as session:
            assert await session.target.describe(TABLE) is None
            assert await session.target.count(TABLE) == 0

    async def test_a_missing_table_is_created_with_columns_and_key(self) -> None:
        self.needs_tables()
        async with self.session() as session:
            await session.scan(rows_of([1, 2]))
            schema = await session.target.describe(TABLE)
            assert schema is not None
            assert schema.names == SCHEMA.names
            assert schema.key == ("id",)
            assert await session.target.count(TABLE) == 2

    @pytest.mark.parametrize("pre_action", list(PreAction))
    @pytest.mark.parametrize("exists", [False, True])
    async def test_a_preview_writes_nothing(self, pre_action: PreAction, exists: bool) -> None:
        if exists:
            await self.loaded(rows_of([1]))
        before = await self.tables()
        table = table_spec(TABLE, key="id", pre_action=pre_action)
        if pre_action is PreAction.MIRROR:
            self.needs_pre_action(pre_action)  # without it the engine refuses the word
        async with self.session() as session:
            if pre_action not in self.pre_actions:
                with pytest.raises(UnsupportedError):
                    await session.target.preview(session.load(table, fence=None))
            else:
                plan = await session.target.preview(session.load(table, schema=WIDER, fence=None))
                assert plan.statements
        assert await self.tables() == before
        assert await self.contents(TABLE) == (rows_of([1]) if exists else [])

    async def test_an_upsert_without_a_key_is_refused_beforehand(self) -> None:
        self.needs(self.keyed, "this target needs no key")
        async with self.session() as session:
            with pytest.raises(ConfigError, match="key"):
                await session.target.preview(session.load(table_spec(TABLE)))
        assert await self.tables() == []

    async def test_an_upsert_adds_and_changes_and_keeps_the_rest(self) -> None:
        oracle = Oracle()
        async with self.session() as session:
            for rows in (rows_of(range(1, 11)), rows_of(range(8, 15), name="changed"), rows_of([1], updated_at=None)):
                await session.scan(rows)
                oracle.upsert(rows)
        self.expect(in_order(await self.contents(TABLE)), oracle.rows)

    async def test_an_upsert_of_the_same_rows_changes_nothing(self) -> None:
        rows = rows_of(range(1, 11))
        async with self.session() as session:
            await session.scan(rows)
            done = await session.scan(rows)
            assert done.rows == 10
            assert done.changed in (None, 0)
        self.expect(in_order(await self.contents(TABLE)), in_order(rows))

    async def test_rows_are_appended_where_that_is_wanted(self) -> None:
        table = table_spec(TABLE, write="append")
        async with self.session() as session:
            await session.scan(rows_of([1, 2]), table)
            await session.scan(rows_of([1, 2]), table)
        assert in_order(await self.contents(TABLE)) == in_order([*rows_of([1, 2]), *rows_of([1, 2])])

    async def test_values_arrive_as_they_are(self) -> None:
        rows = odd_texts()
        rows.append({"id": 2**63 - 1, "name": "x" * 100_000, "updated_at": NOON.replace(microsecond=1)})
        rows.append({"id": -(2**63), "name": "lowest", "updated_at": NOON.replace(microsecond=999_999)})
        async with self.session() as session:
            await session.scan(rows)
        assert in_order(await self.contents(TABLE)) == in_order(rows)

    async def test_columns_may_be_canonical_text(self) -> None:
        rows = [*rows_of([1, 2]), {"id": 3, "name": None, "updated_at": None}]
        (batch,) = table_of(rows).to_batches()
        texts = pa.RecordBatch.from_arrays([column.cast(pa.string()) for column in batch.columns], SCHEMA.names)
        async with self.session() as session:
            writer = await session.prepare()
            await writer.write(texts)
            await session.commit(writer)
            await session.finish(writer)
        assert in_order(await self.contents(TABLE)) == in_order(rows)

    async def test_many_batches_make_one_commit(self) -> None:
        async with self.session() as session:
            done = await session.scan(rows_of(range(4_000)))
            assert done.rows == 4_000
        found = await self.contents(TABLE)
        assert sorted(found, key=lambda row: row["id"]) == rows_of(range(4_000))

    async def test_an_empty_batch_and_an_empty_commit_are_harmless(self) -> None:
        async with self.session() as session:
            writer = await session.prepare()
            await writer.write(pa.RecordBatch.from_pylist([], schema=SCHEMA))
            done = await session.commit(writer, "2024-05-01 00:00:00")
            assert done.rows == 0
            await session.finish(writer, "2024-05-01 00:00:00")
        assert await self.contents(TABLE) == []

    async def test_a_new_column_is_added_ignored_or_refused(self) -> None:
        self.needs_tables()
        await self.loaded(rows_of([1]))
        rows = [{**rows_of([2])[0], "note": "new"}]
        async with self.session() as session:
            failing = session.load(table_spec(TABLE, key="id", new_columns="fail"), schema=WIDER)
            with pytest.raises(SchemaDrift, match="note"):
                await session.target.preview(failing)
            ignoring = session.load(table_spec(TABLE, key="id", new_columns="ignore"), schema=WIDER)
            assert (await session.target.preview(ignoring)).warnings
            writer = await session.prepare(ignoring)
            await write(writer, rows, WIDER)
            await session.commit(writer)
            await session.finish(writer)
            schema = await session.target.describe(TABLE)
            assert schema is not None
            assert not schema.has("note")
            writer = await session.prepare(session.load(schema=WIDER))
            await write(writer, rows, WIDER)
            await session.commit(writer)
            await session.finish(writer)
        found = {row["id"]: row["note"] for row in await self.contents(TABLE)}
        assert found == {1: None, 2: "new"}

    async def test_a_type_that_no_longer_fits_is_refused_beforehand(self) -> None:
        self.needs_tables()
        await self.loaded(rows_of([1]))
        drifted = SCHEMA.set(0, pa.field("id", pa.string(), nullable=False))
        async with self.session() as session:
            with pytest.raises(SchemaDrift, match="id"):
                await session.target.preview(session.load(schema=drifted))
        assert await self.contents(TABLE) == rows_of([1])

    async def test_without_update_only_new_rows_are_added(self) -> None:
        self.needs_tables()
        await self.loaded(rows_of([1]))
        async with self.session() as session:
            await session.scan(rows_of([1, 2], name="new"), blacklist=frozenset({Action.UPDATE}))
        assert in_order(await self.contents(TABLE)) == in_order([*rows_of([1]), *rows_of([2], name="new")])

    async def test_without_insert_only_existing_rows_are_changed(self) -> None:
        self.needs_tables()
        await self.loaded(rows_of([1]))
        async with self.session() as session:
            await session.scan(rows_of([1, 2], name="new"), blacklist=frozenset({Action.INSERT}))
        assert await self.contents(TABLE) == rows_of([1], name="new")

    async def test_of_rows_with_one_key_the_newest_wins(self) -> None:
        self.needs(self.keyed, "this target needs no key")
        rows = [*rows_of([1], name="newest", updated_at=NOON.replace(hour=13)), *rows_of([1], name="older")]
        async with self.session() as session:
            await session.scan([*rows, *rows_of([2]), *rows_of([2])])
        assert in_order(await self.contents(TABLE)) == in_order([rows[0], *rows_of([2])])

    async def test_a_key_that_repeats_where_nothing_tells_the_newest_is_an_error(self) -> None:
        self.needs(self.keyed, "this target needs no key")
        await self.loaded(rows_of([1]))
        table = table_spec(TABLE, key="id")
        async with self.session() as session:
            with pytest.raises(RepeatedKey):
                await session.scan([*rows_of([2]), *rows_of([2], name="other")], table)
        assert await self.contents(TABLE) == rows_of([1])

    async def test_closing_twice_and_unopened_is_harmless(self) -> None:
        await self.target().aclose()
        async with self.session() as session:
            await session.scan(rows_of([1]), UPSERT)
            await session.target.aclose()
            await session.target.aclose()

    def expect(self, found: object, wanted: object) -> None:
        assert found == wanted
