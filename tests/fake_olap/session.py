"""One client's session: its variables, and which statement goes where."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from sqlglot import TokenType

from tests.fake_olap import catalog
from tests.fake_olap.catalog import Columns, Row
from tests.fake_olap.ddl import CreateTable, Reader
from tests.fake_olap.engine import Engine
from tests.fake_olap.flavour import READ_ONLY, Flavour
from tests.fake_olap.tables import Table
from tests.fake_olap.types import Type

_HINT = re.compile(r"/\*\+\s*SET_VAR\s*\(([^)]*)\)\s*\*/", re.IGNORECASE)
_CONFIG = re.compile(r"ADMIN SHOW FRONTEND CONFIG(?: LIKE '([^']*)')?;?", re.IGNORECASE)
_SORTED = re.compile(r"ORDER BY [^)]*$", re.IGNORECASE)
_OFFSET = re.compile(r"([+-])(\d{1,2}):(\d\d)")
_SCOPES = ("SESSION", "LOCAL", "GLOBAL")
LONGEST_QUERY = 259_200


@dataclass
class Answer:
    """Rows that are there at once; no columns: a plain OK."""

    columns: Columns
    rows: list[Row]
    affected: int = 0


@dataclass
class Kill:
    """Whom to end: a connection's number or a query's name; ``connection``: not only its statement."""

    whom: int | str
    connection: bool


@dataclass
class Running:
    """A query for DuckDB, and what the session says about it."""

    sql: str
    seconds: int
    rows: int


OK = Answer([], [])


class Session:
    """The state of a connection, and the statements that it can answer without running a query."""

    def __init__(self, engine: Engine, flavour: Flavour, number: int) -> None:
        self.engine = engine
        self.flavour = flavour
        self.number = number
        self.user = ""
        self.database = ""
        self.query_id = ""
        self._variables = {
            **flavour.variables,
            **engine.variables,
            "version": flavour.handshake_version,
            "version_comment": flavour.version_comment,
        }
        self._processes: Callable[[], list[Row]] = list

    def sees(self, processes: Callable[[], list[Row]]) -> None:
        """What SHOW PROCESSLIST tells."""
        self._processes = processes

    # What a translator asks

    def variable(self, name: str) -> str:
        try:
            return self._variables[name.lower()]
        except KeyError:
            raise self.flavour.errors.unknown_variable(name) from None

    def answer(self, function: str) -> str:
        answers = {
            "CONNECTION_ID": str(self.number),
            "CURRENT_VERSION": self.flavour.current_version,
            "DATABASE": self.database,
            "LAST_QUERY_ID": self.query_id,
            "SCHEMA": self.database,
            "VERSION": self.flavour.handshake_version,
        }
        return answers.get(function, f"'{self.user}'@'%'")

    def zone(self) -> tzinfo:
        return _zone(self.variable("time_zone")) or UTC

    def zone_shift(self) -> int:
        """Seconds that the session's zone is ahead of UTC, now."""
        return int((datetime.now(self.zone()).utcoffset() or timedelta()).total_seconds())

    def now(self) -> datetime:
        return datetime.now(self.zone()).replace(tzinfo=None)

    # Statements

    def run(self, sql: str) -> Answer | Running | Kill:
        """Answer a statement, or tell what is to be done. Blocks: it belongs into a thread."""
        if "NO_BACKSLASH_ESCAPES" in self.variable("sql_mode"):
            sql = sql.replace("\\", "\\\\")
        if found := _CONFIG.fullmatch(sql.strip()):
            return self._config(found[1] or "%")
        reader = self.engine.reader(sql)
        if reader.token is None:
            raise self.flavour.errors.syntax("<EOF>", 1, 0)
        word = reader.word
        if word in {"SELECT", "WITH", "("}:
            return self._query(sql)
        if word in {"INSERT", "UPDATE", "DELETE"}:
            change = getattr(self.engine, word.lower())
            return Answer([], [], change(sql, self))
        handler: Any = getattr(self, f"_{word.lower()}", None) if word.isalpha() else None
        if word not in _STATEMENTS or handler is None:
            raise reader.refuse()
        reader.accept(word)
        answer: Answer | Kill = handler(reader)
        return answer

    def _query(self, sql: str) -> Running:
        hinted = dict(self._variables)
        for hint in _HINT.findall(sql):
            for part in hint.split(","):
                name, _, value = part.partition("=")
                hinted[name.strip().lower()] = value.strip().strip("'\"")
        self.query_id = str(uuid.uuid4())
        rows = int(hinted["sql_select_limit"])
        if (sorted_rows := int(hinted.get("default_order_by_limit", "-1"))) >= 0 and _SORTED.search(sql):
            rows = min(rows, sorted_rows)
        return Running(sql, int(hinted["query_timeout"]), rows)

    def names(self) -> set[str]:
        """By what KILL QUERY '...' finds this session's statement."""
        context = dict(part.partition(":")[::2] for part in self._variables.get("session_context", "").split(","))
        return {self.query_id, self._variables.get("custom_query_id", ""), context.get("trace_id", "")} - {""}

    def _use(self, reader: Reader) -> Answer:
        name = reader.name()
        reader.end()
        self.use(name)
        return OK

    def use(self, name: str) -> None:
        if name.lower() != "information_schema":
            self.engine.database(name)
        self.database = name

    def _begin(self, reader: Reader) -> Answer:
        return OK

    _start = _commit = _rollback = _sync = _begin

    def _create(self, reader: Reader) -> Answer:
        if reader.accept("DATABASE"):
            lenient = reader.accept("IF", "NOT", "EXISTS")
            name = reader.name()
            reader.end()
            self.engine.create_database(name, lenient=lenient)
            return OK
        reader.expect("TABLE")
        self.engine.create_table(reader, self)
        return OK

    def _drop(self, reader: Reader) -> Answer:
        if reader.accept("DATABASE"):
            lenient = reader.accept("IF", "EXISTS")
            name = reader.name()
            reader.accept("FORCE")
            reader.end()
            self.engine.drop_database(name, lenient=lenient)
            return OK
        reader.expect("TABLE")
        lenient = reader.accept("IF", "EXISTS")
        database, name = reader.table()
        reader.accept("FORCE")
        reader.end()
        self.engine.drop_table(database or self.database, name, lenient=lenient)
        return OK

    def _truncate(self, reader: Reader) -> Answer:
        reader.expect("TABLE")
        table = self._table(reader)
        reader.end()
        self.engine.truncate(table)
        return OK

    def _alter(self, reader: Reader) -> Answer:
        reader.expect("TABLE")
        table = self._table(reader)
        if reader.accept("ADD", "COLUMN"):
            read = CreateTable(reader, self.flavour.types, self.engine.number, doris=self.flavour.doris)
            column = read.column()
            reader.end()
            self.engine.add_column(table, column)
            return OK
        if reader.accept("DROP", "PARTITION"):
            part = reader.name()
            reader.end()
            self.engine.drop_partition(table, part)
            return OK
        reader.expect("DROP", "COLUMN")
        name = reader.name()
        reader.end()
        self.engine.drop_column(table, name)
        return OK

    def _shown(self, reader: Reader) -> Table:
        """A table to describe: of an unknown one Doris speaks otherwise than in a query."""
        database, name = reader.table()
        if name not in self.engine.database(database or self.database):
            raise self.flavour.errors.nothing_to_show(database or self.database, name)
        return self.engine.table(database or self.database, name)

    def _table(self, reader: Reader) -> Table:
        database, name = reader.table()
        return self.engine.table(database or self.database, name)

    def _kill(self, reader: Reader) -> Kill:
        connection = not reader.accept("QUERY")
        reader.accept("CONNECTION")
        if (token := reader.token) is None:
            raise reader.refuse()
        value = reader.value()
        reader.end()
        return Kill(value if token.token_type is TokenType.STRING else int(value), connection)

    def _set(self, reader: Reader) -> Answer:
        while True:
            self._set_one(reader)
            if not reader.accept(","):
                break
        reader.end()
        return OK

    def _set_one(self, reader: Reader) -> None:
        if reader.accept("NAMES"):
            reader.value()
            if reader.accept("COLLATE"):
                reader.value()
            return
        if reader.accept("CHARACTER", "SET") or reader.accept("CHARSET"):
            reader.value()
            return
        scope = next((scope for scope in _SCOPES if reader.accept(scope)), "")
        if reader.accept("TRANSACTION"):
            while reader.token is not None:
                reader.at += 1
            return
        if reader.accept("@"):
            reader.name()
            reader.expect("=")
            reader.value()
            return
        if reader.accept("@@"):
            scope = next((scope for scope in _SCOPES if reader.accept(scope, ".")), scope)
        name = reader.name().lower()
        reader.expect("=")
        self._assign(name, reader.value(), everywhere=scope == "GLOBAL")

    def _assign(self, name: str, value: str, *, everywhere: bool) -> None:
        self.variable(name)
        errors = self.flavour.errors
        if name in READ_ONLY:
            raise errors.wrong_value(name, value)
        if value.upper() == "DEFAULT":
            value = self.engine.variables.get(name, self.flavour.variables[name])
        if name == "query_timeout" and not (value.isdigit() and 1 <= int(value) <= LONGEST_QUERY):
            raise errors.wrong_value(name, value)
        if name == "sql_select_limit" and not value.isdigit():
            raise errors.wrong_value(name, value)
        if name == "time_zone" and _zone(value) is None:
            raise errors.unknown_time_zone(value)
        if everywhere:
            self.engine.variables[name] = value
        else:
            self._variables[name] = value

    def _desc(self, reader: Reader) -> Answer:
        table = self._shown(reader)
        reader.end()
        return Answer(*catalog.describe(table, False))

    _describe = _desc

    def _show(self, reader: Reader) -> Answer:
        full = reader.accept("FULL")
        if reader.accept("COLUMNS") or reader.accept("FIELDS"):
            reader.expect("FROM")
            return self._last(reader, Answer(*catalog.describe(self._shown(reader), full)))
        if reader.accept("TABLES"):
            database = reader.name() if reader.accept("FROM") or reader.accept("IN") else self.database
            names = sorted(self.engine.database(database))
            answer = self._liked(reader, f"Tables_in_{database}", names)
            return Answer(*catalog.with_kinds(answer.columns, answer.rows, self.flavour)) if full else answer
        if reader.accept("CREATE", "TABLE"):
            table = self._table(reader)
            return self._last(reader, Answer(*catalog.show_create(table, self.flavour)))
        if reader.accept("DATABASES") or reader.accept("SCHEMAS"):
            return self._liked(reader, "Database", sorted([*self.engine.databases, "information_schema"]))
        if reader.accept("PARTITIONS"):
            reader.expect("FROM")
            return self._last(
                reader, Answer(*catalog.show_partitions(self._table(reader), self.flavour, self.engine.rows_of))
            )
        if reader.accept("TABLETS" if self.flavour.doris else "TABLET"):
            return self._tablets(reader)
        if reader.accept("PROCESSLIST"):
            names = ["Id", "User", "Host", "Db", "Command", "ConnectionStartTime", "Time", "State", "Info", "IsPending"]
            return self._last(reader, Answer([(name, Type("VARCHAR", (64,))) for name in names], self._processes()))
        if reader.accept("WARNINGS") or reader.accept("ERRORS"):
            return self._last(
                reader, Answer([(name, Type("VARCHAR", (64,))) for name in ("Level", "Code", "Message")], [])
            )
        for scope in _SCOPES:
            reader.accept(scope)
        reader.expect("VARIABLES")
        pattern = self._like(reader)
        shown = [(name, value) for name, value in sorted(self._variables.items()) if pattern.fullmatch(name)]
        return Answer([(name, Type("VARCHAR", (64,))) for name in ("Variable_name", "Value")], list(shown))

    def _config(self, pattern: str) -> Answer:
        """Settings of an FE: for administrators."""
        if self.user != "root":
            raise self.flavour.errors.privilege("OPERATE", "SYSTEM", "")
        names = ["Key", "AliasNames", "Value", "Type", "IsMutable", "Comment"]
        rows: list[Row] = [("run_mode", "[]", "shared_nothing", "String", "false", "")]
        columns = [(name, Type("VARCHAR", (64,))) for name in names]
        return Answer(columns, [row for row in rows if _liking(pattern).fullmatch(row[0])])

    def _tablets(self, reader: Reader) -> Answer:
        reader.expect("FROM")
        table = self._table(reader)
        parts = table.partitions
        if reader.accept("PARTITION") or reader.accept("PARTITIONS"):
            wanted = reader.names()
            parts = []
            for name in wanted:
                if (part := table.partition(name)) is None:
                    raise self.flavour.errors.unknown_partition(name, table.name)
                parts.append(part)
        return self._last(reader, Answer(*catalog.show_tablets(table, parts, self.flavour)))

    def _last(self, reader: Reader, answer: Answer) -> Answer:
        reader.end()
        return answer

    def _liked(self, reader: Reader, label: str, names: list[str]) -> Answer:
        pattern = self._like(reader)
        return Answer([(label, Type("VARCHAR", (64,)))], [(name,) for name in names if pattern.fullmatch(name)])

    def _like(self, reader: Reader) -> re.Pattern[str]:
        pattern = "%"
        if reader.accept("LIKE"):
            pattern = reader.value()
        reader.end()
        return _liking(pattern)


_STATEMENTS = frozenset(
    [
        "ALTER",
        "BEGIN",
        "COMMIT",
        "CREATE",
        "DESC",
        "DESCRIBE",
        "DROP",
        "KILL",
        "ROLLBACK",
        "SET",
        "SHOW",
        "START",
        "SYNC",
        "TRUNCATE",
        "USE",
    ]
)


def _liking(pattern: str) -> re.Pattern[str]:
    parts = (".*" if char == "%" else "." if char == "_" else re.escape(char) for char in pattern)
    return re.compile("".join(parts), re.IGNORECASE)


def _zone(name: str) -> tzinfo | None:
    if found := _OFFSET.fullmatch(name):
        offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
        return timezone(-offset if found[1] == "-" else offset)
    try:
        return ZoneInfo({"CST": "Asia/Shanghai", "SYSTEM": "UTC"}.get(name, name))
    except (KeyError, ValueError, OSError):
        return None
