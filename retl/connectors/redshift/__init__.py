"""Amazon Redshift as a source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec

from retl.connectors.redshift.options import IAM, ClusterOptions, Unload

if TYPE_CHECKING:
    from retl.connectors.redshift.source import RedshiftSource


class Redshift(ClusterOptions, kw_only=False, forbid_unknown_fields=True):
    """A Redshift cluster or serverless workgroup, as a source."""

    type_name: ClassVar[str] = "redshift"
    summary: ClassVar[str] = "Amazon Redshift, read whole, by a cursor, or by UNLOAD through a bucket."
    example: ClassVar[str] = (
        'source = { type = "redshift", url = "redshift://etl@cluster:5439/dev", password = "${RS_PASSWORD}" }'
    )

    beside_session: ClassVar[frozenset[str]] = ClusterOptions.beside_session | {
        "read",
        "unload",
        "cursor_cap_mb",
        "spool_mb",
    }

    url: Annotated[str | None, msgspec.Meta(description="`redshift://user@host:5439/database`.")] = None
    iam: Annotated[
        IAM | None,
        msgspec.Meta(
            description="Fetch a short-lived user and password from AWS for each connection (`pip install 'retl[redshift-iam]'`)."
        ),
    ] = None
    schema: Annotated[
        str, msgspec.Meta(description="Where tables are that are named without a schema.", min_length=1)
    ] = "public"
    timezone: Annotated[
        str | None,
        msgspec.Meta(
            description="The zone in which TIMESTAMP columns were written, such as `Asia/Shanghai`; UTC when unset. Only `settle` looks at it."
        ),
    ] = None
    query_group: Annotated[
        str | None, msgspec.Meta(description="The query group by which the cluster chooses a queue (WLM).")
    ] = None
    read: Annotated[
        Literal["auto", "whole", "cursor", "unload"],
        msgspec.Meta(
            description="How rows are read: `whole` in one answer, by a `cursor`, by `unload`; `auto` chooses by an estimate of their size."
        ),
    ] = "auto"
    unload: Annotated[Unload | None, msgspec.Meta(description="The bucket through which large results are read.")] = (
        None
    )
    cursor_cap_mb: Annotated[
        int | None,
        msgspec.Meta(
            description="How many megabytes a cursor's result may have on your node type; unset: the least of all types with as many nodes.",
            ge=1,
        ),
    ] = None
    spool_mb: Annotated[
        int,
        msgspec.Meta(
            description="How many megabytes of rows may wait on disk for a slow target, so that the cluster's queue does not wait for it.",
            ge=0,
        ),
    ] = 2_048

    def source(self) -> RedshiftSource:
        from retl.connectors.redshift.source import RedshiftSource

        return RedshiftSource(self)
