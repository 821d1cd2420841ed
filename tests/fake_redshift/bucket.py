"""A bucket of a real S3 server, for UNLOAD and for those who look at what it has left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyarrow import fs


@dataclass(frozen=True)
class Bucket:
    """One bucket, reached by Arrow's own S3 client."""

    name: str
    endpoint: str
    access_key: str
    secret_key: str

    def files(self) -> Any:
        return fs.S3FileSystem(
            endpoint_override=self.endpoint,
            access_key=self.access_key,
            secret_key=self.secret_key,
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )

    def create(self) -> None:
        self.files().create_dir(self.name)

    def names(self, prefix: str = "") -> list[str]:
        """The keys that begin with a prefix, sorted."""
        found = self.files().get_file_info(fs.FileSelector(self.name, recursive=True))
        keys = (info.path.removeprefix(f"{self.name}/") for info in found if info.type is fs.FileType.File)
        return sorted(key for key in keys if key.startswith(prefix))

    def put(self, key: str, data: bytes) -> None:
        with self.files().open_output_stream(f"{self.name}/{key}") as stream:
            stream.write(data)

    def get(self, key: str) -> bytes:
        with self.files().open_input_file(f"{self.name}/{key}") as file:
            return bytes(file.read())

    def delete(self, key: str) -> None:
        self.files().delete_file(f"{self.name}/{key}")
