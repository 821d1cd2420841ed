"""Reading by UNLOAD: only what the manifest names, every row of it, and nothing left behind."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from retl.connectors.redshift import unload as unload_module
from retl.connectors.redshift.options import Unload
from retl.model.checkpoint import Checkpoint
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError
from retl.model.table import TableSpec
from tests.fake_redshift import Bucket, Refusal
from tests.integration.redshift.scene import ROLE, Scene, ids, until

NUMBERS = TableSpec("numbers", "numbers")
BY_TIME = TableSpec("numbers", "numbers", cursor="ts", key=("id",), slice_rows=700)


@pytest.fixture
def numbers(lake_scene: Scene) -> Scene:
    lake_scene.numbers(2_000)
    lake_scene.fake.unload_rows = 300
    return lake_scene


async def test_all_files_of_the_manifest_are_read_and_deleted(numbers: Scene, lake: Bucket) -> None:
    assert ids(await numbers.collect(NUMBERS, **numbers.unload())) == list(range(2_000))
    assert lake.names() == []
    (sent,) = [sql for sql in numbers.statements() if sql.startswith("UNLOAD")]
    assert "FORMAT PARQUET MANIFEST VERBOSE MAXFILESIZE 64 MB" in sent
    assert f"IAM_ROLE '{ROLE}'" in sent
    assert lake.access_key not in sent
    assert lake.secret_key not in sent


async def test_each_slice_has_a_prefix_of_its_own(numbers: Scene, lake: Bucket) -> None:
    assert ids(await numbers.collect(BY_TIME, **numbers.unload())) == list(range(2_000))
    targets = {sql.split(" TO ")[1].split(" ")[0] for sql in numbers.statements() if sql.startswith("UNLOAD")}
    assert len(targets) == 3
    assert lake.names() == []


async def test_quotes_and_backslashes_survive_in_the_query(lake_scene: Scene) -> None:
    lake_scene.create("words", "id INTEGER, v VARCHAR(20)")
    lake_scene.insert("words", (1, "it's"), (2, "a\\b"), (3, "plain"))
    table = TableSpec("words", "words", where="v IN ('it''s', 'a\\\\b')")
    assert ids(await lake_scene.collect(table, **lake_scene.unload())) == [1, 2]


async def test_a_file_that_is_not_there_is_missed(numbers: Scene, lake: Bucket) -> None:
    numbers.fake.left_out = {3}
    with pytest.raises(SourceError, match="is not there"):
        await numbers.collect(NUMBERS, **numbers.unload())
    assert lake.names() == []


def other_counts(where: str, what: str, by: int) -> Any:
    def tampered(manifest: dict[str, Any]) -> dict[str, Any]:
        for part in [manifest, manifest["entries"][1]] if where == "both" else [manifest["entries"][1]]:
            part["meta"][what] += by
        return manifest

    return tampered


@pytest.mark.parametrize(
    ("where", "what", "said"),
    [
        ("both", "record_count", r"counted 2,000 rows and wrote 2,001"),
        ("entry", "record_count", "contradicts itself"),
        ("both", "content_length", r"bytes, but the manifest tells of"),
    ],
)
async def test_a_manifest_that_tells_of_other_counts_is_refused(
    numbers: Scene, lake: Bucket, where: str, what: str, said: str
) -> None:
    numbers.fake.tampered = other_counts(where, what, 1)
    with pytest.raises(SourceError, match=said):
        await numbers.collect(NUMBERS, **numbers.unload())
    assert lake.names() == []


async def test_files_whose_rows_are_other_than_the_manifest_tells_are_refused(numbers: Scene) -> None:
    def moved(manifest: dict[str, Any]) -> dict[str, Any]:
        first, second = (entry["meta"] for entry in manifest["entries"][:2])
        first["record_count"], second["record_count"] = first["record_count"] - 1, second["record_count"] + 1
        return manifest

    numbers.fake.tampered = moved
    with pytest.raises(SourceError, match="rows, but the manifest tells of"):
        await numbers.collect(NUMBERS, **numbers.unload())


async def test_leftovers_of_other_scans_are_not_read(numbers: Scene, lake: Bucket) -> None:
    lake.put("exports/0000_part_00.parquet", b"of somebody else")
    lake.put("exports/retl-dead/000001/0000_part_00.parquet", b"of a crashed scan")
    assert ids(await numbers.collect(NUMBERS, **numbers.unload())) == list(range(2_000))
    assert len(lake.names()) == 2
    for key in lake.names():
        lake.delete(key)


async def test_the_next_scan_removes_what_a_crashed_one_has_left(
    numbers: Scene, lake: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.put("exports/retl-dead/alive", b"")
    lake.put("exports/retl-dead/000001/0000_part_00.parquet", b"x")
    lake.put("exports/of-a-user", b"x")
    await asyncio.sleep(1.1)  # the store's clock counts seconds
    monkeypatch.setattr(unload_module, "ABANDONED", timedelta(seconds=0.5))
    await numbers.collect(NUMBERS, **numbers.unload())
    assert lake.names() == ["exports/of-a-user"]
    lake.delete("exports/of-a-user")


async def test_a_living_scan_keeps_its_folder(numbers: Scene, lake: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unload_module, "_SIGN_SECONDS", 0.2)
    monkeypatch.setattr(unload_module, "ABANDONED", timedelta(seconds=3))
    async with numbers.source(**numbers.unload()) as source:
        plan = await source.plan(NUMBERS, Checkpoint())
        async with aclosing(source.read(plan, plan.slices[0])) as batches:
            rows = (await anext(batches)).num_rows
            await asyncio.sleep(4)
            assert ids(await numbers.collect(NUMBERS, **numbers.unload())) == list(range(2_000))
            rows += sum([batch.num_rows async for batch in batches])
    assert rows == 2_000
    assert lake.names() == []


@pytest.mark.parametrize("how", ["closed", "cancelled", "failed"])
async def test_the_prefix_is_deleted_however_a_read_ends(numbers: Scene, lake: Bucket, how: str) -> None:
    async with numbers.source(**numbers.unload()) as source:
        plan = await source.plan(NUMBERS, Checkpoint())

        async def read() -> None:
            async with aclosing(source.read(plan, plan.slices[0])) as batches:
                await anext(batches)
                if how == "failed":
                    raise ZeroDivisionError
                if how == "cancelled":
                    await asyncio.sleep(60)

        reading = asyncio.create_task(read())
        if how == "cancelled":
            await until(lambda: any("manifest" in key for key in lake.names()))
            reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert [key for key in lake.names() if not key.endswith("/alive")] == []
    assert lake.names() == []


async def test_a_slice_is_unloaded_again_after_its_bucket_failed(numbers: Scene, lake: Bucket) -> None:
    numbers.fake.left_out = {0}
    async with numbers.source(**numbers.unload()) as source:
        plan = await source.plan(NUMBERS, Checkpoint())
        for whole in (False, True):
            numbers.fake.left_out = set() if whole else {0}
            rows = 0
            try:
                async with aclosing(source.read(plan, plan.slices[0])) as batches:
                    async for batch in batches:
                        rows += batch.num_rows
            except SourceError:
                assert not whole
    assert rows == 2_000


async def test_a_cut_line_during_the_unload_leaves_nothing(numbers: Scene, lake: Bucket) -> None:
    numbers.inject("UNLOAD", cut=True)
    with pytest.raises(ConnectionFailed):
        await numbers.collect(NUMBERS, **numbers.unload())
    assert lake.names() == []


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("S3ServiceException:Access Denied,Status 403,Error AccessDenied", ConfigError),
        ("S3ServiceException:Please reduce your request rate.,Status 503,Error SlowDown", ConnectionFailed),
    ],
)
async def test_errors_of_the_cluster_at_the_bucket_say_what_to_do(
    numbers: Scene, said: str, kind: type[RetlError]
) -> None:
    numbers.inject("UNLOAD", error=Refusal(said, "XX000"))
    with pytest.raises(kind, match="bucket"):
        await numbers.collect(NUMBERS, **numbers.unload())


async def test_wrong_keys_of_the_bucket_are_the_users_error(numbers: Scene, lake: Bucket) -> None:
    with pytest.raises(ConfigError, match="unload") as caught:
        await numbers.collect(NUMBERS, **numbers.unload(access_key="nobody", secret_key="wrong-secret"))
    assert "wrong-secret" not in str(caught.value)


async def test_ping_tries_the_bucket(numbers: Scene, lake: Bucket) -> None:
    async with numbers.source(**numbers.unload()) as source:
        assert (await source.ping()).product == "Redshift"
    assert lake.names() == []
    async with numbers.source(**numbers.unload(secret_key="wrong-secret")) as source:
        with pytest.raises(ConfigError, match="unload"):
            await source.ping()


async def test_nothing_is_unloaded_of_a_slice_without_rows(numbers: Scene) -> None:
    numbers.run("DELETE FROM {}.numbers")
    table = TableSpec("numbers", "numbers", cursor="ts", key=("id",), where="id < 0")
    assert (await numbers.collect(table, **numbers.unload())).num_rows == 0
    assert (await numbers.collect(NUMBERS, **numbers.unload())).num_rows == 0
    assert not any(sql.startswith("UNLOAD") for sql in numbers.statements())


@pytest.mark.parametrize(
    "words", [{"url": "bucket/prefix"}, {"url": "s3://b/it's"}, {"url": "s3://lake", "iam_role": "x' y"}]
)
def test_options_that_cannot_be_are_refused(words: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Unload(**words)
