"""Names of tables: what a dot in them means, and what a pattern stands for."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

_QUOTED = re.compile(r'(?:(?:[^."`]+|"(?:[^"]|"")+"|`(?:[^`]|``)+`)\.)*(?:"((?:[^"]|"")+)"|`((?:[^`]|``)+)`)')
"""A name whose last part is quoted, such as ``dw."a.b"``."""
_MADE_BY_TARGETS = re.compile(r"_arc_[0-9]{20}$|^_retl_")
"""Names of archives, by their time to the microsecond, and of shadows."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What a dot in a name means on either side."""

    source_schemas: bool = True
    """Whether the source's names may begin with that of a schema: ``dw.orders``."""
    target_schemas: bool = False
    """The same of the target: a name of one part that has dots is then quoted."""


def named_after(to: str, name: str, naming: Naming) -> str:
    """The target's name for a table of the source, by a pattern's ``to``."""
    bare = plain_name(name, schemas=naming.source_schemas)
    if set(to) & set('"`'):
        return to.replace("{name}", bare)  # its quotes already tell where its parts end
    *schema, last = to.rsplit(".", 1)
    last = last.replace("{name}", bare)
    return ".".join([*schema, _quoted(last) if naming.target_schemas else last])


def _quoted(name: str) -> str:
    """A name of one part, as a target with schemas reads it as one."""
    if not set(name) & set('."`'):
        return name
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def plain_name(name: str, *, schemas: bool = True) -> str:
    """``dw.orders`` is ``orders``, ``exports/2024/sales-*.csv.gz`` is ``sales``; ``logs-2024.01`` has no schema.

    A part that is quoted is taken as it is: ``dw."a.b"`` is ``a.b``.
    """
    quoted = _QUOTED.fullmatch(name)
    if quoted is not None:
        double, back = quoted.groups()
        return double.replace('""', '"') if double is not None else back.replace("``", "`")
    if "/" in name or re.search(r"\.(parquet|csv|tsv|json|jsonl|ndjson)(\.(gz|zst))?$", name):
        stem = name.rsplit("/", 1)[-1].split(".", 1)[0]
        return re.sub(r"\W+", "_", stem).strip("_") or "data"
    last = name.rsplit(".", 1)[-1] if schemas else name
    return name if not last or last[0].isdigit() else last


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern stands for, in order; ``*``, ``?`` and ``[...]``, letter case counts.

    Archives and shadows, which targets make for themselves, never match.
    """
    return sorted(
        name
        for name in names
        if (fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(plain_name(name), pattern))
        and not made_by_a_target(plain_name(name))
    )


def made_by_a_target(name: str) -> bool:
    """Whether it is the name of an archive or of a shadow."""
    return _MADE_BY_TARGETS.search(name) is not None
