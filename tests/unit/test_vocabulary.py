"""One word for one thing, inside the rooms too: names that were given up do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2] / "retl"

# What each of these is called today.
CLASSES = {
    "Commit": "CommitResult",
    "Existing": "ExistingTable or ExistingIndex",
    "Fit": "IndexPlan",
    "Found": "SourceIndex",
    "Job": "PreparedLoad",
    "Known": "ExistingTable or ExistingIndex",
    "Lane": "LoadWorker",
    "Line": "SharedClient",
    "Load": "WriteSpec",
    "Mark": "FencedCheckpoint",
    "Parts": "PipelineConfig",
    "Patience": "RetryBudget",
    "Place": "TableName",
    "Preparation": "RefreshPlan",
    "Questions": "Pool.control",
    "Stored": "ColumnType",
    "TargetPlan": "TargetPreview",
    "_Look": "Inspection",
    "_Turn": "_QueuedScan",
}
MODULES = {
    "appended": "undo",
    "ask": "fan_out",
    "choice": "selection",
    "codes": "exit_codes",
    "emptying": "truncate",
    "feed": "fan_in",
    "fitting": "plan",
    "look": "inspect_commands",
    "past": "state_commands",
    "products": "server",
    "repeats": "duplicates",
    "screen": "output",
    "shapes": "hits or schemas",
    "trust": "tls",
}
FUNCTIONS = {
    "again": "reread_from",
    "blamed": "with_index_names",
    "bucket": "bucket_number",
    "fitted": "cast_to_plan",
    "located": "with_context",
    "named": "alias",
    "note": "record",
    "plain": "to_csv_form",
    "spoken": "translated",
    "tell": "emit",
    "to_the_end": "shielded",
    "wire": "select_expression",
    "words": "server_message",
}
# Of the files that speak of types and SQL; elsewhere it is an ordinary verb.
IN_TYPES = {"take": "cast_expression"}
# However they are used: a class, a parameter, a variable, an attribute.
NAMES = {
    "choice": "selection",
    "looks_up": "has_indexes",
    "lower_open": "lower_exclusive",
    "misfit": "a word with reject",
    "misfits": "a word with reject",
    "put_aside": "reject",
    "repeats": "duplicates",
    "unfit": "invalid_values",
}
# Of rows; a server may well refuse a request, a statement or a login.
OF_ROWS = {"refusal": "a word with reject", "refused": "rejected, or rejects"}
OF_REQUESTS = ("errors", "connection")


def test_no_name_is_one_that_was_given_up() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {old!r} is {new} today"
        for path in sorted(ROOT.rglob("*.py"))
        for old, new, line in _given_up(path)
    ]
    assert found == []


def test_comments_and_messages_are_plain() -> None:
    habits = re.compile(r"\bwhoever\b|\bmeanwhile\b|\bwhich is no \w", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(ROOT.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if habits.search(line)
    ]
    assert found == []


def _given_up(path: Path) -> Iterator[tuple[str, str, int]]:
    if path.stem in MODULES:
        yield path.stem, MODULES[path.stem], 1
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name, known in _names(node, path.stem in ("types", "dialect")):
            anywhere = NAMES if path.stem in OF_REQUESTS else NAMES | OF_ROWS
            if (new := known.get(name) or anywhere.get(name.strip("_"))) is not None:
                yield name, new, node.lineno  # type: ignore[attr-defined]


def _names(node: ast.AST, in_types: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """What a node gives a name to, each with the words that it may not be."""
    match node:
        case ast.ClassDef(name=name):
            yield name, CLASSES
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name, FUNCTIONS | (IN_TYPES if in_types else {})
        case ast.arg(arg=name, annotation=ast.Name(id="Slice")):
            yield name, {"part": "slice_"}
        case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            yield name, {}
