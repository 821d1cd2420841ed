"""The stand-in for results of any size: a real MariaDB that says it is StarRocks or Doris.

A proxy rewrites the version in the handshake and the few statements that MariaDB would not understand, and relays what
comes back as raw bytes, at the speed of the loopback interface. Answered in the words of the system: ``current_version()``,
``@@version_comment`` and the session variables that MariaDB lacks (``query_timeout``, ``custom_query_id``, ...), ``SHOW
PARTITIONS``, ``information_schema.tables_config`` and ``partitions_meta``, ``KILL QUERY '<id>'``. ``PARTITION (t)`` of a
table without partitions and ``TABLET (...)`` are left out; real partitions of MariaDB's tables work by themselves.

It can't show the dialect, the types and the errors of either system (MariaDB's come through; DATETIME(6) always has its
six digits), that ``query_timeout`` ends a query, nor that versions of partitions grow.
"""

from __future__ import annotations

import asyncio
import re
import threading
from typing import Self

from tests.fake_olap.catalog import DORIS_PARTITIONS, STARROCKS_PARTITIONS
from tests.fake_olap.flavour import Flavour
from tests.fake_olap.listener import Listener
from tests.servers.database import Server

CHUNK = 1 << 20
# CLIENT_COMPRESS, LOCAL_FILES and SSL below, DEPRECATE_EOF above: neither system offers them here.
_LOW, _HIGH = 0x20 | 0x80 | 0x800, 0x100
_OK = b"\x07\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"
_QUERY = 3

_SET = re.compile(r"\s*SET\s+(.*)", re.IGNORECASE | re.DOTALL)
_ASSIGNMENT = re.compile(r"\s*(?:SESSION\s+|@@(?:SESSION\.)?)?`?(\w+)`?\s*:?=\s*(.*?)\s*", re.IGNORECASE | re.DOTALL)
_VARIABLE = re.compile(r"@@(?:SESSION\.)?(\w+)", re.IGNORECASE)
_KILL = re.compile(r"\s*KILL\s+QUERY\s+['\"]([^'\"]*)['\"]\s*;?\s*", re.IGNORECASE)
_SHOW = re.compile(r"\s*SHOW\s+PARTITIONS\s+FROM\s+(?:`?(\w+)`?\.)?`?(\w+)`?\s*;?\s*", re.IGNORECASE)
_WHOLE = re.compile(r"((?:FROM|JOIN)\s+(?:`?\w+`?\.)?`?(\w+)`?)\s+PARTITIONS?\s*\(\s*`?\2`?\s*\)", re.IGNORECASE)
_TABLET = re.compile(r"\bTABLET\s*\([\d\s,]*\)", re.IGNORECASE)
_TEXT = re.compile(r"\bAS\s+(?:VARCHAR|STRING)\s*\)", re.IGNORECASE)
_META = re.compile(
    r"`?information_schema`?\.`?(tables_config|partitions_meta)`?"
    r"(?:\s+(?:AS\s+)?(?!WHERE|ORDER|GROUP|LIMIT|JOIN|LEFT|INNER|CROSS|ON|USING|UNION)(\w+))?",
    re.IGNORECASE,
)
_PART = "COALESCE(p.PARTITION_NAME, p.TABLE_NAME)"
_TABLES = {
    "tables_config": (
        "SELECT t.TABLE_SCHEMA, t.TABLE_NAME, 'OLAP' AS TABLE_ENGINE, IF(k.PK IS NULL, 'DUP_KEYS', 'PRI_KEYS') AS TABLE_MODEL,"
        " COALESCE(k.PK, '') AS PRIMARY_KEY, '' AS PARTITION_KEY, COALESCE(k.PK, '') AS DISTRIBUTE_KEY,"
        " 'HASH' AS DISTRIBUTE_TYPE, 1 AS DISTRIBUTE_BUCKET, COALESCE(k.PK, '') AS SORT_KEY, '{}' AS PROPERTIES, 1 AS TABLE_ID"
        " FROM information_schema.TABLES t LEFT JOIN (SELECT TABLE_SCHEMA, TABLE_NAME,"
        " GROUP_CONCAT(CONCAT('`', COLUMN_NAME, '`') ORDER BY SEQ_IN_INDEX SEPARATOR ', ') AS PK"
        " FROM information_schema.STATISTICS WHERE INDEX_NAME = 'PRIMARY' GROUP BY TABLE_SCHEMA, TABLE_NAME) k"
        " ON k.TABLE_SCHEMA = t.TABLE_SCHEMA AND k.TABLE_NAME = t.TABLE_NAME"
    ),
    "partitions_meta": (
        f"SELECT p.TABLE_SCHEMA AS DB_NAME, p.TABLE_NAME, {_PART} AS PARTITION_NAME, 1 AS PARTITION_ID, 2 AS VISIBLE_VERSION,"
        " p.CREATE_TIME AS VISIBLE_VERSION_TIME, 3 AS NEXT_VERSION, 2 AS DATA_VERSION,"
        " p.PARTITION_EXPRESSION AS PARTITION_KEY, p.PARTITION_DESCRIPTION AS PARTITION_VALUE, FALSE AS IS_TEMP,"
        " p.DATA_LENGTH AS DATA_SIZE, p.TABLE_ROWS AS ROW_COUNT FROM information_schema.PARTITIONS p"
    ),
}


class VolumeServer(Server):
    """A MariaDB behind the words of another system: log in with MariaDB's user."""

    def __init__(self, behind: Server, flavour: Flavour) -> None:
        super().__init__(flavour.name, "127.0.0.1", 0, behind.user, behind.password)
        self.behind = behind
        self.flavour = flavour
        self._listener = Listener(f"{flavour.name} before {behind.product}", self._connected)
        self._lock = threading.Lock()
        # By the names that clients gave to their queries: the threads of MariaDB that run them.
        self.named: dict[str, int] = {}
        self._statements: list[str] = []
        self._cut: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def url(self, database: str = "", **parameters: str) -> str:
        return super().url(database, **parameters).replace("mysql", self.product.lower(), 1)

    def start(self) -> None:
        self._listener.start()
        self.port = self._listener.port
        self.look()

    def stop(self) -> None:
        """Cut all connections and listen no more; MariaDB goes on."""
        self._listener.stop()

    kill = stop

    @property
    def statements(self) -> list[str]:
        """What came, in its order."""
        with self._lock:
            return list(self._statements)

    def cut_after(self, size: int) -> None:
        """Cut the line of the first client to whom as many bytes go in the answer to one statement."""
        self._cut = size

    def heard(self, sql: str) -> None:
        with self._lock:
            self._statements.append(sql)

    def over(self, size: int) -> bool:
        """Is it time for the cut? It happens once."""
        with self._lock:
            if self._cut is None or size < self._cut:
                return False
            self._cut = None
            return True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Relay(self, reader, writer).run()


class _Relay:
    """One client, and its connection to MariaDB."""

    def __init__(self, server: VolumeServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._flavour = server.flavour
        theirs = {name: value for name, value in server.flavour.variables.items() if name in _ONLY_THEIRS}
        own = {"version": server.flavour.handshake_version, "version_comment": server.flavour.version_comment}
        self._variables = {**theirs, **own}
        self._reader = reader
        self._writer = writer
        self._thread = 0
        self._size = 0

    async def run(self) -> None:
        behind = self._server.behind
        theirs, mine = await asyncio.open_connection(behind.host, behind.port, limit=CHUNK)
        try:
            self._writer.write(self._greeting(await _packet(theirs)))
            relaying = asyncio.create_task(self._relay(theirs))
            asking = asyncio.create_task(self._ask(mine))
            try:
                await asyncio.wait([relaying, asking], return_when=asyncio.FIRST_COMPLETED)
            finally:
                relaying.cancel()
                asking.cancel()
                await asyncio.gather(relaying, asking, return_exceptions=True)
        finally:
            mine.close()

    def _greeting(self, packet: bytes) -> bytes:
        """MariaDB's first packet with another version, charset 33, and what the systems don't offer left out."""
        end = packet.index(b"\x00", 5)
        version, rest = self._flavour.handshake_version.encode(), bytearray(packet[end + 1 :])
        self._thread = int.from_bytes(rest[0:4], "little")
        low, high = int.from_bytes(rest[13:15], "little"), int.from_bytes(rest[18:20], "little")
        rest[13:15] = ((low & ~_LOW) | 1).to_bytes(2, "little")
        rest[15] = 33
        rest[18:20] = (high & ~_HIGH).to_bytes(2, "little")
        rest[21:31] = bytes(10)
        return _framed(packet[4:5] + version + b"\x00" + bytes(rest), packet[3])

    async def _relay(self, theirs: asyncio.StreamReader) -> None:
        while data := await theirs.read(CHUNK):
            self._size += len(data)
            self._writer.write(data)
            await self._writer.drain()
            if self._server.over(self._size):
                return

    async def _ask(self, mine: asyncio.StreamWriter) -> None:
        """Pass on what the client says. It says nothing while an answer is on its way."""
        while True:
            packet = await _packet(self._reader)
            if packet[3] == 0 and packet[4] == _QUERY:
                self._size = 0
                sql = self._rewritten(packet[5:].decode())
                if sql is None:
                    self._writer.write(_OK)
                    continue
                packet = _framed(bytes([_QUERY]) + sql.encode(), 0)
            mine.write(packet)
            await mine.drain()

    def _rewritten(self, sql: str) -> str | None:
        """The statement for MariaDB; None if there is nothing for it to do."""
        self._server.heard(sql)
        if sql == "SYNC":
            return None
        if found := _SET.fullmatch(sql):
            return self._set(sql, found[1])
        if found := _KILL.fullmatch(sql):
            return f"KILL QUERY {self._server.named.get(found[1], 0)}"
        if found := _SHOW.fullmatch(sql):
            return self._partitions(found[1], found[2])
        sql = _TABLET.sub("", _WHOLE.sub(r"\1", sql))
        sql = _META.sub(lambda meta: f"({_TABLES[meta[1].lower()]}) AS {meta[2] or meta[1].lower()}", sql)
        sql = _VARIABLE.sub(lambda name: self._own(name[1].lower(), name[0]), sql)
        if self._flavour.current_version:
            sql = re.sub(r"\bcurrent_version\s*\(\s*\)", f"'{self._flavour.current_version}'", sql, flags=re.IGNORECASE)
        sql = re.sub(r"\bversion\s*\(\s*\)", f"'{self._flavour.handshake_version}'", sql, flags=re.IGNORECASE)
        return _TEXT.sub("AS CHAR)", sql)

    def _own(self, name: str, text: str) -> str:
        return f"'{self._variables[name]}'" if name in self._variables else text

    def _set(self, sql: str, assignments: str) -> str | None:
        """Keep what MariaDB does not know, and what would end its queries otherwise than the system's."""
        left = []
        for part in assignments.rstrip("; ").split(","):
            found = _ASSIGNMENT.fullmatch(part)
            name = found[1].lower() if found else ""
            if not found or name not in _ONLY_THEIRS:
                left.append(part)
                continue
            self._variables[name] = found[2].strip("'\"")
            if name == "custom_query_id":
                self._server.named[self._variables[name]] = self._thread
        if len(left) == assignments.count(",") + 1:
            return sql
        return f"SET {','.join(left)}" if left else None

    def _partitions(self, database: str | None, table: str) -> str:
        names = (DORIS_PARTITIONS if self._flavour.doris else STARROCKS_PARTITIONS).split()
        known = {"PartitionId": "'1'", "PartitionName": _PART, "VisibleVersion": "'2'", "State": "'NORMAL'"}
        columns = ", ".join(f"{known.get(name, 'NULL')} AS `{name}`" for name in names)
        schema = f"'{database}'" if database else "DATABASE()"
        return f"SELECT {columns} FROM information_schema.PARTITIONS p WHERE p.TABLE_SCHEMA = {schema} AND p.TABLE_NAME = '{table}'"


_ONLY_THEIRS = frozenset(
    [
        "custom_query_id",
        "enable_profile",
        "enable_query_queue",
        "exec_mem_limit",
        "parallel_fragment_exec_instance_num",
        "parallel_pipeline_task_num",
        "pipeline_dop",
        "query_mem_limit",
        "query_queue_pending_timeout_second",
        "query_timeout",
        "return_object_data_as_binary",
        "session_context",
        "show_hidden_columns",
    ]
)


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """A packet with its header."""
    head = await reader.readexactly(4)
    return head + await reader.readexactly(int.from_bytes(head[:3], "little"))


def _framed(payload: bytes, number: int) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([number]) + payload
