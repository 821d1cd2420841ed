"""What Redshift understands of SQL, and the same in PostgreSQL's words.

Faithful to: names (quoted ones are folded too), backslashes in strings, VARCHAR without a length (256), types and words
that PostgreSQL lacks, and what a cluster refuses: leader-only functions beside user tables, ordered aggregates, window
sums without a frame, and PostgreSQL's newer words. Sources: Redshift's Database Developer Guide, "Amazon Redshift and
PostgreSQL"; asyncpg#1009.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.fake_redshift.aliases import with_aliases
from tests.fake_redshift.wire import Refusal

_TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\n]*|/\*.*?\*/)
      | (?P<string>'(?:[^'\\]|''|\\.)*')
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<word>[^\W\d][\w$]*)
      | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
      | (?P<sign>::|\$\d+|[-+*/<>=~!@\#%^&|?]+|.)""",
    re.VERBOSE | re.DOTALL,
)

# "Leader node-only functions" of the guide, and the catalog's.
_LEADER_ONLY = {
    "current_schema", "current_schemas", "has_database_privilege", "has_schema_privilege", "has_table_privilege", "age",
    "current_time", "current_timestamp", "localtime", "localtimestamp", "now", "ascii", "get_bit", "get_byte", "to_ascii",
    "generate_series", "version", "pg_get_constraintdef", "format_type", "statement_timestamp", "transaction_timestamp",
    "clock_timestamp", "array_to_string", "array_upper",
}  # fmt: skip
# "Unsupported PostgreSQL functions" and "features" of the guide.
_UNKNOWN_FUNCTIONS = {
    "string_agg", "array_agg", "json_agg", "jsonb_agg", "unnest", "row_to_json", "to_json", "to_jsonb", "hashtext",
    "hashtextextended", "pg_column_size", "encode", "format", "pg_export_snapshot", "make_timestamp", "xmlelement",
    "pg_advisory_lock", "pg_try_advisory_lock", "txid_current",
}  # fmt: skip
_UNKNOWN_TYPES = {"jsonb", "json", "bytea", "uuid", "interval_ps", "regtype", "money", "inet", "cidr", "xml"}
_SYSTEM = re.compile(r"(?:pg_|svv_|svl_|stv_|stl_|svcs_|sys_|information_schema)")
_DECORATIONS = {"diststyle", "distkey", "sortkey", "compound", "interleaved", "encode", "backup"}
_RENAMED = {
    "pg_class": "rs_class",
    "pg_attribute": "rs_attribute",
    "pg_attrdef": "rs_attrdef",
    "pg_constraint": "rs_constraint",
    "pg_get_constraintdef": "rs_get_constraintdef",
    "json_serialize": "rs_json_serialize",
}
_PARTS = {"year", "month", "day", "hour", "minute", "second", "millisecond", "microsecond"}


class Token(NamedTuple):
    kind: str
    text: str

    @property
    def low(self) -> str:
        return self.text.lower() if self.kind == "word" else self.text


@dataclass
class Statement:
    """One statement of a client."""

    tokens: list[Token]
    keys: list[tuple[str, list[str]]] = field(default_factory=list)
    """Informational keys that a CREATE TABLE declares: kind and columns."""

    @classmethod
    def of(cls, sql: str) -> Statement:
        return cls([Token(str(found.lastgroup), found[0]) for found in _TOKEN.finditer(sql.strip().rstrip(";"))])

    @property
    def words(self) -> list[Token]:
        """The tokens without space and comments."""
        return [token for token in self.tokens if token.kind != "space"]

    @property
    def verb(self) -> str:
        return self.words[0].low if self.words else ""

    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    def relations(self) -> Iterator[str]:
        """What FROM, JOIN, INTO and their like name."""
        words = self.words
        for number, token in enumerate(words[:-1]):
            if token.kind == "word" and token.low in ("from", "join", "into", "update", "table", "truncate"):
                found = words[number + 1]
                if found.kind in ("word", "quoted") and not _calls(words, number + 1):
                    yield found.text.strip('"').lower()

    def touches_user_tables(self) -> bool:
        if self.verb in ("show", "set", "begin", "start", "commit", "end", "rollback", "abort", "fetch", "close"):
            return False
        named = [name for name in self.relations() if not _SYSTEM.match(name)]
        return bool(set(named) - {"table", "select", "only", "if", "cols"})


def _calls(words: Sequence[Token], number: int) -> bool:
    return number + 1 < len(words) and words[number + 1].text == "("


def refusal(statement: Statement) -> Refusal | None:
    """What a cluster refuses of a statement, whatever there is in its tables."""
    if statement.verb == "copy":
        return Refusal("COPY to or from the client is not supported", "0A000")
    words = statement.words
    found = (check(words, number) for number, token in enumerate(words) if token.kind == "word" for check in _CHECKS)
    return next(filter(None, found), None) or _leader_only(statement, words)


def _unknown_function(words: Sequence[Token], number: int) -> Refusal | None:
    name = words[number].low
    if name not in _UNKNOWN_FUNCTIONS or not _calls(words, number):
        return None
    if "order" in (token.low for token in words[number : _closing(words, number + 1)]):
        return Refusal('syntax error at or near "ORDER"')
    return Refusal(f"function {name}() does not exist", "42883")


def _unknown_type(words: Sequence[Token], number: int) -> Refusal | None:
    name = words[number].low
    if name not in _UNKNOWN_TYPES or not number or words[number - 1].low not in ("::", "as"):
        return None
    return Refusal(f'type "{name}" does not exist', "42704")


def _unknown_syntax(words: Sequence[Token], number: int) -> Refusal | None:
    token, following = words[number], [word.low for word in words[number + 1 : number + 3]]
    if token.low in ("lateral", "returning", "savepoint", "tablesample") or following == ["conflict", "do"]:
        return Refusal(f'syntax error at or near "{token.text}"')
    if token.low == "is" and "distinct" in following:
        return Refusal('syntax error at or near "DISTINCT"')
    if token.low == "filter" and _calls(words, number):
        return Refusal('syntax error at or near "("')
    if token.low == "distinct" and following[:1] == ["on"]:
        return Refusal("SELECT DISTINCT ON is not supported", "0A000")
    return None


def _no_frame(words: Sequence[Token], number: int) -> Refusal | None:
    if words[number].low != "over" or not _without_frame(words, number):
        return None
    return Refusal("Aggregate window functions with an ORDER BY clause require a frame clause")


_CHECKS = (_unknown_function, _unknown_type, _unknown_syntax, _no_frame)


def _leader_only(statement: Statement, words: Sequence[Token]) -> Refusal | None:
    used = {token.low for token in words if token.kind == "word"} & _LEADER_ONLY
    if not used or statement.verb == "create" or not statement.touches_user_tables():
        return None
    return Refusal(
        "Specified types or functions (one per INFO message) not supported on Redshift tables.",
        "0A000",
        ", ".join(used),
    )


def _without_frame(words: Sequence[Token], over: int) -> bool:
    low = [token.low for token in words]
    inner = low[over : _closing(words, over + 1)]
    aggregate = next((low[n - 1] for n in range(over, 0, -1) if low[n] == "(" and low[n - 1] not in (")", "(")), "")
    sums = aggregate in ("sum", "count", "avg", "min", "max", "stddev", "variance")
    return sums and "order" in inner and not {"rows", "range"} & set(inner)


def _closing(words: Sequence[Token], opening: int) -> int:
    """Behind the parenthesis that closes the one at ``opening``."""
    depth = 0
    for number in range(opening, len(words)):
        depth += {"(": 1, ")": -1}.get(words[number].text, 0)
        if depth == 0:
            return number + 1
    return len(words)


def translated(statement: Statement, *, case_sensitive: bool) -> str:
    """The statement for PostgreSQL; fills its ``keys``."""
    words = [_folded(token) if not case_sensitive else token for token in statement.words]
    if statement.verb == "create":
        words = _without_decorations(words, statement)
    elif not statement.touches_user_tables():
        words = list(with_aliases(words))
    made: list[str] = []
    number = 0
    while number < len(words):
        text, number = _one(words, number)
        made.append(text)
    return _joined(made)


def _folded(token: Token) -> Token:
    return Token(token.kind, token.text.lower()) if token.kind == "quoted" else token


def _one(words: Sequence[Token], number: int) -> tuple[str, int]:
    """One token in PostgreSQL's words, and the number of the next one."""
    token = words[number]
    before = words[number - 1].low if number else ""
    after = words[number + 1].text if number + 1 < len(words) else ""
    if token.kind != "word":
        return token.text, number + 1
    if token.low in ("varchar", "text", "nvarchar") and after != "." and before in ("::", "as", "name", *_NAMES_BEFORE):
        return _varchar(words, number, after)
    if token.low == "varbyte" and after == "(":
        return "varbyte", _closing(words, number + 1)
    if token.low == "sysdate":
        return "rs_sysdate()", number + 1
    if token.low == "datediff" and after == "(" and words[number + 2].low.rstrip("s") in _PARTS:
        return f"rs_datediff('{words[number + 2].low.rstrip('s')}'", number + 3
    if token.low == "where" and after == "1":
        return "WHERE true", number + 2
    return _RENAMED.get(token.low, token.text), number + 1


_NAMES_BEFORE = ("cast",)


def _varchar(words: Sequence[Token], number: int, after: str) -> tuple[str, int]:
    if after != "(":
        return "varchar(256)", number + 1
    if words[number + 2].low == "max":
        return "varchar(65535)", number + 4
    return "varchar", number + 1


def _joined(texts: Sequence[str]) -> str:
    made = ""
    for text in texts:
        tight = text in (".", "::", ",", ")", ";") or made.endswith((".", "::", "("))
        made += text if not made or tight else f" {text}"
    return made


def _without_decorations(words: list[Token], statement: Statement) -> list[Token]:
    """A CREATE TABLE without what tells where its rows lie, and with its keys apart: they are informational."""
    if "table" not in [token.low for token in words[:4]]:
        return words
    kept: list[Token] = []
    number = depth = 0
    while number < len(words):
        token = words[number]
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.kind == "word" and token.low in _DECORATIONS:
            number += 1
            if token.low in ("diststyle", "encode", "backup"):
                number += 1
            elif _calls(words, number - 1):
                number = _closing(words, number)
            continue
        if token.low in ("primary", "unique") and token.kind == "word":
            number = _apart(words, number, kept, statement)
            continue
        if token.low in ("text", "varchar", "nvarchar") and depth and number and words[number - 1].kind != "sign":
            text, number = _varchar(words, number, words[number + 1].text)
            kept.append(Token("word", text))
            continue
        kept.append(token)
        number += 1
    return kept


def _apart(words: Sequence[Token], number: int, kept: list[Token], statement: Statement) -> int:
    """Note a key, of a column or of the table; what follows it."""
    kind = "p" if words[number].low == "primary" else "u"
    number += 2 if kind == "p" else 1
    if number < len(words) and words[number].text == "(":
        end = _closing(words, number)
        names = [token.text.strip('"') for token in words[number:end] if token.kind in ("word", "quoted")]
        if kept[-1].text == ",":
            kept.pop()
    else:
        start = max(n for n, token in enumerate(kept) if token.text == "," or (token.text == "(" and n < 8))
        names, end = [kept[start + 1].text.strip('"')], number
        if kind == "p":
            kept.extend([Token("word", "NOT"), Token("word", "NULL")])
    statement.keys.append((kind, [name.lower() for name in names]))
    return end
