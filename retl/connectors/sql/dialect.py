"""How a system writes its SQL, as data and small functions. No I/O."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa

from retl.model.cursor import CursorFamily, cursor_family
from retl.model.errors import ConfigError

_ASCII_SMALL = {number: number + 32 for number in range(ord("A"), ord("Z") + 1)}
_NAME_PART = re.compile(r'"((?:[^"]|"")+)"|`((?:[^`]|``)+)`|([^."`]+)')


class Dialect(ABC):
    """One system's SQL."""

    name: ClassVar[str]
    quote: ClassVar[str] = '"'
    text_cursor: ClassVar[bool] = False
    """Whether text may be a cursor: only if it sorts by its bytes."""

    folds_names: ClassVar[bool] = False
    """Whether ``Users`` and ``users`` are one name; other letters than those of ASCII are never folded."""

    insert: ClassVar[str] = "INSERT"
    """How an INSERT begins that fails where a row cannot be added, whatever the table says of conflicts."""

    update: ClassVar[str] = "UPDATE"
    """The same for an UPDATE."""

    begin: ClassVar[str] = "BEGIN"
    """Begins a transaction that writes."""

    backslash_escapes: ClassVar[bool] = False
    """Whether a backslash in a text stands for more than itself."""

    hash_comments: ClassVar[bool] = False
    """Whether ``#`` begins a comment."""

    savepoints: ClassVar[bool] = True
    """Whether a part of a transaction can be undone."""

    newest_first: ClassVar[str] = "DESC NULLS LAST"
    """How ORDER BY puts the highest value first, and NULL last."""

    longest_name: ClassVar[int | None] = None
    """How many bytes of UTF-8 a name may have."""

    table_options: ClassVar[str] = ""
    """What follows the columns of a table that is created."""

    has_indexes: ClassVar[bool] = False
    """Whether an index finds a few rows quickly; otherwise one pass over a column is the best way to ask for anything."""

    without_locks: ClassVar[str] = ""
    """The word, with a space before it, by which people create an index while others write."""

    def indexed(self, column: str, native: str) -> str:
        """A column of this native type as it stands in an index, or as much of it as fits there."""
        return self.identifier(column)

    def identifier(self, name: str) -> str:
        """A name, quoted so that it cannot be anything but a name."""
        if not name or "\x00" in name:
            raise ConfigError(f"{name!r} cannot be a name in {self.name}.")
        return self.quote + name.replace(self.quote, self.quote * 2) + self.quote

    def fold(self, name: str) -> str:
        """A name as the system compares it: two names that fold alike are one."""
        return name.translate(_ASCII_SMALL) if self.folds_names else name

    def fold_table(self, name: str) -> str:
        """The same for the name of a table."""
        return self.fold(name)

    give_up_soon: ClassVar[tuple[str, ...]] = ()
    """Statements after which a transaction waits for no lock for long: behind it, everybody else would wait."""

    def empty(self, table: str) -> str:
        """The statement that removes all rows of a table, given by its quoted name."""
        return f"DELETE FROM {table}"

    def settle(self, table: str, name: str) -> list[str]:
        """The statements after which nothing of a table is named after what the table was called before.

        ``table``: its quoted name; ``name``: its last part.
        """
        return []

    def drop_unused(self, table: str) -> str:
        """The statement that drops a table, given by its quoted name, unless somebody uses it."""
        return f"DROP TABLE {table}"

    def differs(self, left: str, right: str, column: pa.Field) -> str:
        """A condition for two values of a column that differ in any byte; NULL equals NULL."""
        return f"{left} IS DISTINCT FROM {right}"

    def content(self, columns: Sequence[str]) -> list[str]:
        """Expressions that GROUP BY takes for one only where these columns are the same."""
        return list(columns)

    def equals(self, left: str, right: str, column: pa.Field) -> str:
        """A condition for two equal values of a key."""
        return f"{left} = {right}"

    def identifiers(self, names: Sequence[str]) -> str:
        return ", ".join(self.identifier(name) for name in names)

    def alias(self, name: str) -> str:
        """The AS of a result's column; empty if the system cannot keep the name."""
        return f" AS {self.identifier(name)}"

    def table(self, name: str) -> str:
        """A table name, ``schema.table`` where it is qualified, each part quoted."""
        return ".".join(self.identifier(part) for part in split_name(name))

    def string(self, text: str) -> str:
        """A text literal."""
        escaped = text.replace("\\", "\\\\") if self.backslash_escapes else text
        return "'" + escaped.replace("'", "''") + "'"

    @abstractmethod
    def literal(self, text: str, column: pa.Field) -> str:
        """A value of a column's type from its canonical text, to its last digit."""

    def lowest(self, text: str, column: pa.Field) -> str:
        """The same for the lower end of a window, where one value may be written in several ways."""
        return self.literal(text, column)

    @abstractmethod
    def as_text(self, expression: str) -> str:
        """An expression that gives the value as text, lossless."""

    def text_of(self, column: pa.Field, expression: str) -> str:
        """An expression that gives the value of a column of text or of vectors as text."""
        return self.as_text(expression)

    def read_text(self, column: pa.Field, texts: pa.Array) -> pa.Array:
        """What ``text_of`` gives, as canonical text."""
        return texts

    def create_index(self, table: str, column: str) -> str:
        """The statement that gives a table, by its quoted name, an index on a column; none if it has that already."""
        return f"CREATE INDEX ON {table} ({column})"

    def drop_column(self, table: str, column: str) -> list[str]:
        """The statements that drop a column, and the index that ``create_index`` has made of it."""
        return [f"ALTER TABLE {table} DROP COLUMN {self.identifier(column)}"]

    @abstractmethod
    def select_expression(self, column: pa.Field, expression: str) -> str:
        """The expression to select for a column: itself, or a cast to text where the type does not travel well."""

    @abstractmethod
    def bucket_number(self, column: pa.Field, expression: str) -> str | None:
        """A whole number that grows with the value and has its full precision; ``None`` if no such number exists."""

    @abstractmethod
    def divide(self, dividend: str, divisor: int) -> str:
        """Whole-number division."""

    @abstractmethod
    def hash_condition(self, columns: Sequence[str], remainder: int, modulus: int) -> str:
        """A condition for the rows whose hash over some columns leaves this remainder."""

    @abstractmethod
    def now(self, column: pa.Field) -> str:
        """The source's clock as text, in the frame of a cursor column: UTC unless said otherwise."""

    def logical_field(self, name: str, native: str) -> pa.Field:
        """The Arrow field of a column of this native type."""
        raise NotImplementedError

    def family(self, column: pa.Field) -> CursorFamily | None:
        """What kind of cursor a column can be."""
        found = cursor_family(column.type)
        return None if found == "text" and not self.text_cursor else found


def any_of(conditions: Sequence[str]) -> str:
    """The conditions joined by OR, as a balanced tree: a plain chain of a thousand is too deep for most parsers."""
    if len(conditions) <= 8:
        return " OR ".join(conditions)
    middle = len(conditions) // 2
    return f"({any_of(conditions[:middle])}) OR ({any_of(conditions[middle:])})"


def split_name(name: str) -> list[str]:
    """``dw."my.table"`` is ``["dw", "my.table"]``. Raises ``ConfigError`` for an invalid name."""
    parts: list[str] = []
    position = 0
    while True:
        found = _NAME_PART.match(name, position)
        if found is None:
            raise ConfigError(f"{name!r} is not a table name.", remedy='write table, schema.table or "odd.name".')
        double, back, plain = found.groups()
        parts.append(double.replace('""', '"') if double else back.replace("``", "`") if back else plain)
        position = found.end()
        if position == len(name):
            return parts
        if name[position] != ".":
            raise ConfigError(f"{name!r} is not a table name.", remedy='write table, schema.table or "odd.name".')
        position += 1
