"""Clients that nobody here wrote find the stand-in's faults: Amazon's driver, and the dialect of SQLAlchemy."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy_redshift.dialect import RedshiftDialectMixin

from tests.fake_redshift import Cluster

TABLE = """
CREATE TABLE {schema}.items (
    id BIGINT NOT NULL, name VARCHAR(600) ENCODE lzo, price NUMERIC(18, 4), ratio DOUBLE PRECISION, sold BOOLEAN, day DATE,
    moment TIMESTAMP, instant TIMESTAMPTZ, doc SUPER, raw VARBYTE(100), PRIMARY KEY (id)
) DISTSTYLE KEY DISTKEY (id) SORTKEY (moment)
"""
# The dialect knows no VARBYTE.
pytestmark = pytest.mark.filterwarnings("ignore:Did not recognize type")
MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 123456)  # noqa: DTZ001  # the column has no zone


@pytest.fixture
def items(cluster: Cluster, schema: str) -> str:
    cluster.query(TABLE.format(schema=schema))
    cluster.query(
        f"INSERT INTO {schema}.items SELECT 1, 'it''s a \\\\ caf\u00e9', 1.5, 0.1, true, '2024-02-29', '{MOMENT}', '{MOMENT}+00', "
        "JSON_PARSE('{\"a\":[1,2]}'), FROM_HEX('00ff')"
    )
    return f"{schema}.items"


@pytest.fixture
def engine(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    def reflect_type(self: PGDialect, text: str, domains: object, enums: object, **words: str) -> object:
        return PGDialect._reflect_type(self, text, SimpleNamespace(enums={}, domains={}), **words)  # type: ignore[arg-type]

    # SQLAlchemy 2.1 calls it in another way than the dialect, which is one for 2.0.
    monkeypatch.setattr(RedshiftDialectMixin, "_reflect_type", reflect_type, raising=False)
    url = sa.URL.create("redshift+redshift_connector", *cluster.reader, cluster.host, cluster.port, cluster.database)
    engine = sa.create_engine(url, connect_args={**cluster.options, "sslmode": "prefer"}, poolclass=sa.NullPool)
    yield engine
    engine.dispose()


def test_amazons_driver_reads_rows_of_the_common_types(cluster: Cluster, items: str) -> None:
    ((*row,),) = cluster.query(
        f"SELECT id, name, price, ratio, sold, day, moment, instant, JSON_SERIALIZE(doc), TO_HEX(raw) FROM {items}"
    )
    assert row == [
        1, "it's a \\ caf\u00e9", Decimal("1.5000"), 0.1, True, dt.date(2024, 2, 29), MOMENT, MOMENT.replace(tzinfo=dt.UTC),
        '{"a":[1,2]}', "00ff",
    ]  # fmt: skip


def test_amazons_driver_finds_tables_columns_and_keys(cluster: Cluster, items: str, schema: str) -> None:
    with closing(cluster.connect()) as connection, closing(connection.cursor()) as cursor:
        tables = cursor.get_tables(schema_pattern=schema, table_name_pattern="items")
        columns = cursor.get_columns(schema_pattern=schema, tablename_pattern="items")
    assert [(row[1], row[2]) for row in tables] == [(schema, "items")]
    assert [row[3] for row in columns] == [
        "id", "name", "price", "ratio", "sold", "day", "moment", "instant", "doc", "raw",
    ]  # fmt: skip


def test_amazons_driver_sends_parameters(cluster: Cluster, items: str) -> None:
    with closing(cluster.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"SELECT id FROM {items} WHERE id = %s AND price > %s", (1, 1.0))
        assert [list(row) for row in cursor.fetchall()] == [[1]]


def test_sqlalchemy_reflects_a_table(engine: sa.Engine, items: str, schema: str) -> None:
    found = sa.inspect(engine)
    assert found.get_table_names(schema=schema) == ["items"]
    columns = {column["name"]: str(column["type"]) for column in found.get_columns("items", schema=schema)}
    assert columns["id"] == "BIGINT"
    assert columns["name"] == "VARCHAR(600)"
    assert columns["price"] == "NUMERIC(18, 4)"
    assert columns["doc"] == "SUPER"
    assert found.get_pk_constraint("items", schema=schema)["constrained_columns"] == ["id"]


def test_sqlalchemy_reads_a_table(engine: sa.Engine, items: str, schema: str) -> None:
    table = sa.table("items", *map(sa.column, ("id", "name", "moment")), schema=schema)
    with engine.connect() as connection:
        rows = connection.execute(sa.select(table.c.id, table.c.name, table.c.moment).where(table.c.id == 1)).all()
    assert rows == [(1, "it's a \\ caf\u00e9", MOMENT)]


def test_sqlalchemy_reflects_a_late_binding_view(cluster: Cluster, engine: sa.Engine, items: str, schema: str) -> None:
    cluster.query(f"CREATE VIEW {schema}.late AS SELECT id, name FROM {items} WITH NO SCHEMA BINDING")
    columns = sa.inspect(engine).get_columns("late", schema=schema)
    assert [column["name"] for column in columns] == ["id", "name"]
