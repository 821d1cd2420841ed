"""Each type of StarRocks and Doris at its extremes, as a client of the real ones would see it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.fake_olap import FakeDoris, FakeStarRocks
from tests.fake_olap.client import DORIS_TABLE, STARROCKS_TABLE, ask, client, definitions


async def test_starrocks_types_at_their_extremes(starrocks: FakeStarRocks) -> None:
    largest, smallest = 2**127 - 1, -(2**127)
    most = [
        2**63 - 1,
        True,
        127,
        32767,
        2**31 - 1,
        largest,
        Decimal("9" * 29 + ".999999999"),
        3.4e38,
        1.7976931348623157e308,
    ]
    least = [-(2**63), False, -128, -32768, -(2**31), smallest, Decimal("-0.000000001"), 1.5, -0.1]
    rows: list[list[Any]] = [
        [
            *(
                *most,
                "äöü",
                'it\'s \\ "x"',
                "NULL 😀\n",
                "9999-12-31",
                "9999-12-31 23:59:59.999999",
                '{"a":[1,null,"é"]}',
            ),
            *(['"', "\\", None], {"k": 1, "l": None}, (1, 'q"'), bytes(range(256))),
        ],
        [*least, "", "", "", "0001-01-01", "0001-01-01 00:00:00", "[]", [], {}, (None, ""), b""],
        [0, *[None] * 18],
    ]
    with starrocks.fresh_database() as database:
        starrocks.query(STARROCKS_TABLE, database=database)
        starrocks.insert("every", rows, database)
        async with client(starrocks, database) as connection:
            found = await ask(connection, "SELECT * FROM every ORDER BY id DESC")
            wire = await definitions(connection, "SELECT * FROM every")
    assert found[0] == (
        *("9223372036854775807", "1", "127", "32767", "2147483647", str(largest), "9" * 29 + ".999999999"),
        *("3.4e+38", "1.7976931348623157e+308", "äöü", 'it\'s \\ "x"', "NULL 😀\n"),
        *("9999-12-31", "9999-12-31 23:59:59.999999", '{"a": [1, null, "é"]}'),
        *('["\\"","\\\\",null]', '{"k":1,"l":null}', '{"x":1,"y":"q\\""}', bytes(range(256))),
    )
    assert found[1] == ("0", *[None] * 18)
    assert found[2] == (
        *("-9223372036854775808", "0", "-128", "-32768", "-2147483648", str(smallest), "-0.000000001", "1.5", "-0.1"),
        *("", "", "", "0001-01-01", "0001-01-01 00:00:00", "[]", "[]", "{}", '{"x":null,"y":""}', b""),
    )
    assert wire == {
        "id": (8, 63, 20, 0),
        "flag": (1, 63, 1, 0),
        "tiny": (1, 63, 4, 0),
        "small": (2, 63, 6, 0),
        "whole": (3, 63, 11, 0),
        "large": (254, 33, 40, 0),
        "money": (246, 63, 42, 9),
        "single": (4, 63, 12, 31),
        "twice": (5, 63, 22, 31),
        "fixed": (254, 33, 15, 0),
        "text": (253, 33, 60, 0),
        "long": (253, 33, 196599, 0),
        "day": (10, 63, 10, 0),
        "moment": (12, 63, 19, 0),
        "doc": (254, 33, 60, 0),
        "tags": (253, 33, 60, 0),
        "pairs": (253, 33, 60, 0),
        "inner": (253, 33, 60, 0),
        "raw": (252, 63, 192, 0),
    }


async def test_doris_types_at_their_extremes(doris: FakeDoris) -> None:
    row: list[Any] = [1, True, -128, -32768, -(2**31), -(2**127), Decimal("9" * 29 + ".999999999"), 0.1, 1e-7]
    row += [
        "äöü",
        "it's",
        "😀",
        "2024-02-29",
        "2024-01-01 23:59:59.5",
        "2024-01-01 00:00:00.0005",
        "2024-01-01 00:00:00.1",
    ]
    row += ['{"a": 1}', '{"b": [1, 2]}', ["a", None], {"k": 1}, (1, "z"), "10.0.0.1"]
    with doris.fresh_database() as database:
        doris.query(DORIS_TABLE, database=database)
        doris.insert("every", [row, [2, *[None] * 21]], database)
        async with client(doris, database) as connection:
            found = await ask(connection, "SELECT * FROM every ORDER BY id")
            wire = await definitions(connection, "SELECT * FROM every")
    assert found == [
        (
            *("1", "1", "-128", "-32768", "-2147483648", str(-(2**127)), "9" * 29 + ".999999999", "0.1", "1e-07"),
            # STRING is a BLOB whose charset says that it is text.
            *("äöü", "it's", "😀", "2024-02-29"),
            # What has more digits than the column is rounded up: into the future, if need be.
            *("2024-01-02 00:00:00", "2024-01-01 00:00:00.001", "2024-01-01 00:00:00.100000"),
            *('{"a":1}', '{"b":[1,2]}', '["a", null]', '{"k":1}', '{"x":1, "y":"z"}', "10.0.0.1"),
        ),
        ("2", *[None] * 21),
    ]
    codes = {name: (code, charset, decimals) for name, (code, charset, _, decimals) in wire.items()}
    assert codes["flag"] == (1, 63, 0) and wire["flag"][2] == 1
    assert codes["large"] == (254, 33, 0)
    assert codes["money"] == (246, 63, 9)
    assert codes["long"] == (252, 33, 0)
    assert [codes[name] for name in ("second", "milli", "micro")] == [(12, 63, 0), (12, 63, 3), (12, 63, 6)]
    assert codes["doc"] == codes["free"] == (245, 33, 0)
    # 400 in its source, of which one byte arrives.
    assert codes["pairs"] == (144, 33, 0)
    assert codes["tags"] == codes["inner"] == codes["address"] == codes["text"] == (254, 33, 0)


async def test_sketches_are_null_until_they_are_asked(starrocks: FakeStarRocks) -> None:
    with starrocks.fresh_database() as database:
        starrocks.query(
            "CREATE TABLE s (k INT, b BITMAP BITMAP_UNION, h HLL HLL_UNION, n BIGINT SUM, r INT REPLACE) AGGREGATE KEY (k) "
            "DISTRIBUTED BY HASH(k)",
            database=database,
        )
        starrocks.query("INSERT INTO s VALUES (1, bitmap_from_string('1,5'), hll_hash('x'), 10, 1)", database=database)
        starrocks.query("INSERT INTO s VALUES (1, bitmap_from_string('7'), hll_hash('y'), 5, NULL)", database=database)
        async with client(starrocks, database) as connection:
            assert await ask(connection, "SELECT k, b, h, n, r FROM s") == [("1", None, None, "15", None)]
            assert await ask(connection, "SELECT bitmap_to_string(b) FROM s") == [("7",)]
            assert (await definitions(connection, "SELECT b FROM s"))["b"][:2] == (254, 33)
