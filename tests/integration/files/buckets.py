"""A bucket of a real S3 server, for tests of stores and of those who read from them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from botocore.config import Config

from retl.connectors import OSSFiles, S3Files
from tests.fake_s3 import FakeS3
from tests.fake_s3.server import ACCESS_KEY, SECRET_KEY
from tests.servers import s3
from tests.servers.s3 import S3Server


class Bucket:
    """A bucket of the test's own. Everything here blocks."""

    def __init__(self, server: S3Server, name: str) -> None:
        self.name = name
        self.address = server.address
        self._client = boto3.client(
            "s3",
            endpoint_url=f"http://{server.endpoint}",
            aws_access_key_id=s3.ACCESS_KEY,
            aws_secret_access_key=s3.SECRET_KEY,
            region_name="us-east-1",
            config=Config(max_pool_connections=16, s3={"addressing_style": "path"}),
        )

    def create(self) -> None:
        self._client.create_bucket(Bucket=self.name)

    def files(self, prefix: str = "", **words: Any) -> S3Files:
        """The options of a source that reads below a prefix."""
        host, port = self.address
        known = {"endpoint": f"http://{host}:{port}", "access_key": s3.ACCESS_KEY, "secret_key": s3.SECRET_KEY}
        return S3Files(f"s3://{self.name}/{prefix}", **{**known, **words})

    def put(self, name: str, content: bytes, **words: Any) -> None:
        self._client.put_object(Bucket=self.name, Key=name, Body=content, **words)

    def put_many(self, names: list[str]) -> None:
        """Objects of one byte."""
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: self.put(name, b"1"), names))

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=name)

    def close(self) -> None:
        self._client.close()


def s3_files(server: FakeS3, url: str, **words: Any) -> S3Files:
    """The options of a source that reads from the stand-in."""
    known = {"endpoint": server.endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
    return S3Files(url, **{**known, **words})


def oss_files(server: FakeS3, url: str, **words: Any) -> OSSFiles:
    """The same from the stand-in of OSS."""
    known = {"endpoint": server.endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "region": "cn-hangzhou"}
    return OSSFiles(url, **{**known, **words})
