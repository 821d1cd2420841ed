"""The local disk, S3, OSS and SSH, each held to what a store promises."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from retl.connectors import OSSFiles, S3Files
from retl.connectors.files.store import FileStore
from retl.connectors.files.stores.local import LocalStore
from retl.connectors.files.stores.objects.options import Location
from retl.model.errors import SourceError
from tests.fake_s3 import FakeOSS, FakeS3, Object
from tests.integration.files.buckets import Bucket, RealBucket, oss_files, s3_files
from tests.integration.files.servers import files, put
from tests.integration.files.store_contract import RemoteStoreContract, StoreContract, listed
from tests.servers.process import short_folder
from tests.servers.sshd import SSHServer


class TestLocal(StoreContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.root = tmp_path / "root"
        self.root.mkdir()

    def new_store(self) -> FileStore:
        return LocalStore(self.root)

    def put(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def delete(self, name: str) -> None:
        (self.root / name).unlink()


class TestS3(RemoteStoreContract):
    """A real server, SeaweedFS. It keeps objects in folders, lists them as those are sorted, and takes ``\\`` for ``/``."""

    names: ClassVar[list[str]] = [name for name in StoreContract.names if name not in ("dir-1", "dir.csv", "a\\b")]
    many = 1_100

    @pytest.fixture(autouse=True)
    def in_bucket(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def new_store(self) -> FileStore:
        return self.bucket.files().store()

    def put(self, name: str, content: bytes) -> None:
        self.bucket.put(name, content)

    def put_many(self, names: list[str]) -> None:
        self.bucket.put_many(names)

    def delete(self, name: str) -> None:
        self.bucket.delete(name)

    def address(self) -> tuple[str, int]:
        return self.bucket.address

    def store_at(self, host: str, port: int) -> FileStore:
        return self.bucket.files(endpoint=f"http://{host}:{port}").store()

    async def test_a_prefix_may_end_anywhere_in_a_name(self, store: FileStore) -> None:
        for name in ("s/2024-01/a", "s/2025/b", "s/2025/c", "other"):
            self.put(name, b"1")
        assert [file.name for file in await listed(store, "s/2025/c")] == ["s/2025/c"]
        assert [file.name for file in await listed(store, "s/202")] == ["s/2024-01/a", "s/2025/b", "s/2025/c"]

    async def test_a_listing_that_is_not_in_order_is_refused(self, store: FileStore) -> None:
        for name in ("s/a", "s.csv"):
            self.put(name, b"1")
        with pytest.raises(SourceError, match=r"'s.csv' came after 's/a', and a listing must be in order"):
            await listed(store)


class TestS3InMemory(RemoteStoreContract):
    """Keys are anything that S3 takes."""

    names: ClassVar[list[str]] = [
        *RemoteStoreContract.names,
        "dir",
        "dir//x",
        "/lead",
        "//",
        "a/../b",
        "./c",
        "\x01\x1f \t",
        "\r\n",
        "x" * 1_021,
        "é" * 510 + "x",
    ]
    fake: FakeS3

    @pytest.fixture(autouse=True)
    def server(self, fake_s3: FakeS3) -> None:
        self.use(fake_s3)

    def use(self, fake: FakeS3) -> None:
        """What lies beside the prefix is never seen, nor is the marker of its folder."""
        self.fake = fake
        fake.buckets["lake"] = {"other": Object(b"no"), "in/": Object(b""), "in-": Object(b"no"), "in0": Object(b"no")}

    def new_store(self) -> FileStore:
        return s3_files(self.fake, "s3://lake/in/").store()

    def store_at(self, host: str, port: int) -> FileStore:
        return s3_files(self.fake, "s3://lake/in", endpoint=f"http://{host}:{port}").store()

    def put(self, name: str, content: bytes) -> None:
        self.fake.buckets["lake"][f"in/{name}"] = Object(content)

    def delete(self, name: str) -> None:
        del self.fake.buckets["lake"][f"in/{name}"]

    def address(self) -> tuple[str, int]:
        return self.fake.address


class TestOSS(TestS3InMemory):
    @pytest.fixture(autouse=True)
    def server(self, fake_oss: FakeOSS) -> None:
        self.use(fake_oss)

    def new_store(self) -> FileStore:
        return oss_files(self.fake, "oss://lake/in/").store()

    def store_at(self, host: str, port: int) -> FileStore:
        return oss_files(self.fake, "oss://lake/in/", endpoint=f"http://{FakeOSS.domain}:{port}").store()


class TestSSH(RemoteStoreContract):
    names: ClassVar[list[str]] = [*RemoteStoreContract.names, "\x01\x1f", "\r\n"]
    many = 300

    @pytest.fixture(autouse=True)
    def on_server(self, ssh_server: SSHServer) -> Iterator[None]:
        with short_folder("files") as root:
            root.chmod(0o755)
            self.server, self.root, self.clock = ssh_server, root, 1_700_000_000
            yield

    def new_store(self) -> FileStore:
        return files(self.server, self.root).store()

    def put(self, name: str, content: bytes) -> None:
        # Each write in a second of its own: what happens within one is the matter of `quiet`.
        self.clock += 1
        os.utime(put(self.root, name, content), (self.clock, self.clock))

    def delete(self, name: str) -> None:
        (self.root / name).unlink()

    def address(self) -> tuple[str, int]:
        return self.server.host, self.server.port

    def store_at(self, host: str, port: int) -> FileStore:
        return files(self.server, self.root, port).store()


class RealStoreContract(StoreContract):
    """A bucket of a user's own; what a test writes there it removes."""

    many = 1_100
    variable: ClassVar[str]

    @pytest.fixture(autouse=True)
    def below_a_prefix(self) -> Iterator[None]:
        self.url = f"{os.environ[self.variable].rstrip('/')}/{uuid.uuid4()}/"
        location = self.options().location()
        self._prefix = location.prefix
        self._client = self.real_bucket(location)
        yield
        self._client.empty(location.prefix)

    def options(self) -> S3Files | OSSFiles:
        raise NotImplementedError

    def real_bucket(self, location: Location) -> RealBucket:
        raise NotImplementedError

    def new_store(self) -> FileStore:
        return self.options().store()

    def put(self, name: str, content: bytes) -> None:
        self._client.put(self._prefix + name, content)

    def delete(self, name: str) -> None:
        self._client.delete(self._prefix + name)


@pytest.mark.skipif("RETL_TEST_S3_URL" not in os.environ, reason="RETL_TEST_S3_URL names no bucket of S3")
class TestRealS3(RealStoreContract):
    """Amazon's, or another one at ``RETL_TEST_S3_ENDPOINT``; credentials are looked for where every tool of AWS does."""

    variable = "RETL_TEST_S3_URL"

    def options(self) -> S3Files:
        words: dict[str, Any] = {
            word: os.environ.get(f"RETL_TEST_S3_{word.upper()}") for word in ("endpoint", "region")
        }
        return S3Files(self.url, **words)

    def real_bucket(self, location: Location) -> RealBucket:
        return RealBucket(location)


@pytest.mark.skipif("RETL_TEST_OSS_URL" not in os.environ, reason="RETL_TEST_OSS_URL names no bucket of OSS")
class TestRealOSS(RealStoreContract):
    variable = "RETL_TEST_OSS_URL"

    def options(self) -> OSSFiles:
        return OSSFiles(self.url, region=os.environ["RETL_TEST_OSS_REGION"])

    def real_bucket(self, location: Location) -> RealBucket:
        return RealBucket.of_oss(location)
