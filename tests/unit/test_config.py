"""Job files: what they may say, and what is said about their mistakes."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, Any, ClassVar

import msgspec
import pytest

from retl.cli.init import TEMPLATE
from retl.config import Jobs, load_jobs, registry, stores
from retl.config.lines import find_lines, show_path
from retl.config.words import PipelineWords
from retl.connectors.base import Connector, Source, Target
from retl.connectors.duckdb import DuckDB
from retl.connectors.sqlite import SQLite
from retl.model.errors import ConfigError
from retl.model.options import TableOptions
from retl.model.secret import Secret, reveal
from retl.model.table import Table
from retl.pipeline import Pipeline
from retl.state.memory import MemoryStore
from retl.state.sqlite import SqliteStore


class Vault(Connector):
    """A connector with every kind of option."""

    type_name: ClassVar[str] = "vault"
    made: ClassVar[list[Vault]] = []

    path: Annotated[str, msgspec.Meta(extra={"path": True})] = "here"
    url: str = ""
    password: str | Secret | None = None
    headers: dict[str, str | Secret] = msgspec.field(default_factory=dict)
    threads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    limit: Annotated[int | None, msgspec.Meta(ge=1)] = None

    def source(self) -> Source:
        self.made.append(self)
        return DuckDB("w.duckdb").source()

    def target(self) -> Target:
        self.made.append(self)
        target = SQLite("app.db").target()
        if self.url == "no transactions":
            target.state_store = lambda: None  # type: ignore[method-assign, assignment, return-value]
        return target


class Rootless(Vault):
    """A connector that cannot be a source."""

    def source(self) -> Source:
        return Connector.source(self)


@pytest.fixture(autouse=True)
def vault(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "vault": EntryPoint("vault", f"{__name__}:Vault", "x"),
        "rootless": EntryPoint("rootless", f"{__name__}:Rootless", "x"),
        "undriven": EntryPoint("undriven", "retl.connectors.not_there:Nothing", "x"),
        "strange": EntryPoint("strange", "pathlib:Path", "x"),
        "absent": EntryPoint("absent", "pathlib:NoSuchName", "x"),
    }
    installed = registry.connector_types
    monkeypatch.setattr(registry, "connector_types", lambda role: dict(sorted((installed(role) | points).items())))
    Vault.made.clear()


VALID = """\
[pipelines.shop]
source = { type = "duckdb", path = "w.duckdb" }
target = { type = "sqlite", path = "app.db" }
tables = ["orders"]
"""


def load(folder: Path, text: str) -> Jobs:
    file = folder / "jobs.toml"
    file.write_text(text, encoding="utf-8")
    return load_jobs(file)


def errors(folder: Path, text: str) -> list[str]:
    """The error's lines, with the file's name alone."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return caught.value.message.replace(f"{folder}/", "").splitlines()


def one(jobs: Jobs) -> Pipeline:
    (pipeline,) = jobs
    return pipeline


def with_options(*lines: str) -> str:
    return VALID + "\n".join(lines) + "\n"


# What may be said ---------------------------------------------------------------


def test_the_words_are_those_of_the_library() -> None:
    parameters = set(inspect.signature(Pipeline).parameters) - {"name", "state"}
    assert {item.name for item in msgspec.structs.fields(PipelineWords)} == parameters


def test_every_word_reaches_the_pipeline(tmp_path: Path) -> None:
    pipeline = one(
        load(
            tmp_path,
            """
            [pipelines.shop]
            source = { type = "duckdb", path = "w.duckdb", threads = 2, memory_limit = "1GB" }
            target = { type = "sqlite", path = "app.db", busy_timeout = 3 }
            interval = "90s"
            blacklist = ["DROP", "alter"]
            lease_ttl = "5s"
            channel_bytes = 1_000
            cursor = "changed"
            lookback = "10m"
            settle = 2.5
            null_cursor = "include"
            max_rejects = 4
            new_columns = "ignore"
            slice_rows = 10
            tables = ["plain", { name = "o", to = "x", key = ["a", "b"], columns = ["a", "b"], rename = { a = "c" },
              where = "a > 0", expressions = { d = "1 + 1" }, cursor = "a", max_shrink = "50%", lookback = 3 },
              { match = "ods_*", to = "copy_{name}", cursor = false, write = "upsert", pre_action = "truncate" },
              { name = "q", query = "SELECT 1", key = "id", max_shrink = 0.5, format = { any = [1, { x = true }] } }]
            """.replace(",\n", ", ").replace("\n              ", " "),
        )
    )
    assert pipeline.schedule.describe() == "every 1m 30s"
    assert pipeline._config.lease_ttl == 5.0
    assert pipeline._config.limits.channel_bytes == 1_000
    assert pipeline._config.blacklist == {"DROP", "ALTER"}
    assert pipeline._config.tables.defaults == TableOptions(
        cursor="changed",
        lookback="10m",
        settle=2.5,
        null_cursor="include",
        max_rejects=4,
        new_columns="ignore",
        slice_rows=10,
    )
    assert pipeline._config.tables.declared == [
        Table("plain"),
        Table(
            "o",
            to="x",
            key=["a", "b"],
            columns=["a", "b"],
            rename={"a": "c"},
            where="a > 0",
            expressions={"d": "1 + 1"},
            cursor="a",
            max_shrink="50%",
            lookback=3,
        ),
        Table(match="ods_*", to="copy_{name}", cursor=False, write="upsert", pre_action="truncate"),
        Table("q", query="SELECT 1", key="id", max_shrink=0.5, format={"any": [1, {"x": True}]}),
    ]


def test_defaults_hold_for_what_a_pipeline_leaves_unsaid(tmp_path: Path) -> None:
    jobs = load(
        tmp_path,
        """
        [defaults]
        interval = "7s"
        cursor = "changed"
        settle = "1s"
        blacklist = ["DROP"]
        timezone = "Europe/Berlin"
        """
        + VALID
        + VALID.replace("shop", "nightly")
        + 'cron = "0 3 * * *"\ncursor = false\nblacklist = []\n',
    )
    shop, nightly = jobs.pipelines["shop"], jobs.pipelines["nightly"]
    assert (shop.schedule.describe(), nightly.schedule.describe()) == ("every 7s", "cron 0 3 * * * Europe/Berlin")
    assert (shop._config.tables.defaults.cursor, nightly._config.tables.defaults.cursor) == ("changed", None)
    assert (sorted(shop._config.blacklist), sorted(nightly._config.blacklist)) == (["DROP"], [])
    assert nightly._config.tables.defaults.settle == "1s"


def test_relative_paths_are_those_of_the_job_files_folder(tmp_path: Path) -> None:
    load(
        tmp_path,
        """
        [pipelines.a]
        source = { type = "vault", path = "data/w.duckdb" }
        target = { type = "vault", path = "/srv/app.db" }
        tables = ["t"]
        [pipelines.b]
        source = { type = "vault", path = "s3://bucket/x" }
        target = { type = "vault", path = ":memory:" }
        tables = ["t"]
        """,
    )
    paths = [made.path for made in Vault.made]
    assert paths == [str(tmp_path / "data/w.duckdb"), "/srv/app.db", "s3://bucket/x", ":memory:"]


def test_a_home_directory_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    load(tmp_path, VALID.replace('type = "duckdb", path = "w.duckdb"', 'type = "vault", path = "~/w"'))
    assert Vault.made[0].path == "/home/ada/w"


@pytest.mark.parametrize(
    ("store", "kind"),
    [("target", SqliteStore), ("memory", MemoryStore), ("sqlite:///state.db", SqliteStore)],
)
def test_state_stores(tmp_path: Path, store: str, kind: type) -> None:
    pipeline = one(load(tmp_path, f'[state]\nstore = "{store}"\n{VALID}'))
    assert isinstance(pipeline._store, kind)
    assert pipeline._config.state_in_target == (store == "target")
    if store.startswith("sqlite"):
        assert pipeline._store.path == str(tmp_path / "state.db")  # type: ignore[attr-defined]


def test_an_absolute_state_store(tmp_path: Path) -> None:
    store = one(load(tmp_path, f'[state]\nstore = "sqlite:////var/lib/state.db"\n{VALID}'))._store
    assert isinstance(store, SqliteStore) and store.path == "/var/lib/state.db"


def test_a_target_without_transactions_has_its_state_beside_the_job_file(tmp_path: Path) -> None:
    text = VALID.replace('type = "sqlite", path = "app.db"', 'type = "vault", url = "no transactions"')
    store = one(load(tmp_path, text))._store
    assert isinstance(store, SqliteStore) and store.path == str(tmp_path / stores.DEFAULT_STORE)
    (line,) = errors(tmp_path, f'[state]\nstore = "target"\n{text}')
    assert line.startswith("jobs.toml:5: pipelines.shop.target: the target sqlite has no transactions")


def test_the_file_that_init_writes_is_valid(tmp_path: Path) -> None:
    assert list(load(tmp_path, TEMPLATE).pipelines) == ["shop"]


def test_what_init_explains_in_comments_is_valid_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_URL", "https://hooks.example.com/x")
    lines = [line.removeprefix("# ") if " = " in line or "[" in line else line for line in TEMPLATE.splitlines()]
    text = "\n".join(lines).replace('Passwords come from outside: password = "${DB_PASSWORD}"', "# ")
    assert list(load(tmp_path, text).pipelines) == ["shop"]


def test_select(tmp_path: Path) -> None:
    jobs = load(tmp_path, VALID + VALID.replace("shop", "depot"))
    assert [pipeline.name for pipeline in jobs.select([])] == ["shop", "depot"]
    assert [pipeline.name for pipeline in jobs.select(["depot", "depot"])] == ["depot"]
    with pytest.raises(ConfigError, match=r"has no pipeline 'shp'; did you mean 'shop'\?.*It has: shop, depot"):
        jobs.select(["shp"])


# References ---------------------------------------------------------------------


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "hunter22")
    monkeypatch.setenv("HOST", "db")
    (tmp_path / "token").write_text("abc123\n")
    load(
        tmp_path,
        VALID.replace(
            'type = "duckdb", path = "w.duckdb"',
            'type = "vault", url = "x://${HOST}/$${HOST}", password = "${PW}", '
            'headers = { a = "Bearer ${file:token}", b = "${file:token}", c = "plain" }',
        ),
    )
    made = Vault.made[0]
    assert made.url == "x://db/${HOST}"
    assert isinstance(made.password, Secret) and made.password.reveal() == "hunter22"
    assert [reveal(value) for value in made.headers.values()] == ["Bearer abc123", "abc123", "plain"]
    assert "hunter22" not in repr(made) and "abc123" not in repr(made)


def test_a_plain_text_is_never_taken_for_a_reference(tmp_path: Path) -> None:
    text = VALID.replace('type = "duckdb", path = "w.duckdb"', 'type = "vault", password = "$${PW}", url = "$PW"')
    load(tmp_path, text)
    assert (Vault.made[0].password, Vault.made[0].url) == ("${PW}", "$PW")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("${NO_SUCH}", "the environment variable NO_SUCH is not set. What to do: set NO_SUCH before starting."),
        ("x${NO_SUCH}", "the environment variable NO_SUCH is not set. What to do: set NO_SUCH before starting."),
        ("${file:no/such}", "the secret file"),
        ("${}", "${} is not a reference."),
        ("${a b}", "${a b} is not a reference."),
        ("${UNCLOSED", "${ is not a reference."),
    ],
)
@pytest.mark.parametrize("option", ["password", "url"])
def test_references_that_lead_nowhere(tmp_path: Path, option: str, reference: str, message: str) -> None:
    text = VALID.replace('type = "duckdb", path = "w.duckdb"', f'type = "vault", {option} = "{reference}"')
    (line,) = errors(tmp_path, text)
    assert line.startswith(f"jobs.toml:2: pipelines.shop.source.{option}: {message}")


def test_what_came_from_a_reference_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PW", "hunter22")
    text = with_options(
        'write = "${PW}"', 'settle = "${PW}"', 'cron = "${PW}"', 'timezone = "${PW}"', 'lease_ttl="${PW}"'
    )
    shape = errors(tmp_path, text)
    rules = errors(tmp_path, with_options('max_shrink = "${PW}"', 'cron = "${PW}"', 'blacklist = ["${PW}"]'))
    assert len(shape) == 3 and len(rules) == 3
    assert "hunter22" not in " ".join(shape + rules)
    assert "'${PW}'" in " ".join(rules)


# Mistakes -----------------------------------------------------------------------


def test_all_mistakes_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    found = errors(
        tmp_path,
        """\
[state]
stoer = "target"
[defaults]
intervall = 3
[pipelines.shop]
source = { type = "vault", threads = 0, limit = 0, path = 3 }
target = { type = "vault", pasword = "x", headers = { a = 1 } }
cursor = true
lookback = 2024-01-01
blacklist = "DROP"
lease_ttl = "soon"
[[pipelines.shop.tables]]
name = "orders"
[[pipelines.shop.tables]]
name = 3
cursr = "x"
pre_action = "swop"
key = ["a", 1]
max_rejects = 1.5
rename = ["a"]
[pipelines."b c"]
source = 5
[pipelins]
""",
    )
    assert found == [
        "jobs.toml:2: state.stoer: unknown option; did you mean 'store'?",
        "jobs.toml:4: defaults.intervall: unknown option; did you mean 'interval'?",
        "jobs.toml:6: pipelines.shop.source.path: expected text, got a whole number",
        "jobs.toml:6: pipelines.shop.source.threads: expected a whole number >= 1",
        "jobs.toml:6: pipelines.shop.source.limit: expected a whole number >= 1",
        "jobs.toml:7: pipelines.shop.target.pasword: unknown option; did you mean 'password'?",
        "jobs.toml:7: pipelines.shop.target.headers.a: expected text, got a whole number",
        "jobs.toml:8: pipelines.shop.cursor: expected text or false, got true",
        'jobs.toml:9: pipelines.shop.lookback: expected a length of time such as "5m", got a date or time',
        "jobs.toml:10: pipelines.shop.blacklist: expected a list, got text",
        (
            "jobs.toml:11: pipelines.shop.lease_ttl: lease_ttl is 'soon', which is not a length of time. What to do: "
            'write seconds as a number, or a text such as "250ms", "30s", "5m", "1h30m" or "2d".'
        ),
        "jobs.toml:15: pipelines.shop.tables[1].name: expected text, got a whole number",
        "jobs.toml:16: pipelines.shop.tables[1].cursr: unknown option; did you mean 'cursor'?",
        (
            "jobs.toml:17: pipelines.shop.tables[1].pre_action: 'swop' is not one of none, truncate, rename_and_create, "
            "swap, mirror; did you mean 'swap'?"
        ),
        "jobs.toml:18: pipelines.shop.tables[1].key[1]: expected text, got a whole number",
        "jobs.toml:19: pipelines.shop.tables[1].max_rejects: expected a whole number or text, got a number",
        "jobs.toml:20: pipelines.shop.tables[1].rename: expected a table, got a list",
        'jobs.toml:21: pipelines."b c": target is missing',
        'jobs.toml:21: pipelines."b c": tables is missing',
        'jobs.toml:22: pipelines."b c".source: expected a table, got a whole number',
        "jobs.toml:23: pipelins: unknown section; did you mean 'pipelines'?",
    ]


def test_rules_that_are_broken_are_found_at_the_option_they_speak_of(tmp_path: Path) -> None:
    found = errors(
        tmp_path,
        """\
[pipelines.shop]
source = { type = "rootless" }
target = { type = "sqlite", path = "app.db" }
interval = 0
max_shrink = "60"
lease_ttl = 0
blacklist = ["DOP"]
[[pipelines.shop.tables]]
name = "orders"
max_shrink = "10%"
cursor = "x"
pre_action = "swap"
[[pipelines.shop.tables]]
match = "ods_*"
max_shrink = "10%"
to = "all"
[[pipelines.shop.tables]]
to = "nothing"
""",
    )
    assert [line.split(": ")[0:2] for line in found] == [
        ["jobs.toml:2", "pipelines.shop.source"],
        ["jobs.toml:4", "pipelines.shop.interval"],
        ["jobs.toml:6", "pipelines.shop.lease_ttl"],
        ["jobs.toml:7", "pipelines.shop.blacklist"],
        ["jobs.toml:11", "pipelines.shop.tables[0].cursor"],
        ["jobs.toml:16", "pipelines.shop.tables[1].to"],
        ["jobs.toml:17", "pipelines.shop.tables[2]"],
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "duckdbb",
            "unknown source type 'duckdbb'; did you mean 'duckdb'? Installed sources are absent, doris, duckdb, ",
        ),
        ("undriven", "undriven cannot be used: the Python package 'retl.connectors.not_there'"),
        ("strange", "the installed source 'strange' (pathlib:Path) is not a retl.connectors.base.Connector."),
        ("absent", "the installed source 'absent' (pathlib:NoSuchName) is no"),
    ],
)
def test_connectors_that_are_not_there(tmp_path: Path, kind: str, message: str) -> None:
    (line,) = errors(tmp_path, VALID.replace('"duckdb"', f'"{kind}"'))
    assert line.startswith(f"jobs.toml:2: pipelines.shop.source.type: {message}")


def test_a_missing_driver_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("undriven", "retl.connectors.not_there:Nothing", "x")
    error = registry.missing_driver(point, ModuleNotFoundError("No module named 'driver'", name="driver"))
    assert str(error) == (
        "undriven cannot be used: the Python package 'driver' that it needs is not installed. "
        "What to do: pip install 'retl[undriven]'"
    )


def test_a_connector_needs_its_type(tmp_path: Path) -> None:
    (line,) = errors(tmp_path, VALID.replace('type = "duckdb", ', ""))
    assert line.startswith("jobs.toml:2: pipelines.shop.source: type is missing; installed sources are ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "jobs.toml:1: pipelines: the file has no pipeline; begin one with [pipelines.NAME]"),
        ("[[pipelines]]\nname = 'shop'\n", "jobs.toml:1: pipelines: a pipeline is not [[pipelines]] with a name"),
        ("pipelines = 3", "jobs.toml:1: pipelines: the file has no pipeline"),
        (VALID + VALID, "jobs.toml:5: pipelines.shop: two pipelines have this name; rename one of them"),
        ("[state]\n[state]\n", "jobs.toml:2: state: this table is declared twice; join the two"),
        ("a = 1\nb = = 2\n", "jobs.toml:2: column 5: this is not TOML: invalid value"),
        ("a = '''\n\n", "jobs.toml:3: this is not TOML: "),
        (VALID.replace('["orders"]', "[]"), "jobs.toml:4: pipelines.shop.tables: the list is empty"),
        (
            with_options('interval = 1\ncron = "* * * * *"'),
            "jobs.toml:5: pipelines.shop.interval: both an interval and",
        ),
        (with_options('timezone = "UTC"'), "jobs.toml:5: pipelines.shop.timezone: timezone has a meaning only with"),
        (with_options('cron = "* *"'), "jobs.toml:5: pipelines.shop.cron: the cron expression '* *' cannot be read"),
        ('[state]\nstore = "redis"\n' + VALID, "jobs.toml:2: state.store: unknown state store 'redis'."),
        ('[pipelines.""]\n' + VALID.partition("\n")[2], 'jobs.toml:1: pipelines."": a pipeline needs a name.'),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    (line,) = errors(tmp_path, text)
    assert line.startswith(message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no job file .*`retl init`"):
        load_jobs(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_jobs(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        load_jobs("a\0b")
    (tmp_path / "latin.toml").write_bytes(b"# ok\n# \xe4\n")
    with pytest.raises(ConfigError, match=r"latin.toml:2: the file is not UTF-8 text"):
        load_jobs(tmp_path / "latin.toml")


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5_000, "a = {" * 5_000])
def test_absurd_files(tmp_path: Path, text: str) -> None:
    (line,) = errors(tmp_path, text)
    assert line.startswith("jobs.toml")


# Lines --------------------------------------------------------------------------


def test_lines_of_everything() -> None:
    text = '''\
# comment [not.a.table]
top = 1
a.b."c d" = """
x = 1
[no]
""" # after
[t]
k = [ 1, # one
  { x = 1, "y]" = 'a}b' },
  [ [2], "]" ],
]
inline = { a = { b = 1 }, c.d = [ {e = "#"} ] }
[[list]]
n = 1
[list.sub]
m = 2
[[list]]
n = \'\'\'
[[list]]
\'\'\'
[[list.items]]
z = 2024-01-01T00:00:00Z
[[list.items]]
"""q""" = 0
'''.replace('"""q"""', '"q\\u0041"')
    lines: dict[str, Any] = {show_path(path): line for path, line in find_lines(text.replace("\n", "\r\n")).items()}
    assert lines == {
        "top": 2,
        "a": 3,
        "a.b": 3,
        'a.b."c d"': 3,
        "t": 7,
        "t.k": 8,
        "t.k[0]": 8,
        "t.k[1]": 9,
        "t.k[1].x": 9,
        't.k[1]."y]"': 9,
        "t.k[2]": 10,
        "t.k[2][0]": 10,
        "t.k[2][0][0]": 10,
        "t.k[2][1]": 10,
        "t.inline": 12,
        "t.inline.a": 12,
        "t.inline.a.b": 12,
        "t.inline.c": 12,
        "t.inline.c.d": 12,
        "t.inline.c.d[0]": 12,
        "t.inline.c.d[0].e": 12,
        "list": 13,
        "list[0]": 13,
        "list[0].n": 14,
        "list[0].sub": 15,
        "list[0].sub.m": 16,
        "list[1]": 17,
        "list[1].n": 18,
        "list[1].items": 21,
        "list[1].items[0]": 21,
        "list[1].items[0].z": 22,
        "list[1].items[1]": 23,
        "list[1].items[1].qA": 24,
    }


def test_help_explains_every_parameter_of_a_pipeline() -> None:
    explained = re.findall(r"^    (\w+): ", inspect.getdoc(Pipeline) or "", re.MULTILINE)
    assert explained == list(inspect.signature(Pipeline).parameters)
