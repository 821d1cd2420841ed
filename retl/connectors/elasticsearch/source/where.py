"""The filter of a table: a query as JSON, or words of Lucene in which every value belongs to a field.

A search answers nearly any text. A field that the mapping lacks, or a condition in the words of SQL, would quietly
match nothing, or the very documents that were to be left out: both are refused here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from retl.connectors.elasticsearch.types import field_type
from retl.model.errors import ConfigError

_OF_EVERY_INDEX = frozenset(
    {"_id", "_index", "_routing", "_ignored", "_field_names", "_tier", "_doc_count", "_nested_path"}
)
_OPAQUE = ("flattened", "flat_object")
_OF_FIELDS = frozenset(
    {
        *("term", "terms", "terms_set", "range", "prefix", "wildcard", "regexp", "fuzzy", "match", "match_phrase"),
        *("match_phrase_prefix", "match_bool_prefix", "intervals", "span_term", "geo_distance", "geo_bounding_box"),
    }
)
_OPTIONS = frozenset({"boost", "_name", "distance", "distance_type", "validation_method", "ignore_unmapped"})
_HOW = (
    "write field:value, NOT field:value, field:>5, field:(a OR b) or _exists_:field; "
    'or a query as JSON: {"term": {"status": "paid"}}.'
)
_TOKEN = re.compile(
    r"""(?P<space>\s+)|(?P<quoted>"(?:\\.|[^"\\])*")|(?P<regex>/(?:\\.|[^/\\])*/)|(?P<range>[\[{][^\]}]*[\]}])
    |(?P<open>\()|(?P<close>\))|(?P<colon>:)|(?P<compare>[<>]=?)|(?P<suffix>[~^][\d.]*)|(?P<sign>[+!-]|&&|\|\|)
    |(?P<word>(?:\\.|[^\s"()\[\]{}:^~<>=/&|\\])+)""",
    re.VERBOSE,
)
_SQL = re.compile(
    r"""\s*(?P<field>[\w.@-]+)\s*(?:(?P<op><>|!=|<=|>=|=|<|>)\s*(?P<value>'[^']*'|"[^"]*"|[\w.+-]+)
    |(?P<null>IS\s+(?P<some>NOT\s+)?NULL)|(?P<none>NOT\s+)?IN\s*\((?P<list>[^)]*)\))\s*""",
    re.VERBOSE | re.IGNORECASE,
)


class Fields:
    """The fields that a query may name: those of a mapping, their views, and those of every index."""

    def __init__(self, properties: Mapping[str, Any], runtime: Sequence[str] = ()) -> None:
        self.names = {*_OF_EVERY_INDEX, *runtime}
        self.objects: set[str] = set()
        self._opaque: list[str] = []
        self._nested: list[str] = []
        self._collect(properties, "")

    def _collect(self, properties: Mapping[str, Any], prefix: str) -> None:
        for name, spec in properties.items():
            path = prefix + name
            kind = field_type(spec)
            if kind in ("object", "nested", "passthrough"):
                self.objects.add(path)
            else:
                self.names.add(path)
            if kind == "nested":
                self._nested.append(path)
            if kind in _OPAQUE:
                self._opaque.append(path)
            self._collect(spec.get("properties") or {}, f"{path}.")
            self._collect(spec.get("fields") or {}, f"{path}.")

    def problem(self, name: str, *, exists: bool = False, nested: str = "") -> str | None:
        """Why a condition on a field would match nothing, or ``None``. ``nested`` is the object that is looked into."""
        inside = next(
            (path for path in self._nested if name.startswith(f"{path}.") and not f"{nested}.".startswith(f"{path}.")),
            None,
        )
        if inside is not None:
            return (
                f"{name!r} lies in the nested field {inside!r}, which only a query as JSON looks into: "
                f'{{"nested": {{"path": "{inside}", "query": {{...}}}}}}'
            )
        if self._has(name) or (exists and name in self.objects):
            return None
        if name in self.objects:
            return f"{name!r} is an object, and has no value of its own"
        close = difflib.get_close_matches(name, sorted(self.names - _OF_EVERY_INDEX), n=1)
        return f"the mapping has no field {name!r}" + (f"; did you mean {close[0]!r}?" if close else "")

    def _has(self, name: str) -> bool:
        if "*" in name:
            pattern = re.compile(re.escape(name).replace(r"\*", ".*"))
            return any(pattern.fullmatch(known) for known in (*self.names, *self.objects))
        # A join has fields for its parents, a text some for its prefixes.
        base = name.split("#")[0].split("._")[0]
        return (
            name in self.names
            or (base != name and base in self.names)
            or any(name.startswith(f"{path}.") for path in self._opaque)
        )


def filters_of(where: str | None, fields: Fields) -> list[dict[str, Any]]:
    """The query of ``where``, in a list; an empty one without it. Raises ``ConfigError``."""
    if where is None:
        return []
    text = where.strip()
    if not text.startswith("{"):
        _check_words(text, fields)
        return [{"query_string": {"query": text}}]
    try:
        query = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ConfigError(
            f"where is not valid JSON: {error}.",
            remedy='write a query, such as {"term": {"status": "paid"}}, or plain words: status:paid.',
        ) from None
    for problem in _problems(query, fields, ""):
        raise ConfigError(
            f"where can match nothing: {problem}.", remedy="correct the name; `retl plan` shows the columns."
        )
    return [query]


def _problems(query: Any, fields: Fields, nested: str) -> Iterator[str]:
    """What is wrong with the fields that a query as JSON names."""
    if isinstance(query, list):
        for part in query:
            yield from _problems(part, fields, nested)
    if not isinstance(query, dict):
        return
    for word, about in query.items():
        names: list[str] = []
        if word in _OF_FIELDS and isinstance(about, dict):
            names = [name for name in about if name not in _OPTIONS]
        elif word == "exists" and isinstance(about, dict) and isinstance(about.get("field"), str):
            names = [about["field"]]
        elif word == "nested" and isinstance(about, dict):
            yield from _problems(about.get("query"), fields, str(about.get("path", "")))
        elif word not in ("query_string", "simple_query_string"):
            yield from _problems(about, fields, nested)
        found = (fields.problem(name, exists=word == "exists", nested=nested) for name in names)
        yield from (problem for problem in found if problem)


def _check_words(text: str, fields: Fields) -> None:
    problem = _problem(text, fields)
    if problem is None:
        return
    instead = _in_lucene(text)
    raise ConfigError(
        f"where is {text!r}, which Lucene does not read as it is meant: {problem}.",
        remedy=f"write {instead}. In general: {_HOW}" if instead else _HOW,
    )


def _problem(text: str, fields: Fields) -> str | None:
    """Why words are not a query in which every value belongs to a known field."""
    tokens = _tokens(text)
    if not tokens:
        return "it is empty"
    groups = [False]  # whether a group of parentheses stands behind a field
    expects = False  # a field has been named, and its value is to come
    for number, (kind, token) in enumerate(tokens):
        follows = tokens[number + 1][0] if number + 1 < len(tokens) else ""
        if kind == "strange":
            return f"{token!r} is a sign of another language"
        if kind == "compare" and not expects:
            return f"{token!r} compares without a colon"
        if kind == "close":
            if len(groups) == 1:
                return "a parenthesis is closed that was not opened"
            groups.pop()
        elif kind == "open":
            groups.append(groups[-1] or expects)
            expects = False
        elif kind == "word" and follows == "colon" and not expects:
            name = re.sub(r"\\(.)", r"\1", token)
            problem = None if name in ("*", "_exists_") else fields.problem(name)
            if problem:
                return problem
        elif kind == "colon":
            if expects or number == 0 or tokens[number - 1][0] != "word":
                return "a colon stands where no field does"
            expects = True
        elif kind in ("word", "quoted", "regex", "range"):
            if kind == "word" and token in ("AND", "OR", "NOT") and not expects:
                continue
            if token.startswith("'"):
                return f'{token} is quoted as in SQL; a value is quoted with "'
            if not (expects or groups[-1] or token == "*"):
                return f"{token} belongs to no field"
            if expects and number > 1 and tokens[number - 2][1] == "_exists_":
                problem = fields.problem(re.sub(r"\\(.)", r"\1", token.strip('"')), exists=True)
                if problem:
                    return problem
            expects = False
    return "a parenthesis is not closed" if len(groups) > 1 else "a field has no value" if expects else None


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            found.append(("strange", text[place]))
            break
        place = match.end()
        if match.lastgroup not in ("space", None):
            found.append((str(match.lastgroup), match[0]))
    return found


def _in_lucene(text: str) -> str:
    """A SQL condition in Lucene's syntax; empty if it has no simple form."""
    found = _SQL.fullmatch(text)
    if found is None:
        return ""
    name = found["field"]
    if found["null"]:
        return f"_exists_:{name}" if found["some"] else f"NOT _exists_:{name}"
    if found["list"] is not None:
        values = " OR ".join(_value(one) for one in found["list"].split(","))
        return f"{'NOT ' if found['none'] else ''}{name}:({values})"
    value = _value(found["value"])
    if found["op"] in ("=", "<>", "!="):
        return f"{'' if found['op'] == '=' else 'NOT '}{name}:{value}"
    return f"{name}:{found['op']}{value}"


def _value(text: str) -> str:
    value = text.strip().strip("'\"")
    return value if re.fullmatch(r"[\w.]+", value) else '"' + value.replace('"', '\\"') + '"'
