"""Tools for the tests of those who write a connector, or use one.

``SourceContract``, ``TargetContract`` and ``StateStoreContract`` hold a source, a target or a state
store to every sentence of ``retl.connectors.base`` and ``retl.state.base``: inherit one in a test module, fill in its hooks, and run pytest.
They need pytest; everything else here does not.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from retl.testing.crashing import CrashingSource, WrappedSource
from retl.testing.oracle import Oracle
from retl.testing.rows import manifest_of, read_slice, table_spec
from retl.testing.scans import Scans, collect

if TYPE_CHECKING:
    from retl.testing.source_scans import SourceContract
    from retl.testing.state_stores import StateStoreContract
    from retl.testing.target_loads import TargetContract

__all__ = [
    "CrashingSource",
    "Oracle",
    "Scans",
    "SourceContract",
    "StateStoreContract",
    "TargetContract",
    "WrappedSource",
    "collect",
    "manifest_of",
    "read_slice",
    "table_spec",
]

_SUITES = {
    "StateStoreContract": ("state_stores", "state_base"),
    "SourceContract": ("source_scans", "source_base", "source_reads", "source_windows", "source_ranges"),
    "TargetContract": ("target_loads", "target_base", "target_writes", "target_commits", "target_refreshes"),
}


def __getattr__(name: str) -> Any:
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    import pytest

    # A failed assertion of a suite should show its values, as those of one's own tests do.
    names = (f"{__name__}.{module}" for module in _SUITES[name])
    pytest.register_assert_rewrite(*(module for module in names if module not in sys.modules))
    return getattr(import_module(f"{__name__}.{_SUITES[name][0]}"), name)
