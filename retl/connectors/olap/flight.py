"""Reading slices over Arrow Flight SQL instead of MySQL's protocol: typed Arrow batches, by a blocking driver in a thread.

StarRocks has it since 3.5.1 (``arrow_flight_port`` in fe.conf and be.conf), Doris since 2.1 (``arrow_flight_sql_port``).
The nodes that hold the data answer by themselves, so they must be reachable. Planning goes on over MySQL's protocol.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retl.connectors.mysql.dialect import MySQLDialect
from retl.connectors.mysql.errors import SourceRefused
from retl.connectors.mysql.login import Login
from retl.connectors.net.tls import not_verified
from retl.connectors.olap.errors import olap_error, while_reading
from retl.connectors.rows.rejects import without_broken_text
from retl.connectors.rows.text import to_text
from retl.model.errors import ConfigError, ConnectionFailed, SourceError
from retl.model.schema import is_text
from retl.model.secret import reveal
from retl.threads import Worker, shielded


class FlightStream:
    """One query. Its connection is its own; its session is made ready by the same statements as over MySQL's protocol."""

    def __init__(self, login: Login, port: int, tls_ca: str | None) -> None:
        self._login = login
        self._tls_ca = tls_ca
        self._place = f"{login.host}:{port}"
        self._uri = f"grpc{'+tls' if login.tls else ''}://{self._place}"
        self._worker = Worker("flight", self._interrupt)
        self._connection: Any = None
        self._cursor: Any = None
        self._reader: pa.RecordBatchReader | None = None

    async def batches(self, sql: str, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows, each column of its logical type in ``schema``, or canonical text. Closed early, it cancels the query."""
        try:
            await self._worker.run(self._open, sql)
            while (batch := await self._worker.run(self._next)) is not None:
                yield without_broken_text(cast_to_plan(batch, schema))
        finally:
            await shielded(self._worker.run(self._close))
            self._worker.close()

    def _open(self, sql: str) -> None:
        dbapi = _driver()
        login = self._login
        with self._mapped():
            words = {"username": login.user, "password": reveal(login.password), **self._trust()}
            self._connection = dbapi.connect(self._uri, db_kwargs=words, autocommit=True)
            self._cursor = self._connection.cursor()
            # A login names no database here.
            use = [f"USE {MySQLDialect().identifier(login.database)}"] if login.database else []
            for statement in (*use, *login.session):
                self._cursor.execute(statement)
                self._cursor.fetch_arrow_table()  # a row of status
            self._cursor.execute(sql)
            self._reader = self._cursor.fetch_record_batch()

    def _trust(self) -> dict[str, str]:
        """The driver's options for ``login.tls``."""
        from adbc_driver_flightsql import DatabaseOptions

        if self._login.tls is None:
            return {}
        if self._login.tls.verify_mode is ssl.CERT_NONE:
            return {DatabaseOptions.TLS_SKIP_VERIFY.value: "true"}
        return {DatabaseOptions.TLS_ROOT_CERTS.value: Path(self._tls_ca).read_text()} if self._tls_ca else {}

    def _next(self) -> pa.RecordBatch | None:
        assert self._reader is not None
        with self._mapped():
            try:
                batch: pa.RecordBatch = self._reader.read_next_batch()
            except StopIteration:
                return None
        return batch

    def _interrupt(self) -> None:
        cursor = self._cursor
        if cursor is not None:
            with suppress(Exception):  # it may have ended already
                cursor.adbc_cancel()

    def _close(self) -> None:
        for part in (self._reader, self._cursor, self._connection):
            if part is not None:
                with suppress(Exception):  # a stream that was cut cannot be closed properly
                    part.close()
        self._reader = self._cursor = self._connection = None

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        dbapi = _driver()
        try:
            yield
        except dbapi.Error as error:
            said = " ".join(str(error).split())
            if "UNAUTHENTICATED" in said or "UNAUTHORIZED" in said:
                raise ConfigError(
                    f"the source at {self._place} refused the login over Flight SQL: {said}.",
                    remedy="check user and password.",
                ) from error
            if "failed to verify certificate" in said:
                raise not_verified(said, self._place) from error
            if said.startswith(("IO", "CANCELLED", "TIMEOUT", "INTERNAL")):
                raise ConnectionFailed(
                    f"reading over Flight SQL from {self._place} failed: {said}.",
                    remedy='nothing, if it passes: the scan is tried again. Otherwise check flight_port, or use protocol = "mysql".',
                ) from error
            found = olap_error(0, said, "source", self._place)
            found = while_reading(found) if isinstance(found, SourceRefused) else found
            found.message = f"over Flight SQL: {found.message}"
            raise found from error
        except (pa.ArrowException, OSError) as error:
            raise ConnectionFailed(
                f"reading over Flight SQL from {self._place} failed: {error}.",
                remedy="nothing, if it passes: the scan is tried again.",
            ) from error


def _driver() -> Any:
    try:
        from adbc_driver_flightsql import dbapi
    except ImportError:
        raise ConfigError(
            'protocol = "flight" needs the Python package adbc-driver-flightsql.',
            remedy="pip install 'retl[flight]'",
        ) from None
    return dbapi


def cast_to_plan(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch under the names and with the types that the plan promised. Raises ``SourceError`` for a value that does not fit."""
    columns = [_cast(column, wanted) for column, wanted in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema.names)


def _cast(column: pa.Array, wanted: pa.Field) -> pa.Array:
    kind = column.type
    if kind == wanted.type:
        return column
    if is_text(kind) or pa.types.is_string(wanted.type):
        found = to_text(column)
        return found.cast(pa.binary()) if pa.types.is_binary(wanted.type) else found
    try:
        if pa.types.is_timestamp(kind) and kind.tz and pa.types.is_timestamp(wanted.type) and not wanted.type.tz:
            column = pc.local_timestamp(column)  # wall clock time, which DATETIME means
        return column.cast(wanted.type)
    except pa.ArrowInvalid as error:
        raise SourceError(
            f"column {wanted.name!r} came as {kind}, and not every value of it is a {wanted.type}: {error}."
        ) from error
