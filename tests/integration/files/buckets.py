"""A bucket of a real S3 server, for tests of stores and of those who read from them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from retl.connectors import OSSFiles, S3Files
from retl.connectors.files.stores.objects.options import Location
from tests.fake_s3 import FakeS3
from tests.fake_s3.server import ACCESS_KEY, SECRET_KEY
from tests.servers import s3
from tests.servers.s3 import S3Server


class Bucket:
    """A bucket of the test's own. Everything here blocks."""

    def __init__(self, server: S3Server, name: str) -> None:
        self.name = name
        self.address = server.address
        self.endpoint = f"http://{server.endpoint}"
        self._client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=s3.ACCESS_KEY,
            aws_secret_access_key=s3.SECRET_KEY,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", max_pool_connections=16, s3={"addressing_style": "path"}),
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

    def put_file(self, name: str, file: Path) -> None:
        """A large object, in parts."""
        self._client.upload_file(str(file), self.name, name)

    def presigned(self, name: str) -> str:
        """An address by which anybody may read an object for a while."""
        words = {"Bucket": self.name, "Key": name}
        return str(self._client.generate_presigned_url("get_object", Params=words))

    def put_many(self, names: list[str]) -> None:
        """Objects of one byte."""
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: self.put(name, b"1"), names))

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self.name, Key=name)

    def close(self) -> None:
        self._client.close()


class RealBucket:
    """A bucket of S3 or OSS that a user names. Everything here blocks."""

    def __init__(self, location: Location, **keys: Any) -> None:
        """Without ``keys`` they are looked for where every tool of AWS does."""
        self._bucket = location.bucket
        checks: dict[str, Any] = dict.fromkeys(
            ("request_checksum_calculation", "response_checksum_validation"), "when_required"
        )
        self._client = boto3.client(
            "s3",
            endpoint_url=location.endpoint,
            region_name=location.region,
            config=Config(s3={"addressing_style": location.addressing}, **checks),
            **keys,
        )

    @classmethod
    def of_oss(cls, location: Location) -> RealBucket:
        names = {
            "access_key_id": "ACCESS_KEY_ID",
            "secret_access_key": "ACCESS_KEY_SECRET",
            "session_token": "SESSION_TOKEN",
        }
        return cls(location, **{f"aws_{name}": os.environ.get(f"OSS_{word}") for name, word in names.items()})

    def put(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=key)

    def empty(self, prefix: str) -> None:
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                self.delete(found["Key"])


def s3_files(server: FakeS3, url: str, **words: Any) -> S3Files:
    """The options of a source that reads from the stand-in."""
    known = {"endpoint": server.endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
    return S3Files(url, **{**known, **words})


def oss_files(server: FakeS3, url: str, **words: Any) -> OSSFiles:
    """The same from the stand-in of OSS."""
    known = {"endpoint": server.endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "region": "cn-hangzhou"}
    return OSSFiles(url, **{**known, **words})
