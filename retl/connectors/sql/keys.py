"""Settling keys that repeat among staged rows, in SQL."""

from __future__ import annotations

from collections.abc import Sequence

from retl.model.plan import WriteSpec


def keep_newest(spec: WriteSpec, columns: Sequence[str], staged: Sequence[str], stage: str) -> tuple[str, str]:
    """For staged rows with one key: what finds a key whose newest row is in doubt, and what deletes all but the newest.

    The newest is the row with the highest cursor; rows that are equal in everything are one.
    """
    by_name = dict(zip(columns, staged, strict=True))
    key = ", ".join(by_name[name] for name in spec.key)
    order = f"ORDER BY {by_name[spec.cursor]} DESC NULLS LAST" if spec.cursor else ""
    newest = f"(SELECT rowid AS r, *, RANK() OVER (PARTITION BY {key} {order}) AS place FROM {stage}) AS ranked WHERE place = 1"
    doubtful = (
        f"SELECT {key} FROM (SELECT DISTINCT {', '.join(staged)} FROM {newest}) AS distinct_rows "
        f"GROUP BY {key} HAVING COUNT(*) > 1 LIMIT 1"
    )
    return doubtful, f"DELETE FROM {stage} WHERE rowid NOT IN (SELECT MIN(r) FROM {newest} GROUP BY {key})"
