"""A stand-in for the Flight SQL end of StarRocks and Doris: login by name and password, one statement, its batches.

Faithful to https://arrow.apache.org/docs/format/FlightSql.html as far as a plain query goes. It can't show how the real
systems type their columns, how they send a client on to other nodes, nor when they end a session.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
from pyarrow import flight

Answer = Callable[[str], pa.Table]
_ROWS = 1000


class FakeFlight(flight.FlightServerBase):  # type: ignore[misc]
    """Answers each statement by what ``answer`` makes of it; ``SET`` statements are only noted."""

    def __init__(self, answer: Answer, user: str, password: str) -> None:
        login = _Login(user, password)
        super().__init__("grpc://127.0.0.1:0", auth_handler=_NoHandshake(), middleware={"login": login})
        self._answer = answer
        self.statements: list[str] = []
        self.fail_after: int | None = None
        """After so many batches the next stream breaks."""

    def get_flight_info(self, context: Any, descriptor: flight.FlightDescriptor) -> flight.FlightInfo:
        kind, value = (content for _, content in _fields(descriptor.command))
        if not kind.endswith(b"CommandStatementQuery"):
            raise NotImplementedError(kind.decode())
        sql = dict(_fields(value))[1].decode()
        self.statements.append(sql)
        schema = pa.schema([]) if sql.startswith("SET ") else self._answer(sql).schema
        return flight.FlightInfo(schema, descriptor, [flight.FlightEndpoint(sql.encode(), [])], -1, -1)

    def do_get(self, context: Any, ticket: flight.Ticket) -> flight.FlightDataStream:
        sql = ticket.ticket.decode()
        if sql.startswith("SET "):
            return flight.RecordBatchStream(pa.table({}))
        table = self._answer(sql)
        return flight.GeneratorStream(table.schema, self._batches(table))

    def _batches(self, table: pa.Table) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(table.to_batches(max_chunksize=_ROWS)):
            if self.fail_after is not None and number >= self.fail_after:
                self.fail_after = None
                raise flight.FlightInternalError("a backend was lost")
            yield batch


class _NoHandshake(flight.ServerAuthHandler):  # type: ignore[misc]
    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """The header says it all."""

    def is_valid(self, token: bytes) -> bytes:
        return b""


class _Login(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    def __init__(self, user: str, password: str) -> None:
        super().__init__()
        self._basic = base64.b64encode(f"{user}:{password}".encode()).decode().rstrip("=")

    def start_call(self, info: Any, headers: dict[str, list[str]]) -> flight.ServerMiddleware | None:
        given = [values[0] for name, values in headers.items() if name.lower() == "authorization"]
        kind, _, value = (given or [" "])[0].partition(" ")
        if kind == "Basic" and value.rstrip("=") == self._basic:
            return _Token()
        if kind == "Bearer" and value == _Token.text:
            return None
        raise flight.FlightUnauthenticatedError("access denied")


class _Token(flight.ServerMiddleware):  # type: ignore[misc]
    text = "of-this-session"

    def sending_headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.text}"}


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
