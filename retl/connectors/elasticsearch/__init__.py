"""Elasticsearch and OpenSearch: source and target of whole documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from retl.connectors.elasticsearch.options import ServerOptions

if TYPE_CHECKING:
    from retl.connectors.elasticsearch.source.source import ElasticsearchSource
    from retl.connectors.elasticsearch.target.target import ElasticsearchTarget

Truncate = Literal["recreate", "delete_by_query"]
Times = Literal["date_nanos", "date"]


class Elasticsearch(ServerOptions, kw_only=False, forbid_unknown_fields=True):
    """An Elasticsearch (8 or newer) or OpenSearch (2 or newer) cluster, as source or target."""

    type_name: ClassVar[str] = "elasticsearch"
    summary: ClassVar[str] = "Elasticsearch and OpenSearch; between two of them documents travel untouched."
    example: ClassVar[str] = (
        'source = { type = "elasticsearch", url = "https://es:9200", user = "etl", password = "${ES_PASSWORD}" }'
    )

    url: Annotated[
        str | None,
        msgspec.Meta(description="`https://es:9200`; several nodes of one cluster with commas between them."),
    ] = None
    read_slices: Annotated[
        int, msgspec.Meta(description="Source: how many requests read a full scan side by side.", ge=1, le=32)
    ] = 4
    writers: Annotated[
        int, msgspec.Meta(description="Target: how many bulk requests are under way at once.", ge=1, le=16)
    ] = 3
    state_index: Annotated[
        str, msgspec.Meta(description="Target: the hidden index that holds checkpoints and the lease.")
    ] = ".retl"
    truncate: Annotated[
        Truncate,
        msgspec.Meta(
            description='Target: whether `pre_action = "truncate"` deletes the index and creates it anew, or deletes its documents, which is slower.'
        ),
    ] = "recreate"
    keep_replaced: Annotated[
        bool,
        msgspec.Meta(description='Target: whether `pre_action = "swap"` keeps the index that stood behind the alias.'),
    ] = False

    aliases: Annotated[
        bool,
        msgspec.Meta(
            description="Target: whether an index that is created gets the aliases of the source's index too."
        ),
    ] = False
    times: Annotated[
        Times,
        msgspec.Meta(
            description="Target: what a time finer than a millisecond becomes in a new mapping. `date_nanos` reaches from 1970 to 2262. "
            "`date` has no such limits: searches then see milliseconds, and the document keeps every digit."
        ),
    ] = "date_nanos"

    def source(self) -> ElasticsearchSource:
        from retl.connectors.elasticsearch.source.source import ElasticsearchSource

        return ElasticsearchSource(self)

    def target(self) -> ElasticsearchTarget:
        from retl.connectors.elasticsearch.target.target import ElasticsearchTarget

        return ElasticsearchTarget(self)
