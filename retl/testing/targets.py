"""The contract suite of targets."""

from __future__ import annotations

from retl.testing.target_commits import TargetCommits
from retl.testing.target_loads import TargetLoads
from retl.testing.target_refreshes import TargetRefreshes
from retl.testing.target_writes import TargetWrites


class TargetContract(TargetWrites, TargetCommits, TargetRefreshes, TargetLoads):
    """Holds a target to every sentence of ``retl.connectors.base``.

    Inherit it in a test module, under a name that begins with ``Test``, and fill in the
    hooks: ``target``, ``contents``, ``tables`` and, where there is such a thing,
    ``unreachable``. They are told what they must do in ``retl.testing.target_base``; what
    the system cannot do is said there too, by flags.
    """
