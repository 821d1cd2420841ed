"""What lies in files, how they are called, and what happens to them meanwhile: from a bucket into PostgreSQL, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from retl.model.report import ScanReport
from tests import tiers
from tests.fake_s3 import Fault, Object
from tests.fake_s3.server import Asked
from tests.integration.files.folder import InBucket
from tests.integration.files.store_contract import NAMES
from tests.routes.fixtures import make_end

pytestmark = pytest.mark.usefixtures("at_once")


class Lake(InBucket):
    """Objects with any content."""

    def put(self, name: str, content: bytes, storage_class: str = "STANDARD") -> None:
        self.objects[name] = Object(content, storage_class)

    async def report(self) -> ScanReport:
        """One scan, however it ends."""
        (report,) = (await self.pipeline().run_once(check=False)).scans
        return report


@pytest.fixture
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lake]:
    with ExitStack() as stack:
        target = make_end("postgres", "app", request, tmp_path, stack)
        yield Lake(tmp_path, target, request.getfixturevalue("fake_s3"))


# Names ------------------------------------------------------------------------

LONG = ["x" * 1_020 + ".csv", "é" * 510 + ".csv"]
"""Of 1,024 bytes, as many as a key may have."""


async def test_a_file_of_any_name_replaces_its_own_rows(lake: Lake) -> None:
    names = sorted({*(f"{name}.csv" for name in NAMES if name[0] not in ".~"), *LONG, "a//b.csv", "/a.csv"})
    lake.pattern = "**"
    for number, name in enumerate(names):
        lake.put(name, b"id\n%d\n" % number)
    await lake.scan()
    assert lake.rows() == sorted((number, name, 1) for number, name in enumerate(names))
    assert lake.entries() == [(name, 1) for name in names]
    for number, name in enumerate(names[::2]):
        lake.put(name, b"id\n%d\n" % (1_000 + number))
    assert (await lake.scan()).rows == len(names[::2])
    expected = [(1_000 + n // 2 if n % 2 == 0 else n, name, 1) for n, name in enumerate(names)]
    assert lake.rows() == sorted(expected)


# Contents ---------------------------------------------------------------------


async def test_files_with_hardly_anything_in_them_are_files_without_rows(lake: Lake) -> None:
    lake.put("data.csv", b"id,v\n1,a")  # without a last line break
    lake.put("empty.csv", b"")
    lake.put("header.csv", b"id,v\n")
    lake.put("lines.csv", b"id,v\n\n\n2,b\n\n")
    assert (await lake.scan()).rows == 2
    assert lake.rows("id", "v", "_file", "_row") == [(1, "a", "data.csv", 1), (2, "b", "lines.csv", 1)]
    assert lake.entries() == [("data.csv", 1), ("empty.csv", 0), ("header.csv", 0), ("lines.csv", 1)]
    assert (await lake.scan()).rows == 0


async def test_what_ends_a_copy_of_the_server_is_a_value(lake: Lake) -> None:
    lake.put("a.csv", b'v\n1\n\\.\n"\\."\n\\N\nNULL\n""\n"x\n\\.\ny"\n')
    await lake.scan()
    assert lake.rows("_row", "v") == [
        (1, "1"), (2, "\\."), (3, "\\."), (4, "\\N"), (5, "NULL"), (6, ""), (7, "x\n\\.\ny"),
    ]  # fmt: skip


async def test_a_zero_byte_is_a_reject_of_its_row(lake: Lake) -> None:
    lake.words["max_rejects"] = 1
    lake.put("a.csv", b"id,v\n1,a\n2,b\0c\n3,d\n")
    assert (await lake.scan()).rejects == 1
    assert lake.rows("id", "v", "_row") == [(1, "a", 1), (3, "d", 3)]


async def test_a_value_as_long_as_is_allowed_arrives_whole(lake: Lake) -> None:
    size = tiers.by_tier(12, 100, 100) * 1_000_000
    lake.words["format"] = {"max_row_bytes": 128 * 1024 * 1024}
    long = b'line "" of text, ' * (size // 17)
    lake.put("a.csv", b'id,v\n1,short\n2,"' + long + b'"\n3,short\n')
    await lake.scan()
    value = long.replace(b'""', b'"').decode()
    looked = "id", "length(v)", "left(v, 40)", "right(v, 40)"
    assert lake.rows(*looked) == [
        (1, 5, "short", "short"), (2, len(value), value[:40], value[-40:]), (3, 5, "short", "short"),
    ]  # fmt: skip
    del lake.words["format"]
    lake.put("a.csv", b'id,v\n4,"' + long * (1 + 17_000_000 // size) + b'"\n')
    assert "a.csv" in str((await lake.failed()).error)
    assert lake.rows("id") == [(1,), (2,), (3,)]


async def test_the_same_bytes_under_another_etag_are_replaced_unless_contents_are_compared(lake: Lake) -> None:
    content = b"id\n1\n2\n"
    for identity, rows in (("listed", [2, 2]), ("content", [2, 0])):
        lake.words["identity"] = identity
        lake.objects["a.csv"] = Object(content, etag=f'"{identity}-1"')
        first = (await lake.scan()).rows
        lake.objects["a.csv"] = Object(content, etag=f'"{identity}-2"')  # uploaded in parts of another size
        assert [first, (await lake.scan()).rows] == rows
        assert lake.rows() == [(1, "a.csv", 1), (2, "a.csv", 2)]
    assert (await lake.scan()).slices == 0


# Meanwhile --------------------------------------------------------------------


@pytest.mark.parametrize("how", ["overwritten", "appended", "deleted", "archived"])
async def test_an_object_that_changes_during_the_scan_keeps_its_old_rows(lake: Lake, how: str) -> None:
    for name in ("a.csv", "b.csv", "c.csv"):
        lake.put(name, b"id\n1\n")
    lake.words["vanished"] = "delete"
    await lake.scan()
    for name in ("a.csv", "b.csv", "c.csv"):
        lake.put(name, b"id\n2\n")
    changes: dict[str, Callable[[], object]] = {
        "overwritten": lambda: lake.put("b.csv", b"id\n3\n"),
        "appended": lambda: lake.put("b.csv", b"id\n2\n3\n"),
        "deleted": lambda: lake.remove("b.csv"),
        "archived": lambda: lake.put("b.csv", b"id\n2\n", "GLACIER"),
    }

    def is_read(asked: Asked) -> bool:
        if asked.method == "GET" and asked.key == "b.csv" and not done:
            done.append(changes[how]())
        return False

    done: list[object] = []
    lake.server.faults.append(Fault("Never", 500, is_read))
    report = await lake.report()
    assert any("b.csv" in warning for warning in report.warnings)
    assert lake.rows("id", "_file") == [(1, "b.csv"), (2, "a.csv"), (2, "c.csv")]
    await lake.scan()
    after = {"overwritten": [3], "appended": [2, 3], "deleted": [], "archived": [1]}[how]
    assert lake.rows("_file", "id") == sorted([("a.csv", 2), *(("b.csv", n) for n in after), ("c.csv", 2)])
