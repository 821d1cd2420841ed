"""MySQL and MariaDB as a target: staged slices, one transaction for data and checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from retl.connectors.base import SystemInfo, TableWriter, Target, TargetTable
from retl.connectors.mysql import preflight, refresh, rights, schema, trial
from retl.connectors.mysql.connection import Login, MySQLConnection, connected
from retl.connectors.mysql.ddl import Ddl
from retl.connectors.mysql.job import Job
from retl.connectors.mysql.load import Infile
from retl.connectors.mysql.location import location
from retl.connectors.mysql.questions import Questions
from retl.connectors.mysql.schema import DIALECT, Known, Place
from retl.connectors.mysql.session import holding_fence
from retl.connectors.mysql.settings import writing
from retl.connectors.mysql.staged import StagedWriter
from retl.connectors.mysql.store import MySQLStore, run_step
from retl.connectors.mysql.types import MySQLTypes
from retl.connectors.mysql.writer import DirectWriter, MySQLWriter
from retl.connectors.sql.tables import TableChange, fit
from retl.model.actions import Action, PreAction, Write
from retl.model.checkpoint import FencedCheckpoint
from retl.model.errors import ConfigError
from retl.model.plan import BatchSize, TargetPreview, WriteSpec
from retl.model.schema import TableSchema
from retl.state import sql as state
from retl.state.base import StateStore
from retl.threads import shielded


@dataclass(frozen=True)
class _Settings:
    """What the server is set to."""

    lower: bool
    """Whether it knows tables in small letters alone."""
    local_infile: bool
    packet: int

    @classmethod
    async def of(cls, connection: MySQLConnection) -> _Settings:
        (found,) = await connection.query(
            "SELECT @@lower_case_table_names, @@GLOBAL.local_infile, @@max_allowed_packet"
        )
        lower, local_infile, packet = map(int, found)
        return cls(lower != 0, local_infile == 1, packet)


@dataclass(frozen=True)
class _Look:
    """What was found before anything is written."""

    place: Place
    known: Known | None
    change: TableChange
    names: tuple[str, ...]
    local: bool
    packet: int
    warnings: tuple[str, ...]

    def preparation(self, spec: WriteSpec) -> refresh.Preparation:
        return refresh.prepare(
            self.place,
            spec,
            self.change,
            existed=self.known is not None,
            names=self.names,
            indexes=self.known.secondary if self.known else (),
        )


class MySQLTarget(Target):
    """Writes MySQL or MariaDB. See ``retl.connectors.MySQL``."""

    system: ClassVar[str] = "mysql"
    batch_size = BatchSize(rows=32_768, bytes=4 * 1024 * 1024)

    def __init__(
        self, login: Login, *, lock_timeout: float = 30.0, writers: int = 2, local_infile: bool | None = None
    ) -> None:
        self._login = writing(login, lock_timeout)
        self._lock_timeout = lock_timeout
        self._writers = writers
        self._infile = Infile(local_infile)
        self._store = MySQLStore(holding_fence(self._login))
        self._questions = Questions(lambda: MySQLConnection.open(self._login))
        self._looked: tuple[WriteSpec, _Look] | None = None
        self._writing: MySQLWriter | None = None

    async def ping(self) -> SystemInfo:
        async with connected(self._login) as connection:
            ((version,),) = await connection.query("SELECT VERSION()")
            product = "MariaDB" if connection.server.mariadb else "MySQL"
            return SystemInfo(product, str(version), warnings=connection.warnings)

    async def location(self, table: str) -> str | None:
        place = schema.locate(table, self._login.database, lower=False)
        async with self._questions.turn() as connection:
            return await location(connection, place.database, place.name)

    def _locate(self, settings: _Settings, table: str) -> Place:
        return schema.locate(table, self._login.database, lower=settings.lower)

    async def _known(self, connection: MySQLConnection, table: str) -> Known | None:
        return await schema.inspect(connection, self._locate(await _Settings.of(connection), table))

    async def describe(self, table: str) -> TableSchema | None:
        async with self._questions.turn() as connection:
            known = await self._known(connection, table)
        return TableSchema(table, known.existing().columns, known.key()) if known else None

    async def count(self, table: str) -> int:
        async with self._questions.turn() as connection:
            known = await self._known(connection, table)
            if known is None:
                return 0
            ((rows,),) = await connection.query(f"SELECT COUNT(*) FROM {known.place.sql}")
        return int(rows)

    async def inspect(self, table: str) -> TargetTable | None:
        async with self._questions.turn() as connection:
            place = self._locate(await _Settings.of(connection), table)
            if not await schema.exists(connection, place):
                return TargetTable(exists=False, empty=True)
            return TargetTable(exists=True, empty=not await connection.query(f"SELECT 1 FROM {place.sql} LIMIT 1"))

    async def preview(self, spec: WriteSpec) -> TargetPreview:
        async with self._questions.turn() as connection:
            look = await self._look(connection, spec)
        self._looked = spec, look
        preparation = look.preparation(spec)
        statements = [*preparation.statements, *_shown(look, spec, preparation)]
        return TargetPreview(tuple(statements), look.change.casts, look.warnings)

    async def _look(self, connection: MySQLConnection, spec: WriteSpec) -> _Look:
        settings = await _Settings.of(connection)
        place = self._locate(settings, spec.table.to)
        preflight.check_names(place, spec)
        known = await self._seen(connection, place, spec)
        if known is None:
            await self._check_database(connection, place)
        warnings = await preflight.check_server(connection)
        warnings += preflight.check(spec, known) if known else []
        server = connection.server
        types = MySQLTypes(spec.schema, spec.key, mariadb=server.mariadb, version=server.version)
        change = fit(spec, known.existing() if known else None, DIALECT, types)
        await trial.check(connection, place, spec, change)
        if settings.local_infile:
            await self._infile.probe(connection, place.database)
        local = self._infile.use(allowed=settings.local_infile)
        if not local and self._infile.unset:
            warnings.append(preflight.slow_inserts(self._infile.refused))
        names = tuple(await schema.table_names(connection, place.database))
        return _Look(place, known, change, names, local, settings.packet, (*change.warnings, *warnings))

    async def _seen(self, connection: MySQLConnection, place: Place, spec: WriteSpec) -> Known | None:
        """The table, and of what hangs on it also what the catalog does not show to this user."""
        known = await schema.inspect(connection, place)
        if known is None or known.kind != "BASE TABLE":
            return known
        if not known.triggers:
            known = replace(known, sees_triggers=await rights.sees_triggers(connection, place))
        asks = spec.table.replaces and Action.ALTER not in spec.blacklist and not known.children and not known.parents
        if asks and await rights.is_referred_to(connection, place):
            known = replace(known, children=("a table that the user cannot see",))
        return known

    async def _look_again(self, connection: MySQLConnection, spec: WriteSpec) -> _Look:
        """What the preview of this scan has found counts where nothing is to be changed by it."""
        looked, self._looked = self._looked, None
        if looked is not None:
            previewed, look = looked
            if previewed == replace(spec, refresh=previewed.refresh) and not look.preparation(spec).statements:
                return look
        return await self._look(connection, spec)

    async def _check_database(self, connection: MySQLConnection, place: Place) -> None:
        found = await connection.query(
            f"SELECT 1 FROM information_schema.schemata WHERE schema_name = {DIALECT.string(place.database)}"
        )
        if not found:
            raise ConfigError(
                f"the target has no database {place.database!r}.",
                remedy=f"create it there: CREATE DATABASE {place.database} CHARACTER SET utf8mb4.",
            )

    async def prepare(self, spec: WriteSpec, fenced: FencedCheckpoint | None) -> TableWriter:
        await self._end_writing()
        connection = await self._questions.take()
        try:
            self._writing = await self._prepare(connection, spec, fenced)
            return self._writing
        except BaseException:
            connection.abort()
            raise

    async def _prepare(
        self, connection: MySQLConnection, spec: WriteSpec, fenced: FencedCheckpoint | None
    ) -> MySQLWriter:
        look = await self._look_again(connection, spec)
        preparation = look.preparation(spec)
        if fenced is not None or preparation.statements:
            # The journal first: from here on a crash is seen by the next scan.
            await _note(connection, spec, fenced)
        if preparation.statements:
            await Ddl(self._login, spec, look.place, connection, self._lock_timeout).run(preparation.statements)
        loaded = Place(look.place.database, preparation.table)
        known = await schema.inspect(connection, loaded) if preparation.statements else look.known
        if known is None:
            raise ConfigError(f"the table {spec.table.to!r} has vanished while it was made ready.")
        if look.known is not None:
            known = replace(known, sees_triggers=look.known.sees_triggers)
        job = Job(
            login=self._login,
            spec=spec,
            known=known,
            place=look.place,
            existed=look.known is not None,
            columns=look.change.columns,
            completion=preparation.completion,
            local=look.local,
            infile=self._infile,
            packet=look.packet,
            lock_timeout=self._lock_timeout,
        )
        return await self._writer(job, connection)

    async def _writer(self, job: Job, connection: MySQLConnection) -> MySQLWriter:
        if not job.spec.table.replaces:
            if job.loads_empty and not await connection.query(f"SELECT 1 FROM {job.known.place.sql} LIMIT 1"):
                return DirectWriter(job, [connection])
            staged = StagedWriter(job, [connection])
            await staged.open()
            return staged
        connections = [connection]
        try:
            while job.parallel and len(connections) < self._writers:
                connections.append(await MySQLConnection.open(self._login))
        except BaseException:
            for opened in connections:
                opened.abort()
            raise
        return DirectWriter(job, connections)

    def state_store(self) -> StateStore:
        if self._login.database is None:
            raise ConfigError(
                "the target's url names no database, so there is no place for the checkpoints.",
                remedy="name one: mysql://user@host:3306/database.",
                system="mysql",
            )
        return self._store

    async def release(self) -> None:
        await shielded(self._questions.close())
        await self._store.close()

    async def _end_writing(self) -> None:
        """Close a writer that was neither finished nor aborted."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await shielded(writing.close())

    async def aclose(self) -> None:
        await self._end_writing()
        await self.release()


async def _note(connection: MySQLConnection, spec: WriteSpec, fenced: FencedCheckpoint | None) -> None:
    """Save the checkpoint that says a refresh has begun; where there is none, prove the fence."""
    if fenced is None and (spec.fence is None or not spec.state_in_target):
        return
    await connection.begin()
    if fenced is not None:
        await run_step(connection, state.save(fenced))
    elif spec.fence is not None:
        await run_step(connection, state.prove(spec.fence))
    await connection.execute("COMMIT")


def _shown(look: _Look, spec: WriteSpec, preparation: refresh.Preparation) -> list[str]:
    """The statements that follow the preparation, for people."""
    names = DIALECT.identifiers(look.change.columns)
    loaded = look.place.beside(preparation.table)
    how = "LOAD DATA LOCAL INFILE ... INTO TABLE" if look.local else "INSERT INTO"
    if not spec.table.replaces:
        upsert = " ON DUPLICATE KEY UPDATE ..." if spec.table.write is Write.UPSERT else ""
        return [f"{how} a temporary table", f"INSERT INTO {loaded} ({names}) SELECT ...{upsert}"]
    statements = [f"{how} {loaded} ({names})", *preparation.completion]
    if spec.table.pre_action is PreAction.SWAP:
        away = f"{look.place.sql} TO ..., " if look.known else ""
        statements.append(f"RENAME TABLE {away}{loaded} TO {look.place.sql}")
    return statements
