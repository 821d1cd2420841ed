"""The contract suite of sources."""

from __future__ import annotations

from retl.testing.source_reads import SourceReads
from retl.testing.source_scans import SourceScans
from retl.testing.source_windows import SourceWindows


class SourceContract(SourceReads, SourceWindows, SourceScans):
    """Holds a source to every sentence of ``retl.connectors.base``.

    Inherit it in a test module, under a name that begins with ``Test``, and fill in the
    hooks: ``source``, ``create``, ``change``, ``drop`` and, where there is such a thing,
    ``unreachable``. They are told what they must do in ``retl.testing.source_base``.
    """
