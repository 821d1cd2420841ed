"""What was found and made ready before a scan writes, as its writer needs it."""

from __future__ import annotations

from dataclasses import dataclass

from retl.connectors.elasticsearch import index
from retl.connectors.elasticsearch.definition import Known
from retl.connectors.elasticsearch.encode import Operation
from retl.connectors.elasticsearch.fitting import Fit
from retl.model.actions import Action, Write
from retl.model.plan import Load


@dataclass(frozen=True)
class Job:
    """One scan of one table, as it was prepared."""

    load: Load
    fit: Fit
    path: str
    """The name that is written: the index, or the alias or data stream that leads to it."""
    known: Known | None
    """What stood under the table's name before."""
    shadow: str | None
    uuid: str
    """Of the index that is written; empty where an alias or a data stream may lead to another one any time."""
    writers: int
    keep_replaced: bool

    @property
    def operation(self) -> Operation:
        """``create`` leaves what is there as it is."""
        adds = self.load.table.write is Write.APPEND or Action.UPDATE in self.load.blacklist
        stream = self.known is not None and self.known.kind == "data_stream"
        return "create" if stream or (adds and not self.load.table.replaces) else "index"

    @property
    def only_existing(self) -> bool:
        return Action.INSERT in self.load.blacklist

    @property
    def address(self) -> str:
        """The name that documents are sent to."""
        return self.path if self.shadow is None else index.loading_alias(self.shadow)

    @property
    def holder(self) -> str:
        """The name by which documents are deleted: a data stream lets that be done in its indices only."""
        if self.known is not None and self.known.kind == "data_stream":
            return self.known.written
        return self.address

    @property
    def behind_alias(self) -> bool:
        """Whether that is an alias: what is sent when it is gone is refused, and creates no index."""
        return self.shadow is not None or (self.known is not None and self.known.kind == "alias")
