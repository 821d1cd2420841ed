"""The Flight SQL port of a stand-in for StarRocks or Doris: each login has a session of its own, in which USE and SET hold.

Faithful to https://arrow.apache.org/docs/format/FlightSql.html as far as a plain query goes, and to how both systems
document their use of it: a login by name and password is given a token, USE and SET are statements that give a row of
status, a session begins without a database and with what is set for the user. It can't show how the real systems type
their columns in each version, how they send a client on to other nodes, nor when they end a session.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import flight

from tests.fake_olap.errors import Refusal
from tests.fake_olap.server import FakeOlap
from tests.fake_olap.session import Running, Session
from tests.fake_olap.types import Text, Type, of_duckdb

_ROWS = 1000
_STATUS = pa.table({"StatusResult": ["0"]})
_PLAIN = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INT": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "DATE": pa.date32(),
    "VARBINARY": pa.binary(),
}


class FakeFlight(flight.FlightServerBase):  # type: ignore[misc]
    """Answers from the tables of ``server``.

    ``settings`` are what is set for the user, ``zoned``: a DATETIME comes with the zone of the session, not as it is,
    ``tls``: certificate and key.
    """

    def __init__(
        self,
        server: FakeOlap,
        *,
        password: str = "",
        settings: Mapping[str, str] | None = None,
        zoned: bool = False,
        tls: tuple[bytes, bytes] | None = None,
    ) -> None:
        self._server = server
        self._zoned = zoned
        self._results: dict[bytes, pa.Table] = {}
        self.statements: list[str] = []
        self.refused: str = ""
        """The variable that this version does not know."""
        self.fail_after: int | None = None
        """After so many batches the next stream breaks."""
        # Not a method of this: a server that is held by its own middleware is never freed.
        begin = partial(_begin, server, settings or {})
        login = _Login(server.user, password or server.password, begin)
        super().__init__(
            f"grpc{'+tls' if tls else ''}://127.0.0.1:0",
            auth_handler=_NoHandshake(),
            middleware={"login": login},
            tls_certificates=[tls] if tls else [],
        )

    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        kind, value = (content for _, content in _fields(descriptor.command))
        if not kind.endswith(b"CommandStatementQuery"):
            raise NotImplementedError(kind.decode())
        sql = dict(_fields(value))[1].decode()
        self.statements.append(sql)
        try:
            table = self._answer(sql, context.get_middleware("login").session)
        except Refusal as refusal:
            raise flight.FlightInternalError(refusal.message) from None
        ticket = secrets.token_bytes(8)
        self._results[ticket] = table
        return flight.FlightInfo(table.schema, descriptor, [flight.FlightEndpoint(ticket, [])], -1, -1)

    def _answer(self, sql: str, session: Session) -> pa.Table:
        if self.refused and sql.startswith("SET ") and self.refused in sql:
            raise self._server.errors.unknown_variable(self.refused)
        done = session.run(sql)
        return self._rows(done, session) if isinstance(done, Running) else _STATUS

    def _rows(self, query: Running, session: Session) -> pa.Table:
        engine = self._server.engine
        cursor, plan = engine.start(query.sql, session)
        try:
            held = engine.execute(cursor, plan)
            names = [str(column[0]) for column in cursor.description or []]
            kinds = [
                kind or of_duckdb(text, largeint=plan.largeint)
                for text, (_, kind) in zip_longest(held, plan.columns, fillvalue=("", None))
                if isinstance(text, str)
            ]
            rows = cursor.fetchall()
        finally:
            cursor.close()
        rows = rows if plan.limited else rows[: query.rows]
        values = zip(*rows, strict=True) if rows else [()] * len(kinds)
        columns = [self._column(list(value), kind, session) for value, kind in zip(values, kinds, strict=True)]
        return pa.table(columns, names)

    def _column(self, values: list[Any], kind: Type, session: Session) -> pa.Array:
        if kind.name in _PLAIN:
            return pa.array(values, _PLAIN[kind.name])
        if kind.name == "DECIMAL":
            return pa.array(values, pa.decimal128(*kind.args))
        if kind.name == "DATETIME":
            times = pa.array(values, pa.timestamp("us"))
            return pc.assume_timezone(times, session.variable("time_zone")) if self._zoned else times
        text = Text(doris=self._server.flavour.doris, zone=session.zone())
        return pa.array([None if value is None else text.text(value, kind) for value in values], pa.string())

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        table = self._results.pop(ticket.ticket)
        return flight.GeneratorStream(table.schema, self._batches(table))

    def _batches(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(table.to_batches(max_chunksize=_ROWS)):
            # A row of status is no stream that could break.
            if self.fail_after is not None and table is not _STATUS and number >= self.fail_after:
                self.fail_after = None
                raise flight.FlightInternalError("a backend was lost")
            yield batch


def _begin(server: FakeOlap, settings: Mapping[str, str]) -> Session:
    session = Session(server.engine, server.flavour, 0)
    for name, value in settings.items():
        session.run(f"SET {name} = '{value}'")
    return session


class _NoHandshake(flight.ServerAuthHandler):  # type: ignore[misc]
    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """The header says it all."""

    def is_valid(self, token: bytes) -> bytes:
        return b""


class _Login(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self, user: str, password: str, begin: Callable[[], Session]) -> None:
        super().__init__()
        self._basic = base64.b64encode(f"{user}:{password}".encode()).decode().rstrip("=")
        self._begin = begin
        self._sessions: dict[str, Session] = {}

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> flight.ServerMiddleware:
        given = [values[0] for name, values in headers.items() if name.lower() == "authorization"]
        kind, _, value = (given or [" "])[0].partition(" ")
        if kind == "Basic" and value.rstrip("=") == self._basic:
            value = secrets.token_hex(8)
            self._sessions[value] = self._begin()
        elif kind != "Bearer" or value not in self._sessions:
            raise flight.FlightUnauthenticatedError("access denied")
        return _Call(value, self._sessions[value])


class _Call(flight.ServerMiddleware):  # type: ignore[misc]
    """One call of a session, which its token names."""

    def __init__(self, token: str, session: Session) -> None:
        super().__init__()
        self._token = token
        self.session = session

    def sending_headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token}"}


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of the fields of a Protobuf message that holds nothing but texts and messages."""
    at = 0
    while at < len(message):
        number = message[at] >> 3
        at += 1
        size = shift = 0
        while True:
            byte = message[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield number, message[at : at + size]
        at += size
