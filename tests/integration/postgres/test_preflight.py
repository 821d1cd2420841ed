"""What is refused before a row is written, and what a user is told beforehand."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from retl.connectors.postgres.dialect import DIALECT
from retl.connectors.postgres.facts import Facts
from retl.connectors.postgres.preflight import server_warnings
from retl.model.errors import ConfigError, UnsupportedError
from retl.model.table import TableSpec
from tests.integration.postgres.targets import Scene
from tests.integration.scene import PEOPLE, people, scan, spec
from tests.servers.postgres import PostgresServer

TABLE = "CREATE TABLE people (id bigint PRIMARY KEY, name text)"
REPLACING = ("truncate", "swap", "rename_and_create", "mirror")


@pytest.fixture
def scene(pg: PostgresServer, pg_database: str) -> Scene:
    return Scene(pg, pg_database)


def loaded(pre_action: str, **words: Any) -> TableSpec:
    shrinks: dict[str, Any] = {} if pre_action == "none" else {"max_shrink": 1.0}
    return spec(pre_action=pre_action, **shrinks, **words)


async def warnings(scene: Scene, pre_action: str = "none", schema: pa.Schema = PEOPLE, **words: Any) -> str:
    """What ``plan`` says of a load."""
    table = loaded(pre_action, **words)
    async with scene.session() as session:
        preview = await session.target.preview(session.load(table, schema=schema, fence=None))
    return "\n".join(preview.warnings)


async def refused(scene: Scene, match: str, *pre_actions: str, **words: Any) -> ConfigError:
    """Each of these pre-actions is refused, by ``plan`` and by a scan, and there are no other tables than before."""
    found: ConfigError | None = None
    for pre_action in pre_actions:
        with pytest.raises(ConfigError, match=match):
            await warnings(scene, pre_action, **words)
        before = scene.tables()
        async with scene.session() as session:
            with pytest.raises(ConfigError, match=match) as caught:
                await scan(session, [people((1, "a"))], loaded(pre_action, **words))
        assert scene.tables() == before
        found = caught.value
    assert found is not None
    return found


# What is bound to the table itself --------------------------------------------


DEPENDENTS = {
    "the view public.names": "CREATE VIEW names AS SELECT name FROM people",
    "the materialized view public.names": "CREATE MATERIALIZED VIEW names AS SELECT name FROM people",
    "the function public.how_many": (
        "CREATE FUNCTION how_many() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM people; END"
    ),
    "the function public.shown": "CREATE FUNCTION shown(people) RETURNS text LANGUAGE sql AS 'SELECT $1.name'",
    "the table column public.boxes.content": "CREATE TABLE boxes (content people[])",
    "the policy known on public.boxes": (
        "CREATE TABLE boxes (id int); CREATE POLICY known ON boxes USING (EXISTS (SELECT FROM people))"
    ),
}


@pytest.mark.parametrize("kind", DEPENDENTS)
async def test_what_stays_with_the_old_table_is_refused_by_name(scene: Scene, kind: str) -> None:
    scene.run(TABLE, *DEPENDENTS[kind].replace("; CREATE", "\0CREATE").split("\0"))
    error = await refused(scene, kind, "swap", "rename_and_create")
    assert "mirror" in error.remedy
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], spec(pre_action="mirror", max_shrink=1.0))
    assert scene.rows("people") == [(1, "a")]


async def test_a_foreign_key_of_another_table_is_refused_by_name(scene: Scene) -> None:
    scene.run(TABLE, "CREATE TABLE pets (owner bigint CONSTRAINT owned REFERENCES people)")
    error = await refused(scene, "'pets' has a foreign key to 'people', 'owned'", *REPLACING[:3])
    assert "mirror" in error.remedy


async def test_a_mirror_says_what_foreign_keys_do_to_others(scene: Scene) -> None:
    scene.run(
        TABLE,
        "CREATE TABLE pets (owner bigint CONSTRAINT owned REFERENCES people ON DELETE CASCADE)",
        "CREATE TABLE cars (driver bigint CONSTRAINT driven REFERENCES people ON DELETE SET NULL)",
        "CREATE TABLE homes (of bigint CONSTRAINT lived REFERENCES people)",
    )
    said = await warnings(scene, "mirror")
    assert "'owned' then deletes what refers to it in 'pets'" in said
    assert "'driven' then sets to NULL what refers to it in 'cars'" in said
    assert "lived" not in said


async def test_a_rule_is_refused(scene: Scene) -> None:
    scene.run(TABLE, "CREATE RULE quiet AS ON DELETE TO people DO INSTEAD NOTHING")
    await refused(scene, "has the rule 'quiet'", "swap", "rename_and_create", "mirror")
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], spec())
    scene.run("CREATE RULE loud AS ON INSERT TO people DO INSTEAD NOTHING")
    await refused(scene, "has the rule 'loud'", "none", "truncate")


async def test_tables_that_are_a_part_of_others(scene: Scene) -> None:
    scene.run(
        "CREATE TABLE people (id bigint, name text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF people FOR VALUES FROM (0) TO (10)",
    )
    await refused(scene, "'people' is partitioned", "swap", "rename_and_create")
    assert "no default partition" in await warnings(scene)
    await refused(scene, "'low' is a partition", "swap", "rename_and_create", to="low")
    scene.run("CREATE TABLE rest PARTITION OF people DEFAULT")
    assert "no default partition" not in await warnings(scene)


async def test_inheritance(scene: Scene) -> None:
    scene.run(TABLE, "CREATE TABLE heirs () INHERITS (people)", "ALTER TABLE heirs ADD PRIMARY KEY (id)")
    await refused(scene, "have|has tables that inherit from it, such as 'heirs'", *REPLACING)
    await refused(scene, "inherits from 'people'", "swap", "rename_and_create", to="heirs")


async def test_a_typed_table(scene: Scene) -> None:
    scene.run("CREATE TYPE person AS (id bigint, name text)", "CREATE TABLE people OF person (PRIMARY KEY (id))")
    await refused(scene, "is made of the type 'person'", "swap", "rename_and_create")


async def test_a_publication_of_all_tables(scene: Scene) -> None:
    scene.run(TABLE)
    scene.run_as_admin("CREATE PUBLICATION everything FOR ALL TABLES")
    await refused(scene, "published by 'everything' with all tables", "swap", "rename_and_create")
    assert await warnings(scene, "truncate") == ""


async def test_a_publication_of_somebody_else(scene: Scene) -> None:
    scene.run(TABLE)
    scene.run_as_admin("CREATE PUBLICATION theirs FOR TABLE people")
    await refused(scene, "may not change the publication 'theirs'", "swap", "rename_and_create")


async def test_a_table_of_an_extension(scene: Scene) -> None:
    scene.run(TABLE)
    scene.run_as_admin("ALTER EXTENSION plpgsql ADD TABLE people")
    await refused(scene, "belongs to the extension 'plpgsql'", "swap", "rename_and_create")
    scene.run_as_admin("ALTER EXTENSION plpgsql DROP TABLE people")


SPECIAL = {
    "timescaledb": (
        "a hypertable of TimescaleDB",
        "CREATE SCHEMA timescaledb_information",
        "CREATE VIEW timescaledb_information.hypertables AS SELECT 'public' AS hypertable_schema, 'people' AS hypertable_name",
        "GRANT USAGE ON SCHEMA timescaledb_information TO PUBLIC",
        "GRANT SELECT ON timescaledb_information.hypertables TO PUBLIC",
    ),
    "citus": (
        "distributed by Citus",
        "CREATE TABLE pg_dist_partition AS SELECT 'people'::regclass AS logicalrelid",
    ),
}


@pytest.mark.parametrize("extension", SPECIAL)
async def test_tables_that_an_extension_has_changed(scene: Scene, extension: str) -> None:
    """Neither can be had here: what is asked of their catalogs is played by tables of the same names."""
    said, *catalog = SPECIAL[extension]
    scene.run(TABLE, "CREATE TABLE others (id bigint PRIMARY KEY, name text)")
    scene.run_as_admin(
        "SET allow_system_table_mods = on",
        "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion) "
        f"SELECT 99999, '{extension}', extowner, extnamespace, false, '1' FROM pg_extension WHERE extname = 'plpgsql'",
        *catalog,
    )
    await refused(scene, f"'people' is {said}", "swap", "rename_and_create")
    assert said not in await warnings(scene, "mirror")
    assert await warnings(scene, "swap", to="others") == ""


# What cannot be written -------------------------------------------------------


async def test_views_and_foreign_tables(scene: Scene) -> None:
    scene.run_as_admin(
        "CREATE TABLE base (id bigint PRIMARY KEY, name text)",
        "CREATE VIEW a_view AS SELECT * FROM base",
        "CREATE MATERIALIZED VIEW kept AS SELECT * FROM base",
        "CREATE FOREIGN DATA WRAPPER nothing",
        "CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing",
        "CREATE FOREIGN TABLE far (id bigint, name text) SERVER nowhere",
    )
    for name, kind in (("a_view", "view"), ("kept", "materialised view"), ("far", "foreign table")):
        await refused(scene, f"'{name}' is a {kind}", "none", "swap", to=name)


async def test_names_that_no_column_can_have(scene: Scene) -> None:
    for name, match in (("ctid", "column 'ctid' of its own"), ("ä" * 32, "64 bytes")):
        schema = PEOPLE.append(pa.field(name, pa.string()))
        with pytest.raises(ConfigError, match=match):
            await warnings(scene, schema=schema)
    many = pa.schema([pa.field(f"c{number}", pa.int64()) for number in range(1_601)])
    with pytest.raises(UnsupportedError, match="1,601 columns"):
        await warnings(scene, schema=many, key="c0")


async def test_a_schema_that_is_missing(scene: Scene) -> None:
    error = await refused(scene, "no schema 'Sales'", "none", to='"Sales".people')
    assert 'CREATE SCHEMA "Sales"' in error.remedy


# Rights -----------------------------------------------------------------------


async def test_rights_are_asked_for_exactly_what_is_done(scene: Scene) -> None:
    user = DIALECT.identifier(scene.user.user)
    scene.run_as_admin(TABLE, f"REVOKE ALL ON people FROM {user}", f"GRANT SELECT ON people TO {user}")
    error = await refused(scene, "lacks a right on 'people': INSERT, UPDATE", "none")
    assert error.remedy == f'GRANT INSERT, UPDATE ON TABLE "public"."people" TO {user}.'
    await refused(scene, "lacks a right on 'people': INSERT, TRUNCATE", "truncate")
    await refused(scene, "lacks a right on 'people': INSERT, UPDATE, DELETE", "mirror")
    await refused(scene, "only the owner of 'people', .* may exchange it", "swap", "rename_and_create")
    scene.run_as_admin(f"GRANT INSERT (id, name), UPDATE (name) ON people TO {user}")
    async with scene.session() as session:
        await scan(session, [people((1, "a"))], spec())
    assert scene.rows("people") == [(1, "a")]


async def test_a_schema_in_which_nothing_may_be_created(scene: Scene) -> None:
    user = DIALECT.identifier(scene.user.user)
    scene.run_as_admin("CREATE SCHEMA closed", f"GRANT USAGE ON SCHEMA closed TO {user}")
    error = await refused(scene, "may not create tables in the schema 'closed'", "none", to="closed.people")
    assert f'GRANT USAGE, CREATE ON SCHEMA "closed" TO {user}' in error.remedy


async def test_only_an_owner_adds_columns(scene: Scene) -> None:
    scene.run_as_admin(TABLE)
    schema = PEOPLE.append(pa.field("more", pa.int64()))
    with pytest.raises(ConfigError, match=r"only the owner of 'people', .* may add the column 'more'"):
        await warnings(scene, schema=schema)
    assert "more" in await warnings(scene, schema=schema, new_columns="ignore")


async def test_an_owner_that_may_not_create_tables(scene: Scene) -> None:
    user = DIALECT.identifier(scene.user.user)
    scene.run_as_admin(TABLE, "ALTER TABLE people OWNER TO pg_monitor", f"GRANT pg_monitor TO {user}")
    error = await refused(scene, "the owner of 'people', 'pg_monitor', may not create tables", "swap")
    assert "GRANT CREATE ON SCHEMA" in error.remedy


async def test_a_foreign_key_that_the_user_may_not_give(scene: Scene) -> None:
    scene.run_as_admin(
        "CREATE TABLE names (name text PRIMARY KEY)",
        "CREATE TABLE people (id bigint PRIMARY KEY, name text REFERENCES names)",
        f"ALTER TABLE people OWNER TO {DIALECT.identifier(scene.user.user)}",
    )
    error = await refused(scene, "foreign key that 'people' has to names", "swap", "rename_and_create")
    assert "GRANT REFERENCES ON TABLE names" in error.remedy


# What happens to rows on their way --------------------------------------------


async def test_row_level_security(scene: Scene) -> None:
    user = DIALECT.identifier(scene.user.user)
    scene.run_as_admin(
        TABLE,
        f"GRANT ALL ON people TO {user}",
        "ALTER TABLE people ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY low ON people USING (id < 10)",
    )
    assert "rows that a policy forbids are rejected" in await warnings(scene)
    await refused(scene, "row level security hides rows", "mirror")
    async with scene.session() as session:
        done = await scan(session, [people((1, "a"), (99, "z"))], spec(max_rejects=1), rejects_left=1)
    assert len(done.rejects) == 1
    assert "row-level security policy" in done.rejects[0].reason
    assert scene.run_as_admin("SELECT * FROM people") == [(1, "a")]


async def test_triggers_are_told(scene: Scene) -> None:
    scene.run(
        TABLE,
        "CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER watched BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION watch()",
    )
    assert "triggers (watched), which fire for what is written" in await warnings(scene, "mirror")
    assert "(watched) do not fire for the rows of a swap" in await warnings(scene, "swap")
    scene.run("ALTER TABLE people DISABLE TRIGGER watched")
    assert await warnings(scene) == ""


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def encoded(request: pytest.FixtureRequest, pg: PostgresServer) -> Iterator[Scene]:
    """A database that does not know every character."""
    name = f"retl_{request.param.lower()}_{secrets.token_hex(4)}"
    pg.query(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}' LOCALE 'C'")
    try:
        yield Scene(pg, name)
    finally:
        pg.query(f"DROP DATABASE {name} WITH (FORCE)")
        pg.query(f'DROP ROLE "least_{name[-24:]}"')


async def test_an_encoding_that_lacks_characters(encoded: Scene) -> None:
    encoded.run(TABLE)
    said = await warnings(encoded)
    assert f"the database has the encoding {encoded.database.split('_')[1].upper()}" in said
    async with encoded.session() as session:
        done = await scan(session, [people((1, "é"), (2, "犬"))], spec(max_rejects=1), rejects_left=1)
    assert ("are rejected" in said, len(done.rejects)) == ((True, 1) if "latin1" in encoded.database else (False, 0))
    stored = encoded.run("SELECT convert_to(name, 'UTF8') FROM people ORDER BY id")
    assert [bytes(name).decode() for (name,) in stored] == (["é"] if "latin1" in encoded.database else ["é", "犬"])


async def test_a_server_that_only_reads(scene: Scene) -> None:
    scene.run(TABLE)
    scene.run_as_admin(f'ALTER DATABASE "{scene.database}" SET default_transaction_read_only = on')
    assert "the server is read only now" in await warnings(scene)


async def test_foreign_keys_that_nobody_checks(scene: Scene) -> None:
    scene.run(TABLE)
    scene.run_as_admin(f'ALTER ROLE "{scene.user.user}" SET session_replication_role = replica')
    assert "session_replication_role is replica" in await warnings(scene)


# Other products ---------------------------------------------------------------


def facts(version: str, **words: Any) -> Facts:
    usual: dict[str, Any] = {
        "encoding": "UTF8",
        "is_replica": False,
        "read_only": False,
        "replication_role": "origin",
        "compares_rows": True,
        "user": "retl",
        "schema": "public",
        "has_schema": True,
        "may_create": True,
    }
    return Facts(version=version, **{**usual, **words})


PRODUCTS = {
    "PostgreSQL 18.1 on x86_64-pc-linux-gnu": "PostgreSQL",
    "PostgreSQL 15.12-YB-2.25.2.0-b0 on x86_64-pc-linux-gnu": "YugabyteDB",
    "CockroachDB CCL v25.3.0 (x86_64-pc-linux-gnu)": "CockroachDB",
    "PostgreSQL 12.22 (Greenplum Database 7.5.0)": "Greenplum",
    "PostgreSQL 8.0.2 on i686-pc-linux-gnu, Redshift 1.0.12103": "Redshift",
}


@pytest.mark.parametrize(("version", "product"), PRODUCTS.items())
def test_products_are_told_apart(version: str, product: str) -> None:
    found = facts(version)
    assert found.product == product
    said = list(server_warnings("none", found))
    assert bool(said) == (product != "PostgreSQL")


@pytest.mark.parametrize("version", [text for text, product in PRODUCTS.items() if product[0] in "CY"])
@pytest.mark.parametrize("pre_action", ["swap", "rename_and_create"])
def test_a_product_that_cannot_exchange_tables(version: str, pre_action: str) -> None:
    with pytest.raises(UnsupportedError, match="cannot lock a table"):
        list(server_warnings(pre_action, facts(version)))


def test_a_product_that_cannot_compare_rows() -> None:
    with pytest.raises(UnsupportedError, match="CockroachDB lacks record_image_ne"):
        list(server_warnings("none", facts("CockroachDB CCL v25.3.0", compares_rows=False)))


def test_a_replica_is_told() -> None:
    (said,) = server_warnings("none", facts("PostgreSQL 18.1", is_replica=True, read_only=True))
    assert "target_session_attrs" in said
