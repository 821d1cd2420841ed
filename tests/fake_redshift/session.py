"""One client of the stand-in, and its session at PostgreSQL: statements are looked at, put into other words, and relayed.

A refused statement goes on as one that PostgreSQL refuses too, so that its transaction is aborted as a cluster's would be;
the client gets the words of the cluster. A transaction becomes one of REPEATABLE READ when it first touches a user table:
that is its snapshot.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tests.fake_redshift import settings, sql, unload, wire
from tests.fake_redshift.sql import Statement
from tests.fake_redshift.wire import Message, Refusal

if TYPE_CHECKING:
    from tests.fake_redshift.server import FakeRedshift, Fault

_REFUSED = "SELECT a_statement_that_a_cluster_refuses"
_ABORTED = Refusal("current transaction is aborted, commands ignored until end of transaction block", "25P02")
_FETCH = re.compile(r"fetch\s+(?:forward\s+)?(\w+)\s+from\s+(\"?\w+\"?)", re.IGNORECASE)
_DECLARE = re.compile(r"declare\s+(\"?\w+\"?)\s+cursor\s+for\s+(.*)", re.IGNORECASE | re.DOTALL)
_ARRAY_TYPES = {1000, 1001, 1005, 1007, 1009, 1015, 1016, 1021, 1022, 1028, 1115, 1182, 1185, 1231}
_MOST_FETCHED = 1000


class Lost(Exception):
    """A fault cuts the line."""


class Session:
    """Relays between a client and PostgreSQL."""

    def __init__(
        self,
        server: FakeRedshift,
        user: str,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        backend: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._server = server
        self._user = user
        self._from_client, self._to_client = client
        self._from_backend, self._to_backend = backend
        self._settings = dict(settings.DEFAULTS)
        self._cursor: str | None = None
        self._too_large = False
        self._in_transaction = self._has_snapshot = self._failed = False
        self._refusals: list[Refusal] = []
        self._asked: asyncio.Queue[Message] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._waiting = 0
        self._fault: Fault | None = None
        self._rows = 0
        self._made: Statement | None = None

    async def serve(self) -> None:
        """Relay until either side ends."""
        tasks = [asyncio.create_task(self._from_the_client()), asyncio.create_task(self._from_the_backend())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._to_backend.close()

    # From the client

    async def _from_the_client(self) -> None:
        while (message := await wire.read(self._from_client)).kind != b"X":
            if message.kind in (b"Q", b"P"):
                await self._remember()
            match message.kind:
                case b"Q":
                    await self._simple(wire.c_string(message.body)[0])
                case b"P":
                    await self._parse(message)
                case b"S":
                    self._send(message, ends=True)
                case _:
                    self._send(message)
            await self._to_backend.drain()
        await self._remember()

    def _send(self, message: Message, *, ends: bool = False) -> None:
        if ends:
            self._waiting += 1
            self._idle.clear()
        self._to_backend.write(message.packed())

    async def _simple(self, text: str) -> None:
        await self._idle.wait()
        statement = Statement.of(text)
        self._hear(text)
        failed = self._fails()
        if statement.verb == "unload" and not failed:
            await self._unload(statement)
        else:
            sent = await self._refusing(statement, failed) or self._in_its_words(statement)
            self._send(Message(b"Q", f"{sent}\0".encode()), ends=True)

    async def _refusing(self, statement: Statement, failed: Refusal | None) -> str | None:
        """What PostgreSQL is sent in place of a statement that a cluster refuses."""
        refused = failed or await self._looked_at(statement)
        self._made = statement if statement.verb == "create" and not refused else None
        if refused:
            self._refusals.append(refused)
        return _REFUSED if refused else None

    async def _parse(self, message: Message) -> None:
        name, position = wire.c_string(message.body)
        text, position = wire.c_string(message.body, position)
        types = struct.unpack_from(
            f"!{struct.unpack_from('!h', message.body, position)[0]}i", message.body, position + 2
        )
        statement = Statement.of(text)
        self._hear(text)
        failed = self._fails()
        if _ARRAY_TYPES & set(types):
            failed = Refusal("array parameters are not supported", "0A000")
        elif statement.verb == "unload":
            failed = Refusal("the stand-in takes UNLOAD as a simple query alone", "0A000")
        if sent := await self._refusing(statement, failed):
            body = f"{name}\0{sent}\0".encode() + b"\0\0"
        else:
            body = f"{name}\0{self._in_its_words(statement)}\0".encode() + message.body[position:]
        self._send(Message(b"P", body))

    def _hear(self, text: str) -> None:
        self._rows = 0
        self._fault = self._server.heard(self._user, text)

    def _fails(self) -> Refusal | None:
        """The error of a fault that leaves nothing of an answer; a line may be cut as early."""
        fault = self._fault
        if (
            fault is None
            or fault.after_rows is not None
            or not (fault.error or fault.cut)
            or "unload" in fault.on.lower()
        ):
            return None
        self._server.happened(fault)
        if fault.cut:
            self._to_client.transport.abort()
            raise Lost
        return fault.error

    def _in_its_words(self, statement: Statement) -> str:
        """The statement for PostgreSQL, and what it does to the session."""
        text = statement.text()
        if statement.verb in ("begin", "start"):
            return "BEGIN"
        if statement.verb in ("declare", "close"):
            self._cursor = statement.words[1].text if statement.verb == "declare" else None
        if (change := settings.assigned(text)) and change[0] in settings.DEFAULTS:
            self._settings[change[0]] = change[1].lower()
            return f"SET redshift.{change[0]} = '{change[1]}'"
        if (name := settings.asked(text)) in settings.DEFAULTS:
            return f"SELECT '{self._settings[str(name)]}'::text AS {name}"
        case_sensitive = self._settings["enable_case_sensitive_identifier"] in ("on", "true")
        made = sql.translated(statement, case_sensitive=case_sensitive)
        if statement.verb == "truncate" and self._in_transaction:
            return f"{made}; COMMIT"
        return re.sub(r" WITH NO SCHEMA BINDING$", "", made, flags=re.IGNORECASE)

    async def _looked_at(self, statement: Statement) -> Refusal | None:
        text = statement.text()
        if statement.verb in ("set", "show"):
            change = settings.assigned(text)
            name = change[0] if change else settings.asked(text)
            if name and not re.match(r"(transaction|isolation)", name):
                return settings.unknown(name, superuser=self._server.is_admin(self._user))
            return None
        refused = sql.refusal(statement) or await self._cursor_rules(statement, text)
        if not refused and statement.touches_user_tables():
            await self._take_snapshot()
        return refused

    async def _cursor_rules(self, statement: Statement, text: str) -> Refusal | None:
        if statement.verb == "declare" and (found := _DECLARE.fullmatch(text)):
            if self._cursor:
                return Refusal("only one cursor may be open at once in a session", "0A000")
            if statement.touches_user_tables():
                await self._take_snapshot()
            await self._measure(found[2])
        if statement.verb == "fetch" and (found := _FETCH.match(text)):
            if self._too_large:
                cap = self._server.cursor_cap // 1_000_000
                return Refusal(f"exceeded the maximum size allowed for the total set of cursor data: {cap}MB.", "XX000")
            single = self._server.nodes == 1
            if single and (found[1].lower() == "all" or (found[1].isdigit() and int(found[1]) > _MOST_FETCHED)):
                return Refusal(
                    "Fetch ALL and fetch sizes above 1000 are not supported on single-node clusters", "0A000"
                )
        return None

    async def _measure(self, query: str) -> None:
        """Whether a cursor's result is larger than the leader holds."""
        made = sql.translated(Statement.of(query), case_sensitive=False)
        try:
            ((size,),) = await self.ask(f"SELECT coalesce(sum(octet_length(q::text)), 0) FROM ({made}) AS q")
        except unload.Refused:
            size = b"0"  # its transaction is aborted, and the cursor's own statement tells of it
        self._too_large = int(size or 0) > self._server.cursor_cap

    async def _take_snapshot(self) -> None:
        if self._in_transaction and not self._has_snapshot and not self._failed:
            await self.ask("COMMIT")
            await self.ask("BEGIN ISOLATION LEVEL REPEATABLE READ")
            self._has_snapshot = True

    async def ask(self, text: str) -> list[list[bytes | None]]:
        """The rows of a statement of the stand-in's own. Raises ``unload.Refused`` with PostgreSQL's error."""
        return (await self.answered(text))[1]

    async def answered(self, text: str) -> tuple[list[tuple[str, int, int]], list[list[bytes | None]]]:
        """Columns and rows of a statement of the stand-in's own."""
        await self._idle.wait()
        self._asked = asyncio.Queue()
        self._to_backend.write(Message(b"Q", f"{text}\0".encode()).packed())
        await self._to_backend.drain()
        described: list[tuple[str, int, int]] = []
        rows: list[list[bytes | None]] = []
        error: Message | None = None
        while (message := await self._asked.get()).kind != b"Z":
            if message.kind == b"T":
                described = wire.columns(message.body)
            elif message.kind == b"D":
                rows.append(wire.values(message.body))
            elif message.kind == b"E":
                error = message
        self._asked = None
        if error:
            raise unload.Refused(error)
        return described, rows

    async def _remember(self) -> None:
        """Note what PostgreSQL was not told of a table or view that the last statement has made."""
        statement, self._made = self._made, None
        if statement is None:
            return
        await self._idle.wait()
        words = statement.words
        low = [token.low for token in words]
        late = low[-4:] == ["with", "no", "schema", "binding"]
        if self._failed or not (statement.keys or late):
            return
        start = low.index("view" if late else "table") + 1
        start += 3 if low[start : start + 3] == ["if", "not", "exists"] else 0
        end = next(n for n in range(start, len(words)) if words[n].text == "(" or low[n] == "as")
        name = "".join(token.text.lower() for token in words[start:end])
        if late:
            await self.ask(f"INSERT INTO rs_own.late_binding VALUES ('{name}'::regclass)")
        for kind, columns in statement.keys:
            listed = ", ".join(f"'{column}'" for column in columns)
            await self.ask(
                f"INSERT INTO rs_own.keys (conrelid, contype, columns) VALUES ('{name}'::regclass, '{kind}', ARRAY[{listed}])"
            )

    async def _unload(self, statement: Statement) -> None:
        try:
            if self._failed:
                raise unload.Refused(_ABORTED.as_message())
            if self._fault and self._fault.error:
                self._server.happened(self._fault)
                raise unload.Refused(self._fault.error.as_message())
            asked = unload.parse(statement)
            await self._take_snapshot()
            inner = Statement.of(asked.query)
            if refused := sql.refusal(inner):
                raise unload.Refused(refused.as_message())
            described, rows = await self.answered(sql.translated(inner, case_sensitive=False))
            await asyncio.to_thread(unload.write, self._server, asked, described, rows)
        except unload.Refused as error:
            self._to_client.write(error.message.packed())
            if self._in_transaction and not self._failed:
                await self._abort()
        else:
            if self._fault and self._fault.cut:
                self._server.happened(self._fault)
                self._to_client.transport.abort()
                return
            self._to_client.write(Message(b"C", b"UNLOAD\0").packed())
        self._to_client.write(Message(b"Z", b"E" if self._failed else b"T" if self._in_transaction else b"I").packed())

    async def _abort(self) -> None:
        try:
            await self.ask(_REFUSED)
        except unload.Refused:
            self._failed = True

    # From PostgreSQL

    async def _from_the_backend(self) -> None:
        while True:
            message = await wire.read(self._from_backend)
            if message.kind == b"Z":
                self._ready(message)
            if self._asked is not None:
                self._asked.put_nowait(message)
                continue
            await self._relay(message)
            if message.kind == b"Z":
                self._waiting -= 1
                if not self._waiting:
                    self._idle.set()

    def _ready(self, message: Message) -> None:
        state = message.body
        if state == b"I":
            self._has_snapshot = False
            self._cursor = None
        self._in_transaction, self._failed = state != b"I", state == b"E"

    async def _relay(self, message: Message) -> None:
        if message.kind == b"S":
            return  # a cluster tells of none of these later
        if message.kind == b"E" and self._refusals:
            message = self._refusals.pop(0).as_message()
        if message.kind == b"T":
            message = Message(b"T", wire.with_types(message.body, self._server.type_numbers))
        if message.kind == b"D" and not await self._passes(self._fault):
            return
        self._to_client.write(message.packed())
        await self._to_client.drain()

    async def _passes(self, fault: Fault | None) -> bool:
        """Whether a row reaches the client."""
        self._rows += 1
        if fault is None or fault.after_rows is None or self._rows <= fault.after_rows:
            return True
        self._server.happened(fault)
        if fault.cut:
            self._to_client.transport.abort()
            raise Lost
        if fault.silent:
            await asyncio.Event().wait()
        if fault.error and self._rows == fault.after_rows + 1:
            self._to_client.write(fault.error.as_message().packed())
        if fault.hold:
            await asyncio.to_thread(fault.wait)
        return fault.hold


def told_at_start(given: Mapping[str, str], user: str) -> list[Message]:
    """What a cluster says of itself before it is ready."""
    words = {**settings.AT_START, "session_authorization": user, "application_name": given.get("application_name", "")}
    return [wire.status(name, value) for name, value in words.items()]
