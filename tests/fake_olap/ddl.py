"""CREATE TABLE of StarRocks and Doris, read strictly: what the grammar does not know is a syntax error.

Grammars: ``StarRocks.g4`` (createTableStatement) and ``DorisParser.g4`` (CREATE TABLE), but for rollups, temporary and
external tables, and several partition columns of a range.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime

from sqlglot import Token, TokenType

from tests.fake_olap import tables
from tests.fake_olap.errors import Errors
from tests.fake_olap.tables import Column, Partition, Table
from tests.fake_olap.types import Type, parse_type

AGGREGATES = frozenset(
    [
        "SUM",
        "MAX",
        "MIN",
        "REPLACE",
        "REPLACE_IF_NOT_NULL",
        "HLL_UNION",
        "BITMAP_UNION",
        "PERCENTILE_UNION",
        "QUANTILE_UNION",
    ]
)


class Reader:
    """A statement's words, taken one after another."""

    def __init__(self, sql: str, tokens: list[Token], errors: Errors) -> None:
        self.sql = sql
        self.tokens = [part for token in tokens for part in _split(token)]
        self.errors = errors
        self.at = 0

    @property
    def token(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    @property
    def word(self) -> str:
        """The next word in capitals; empty at the end, and for what is quoted."""
        if (token := self.token) is None or token.token_type in {TokenType.STRING, TokenType.IDENTIFIER}:
            return ""
        return token.text.upper()

    def refuse(self) -> Exception:
        if token := self.token:
            return self.errors.syntax(token.text, token.line, token.col)
        return self.errors.syntax("<EOF>", 1, len(self.sql))

    def accept(self, *words: str) -> bool:
        """Take these words if they are the next ones."""
        start = self.at
        for word in words:
            if self.word != word:
                self.at = start
                return False
            self.at += 1
        return True

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            raise self.refuse()

    def name(self) -> str:
        token = self.token
        quoted = token is not None and token.token_type is TokenType.IDENTIFIER
        plain = token is not None and token.token_type is not TokenType.STRING and re.match(r"[A-Za-z_]", token.text)
        if token is None or not (quoted or plain):
            raise self.refuse()
        self.at += 1
        return token.text

    def table(self) -> tuple[str, str]:
        """Database (or "") and name."""
        first = self.name()
        return (first, self.name()) if self.accept(".") else ("", first)

    def value(self) -> str:
        """A string, a number, or a word such as NULL, as text."""
        if (token := self.token) is None:
            raise self.refuse()
        sign = "-" if self.accept("-") else ""
        token = self.tokens[self.at]
        self.at += 1
        return sign + token.text

    def names(self) -> list[str]:
        """Names in parentheses."""
        self.expect("(")
        found = [self.name()]
        while self.accept(","):
            found.append(self.name())
        self.expect(")")
        return found

    def skip_parentheses(self) -> str:
        """What stands in parentheses, as it was written."""
        first = self.token
        self.expect("(")
        depth = 1
        while depth:
            if self.token is None:
                raise self.refuse()
            depth += {"(": 1, ")": -1}.get(self.word, 0)
            self.at += 1
        assert first
        return self.sql[first.start + 1 : self.tokens[self.at - 1].start].strip()

    def end(self) -> None:
        if self.token is not None:
            raise self.refuse()


class CreateTable:
    """Reads one CREATE TABLE, after these two words."""

    def __init__(self, reader: Reader, known: frozenset[str], number: Callable[[], int], *, doris: bool) -> None:
        self._reader = reader
        self._known = known
        self._number = number
        self._doris = doris
        # The upper bounds so far: a partition of VALUES LESS THAN starts where the one before it ends.
        self._uppers: list[str | None] = []

    def read(self, database: str) -> tuple[Table, bool]:
        """The table, and whether one that exists is fine (IF NOT EXISTS)."""
        reader = self._reader
        lenient = reader.accept("IF", "NOT", "EXISTS")
        named, name = reader.table()
        reader.expect("(")
        columns = [self.column()]
        while reader.accept(","):
            if reader.accept("INDEX"):
                self._index()
            else:
                columns.append(self.column())
        reader.expect(")")
        table = Table(named or database, name, self._number(), columns, "", [], [], None, [], [], 1, [], "")
        self._properties(table)
        reader.end()
        self._finish(table)
        return table, lenient

    def _index(self) -> None:
        reader = self._reader
        reader.name()
        reader.names()
        while reader.word not in {",", ")"}:
            if reader.token is None:
                raise reader.refuse()
            reader.at += 1

    def column(self) -> Column:
        reader = self._reader
        column = Column(reader.name(), self.type())
        while reader.word not in {",", ")"} and reader.token is not None:
            if reader.accept("KEY"):
                column.key = True
            elif reader.word in AGGREGATES:
                column.aggregate = reader.value().upper()
            elif reader.accept("NOT", "NULL"):
                column.nullable = False
            elif reader.accept("NULL") or reader.accept("AUTO_INCREMENT"):
                pass
            elif reader.accept("DEFAULT"):
                column.default = reader.value()
                if reader.word == "(":
                    reader.skip_parentheses()
            elif reader.accept("COMMENT"):
                column.comment = reader.value()
            elif reader.accept("GENERATED", "ALWAYS", "AS") or reader.accept("AS"):
                column.generated = reader.skip_parentheses() if reader.word == "(" else self._bare()
            else:
                raise reader.refuse()
        return column

    def _bare(self) -> str:
        """An expression without parentheses around it, up to the end of its column."""
        reader = self._reader
        first, depth = reader.token, 0
        while reader.token and (depth or reader.word not in {",", ")", "COMMENT"}):
            depth += {"(": 1, ")": -1}.get(reader.word, 0)
            reader.at += 1
        assert first
        return reader.sql[first.start : reader.tokens[reader.at - 1].end + 1]

    def type(self) -> Type:
        """A type; its words are a syntax error if the system has no such type."""
        reader = self._reader
        first = reader.token
        reader.name()
        if reader.word == "(":
            reader.skip_parentheses()
        depth = 0
        while reader.word in {"<", ">", ">>"} or (depth and reader.token):
            depth += {"<": 1, ">": -1, ">>": -2}.get(reader.word, 0)
            reader.at += 1
            if depth <= 0:
                break
        assert first
        try:
            found = parse_type(reader.sql[first.start : reader.tokens[reader.at - 1].end + 1], self._known)
        except (ValueError, IndexError):
            raise reader.errors.syntax(first.text, first.line, first.col) from None
        return found if self._doris else _starrocks(found)

    def _properties(self, table: Table) -> None:
        reader = self._reader
        if reader.accept("ENGINE"):
            reader.expect("=")
            reader.name()
        for model in tables.MODELS:
            # Doris says that a table without duplicates to speak of has no key: DUPLICATE KEY () is not allowed.
            if reader.word == model and not (self._doris and model == "PRIMARY"):
                reader.expect(model, "KEY")
                table.model, table.keys = model, reader.names()
                break
        if self._doris and reader.accept("CLUSTER", "BY"):
            table.sort_keys = reader.names()
        if reader.accept("COMMENT"):
            table.comment = reader.value()
        automatic = self._doris and reader.accept("AUTO")
        if automatic or reader.word == "PARTITION":
            reader.expect("PARTITION", "BY")
            self._partitions(table)
        if reader.accept("DISTRIBUTED", "BY"):
            if reader.accept("HASH"):
                table.distribution = reader.names()
            else:
                reader.expect("RANDOM")
            if reader.accept("BUCKETS"):
                count = reader.value()
                table.buckets = 1 if count.upper() == "AUTO" else int(count)
        if not self._doris and reader.accept("ORDER", "BY"):
            table.sort_keys = reader.names()
        if reader.accept("PROPERTIES"):
            reader.skip_parentheses()

    def _partitions(self, table: Table) -> None:
        reader = self._reader
        kind = reader.word if reader.word in {"RANGE", "LIST"} else ""
        reader.accept(kind)
        if not kind and reader.word == "DATE_TRUNC":
            self._trunc(table)
            return
        if not kind:
            table.automatic, table.partition_by = "", reader.names()
            return
        start = reader.at
        if reader.accept("(", "DATE_TRUNC"):
            reader.at = start + 1
            self._trunc(table)
            reader.expect(")")
        else:
            table.partition_by = reader.names()
        reader.expect("(")
        if not reader.accept(")"):
            self._partition(table)
            while reader.accept(","):
                self._partition(table)
            reader.expect(")")
        elif table.automatic is None:
            table.automatic = "" if kind == "LIST" else None

    def _trunc(self, table: Table) -> None:
        """StarRocks: ``date_trunc('day', d)``; Doris: ``date_trunc(d, 'day')``."""
        reader = self._reader
        reader.expect("DATE_TRUNC", "(")
        first = reader.value()
        reader.expect(",")
        second = reader.value()
        reader.expect(")")
        column, unit = (first, second) if self._doris else (second, first)
        if unit not in tables.UNITS:
            raise reader.errors.bad_value(f"Unsupported date_trunc unit {unit}")
        table.automatic, table.partition_by = unit, [column]

    def _partition(self, table: Table) -> None:
        reader = self._reader
        column = table.partition_by[0]
        if reader.accept("START") or reader.accept("FROM"):
            self._steps(table)
            return
        reader.expect("PARTITION")
        name = reader.name()
        reader.expect("VALUES")
        if reader.accept("IN"):
            inside = reader.skip_parentheses().replace('"', "'")
            columns = ", ".join(map(tables.quoted, table.partition_by))
            left = f"({columns})" if len(table.partition_by) > 1 else columns
            self._add(table, name, f"{left} IN ({inside})", f"({inside})")
        elif reader.accept("LESS", "THAN"):
            upper = self._bound()
            lower = self._uppers[-1] if self._uppers else None
            self._add(table, name, *tables.ranges(column, lower, upper))
            self._uppers.append(upper)
        else:
            reader.expect("[")
            lower = self._bound()
            reader.expect(",")
            upper = self._bound()
            reader.expect(")")
            self._add(table, name, *tables.ranges(column, lower, upper))

    def _bound(self) -> str | None:
        reader = self._reader
        if reader.accept("MAXVALUE"):
            return None
        reader.expect("(")
        value = reader.value()
        reader.expect(")")
        return None if value.upper() == "MAXVALUE" else value

    def _steps(self, table: Table) -> None:
        """``START ("a") END ("b") EVERY (INTERVAL 1 DAY)``; Doris: ``FROM ("a") TO ("b") INTERVAL 1 DAY``."""
        reader = self._reader
        start = self._bound()
        if not (reader.accept("END") or reader.accept("TO")):
            raise reader.refuse()
        end = self._bound()
        every = reader.accept("EVERY", "(")
        reader.expect("INTERVAL")
        count, unit = int(reader.value()), reader.value().lower()
        if every:
            reader.expect(")")
        at, last = datetime.fromisoformat(start or ""), datetime.fromisoformat(end or "")
        while at < last:
            upper = tables.after(at, unit, count)
            found = tables.ranges(table.partition_by[0], at.isoformat(" "), upper.isoformat(" "))
            self._add(table, f"p{at.strftime(tables.UNITS.get(unit, '%Y%m%d'))}", *found)
            at = upper

    def _add(self, table: Table, name: str, predicate: str, values: str) -> None:
        table.partitions.append(Partition(self._number(), name, predicate, values, []))

    def _finish(self, table: Table) -> None:
        errors = self._reader.errors
        if not table.model:
            table.model = "DUPLICATE"
            table.keys = [column.name for column in table.columns[:3] if not column.aggregate]
        keys = {name.lower() for name in table.keys}
        for name in [*table.keys, *table.partition_by, *table.distribution, *table.sort_keys]:
            if table.column(name) is None:
                raise errors.unknown_column(name)
        for column in table.columns:
            column.key = column.name.lower() in keys
            if column.key and table.model == "PRIMARY":
                column.nullable = False
        table.sort_keys = table.sort_keys or list(table.keys)
        if table.automatic is None and not table.partition_by:
            table.partitions = [tables.whole(self._number, table.name, table.buckets)]
        for part in table.partitions:
            part.tablets = part.tablets or [self._number() for _ in range(table.buckets)]


def _split(token: Token) -> list[Token]:
    """sqlglot makes one token of words such as PRIMARY KEY: make them two again."""
    if token.token_type in {TokenType.STRING, TokenType.IDENTIFIER} or " " not in token.text:
        return [token]
    found = []
    for match in re.finditer(r"\S+", token.text):
        start = token.start + match.start()
        found.append(Token(TokenType.VAR, match[0], token.line, token.col, start, start + len(match[0]) - 1))
    return found


def _starrocks(kind: Type) -> Type:
    """STRING is a VARCHAR of 65,533 bytes there; a VARCHAR or CHAR without a length has 1."""
    if kind.children:
        return Type(kind.name, kind.args, tuple((name, _starrocks(child)) for name, child in kind.children))
    if kind.name == "STRING":
        return Type("VARCHAR", (65533,))
    if kind.name in {"VARCHAR", "CHAR"} and not kind.args:
        return Type(kind.name, (1,))
    return kind
