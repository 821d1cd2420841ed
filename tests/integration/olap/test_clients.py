"""The stand-ins, driven by clients that nobody here wrote: what they cannot talk to is no StarRocks and no Doris.

Dialects of SQLAlchemy (``starrocks``, ``doris-alchemy``, both on PyMySQL), MySQL's own connector, and the command-line
clients of MySQL and MariaDB. Against a real system the same tests look at the real one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import sqlalchemy
from sqlalchemy.dialects import registry

from tests.fake_olap import FakeDoris, FakeStarRocks
from tests.integration.olap.scenes import Scene, opened
from tests.integration.olap.test_sources import everything
from tests.servers import clients, olap

# Of lark, by which the dialect of StarRocks reads types.
pytestmark = pytest.mark.filterwarnings("ignore:open_text is deprecated:DeprecationWarning")

Rows = list[tuple[Any, ...]]
Ask = Callable[[str], Rows]

# The entry points of doris-alchemy 0.2 name a module that lacks what they name; importing it would say the same.
registry.register("doris", "doris_alchemy.core", "DorisDialect")


@pytest.fixture
def every_type(scene: Scene) -> Scene:
    fill(scene)
    return scene


def fill(scene: Scene) -> None:
    """A table with each type at its extremes, and a row of NULLs."""
    types = everything(scene)
    columns = ", ".join(["id BIGINT NOT NULL", *(f"{name} {kind[0]}" for name, kind in types.items())])
    scene.create("every_type", columns)
    rows = [[number, *(kind[2][number][0] for kind in types.values())] for number in (0, 1)]
    scene.insert("every_type", *rows, [2, *[None] * len(types)])


@pytest.fixture
def engine(every_type: Scene) -> Iterator[sqlalchemy.Engine]:
    made = sqlalchemy.create_engine(olap.url(every_type.server, every_type.kind, every_type.database))
    yield made
    made.dispose()


def check_every_type(scene: Scene, ask: Ask, *, zones: bool = True) -> None:
    """What a client reads is what went in."""
    types = {name: kind for name, kind in everything(scene).items() if zones or name != "zoned"}
    rows = ask(f"SELECT id, {', '.join(types)} FROM every_type ORDER BY id")
    assert [int(row[0]) for row in rows] == [0, 1, 2]
    for number in (0, 1):
        for (name, kind), found in zip(types.items(), rows[number][1:], strict=True):
            assert _same(found, kind[2][number][1], name), (name, found)
    assert set(rows[2][1:]) == {None}


def _same(found: Any, expected: Any, name: str) -> bool:
    """Whether a client's value means a canonical one."""
    if found is None:
        return expected in (None, "NULL")  # --batch prints both alike
    if isinstance(expected, bytes):
        return bool((found.encode() if isinstance(found, str) else found) == expected)
    if isinstance(expected, bool):
        return bool(str(int(found)) == str(int(expected)))
    if name in ("single", "twice"):
        kind = np.float32 if name == "single" else np.float64
        return bool(kind(found) == kind(expected))
    if name == "zoned":
        return datetime.fromisoformat(str(found)) == datetime.fromisoformat(expected)
    if isinstance(found, Decimal | int):
        return Decimal(found) == Decimal(expected)
    if isinstance(found, datetime):
        return found == datetime.fromisoformat(str(expected))
    if isinstance(found, date):
        return found.isoformat() == str(expected)
    return bool((found.decode() if isinstance(found, bytes | bytearray) else found) == expected)


def test_sqlalchemy_reads_every_type(every_type: Scene, engine: sqlalchemy.Engine) -> None:
    with engine.connect() as connection:
        check_every_type(every_type, lambda sql: [tuple(row) for row in connection.execute(sqlalchemy.text(sql))])
        named = connection.execute(sqlalchemy.text("SELECT whole FROM every_type WHERE id = :id"), {"id": 1})
        assert named.scalar() == -(2**31)


def test_sqlalchemy_knows_the_catalog(every_type: Scene, engine: sqlalchemy.Engine) -> None:
    seen = sqlalchemy.inspect(engine)
    assert every_type.database in seen.get_schema_names()
    assert seen.get_table_names() == ["every_type"] and seen.get_view_names() == []
    assert seen.has_table("every_type") and not seen.has_table("nothing")
    columns = {column["name"]: column for column in seen.get_columns("every_type")}
    assert list(columns) == ["id", *everything(every_type)]
    assert [name for name, column in columns.items() if not column["nullable"]] == ["id"]
    assert isinstance(columns["big"]["type"], sqlalchemy.BigInteger)
    if not every_type.doris:  # Doris' dialect knows no keys, and no digits
        money = columns["money"]["type"]
        assert isinstance(money, sqlalchemy.Numeric) and (money.precision, money.scale) == (38, 9)
        assert seen.get_pk_constraint("every_type")["constrained_columns"] == ["id"]
        table = sqlalchemy.Table("every_type", sqlalchemy.MetaData(), autoload_with=engine)
        with engine.connect() as connection:
            found = connection.execute(sqlalchemy.select(table.c.flag, table.c.day).where(table.c.id == 0)).one()
        assert tuple(found) == (True, date(9999, 12, 31))


def test_mysql_s_own_connector_reads_every_type(every_type: Scene) -> None:
    import mysql.connector

    server = every_type.server
    words = {"host": server.host, "port": server.port, "user": server.user, "password": server.password}
    with closing(mysql.connector.connect(**words, database=every_type.database, use_pure=True)) as connection:
        cursor = connection.cursor()

        def ask(sql: str) -> Rows:
            cursor.execute(sql)
            return list(cursor.fetchall())

        # Doris calls a TIMESTAMPTZ a TIMESTAMP and writes its zone, which this client cannot read.
        check_every_type(every_type, ask, zones=False)
        assert ask("SHOW TABLES") == [("every_type",)]
        assert [row[0] for row in ask("DESC every_type")] == ["id", *everything(every_type)]
        cursor.execute("SELECT text FROM every_type WHERE id = %s AND text = %s", (0, 'it\'s \\ "x"'))
        assert cursor.fetchall() == [('it\'s \\ "x"',)]


@pytest.mark.parametrize("client", ["mysql", "mariadb"])
def test_the_command_line_reads_every_type(every_type: Scene, client: str) -> None:
    if client == "mariadb":
        _check_command_line(every_type, client)
        return
    # It knows mysql_native_password no more: one logs in as through LDAP.
    kind = FakeDoris if every_type.doris else FakeStarRocks
    with kind(clear_password=True) as server, opened(every_type.kind, server) as scene:
        fill(scene)
        _check_command_line(scene, client)


def _check_command_line(scene: Scene, client: str) -> None:
    def ask(sql: str) -> Rows:
        server = scene.server
        login = ["-h", server.host, "-P", str(server.port), "-u", server.user, f"-p{server.password}", scene.database]
        done = subprocess.run(
            [*clients.command(client), *login, "-N", "--batch", "-e", sql], capture_output=True, timeout=30
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.removesuffix(b"\n").split(b"\n")
        return [tuple(map(_unescaped, line.split(b"\t"))) for line in lines]

    check_every_type(scene, ask)
    assert ask("SHOW TABLES") == [("every_type",)]
    assert [row[0] for row in ask("DESC every_type")] == ["id", *everything(scene)]
    ((_, made),) = ask("SHOW CREATE TABLE every_type")
    assert made.startswith("CREATE TABLE `every_type` (\n  `id` bigint")


_ESCAPED = {b"t": b"\t", b"n": b"\n", b"0": b"\0", b"\\": b"\\"}


def _unescaped(value: bytes) -> Any:
    """A value as ``--batch`` prints it."""
    if value == b"NULL":
        return None
    plain = re.sub(rb"\\(.)", lambda found: _ESCAPED[found[1]], value)
    try:
        return plain.decode()
    except UnicodeDecodeError:
        return plain
