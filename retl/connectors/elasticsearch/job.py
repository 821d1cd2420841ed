"""What was found and made ready before a scan writes, as its writer needs it."""

from __future__ import annotations

from dataclasses import dataclass

from retl.connectors.elasticsearch import index
from retl.connectors.elasticsearch.definition import Known
from retl.connectors.elasticsearch.encode import Operation
from retl.connectors.elasticsearch.fitting import Fit
from retl.model.actions import Action, Write
from retl.model.plan import WriteSpec


@dataclass(frozen=True)
class Job:
    """One scan of one table, as it was prepared."""

    spec: WriteSpec
    fit: Fit
    path: str
    """The name that is written: the index, or the alias or data stream that leads to it."""
    known: Known | None
    """What stood under the table's name before."""
    shadow: str | None
    uuid: str
    """Of the index that is written; empty where an alias or a data stream may lead to another one any time."""
    pipelines: tuple[str, ...]
    """The ingest pipelines that documents go through there."""
    writers: int
    keep_replaced: bool

    @property
    def operation(self) -> Operation:
        """``create`` leaves what is there as it is."""
        adds = self.spec.table.write is Write.APPEND or Action.UPDATE in self.spec.blacklist
        stream = self.known is not None and self.known.kind == "data_stream"
        return "create" if stream or (adds and not self.spec.table.replaces) else "index"

    @property
    def from_nothing(self) -> bool:
        """Whether the table has not been read to its end since there is a checkpoint: what is there, others have left."""
        return self.spec.checkpoint.columns is None

    @property
    def index(self) -> str:
        """The one index that is written, by its own name, as far as that is known."""
        return self.shadow or (self.known.written if self.known is not None else self.path)

    @property
    def indices(self) -> tuple[str, ...]:
        """The indices that documents may be written to under the name that they are sent to."""
        if self.shadow is not None or self.known is None:
            return (self.index,)
        return self.known.indices

    @property
    def only_existing(self) -> bool:
        return Action.INSERT in self.spec.blacklist

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
    def leads(self) -> bool:
        """Whether the name leads to an index, which may be another one any time."""
        return self.shadow is None and self.known is not None and self.known.kind != "index"

    @property
    def behind_alias(self) -> bool:
        """Whether that is an alias: what is sent when it is gone is refused, and creates no index."""
        return self.shadow is not None or (self.known is not None and self.known.kind == "alias")
