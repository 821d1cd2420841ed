"""Reference tables, written from the code itself while the site is built, so that they cannot go stale.

A line such as ``<!-- options: duckdb -->`` in a page is replaced by a table. What can stand
there are the keys of ``TABLES``.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from enum import Enum
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from retl.cli.exit_codes import EXPLAINED
from retl.cli.parser import make_parser
from retl.config.registry import connector_types, find_connector
from retl.config.words import PipelineOptions, PipelineWords, StateWords
from retl.connectors.files.formats import FormatOptions
from retl.model import errors, events
from retl.model.alerts import Alert
from retl.model.documents import Chunks
from retl.model.hooks import SQL, Hooks
from retl.model.secret import Secret
from retl.model.table import Table, TableOptions
from retl.observe.metrics import METRICS

_PLACE = re.compile(r"^<!-- (\w[\w-]*)(?:: (\S+))? -->$", re.MULTILINE)

# Words that the code declares without a sentence of its own.
_SAID_HERE = {
    "source": "What is read: an inline table with a `type` and that connector's options.",
    "target": "What is written: the same.",
    "tables": "The tables: `[[pipelines.NAME.tables]]`, or a list of names.",
    "interval": 'The time between two runs, or `"manual"`: only when triggered. 300 seconds when unset.',
    "cron": "A cron expression of five fields, in place of `interval`.",
    "timezone": 'The time zone of `cron`, also of that of its tables, such as `"Europe/Berlin"`; UTC when unset.',
    "jitter": "Over how long the starts of pipelines are spread: each begins, and has its ticks, so much later, by a share that its "
    "name gives it. A twentieth of the interval, and at most 3 seconds, when unset; 0 for none.",
    "blacklist": "Actions that are never executed on the target: `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`, `RENAME`, "
    "`CREATE`, `ALTER`, `DROP`.",
    "parallel_tables": "How many tables are scanned at once; 4 when unset. A file (SQLite, DuckDB) and a function of yours take one at a time.",
    "keep_rejects": "How long rejects are kept; 90 days when unset, and never more than 5,000 of a table.",
    "stall_timeout": "After how long without a row or an answer a scan is given up and tried again; 10 minutes when unset, 0: never.",
    "lease_ttl": "How long an owner may be silent before another process takes the pipeline over; 30 seconds when unset.",
    "alerts": "Who is told when something fails, lags behind or is rejected: `[[pipelines.NAME.alerts]]`.",
    "channel_bytes": "How many bytes may wait between reader and writer; 8 MiB when unset.",
}


_IN_PYTHON = frozenset({"call"})
"""What a job file cannot give."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    return expand(markdown)


def expand(markdown: str) -> str:
    """The text with every placeholder replaced. Raises ``KeyError`` for one that is not known."""
    return _PLACE.sub(lambda found: TABLES[found[1]](*filter(None, [found[2]])), markdown)


# Connectors and job files ---------------------------------------------------


def options(connector: str) -> str:
    """What a connector is, an example, and its options."""
    role: Literal["source", "target"] = "source" if connector in connector_types("source") else "target"
    kind = find_connector(role, connector)
    roles = [role for role in ("source", "target") if connector in connector_types(role)]
    parts = [
        _paragraphs(inspect.getdoc(kind) or ""),
        f"*As a {' and as a '.join(roles)}.* In a job file:",
        f"```toml\n{kind.example}\n```",
        _option_table(kind),
    ]
    return "\n\n".join(parts)


def _option_table(kind: type[msgspec.Struct]) -> str:
    rows = [
        (f"`{item.name}`", _type(item.type), _default(item), _description(item.type))
        for item in msgspec.structs.fields(kind)
    ]
    return _table(("option", "type", "default", "meaning"), rows)


def format_options() -> str:
    """What stands under ``format = {...}``."""
    return _option_table(FormatOptions)


def connectors() -> str:
    """All installed connectors."""
    names = sorted({*connector_types("source"), *connector_types("target")})
    return "\n\n".join(f"### {name} {{ #{name} }}\n\n{options(name)}" for name in names)


def words(kind: str) -> str:
    """The words of one section of a job file."""
    chosen = {
        "state": StateWords,
        "pipeline": PipelineWords,
        "options": TableOptions,
        "table": Table,
        "chunks": Chunks,
        "alert": Alert,
        "hooks": Hooks,
        "sql": SQL,
    }[kind]
    above = {"pipeline": TableOptions, "table": TableOptions}.get(kind)
    inherited = {item.name for item in msgspec.structs.fields(above)} if above else set()
    said = _attribute_docs(chosen)
    rows = []
    for item in msgspec.structs.fields(chosen):
        if item.name in inherited or item.name in _IN_PYTHON:
            continue
        meaning = said.get(item.name) or _SAID_HERE[item.name]
        rows.append((f"`{item.name}`", _type(item.type), meaning))
    return _table(("word", "type", "meaning"), rows)


def undescribed_words() -> set[str]:
    """Words whose sentence stands here although the code has one of its own by now."""
    said = {**_attribute_docs(PipelineOptions), **_attribute_docs(PipelineWords)}
    return {name for name in _SAID_HERE if said.get(name)}


def _attribute_docs(kind: type) -> dict[str, str]:
    """The texts that stand below the attributes of a class and of its bases."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not (isinstance(owner, type) and issubclass(owner, msgspec.Struct) and owner.__module__.startswith("retl")):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for before, node in pairwise(body):
            if not (isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name)):
                continue
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                found[before.target.id] = " ".join(node.value.value.split())
    return found


def _description(kind: Any) -> str:
    return next((note.description for note in _notes(kind) if note.description), "")


def _notes(kind: Any) -> Iterator[msgspec.Meta]:
    if get_origin(kind) is Annotated:
        yield from (note for note in kind.__metadata__ if isinstance(note, msgspec.Meta))
        kind = kind.__origin__
    for part in get_args(kind) if get_origin(kind) in (Union, UnionType) else ():
        yield from _notes(part)


def _type(kind: Any) -> str:
    return " or ".join(dict.fromkeys(_type_words(kind)))


def _type_words(kind: Any) -> Iterator[str]:
    if get_origin(kind) is Annotated:
        kind = kind.__origin__
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        parts = get_args(kind)
        if timedelta in parts:
            yield "duration"
            parts = tuple(part for part in parts if part not in (str, int, float, timedelta))
        for part in parts:
            if get_origin(part) is not Callable:  # a job file cannot give a function
                yield from _type_words(part)
    elif origin is Literal:
        for word in get_args(kind):
            yield f'`"{word}"`' if isinstance(word, str) else f"`{str(word).lower()}`"
    elif isinstance(kind, type) and issubclass(kind, Enum):
        for member in kind:
            yield f'`"{member.value}"`'
    elif kind is not type(None):
        plain = {str: "text", int: "whole number", float: "number", bool: "true or false", Secret: "secret"}
        yield plain.get(kind) or (
            "table" if "Mapping" in str(origin) or kind in (dict,) else "list" if origin else "table"
        )


def _default(item: Any) -> str:
    if item.required:
        return "required"
    value = item.default
    return "" if value is None or value is msgspec.NODEFAULT else f"`{value}`"


# The command line -----------------------------------------------------------


def commands() -> str:
    """Every command with its arguments and options."""
    parts = []
    for name, parser in subcommands().items():
        rows = [
            (_spelling(action), _sentence((action.help or "") % {"default": action.default}))
            for action in parser._actions
            if not isinstance(action, argparse._HelpAction)
        ]
        parts.append(
            f"### `retl {name}` {{ #{name} }}\n\n{parser.description}\n\n{_table(('argument', 'meaning'), rows)}"
        )
    return "\n\n".join(parts)


def subcommands() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, by its name."""
    parser = make_parser()
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`[{action.metavar}]`"
    value = "" if action.nargs == 0 else f" {action.metavar or '{' + ','.join(action.choices or ()) + '}'}"
    return f"`{action.option_strings[-1]}{value}`"


def _sentence(text: str) -> str:
    first = text.split(maxsplit=1)[0] if text else ""
    start = text if first.endswith(":") else text[:1].upper() + text[1:]
    return start + ("" if text.endswith(".") else ".")


def exit_codes() -> str:
    """What the exit code of a command says."""
    rows = [line.split(maxsplit=1) for line in EXPLAINED.splitlines()[1:] if line.strip()]
    return _table(("code", "meaning"), [(f"`{code}`", _sentence(meaning)) for code, meaning in rows])


# Errors and events ----------------------------------------------------------


def error_tree() -> str:
    """The drawing at the top of ``retl.model.errors``."""
    drawing = (inspect.getdoc(errors) or "").split("::\n", 1)[1]
    lines = drawing.strip("\n").splitlines()
    end = next(number for number, line in enumerate(lines) if line and not line.startswith(" "))
    return "```text\n" + textwrap.dedent("\n".join(lines[:end])).strip() + "\n```"


def event_list() -> str:
    """Every event with its fields."""
    rows = []
    for kind in events.Event.__subclasses__():
        own = [item.name for item in msgspec.structs.fields(kind) if item.name not in ("pipeline", "at")]
        rows.append((f"`{kind.__name__}`", ", ".join(f"`{name}`" for name in own), _one_line(kind.__doc__)))
    return _table(("event", "fields", "meaning"), rows)


def metrics() -> str:
    """Every metric, as each system names it."""
    rows = [
        (
            f"`{metric.name}`",
            f"`{metric.otel}`",
            metric.kind,
            ", ".join(f"`{one}`" for one in metric.labels),
            metric.meaning,
        )
        for metric in METRICS
    ]
    return _table(("Prometheus", "OpenTelemetry", "kind", "labels", "meaning"), rows)


# Markdown -------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


TABLES: dict[str, Callable[..., str]] = {
    "commands": commands,
    "connectors": connectors,
    "error-tree": error_tree,
    "events": event_list,
    "exit-codes": exit_codes,
    "format-options": format_options,
    "metrics": metrics,
    "options": options,
    "words": words,
}
