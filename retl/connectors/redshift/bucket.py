"""The bucket between a cluster and retl, by Arrow's own S3 client. Everything here blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from retl.connectors.redshift.options import Unload
from retl.model.errors import ConfigError, ConnectionFailed, SourceError
from retl.model.secret import reveal

_SECONDS = 30.0
_DENIED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "NO_SUCH_BUCKET",
    "AUTHORIZATION",
    "Forbidden",
)


class Bucket:
    """A bucket. Errors are ``ConfigError``, ``ConnectionFailed``, or ``SourceError`` for an object that is not there."""

    def __init__(self, options: Unload) -> None:
        self._options = options
        self._made: Any = None

    @property
    def _files(self) -> Any:
        if self._made is None:
            self._made = fs.S3FileSystem(**self._words())
        return self._made

    def _words(self) -> dict[str, Any]:
        options = self._options
        words: dict[str, Any] = {"connect_timeout": _SECONDS, "request_timeout": _SECONDS, "region": options.region}
        if options.access_key is not None and options.secret_key is not None:
            words |= {"access_key": reveal(options.access_key), "secret_key": reveal(options.secret_key)}
        if options.endpoint is not None:
            scheme, _, place = options.endpoint.rpartition("://")
            words |= {"endpoint_override": place, "scheme": scheme or "https", "region": options.region or "us-east-1"}
        return {name: value for name, value in words.items() if value is not None}

    def put(self, key: str, data: bytes) -> None:
        """Write one object."""
        with self._mapped(key), self._files.open_output_stream(self._path(key)) as stream:
            stream.write(data)

    def get(self, key: str) -> bytes:
        """A small object."""
        with self._mapped(key), self._files.open_input_file(self._path(key)) as file:
            return bytes(file.read())

    def modified(self, key: str) -> datetime:
        """When an object was written, by the clock of the store."""
        with self._mapped(key):
            return self._time(self._files.get_file_info(self._path(key)))

    def folders(self, prefix: str) -> dict[str, datetime]:
        """The folders right below a prefix that ends in a slash, and when the newest object in each was written."""
        with self._mapped(prefix):
            selector = fs.FileSelector(self._path(prefix), allow_not_found=True, recursive=True)
            found = self._files.get_file_info(selector)
        newest: dict[str, datetime] = {}
        for info in found:
            folder, slash, _ = info.path.removeprefix(self._path(prefix)).partition("/")
            if slash and info.type is fs.FileType.File:
                time = self._time(info)
                newest[folder] = max(newest.get(folder, time), time)
        return newest

    def delete(self, prefix: str) -> None:
        """Delete everything below a prefix that ends in a slash."""
        with self._mapped(prefix):
            self._files.delete_dir_contents(self._path(prefix), missing_dir_ok=True)
            # Some stores keep an object for the folder itself.
            folder = self._files.get_file_info(self._path(prefix).rstrip("/"))
            if folder.type is not fs.FileType.NotFound:
                self._files.delete_dir(folder.path)

    def open(self, key: str) -> ParquetObject:
        """A file of Parquet, for reading."""
        with self._mapped(key):
            return ParquetObject(self, key, self._files.open_input_file(self._path(key)))

    def _path(self, key: str) -> str:
        return f"{self._options.bucket_name}/{key}"

    def _time(self, info: Any) -> datetime:
        assert isinstance(info.mtime, datetime)
        return info.mtime

    @contextmanager
    def _mapped(self, key: str) -> Iterator[None]:
        place = f"s3://{self._path(key)}"
        try:
            yield
        except FileNotFoundError as error:
            raise SourceError(f"{place} is not there, though the cluster says that it wrote it.") from error
        except (OSError, pa.ArrowException) as error:
            said = " ".join(str(error).split())
            if any(word in said for word in _DENIED):
                raise ConfigError(
                    f"{place} cannot be used: {said}.",
                    remedy="check url, access_key and secret_key in unload; retl must be allowed to list, read, write and delete there.",
                ) from error
            raise ConnectionFailed(
                f"the bucket failed at {place}: {said}.",
                remedy="nothing, if it passes: the scan is tried again. Otherwise check region and endpoint in unload.",
            ) from error


class ParquetObject:
    """An open file of Parquet in a bucket."""

    def __init__(self, bucket: Bucket, key: str, file: Any) -> None:
        self._bucket = bucket
        self._key = key
        self._file = file
        with bucket._mapped(key):
            self.bytes = int(file.size())
            self._parquet = pq.ParquetFile(file, pre_buffer=True)
            self.rows = int(self._parquet.metadata.num_rows)
            self._batches = self._parquet.iter_batches(batch_size=16_384)

    def next(self) -> pa.RecordBatch | None:
        """The next rows; ``None`` at the end."""
        with self._bucket._mapped(self._key):
            return next(self._batches, None)

    def close(self) -> None:
        """Let go of it."""
        self._batches = iter(())
        self._parquet.close()
        self._file.close()
