"""Reading by UNLOAD: the cluster writes files of Parquet into a bucket, and retl reads what its manifest names.

Each scan has a folder of its own, in which one object shows that the scan lives: it is written again and again. Folders
that have been silent for long are what crashed scans have left; the next scan removes them. Only what the manifest names
is read, and its counts are compared with the files and their rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import anyio
import msgspec
import pyarrow as pa
from anyio.streams.memory import MemoryObjectSendStream

from retl.connectors.redshift.bucket import Bucket, ParquetObject
from retl.connectors.redshift.dialect import DIALECT
from retl.connectors.redshift.options import Unload
from retl.connectors.redshift.rows import from_file
from retl.model.errors import RetlError, SourceError
from retl.threads import Worker, shielded

T = TypeVar("T")

FOLDER = "retl-"
"""What the folders of scans begin with."""
ABANDONED = timedelta(hours=1)
"""How long the folder of a scan must have been silent to be removed by another one."""
_SIGN_OF_LIFE = "alive"
_SIGN_SECONDS = 300.0


class FileMeta(msgspec.Struct):
    """What a manifest tells of one file, or of all."""

    content_length: int
    record_count: int


class FileEntry(msgspec.Struct):
    """One file of a manifest."""

    url: str
    meta: FileMeta


class Manifest(msgspec.Struct):
    """The manifest that ``VERBOSE`` makes."""

    entries: list[FileEntry]
    meta: FileMeta


def statement(query: str, options: Unload, prefix: str) -> str:
    """The UNLOAD of a query. It holds no credentials."""
    role = "default" if options.iam_role == "default" else DIALECT.string(options.iam_role)
    words = [
        (
            f"UNLOAD ({DIALECT.string(query)}) TO {DIALECT.string(f's3://{options.bucket_name}/{prefix}')} IAM_ROLE {role} "
            f"FORMAT PARQUET MANIFEST VERBOSE MAXFILESIZE {options.max_file_mb} MB"
        )
    ]
    if options.region:
        words.append(f"REGION {DIALECT.string(options.region)}")
    if options.kms_key_id:
        words.append(f"KMS_KEY_ID {DIALECT.string(options.kms_key_id)} ENCRYPTED")
    return " ".join(words)


class ScanFolder:
    """The folder of one scan in the bucket."""

    def __init__(self, options: Unload) -> None:
        self.options = options
        self.path = f"{options.prefix}{FOLDER}{uuid4().hex}/"
        self.bucket = Bucket(options)
        self._worker = Worker("bucket")
        self._living: asyncio.Task[None] | None = None
        self._slices = 0

    async def begin(self) -> None:
        """Show that the scan lives, and remove what crashed scans have left. Safe to call again."""
        if self._living is not None:
            return
        await self._run(self.bucket.put, self.path + _SIGN_OF_LIFE, b"")
        self._living = asyncio.create_task(self._live())
        await self._run(self._remove_abandoned)

    async def _live(self) -> None:
        worker = Worker("sign-of-life")
        try:
            while True:
                await asyncio.sleep(_SIGN_SECONDS)
                with suppress(RetlError):
                    await worker.run(self.bucket.put, self.path + _SIGN_OF_LIFE, b"")
        finally:
            worker.close()

    def _remove_abandoned(self) -> None:
        now = self.bucket.modified(self.path + _SIGN_OF_LIFE)
        for folder, time in self.bucket.folders(self.options.prefix).items():
            if folder.startswith(FOLDER) and now - time > ABANDONED:
                self.bucket.delete(f"{self.options.prefix}{folder}/")

    def next_prefix(self) -> str:
        """A prefix that nothing was ever written under."""
        self._slices += 1
        return f"{self.path}{self._slices:06d}/"

    async def rows(self, prefix: str, expected: int | None, schema: pa.Schema) -> AsyncGenerator[pa.RecordBatch, None]:
        """The rows of all files of an UNLOAD, as ``schema`` says, unordered; several files are read side by side.

        Raises ``SourceError`` where manifest, files and ``expected`` do not tell of the same number of rows.
        """
        manifest = await self._run(self._manifest, prefix, expected)
        send, receive = anyio.create_memory_object_stream[pa.RecordBatch](self.options.readers)
        waiting = list(reversed(manifest.entries))
        readers = [
            asyncio.create_task(self._read_files(waiting, send.clone(), schema))
            for _ in range(min(self.options.readers, len(waiting)))
        ]
        send.close()
        try:
            async for batch in receive:
                yield batch
            for reader in readers:
                await reader
        finally:
            receive.close()
            await shielded(_stop(readers))

    def _manifest(self, prefix: str, expected: int | None) -> Manifest:
        manifest = msgspec.json.decode(self.bucket.get(f"{prefix}manifest"), type=Manifest)
        start = f"s3://{self.options.bucket_name}/{prefix}"
        counted = sum(entry.meta.record_count for entry in manifest.entries)
        if counted != manifest.meta.record_count or any(not entry.url.startswith(start) for entry in manifest.entries):
            raise SourceError(f"the manifest under {start} contradicts itself.")
        if expected is not None and counted != expected:
            raise SourceError(
                f"the cluster counted {expected:,} rows and wrote {counted:,} under {start}; nothing of it was committed."
            )
        return manifest

    async def _read_files(
        self, waiting: list[FileEntry], send: MemoryObjectSendStream[pa.RecordBatch], schema: pa.Schema
    ) -> None:
        worker = Worker("unloaded")
        try:
            with send:
                while waiting:
                    await self._read_file(worker, waiting.pop(), send, schema)
        finally:
            worker.close()

    async def _read_file(
        self, worker: Worker, entry: FileEntry, send: MemoryObjectSendStream[pa.RecordBatch], schema: pa.Schema
    ) -> None:
        file = await worker.run(self._open, entry)
        rows = 0
        try:
            while (batch := await worker.run(_next, file, schema)) is not None:
                rows += batch.num_rows
                await send.send(batch)
        finally:
            await shielded(worker.run(file.close))
        _compare(entry, "rows", entry.meta.record_count, rows)

    def _open(self, entry: FileEntry) -> ParquetObject:
        file = self.bucket.open(entry.url.removeprefix(f"s3://{self.options.bucket_name}/"))
        _compare(entry, "bytes", entry.meta.content_length, file.bytes)
        _compare(entry, "rows", entry.meta.record_count, file.rows)
        return file

    async def remove(self, prefix: str) -> None:
        """Delete what one UNLOAD has written, also if the caller is cancelled."""
        with suppress(RetlError):  # the end of the scan tries again
            await shielded(self._run(self.bucket.delete, prefix))

    async def leave(self) -> None:
        """Delete the folder. What cannot be deleted now, a later scan removes."""
        if self._living is not None:
            await _stop([self._living])
            with suppress(RetlError):
                await self._run(self.bucket.delete, self.path)
        self._worker.close()

    async def _run(self, call: Callable[..., T], *arguments: Any) -> T:
        return await self._worker.run(call, *arguments)


def _next(file: ParquetObject, schema: pa.Schema) -> pa.RecordBatch | None:
    batch = file.next()
    return None if batch is None else from_file(batch, schema)


def _compare(entry: FileEntry, what: str, told: int, found: int) -> None:
    if told != found:
        raise SourceError(
            f"{entry.url} has {found:,} {what}, but the manifest tells of {told:,}; nothing of it was committed."
        )


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
