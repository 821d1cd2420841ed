"""Statements of StarRocks and Doris, turned into those of DuckDB.

sqlglot reads the dialect. It is lenient, so on top: functions that the system does not document, ``::``, ``ILIKE``,
``DISTINCT ON`` and ``FOR UPDATE`` are refused. What sqlglot can't read is read here: ``PARTITION (...)``,
``TABLET (...)``, ``TABLE(generate_series(a, b))`` of StarRocks and ``numbers("number" = "n")`` of Doris.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import sqlglot
from sqlglot import Token, TokenType, exp
from sqlglot.errors import ErrorLevel, ParseError, TokenError

from tests.fake_olap import functions
from tests.fake_olap.errors import Errors
from tests.fake_olap.flavour import Flavour
from tests.fake_olap.tables import Table, quoted
from tests.fake_olap.types import Type, parse_type

Node = TypeVar("Node", bound=exp.Expr)

SYSTEM = "__system"
_NOT_CALLED = frozenset(
    [
        "ALL",
        "AND",
        "ANY",
        "AS",
        "BETWEEN",
        "BY",
        "CASE",
        "DISTINCT",
        "ELSE",
        "EXISTS",
        "FROM",
        "HAVING",
        "IN",
        "INTERVAL",
        "INTO",
        "IS",
        "JOIN",
        "LIKE",
        "LIMIT",
        "NOT",
        "ON",
        "OR",
        "OVER",
        "PARTITION",
        "PARTITIONS",
        "SELECT",
        "SET",
        "TABLE",
        "TABLET",
        "THEN",
        "UNION",
        "USING",
        "VALUES",
        "WHEN",
        "WHERE",
        "WITH",
        "ARRAY",
        "BIGINT",
        "CHAR",
        "DATETIME",
        "DATETIMEV2",
        "DECIMAL",
        "DECIMALV3",
        "LARGEINT",
        "STRUCT",
        "VARBINARY",
        "VARCHAR",
    ]
)
_CLAUSES = frozenset({"PARTITION", "PARTITIONS", "TABLET"})
_CLOCKS = frozenset({exp.DType.DATETIME, exp.DType.TIMESTAMP})
_TEXTS = frozenset({exp.DType.VARCHAR, exp.DType.CHAR, exp.DType.TEXT, exp.DType.NCHAR, exp.DType.NVARCHAR})


class Session(Protocol):
    """What a statement may ask of the session that it runs in."""

    database: str

    def variable(self, name: str) -> str: ...

    def answer(self, function: str) -> str: ...

    def zone_shift(self) -> int: ...

    def now(self) -> datetime: ...


class Catalog(Protocol):
    def table(self, database: str, name: str) -> Table: ...

    def system_table(self, name: str) -> Sequence[tuple[str, Type]] | None: ...


@dataclass
class Plan:
    """A query for DuckDB, with the labels and (where they are known) the types of its columns."""

    sql: str
    columns: list[tuple[str, Type | None]]
    system: set[str] = field(default_factory=set)
    largeint: bool = False
    limited: bool = False


def tokens(sql: str, flavour: Flavour) -> list[Token]:
    """The words of a statement, without the semicolon at its end."""
    try:
        found = flavour.dialect().tokenize(sql)
    except TokenError:
        raise flavour.errors.syntax(sql[-1:], 1, len(sql)) from None
    while found and found[-1].token_type is TokenType.SEMICOLON:
        found.pop()
    for token in found:
        if token.token_type in {TokenType.SEMICOLON, TokenType.DCOLON, TokenType.ILIKE}:
            raise flavour.errors.syntax(token.text, token.line, token.col)
    return found


class Translator:
    """Translates one statement in one session."""

    def __init__(self, flavour: Flavour, catalog: Catalog, session: Session) -> None:
        self._flavour = flavour
        self._errors: Errors = flavour.errors
        self._catalog = catalog
        self._session = session
        # Names that stand for a part of a table, or for a series, with what they stand for.
        self._parts: dict[str, tuple[str, str, str]] = {}
        self._series: dict[str, tuple[str, str]] = {}
        self._system: set[str] = set()
        self._largeint = False

    def query(self, sql: str) -> Plan:
        tree = self.parse(sql, exp.Query)
        columns = self._columns(tree, {})
        self._label(tree)
        limited = tree.args.get("limit") is not None
        return Plan(self.render(tree), columns, self._system, self._largeint, limited)

    def parse(self, sql: str, kind: type[Node]) -> Node:
        """The statement as a tree, after what sqlglot can't read was replaced."""
        found = tokens(sql, self._flavour)
        self._refuse_unknown_functions(found)
        text = self._replaced(sql, found)
        try:
            trees = self._flavour.dialect().parse(text)
        except ParseError as error:
            at = error.errors[0] if error.errors else {}
            raise self._errors.syntax(at.get("highlight") or "<EOF>", at.get("line") or 1, at.get("col") or 0) from None
        tree = trees[0] if trees else None
        if not isinstance(tree, kind):
            first = found[0]
            raise self._errors.syntax(first.text, first.line, first.col)
        for select in tree.find_all(exp.Select):
            distinct = select.args.get("distinct")
            if not select.expressions or select.args.get("locks") or (distinct and distinct.args.get("on")):
                raise self._errors.syntax("FROM", 1, 0)
        return tree

    def render(self, tree: exp.Expr) -> str:
        """In the SQL of DuckDB."""
        self._tables(tree)
        self._functions(tree)
        return tree.sql("duckdb", unsupported_level=ErrorLevel.IGNORE)

    def where(self, tree: exp.Expr) -> str:
        condition = tree.args.get("where")
        return self.render(condition.this) if condition else "true"

    def _refuse_unknown_functions(self, found: list[Token]) -> None:
        for at in range(len(found) - 1):
            name = found[at].text.upper()
            called = found[at + 1].token_type is TokenType.L_PAREN and re.fullmatch(r"[A-Z_]\w*", name)
            if not called or found[at].token_type is TokenType.IDENTIFIER or name in _NOT_CALLED:
                continue
            before = found[at - 1].text.upper() if at else ""
            # A name before parentheses that is none of a function: INSERT INTO t (a, b), db.t (a, b), WITH x (a) AS.
            if before in {"INTO", "AS", ".", "WITH"}:
                continue
            if name not in self._flavour.functions:
                raise self._errors.unknown_function(name.lower())
            if name == "TIMESTAMPDIFF" and not self._flavour.doris and found[at + 2].text.upper() == "MICROSECOND":
                raise self._errors.syntax(found[at + 2].text, found[at + 2].line, found[at + 2].col)

    def _replaced(self, sql: str, found: list[Token]) -> str:
        """Put a name in the place of what only these systems write, and mark functions of the session."""
        edits: list[tuple[int, int, str]] = []
        at = 0
        while at < len(found):
            word = found[at].text.upper()
            follows = found[at + 1].token_type is TokenType.L_PAREN if at + 1 < len(found) else False
            if follows and word in functions.MARKED:
                edits.append((found[at].start, found[at].end, f"{functions.MARK}{word}"))
            elif follows and word == "TABLE" and found[at + 2].text.upper() == "GENERATE_SERIES":
                end = self._close(found, at + 1)
                name = f"retl_series_{len(self._series)}"
                inside = sql[found[at + 4].start : found[end - 1].start]
                self._series[name] = ("generate_series", f"SELECT unnest(generate_series({inside})) AS generate_series")
                edits.append((found[at].start, found[end].end, name))
                at = end
            elif follows and word == "NUMBERS" and self._flavour.doris:
                end = self._close(found, at + 1)
                name = f"retl_series_{len(self._series)}"
                self._series[name] = ("number", f"SELECT unnest(range({int(found[at + 4].text)})) AS number")
                edits.append((found[at].start, found[end].end, name))
                at = end
            elif follows and word in _CLAUSES and at and _is_name(found[at - 1]):
                at = self._part(sql, found, at, edits)
            at += 1
        for start, end, text in reversed(edits):
            sql = sql[:start] + text + sql[end + 1 :]
        return sql

    def _part(self, sql: str, found: list[Token], at: int, edits: list[tuple[int, int, str]]) -> int:
        """``[db.]t PARTITION (p, ...) TABLET (1, ...)``: where it ends."""
        first = at - 1
        database, table = self._session.database, found[first].text
        if first >= 2 and found[first - 1].text == ".":
            database, first = found[first - 2].text, first - 2
        if first == 0 or found[first - 1].text.upper() not in {"FROM", "JOIN", ","}:
            return at
        known = self._catalog.table(database, table)
        predicates = []
        while at < len(found) and found[at].text.upper() in _CLAUSES:
            clause, end = found[at].text.upper(), self._close(found, at + 1)
            words = [token.text for token in found[at + 2 : end] if token.token_type is not TokenType.COMMA]
            choices = []
            for word in words:
                if clause == "TABLET":
                    predicate = known.tablet(int(word))
                else:
                    part = known.partition(word)
                    predicate = part.predicate if part else None
                if predicate is None:
                    raise self._errors.unknown_partition(word, table)
                choices.append(f"({predicate})")
            predicates.append(f"({' OR '.join(choices)})")
            at = end + 1
        name = f"retl_part_{len(self._parts)}"
        self._parts[name] = (database, table, " AND ".join(predicates))
        alias = "" if at < len(found) and (found[at].text.upper() == "AS" or _is_name(found[at])) else f" AS `{table}`"
        edits.append((found[first].start, found[at - 1].end, f"{name}{alias}"))
        return at - 1

    def _close(self, found: list[Token], at: int) -> int:
        depth = 0
        for index in range(at, len(found)):
            depth += {TokenType.L_PAREN: 1, TokenType.R_PAREN: -1}.get(found[index].token_type, 0)
            if not depth:
                return index
        raise self._errors.syntax("<EOF>", found[-1].line, found[-1].col)

    # Types and labels

    def _columns(
        self, tree: exp.Expr, names: Mapping[str, list[tuple[str, Type | None]]]
    ) -> list[tuple[str, Type | None]]:
        """The columns that a query gives."""
        scope = dict(names)
        if with_ := tree.args.get("with_") or tree.args.get("with"):
            for cte in with_.expressions:
                scope[cte.alias] = self._columns(cte.this, scope)
        if isinstance(tree, exp.SetOperation):
            return self._columns(tree.this, scope)
        if isinstance(tree, (exp.Subquery, exp.Paren)):
            return self._columns(tree.this, scope)
        if not isinstance(tree, exp.Select):
            return []
        sources = self._sources(tree, scope)
        found: list[tuple[str, Type | None]] = []
        for projection in tree.expressions:
            if isinstance(projection, exp.Star):
                found += [column for source in sources.values() for column in source]
            elif isinstance(projection, exp.Column) and isinstance(projection.this, exp.Star):
                found += sources.get(projection.table, [])
            else:
                found.append((self._name(projection), self._type(projection, sources)))
        return found

    def _sources(
        self, select: exp.Select, scope: Mapping[str, list[tuple[str, Type | None]]]
    ) -> dict[str, list[tuple[str, Type | None]]]:
        from_ = select.args.get("from_") or select.args.get("from")
        relations = [from_.this] if from_ else []
        relations += [join.this for join in select.args.get("joins") or []]
        sources: dict[str, list[tuple[str, Type | None]]] = {}
        for relation in relations:
            if not isinstance(relation, exp.Table):
                sources[relation.alias] = self._columns(relation.this, scope)
            elif not relation.db and relation.name in scope:
                sources[relation.alias_or_name] = scope[relation.name]
            else:
                sources[relation.alias_or_name] = self._table_columns(relation)
        return sources

    def _table_columns(self, table: exp.Table) -> list[tuple[str, Type | None]]:
        if table.name in self._series:
            return [(self._series[table.name][0], Type("BIGINT"))]
        if table.name in self._parts:
            database, name, _ = self._parts[table.name]
        else:
            database, name = table.db or self._session.database, table.name
        if database.lower() == "information_schema":
            columns = self._catalog.system_table(name.lower())
            if columns is None:
                raise self._errors.unknown_table(database, name)
            return list(columns)
        if not database:
            raise self._errors.no_database()
        known = self._catalog.table(database, name)
        self._largeint |= any(column.type.name == "LARGEINT" for column in known.columns)
        return [(column.name, column.type) for column in known.columns]

    def _type(self, node: exp.Expr, sources: Mapping[str, list[tuple[str, Type | None]]]) -> Type | None:
        """The type of an expression that DuckDB's own type does not tell."""
        match node:
            case exp.Column():
                wanted = [sources[node.table]] if node.table in sources else sources.values()
                columns = [column for source in wanted for column in source]
                return next((kind for name, kind in columns if name.lower() == node.name.lower()), None)
            case exp.Cast():
                text = node.to.sql(self._flavour.dialect)
                try:
                    return parse_type(text, self._flavour.types)
                except ValueError:
                    return None
            case exp.Alias() | exp.Paren() | exp.Min() | exp.Max() | exp.AnyValue() | exp.Coalesce() | exp.Nullif():
                return self._type(node.this, sources)
            case exp.Greatest() | exp.Least():
                return self._type(node.this, sources)
            case exp.Sum():
                inner = self._type(node.this, sources)
                whole = inner and inner.name in {"TINYINT", "SMALLINT", "INT", "BIGINT", "BOOLEAN"}
                return Type("BIGINT") if whole else inner if inner and inner.name == "LARGEINT" else None
            case exp.Subquery():
                columns = self._columns(node.this, {})
                return columns[0][1] if columns else None
        return None

    def _name(self, projection: exp.Expr) -> str:
        if isinstance(projection, (exp.Alias, exp.Column)):
            return projection.alias_or_name
        text = projection.sql(self._flavour.dialect, normalize_functions="lower")
        return text.replace(functions.MARK.lower(), "")

    def _label(self, tree: exp.Expr) -> None:
        """Give the columns of the result the labels that the system gives them."""
        while isinstance(tree, (exp.SetOperation, exp.Subquery, exp.Paren)):
            tree = tree.this
        if isinstance(tree, exp.Select):
            tree.set("expressions", [self._labelled(projection) for projection in tree.expressions])

    def _labelled(self, projection: exp.Expr) -> exp.Expr:
        column_star = isinstance(projection, exp.Column) and isinstance(projection.this, exp.Star)
        if column_star or isinstance(projection, (exp.Star, exp.Alias)):
            return projection
        return exp.alias_(projection, self._name(projection), quoted=True)

    # From one dialect to the other

    def _tables(self, tree: exp.Expr) -> None:
        ctes = {cte.alias for cte in tree.find_all(exp.CTE)}
        for table in list(tree.find_all(exp.Table)):
            alias = table.alias_or_name
            if table.name in self._series:
                table.replace(_duckdb(self._series[table.name][1]).subquery(alias))
                continue
            database, name, predicate = self._parts.get(table.name, (table.db, table.name, ""))
            if not database and name in ctes:
                continue
            database = database or self._session.database
            self._table_columns(table)
            if database.lower() == "information_schema":
                database, name = SYSTEM, name.lower()
                self._system.add(name)
            if predicate:
                where = f"{quoted(database)}.{quoted(name)}"
                table.replace(_duckdb(f"SELECT * FROM {where} WHERE {predicate}").subquery(alias))
            else:
                table.replace(exp.table_(name, database, quoted=True, alias=exp.to_identifier(alias, quoted=True)))

    def _functions(self, tree: exp.Expr) -> None:
        sources = {
            table.alias_or_name: self._sources_of(table) for table in tree.find_all(exp.Table) if table.db != SYSTEM
        }
        for node in list(tree.walk(bfs=False)):
            replaced = self._replacement(node, sources)
            if replaced is not node:
                if node is tree:
                    raise self._errors.bad_value("a statement can't be one function")
                node.replace(replaced)

    def _sources_of(self, table: exp.Table) -> list[tuple[str, Type | None]]:
        try:
            known = self._catalog.table(table.db, table.name)
        except Exception:
            return []
        return [(column.name, column.type) for column in known.columns]

    def _replacement(self, node: exp.Expr, sources: Mapping[str, list[tuple[str, Type | None]]]) -> exp.Expr:
        match node:
            case exp.SessionParameter():
                return exp.Literal.string(self._session.variable(node.name))
            case exp.Anonymous():
                return self._call(node)
            case exp.BitmapCount():
                return exp.func("retl_bitmap_count", node.this)
            case exp.CurrentTimestamp() | exp.UtcTimestamp():
                return self._clock(node.sql_name())
            case exp.CurrentDate():
                return self._clock("CURDATE")
            case exp.Cast() if not isinstance(node, exp.TryCast):
                return self._cast(node, sources)
            case exp.TimestampDiff():
                unit = exp.Literal.string(str(node.unit))
                return _anonymous("date_sub", unit, _stamp(node.expression), _stamp(node.this))
            case exp.Length() if node.args.get("binary"):
                return exp.func("retl_length", node.this)
            case exp.UnixToTime():
                return _anonymous("retl_from_unixtime", node.this, exp.Literal.number(self._session.zone_shift()))
            case exp.ParseJSON():
                text: exp.Expr = node.this
                return text
            case exp.Struct() if node.expressions and not any(
                isinstance(item, exp.PropertyEQ) for item in node.expressions
            ):
                return _anonymous("row", *node.expressions)
        return node

    def _call(self, node: exp.Anonymous) -> exp.Expr:
        name = node.name.upper()
        if name == f"{functions.MARK}MAP":
            return _anonymous("map", exp.array(*node.expressions[::2]), exp.array(*node.expressions[1::2]))
        if name == f"{functions.MARK}TO_DAYS":
            return _anonymous("retl_to_days", *node.expressions)
        if name.startswith(functions.MARK):
            return exp.Literal.string(self._session.answer(name.removeprefix(functions.MARK)))
        if name in functions.CLOCK:
            return self._clock(name)
        if name == "UNIX_TIMESTAMP":
            moment = node.expressions[0] if node.expressions else self._clock("NOW")
            return exp.func("retl_unix_timestamp", moment, exp.Literal.number(self._session.zone_shift()))
        if name == "NAMED_STRUCT":
            pairs = zip(node.expressions[::2], node.expressions[1::2], strict=True)
            fields = [exp.PropertyEQ(this=exp.to_identifier(key.name), expression=value) for key, value in pairs]
            return exp.Struct(expressions=fields)
        if name == "MURMUR_HASH3_32" and len(node.expressions) > 1:
            # The hash of what went before is the seed of the next one.
            value: exp.Expr = exp.func("retl_murmur_hash3_32", node.expressions[0])
            for argument in node.expressions[1:]:
                seed = exp.cast(value, "bigint")
                value = _anonymous("retl_murmur_text", _anonymous("retl_text", argument), seed)
            return value
        if renamed := functions.RENAMED.get(name):
            return exp.func(renamed, *node.expressions)
        return node

    def _clock(self, name: str) -> exp.Expr:
        moment = datetime.now(UTC).replace(tzinfo=None) if name.startswith("UTC") else self._session.now()
        if name in {"CURDATE", "CURRENT_DATE"}:
            return exp.cast(exp.Literal.string(moment.date().isoformat()), "date")
        return exp.cast(exp.Literal.string(moment.replace(microsecond=0).isoformat(" ")), "timestamp")

    def _cast(self, node: exp.Cast, sources: Mapping[str, list[tuple[str, Type | None]]]) -> exp.Expr:
        kind = self._type(node.this, sources)
        if kind and kind.name == "TIMESTAMPTZ" and node.to.this in _CLOCKS:
            # What a clock shows in the zone of the session.
            shown = _anonymous("timezone", exp.Literal.string("UTC"), node.this)
            ahead = _anonymous("to_seconds", exp.Literal.number(self._session.zone_shift()))
            return exp.paren(exp.Add(this=shown, expression=ahead))
        # What can't be cast is NULL, not an error.
        if node.to.this not in _TEXTS:
            return exp.TryCast(this=node.this, to=node.to)
        if self._flavour.doris and kind and kind.name == "DATETIME":
            scale = kind.args[0] if kind.args else 0
            return exp.func("retl_text_scaled", node.this, exp.Literal.number(scale))
        return exp.func("retl_text", node.this)


def _duckdb(sql: str) -> exp.Query:
    tree = sqlglot.parse_one(sql, dialect="duckdb")
    assert isinstance(tree, exp.Query)
    return tree


def _anonymous(name: str, *arguments: exp.Expr) -> exp.Expr:
    """A call that sqlglot leaves alone."""
    return exp.Anonymous(this=name, expressions=list(arguments))


def _stamp(node: exp.Expr) -> exp.Expr:
    return exp.cast(node, "timestamp")


def _is_name(token: Token) -> bool:
    return token.token_type in {TokenType.VAR, TokenType.IDENTIFIER}
