"""What stores of objects refuse, archive and change while they are read, and who may ask them."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest
from botocore import exceptions as botocore

from retl.connectors import OSSFiles, S3Files
from retl.connectors.files.store import FileArchived, FileChanged, FileInfo
from retl.connectors.files.stores.objects.answers import Refused, read_page
from retl.connectors.files.stores.objects.errors import to_retl
from retl.connectors.files.stores.objects.options import Role
from retl.connectors.files.stores.objects.reader import PART
from retl.connectors.files.stores.objects.remedies import REMEDIES
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError, TransientError
from tests.fake_s3 import FakeOSS, FakeS3, Fault, Object
from tests.fake_s3.objects import page
from tests.fake_s3.server import ACCESS_KEY, SECRET_KEY
from tests.integration.files.buckets import Bucket, oss_files, s3_files
from tests.integration.files.store_contract import content, listed, some_bytes


@pytest.fixture
def lake(fake_s3: FakeS3) -> dict[str, Object]:
    """The objects of a bucket."""
    return fake_s3.buckets.setdefault("lake", {})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are short."""
    monkeypatch.setattr("retl.connectors.net.retry.random.uniform", lambda least, most: 0.001)


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment gives no credentials of its own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


async def only(options: S3Files | OSSFiles) -> FileInfo:
    """The one file of a store, which is closed again."""
    store = options.store()
    try:
        (file,) = await listed(store)
        return file
    finally:
        await store.aclose()


async def error_of(options: S3Files | OSSFiles, file: FileInfo | None = None) -> RetlError:
    """What listing raises, or reading a file."""
    store = options.store()
    try:
        with pytest.raises(RetlError) as caught:
            await (listed(store) if file is None else content(store, file))
        return caught.value
    finally:
        await store.aclose()


_OPENED_IN_A_LOOP = """
import asyncio, sys, threading
from retl.connectors import S3Files

importers = set()

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("aiobotocore", "botocore", "aiohttp"):
            importers.add(threading.current_thread())

sys.meta_path.insert(0, Watch())

async def main():
    store = S3Files("s3://lake/", endpoint={endpoint!r}, access_key={access!r}, secret_key={secret!r}).store()
    importers.clear()  # to look whether it is installed imports nothing
    print([file.name async for page in store.list() for file in page], end=" ")
    await store.aclose()
    print(bool(importers), threading.main_thread() in importers)

asyncio.run(main())
"""


def test_the_driver_is_imported_outside_of_the_event_loop(fake_s3: FakeS3, lake: dict[str, Object]) -> None:
    lake["a"] = Object(b"1")
    program = _OPENED_IN_A_LOOP.format(endpoint=fake_s3.endpoint, access=ACCESS_KEY, secret=SECRET_KEY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['a'] True False\n"


# Archives, markers and listings ----------------------------------------------


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE", "ColdArchive"])
async def test_an_archived_object_is_listed_as_such_and_cannot_be_read(
    fake_s3: FakeS3, lake: dict[str, Object], storage_class: str
) -> None:
    lake["a"] = Object(b"1", storage_class)
    options = s3_files(fake_s3, "s3://lake/")
    file = await only(options)
    assert file.archived
    error = await error_of(options, file)
    assert isinstance(error, FileArchived) and "restore it in the store" in str(error)
    lake["a"].restored = True
    restored = await only(options)
    assert not restored.archived
    assert restored.identity == file.identity
    store = options.store()
    assert (await store.stat("a") or file).archived is False
    assert await content(store, restored) == b"1"
    await store.aclose()


async def test_an_instant_archive_is_read_like_any_object(fake_s3: FakeS3, lake: dict[str, Object]) -> None:
    lake["a"] = Object(b"1", "GLACIER_IR")
    assert not (await only(s3_files(fake_s3, "s3://lake/"))).archived


async def test_markers_of_folders_are_no_files_and_objects_with_a_slash_at_their_end_are(
    fake_s3: FakeS3, lake: dict[str, Object]
) -> None:
    lake.update({"in/": Object(b""), "in/a/": Object(b""), "in/a/b": Object(b"1"), "in/c/": Object(b"2")})
    store = s3_files(fake_s3, "s3://lake/in").store()
    assert [file.name for file in await listed(store)] == ["a/b", "c/"]
    await store.aclose()


async def test_a_listing_without_an_end_or_a_way_on_is_refused(fake_s3: FakeS3, lake: dict[str, Object]) -> None:
    lake["a"] = Object(b"1")
    fake_s3.page = 0
    fake_s3.faults.append(Fault("NotAListing", 200))
    assert "the answer is no listing" in str(await error_of(s3_files(fake_s3, "s3://lake/")))


async def test_many_objects_are_listed_by_a_request_a_thousand(fake_s3: FakeS3, lake: dict[str, Object]) -> None:
    one = Object(b"1")
    lake.update((f"{number:06}.csv", one) for number in range(5_000))
    store = s3_files(fake_s3, "s3://lake/").store()
    await store.ping()
    number = 0
    async with aclosing(store.list()) as pages:
        async for page in pages:
            assert [file.name for file in page] == [f"{number + n:06}.csv" for n in range(1_000)]
            number += len(page)
    assert number == 5_000
    assert len([asked for asked in fake_s3.asked if not asked.key]) == 1 + 5
    await store.aclose()


def test_a_long_listing_does_not_have_the_whole_process_searched_for_garbage() -> None:
    """A full collection holds the interpreter, and with it the event loop, for a tenth of a second and more."""
    lake = {f"{number:06}.csv": Object(b"1") for number in range(1_000)}
    body = page("lake", lake, {"list-type": "2", "max-keys": "1000"}, 1_000).encode()
    full: list[int] = []

    def hear(phase: str, about: dict[str, int]) -> None:
        if phase == "start" and about["generation"] == 2:
            full.append(1)

    gc.collect()
    gc.callbacks.append(hear)
    try:
        for _ in range(40):
            found = read_page(body)
            assert found is not None and [one.key for one in found.objects[::999]] == ["000000.csv", "000999.csv"]
    finally:
        gc.callbacks.remove(hear)
    assert not full


# Reading ----------------------------------------------------------------------


async def test_each_part_is_asked_for_by_its_range_and_by_the_content_that_was_listed(
    fake_s3: FakeS3, lake: dict[str, Object]
) -> None:
    lake["a"] = Object(some_bytes(2 * PART + 5))
    store = s3_files(fake_s3, "s3://lake/", requester_pays=True).store()
    (file,) = await listed(store)
    assert await content(store, file) == lake["a"].content
    gets = [asked.headers for asked in fake_s3.asked if asked.key]
    assert sorted(headers["range"] for headers in gets) == [
        f"bytes=0-{PART - 1}", f"bytes={2 * PART}-{2 * PART + 4}", f"bytes={PART}-{2 * PART - 1}",
    ]  # fmt: skip
    assert {headers["if-match"] for headers in gets} == {lake["a"].etag}
    assert all(asked.headers["x-amz-request-payer"] == "requester" for asked in fake_s3.asked)
    await store.aclose()


@pytest.mark.parametrize("etags", [True, False])
async def test_a_store_that_ignores_conditions_never_gives_a_mixture(
    fake_s3: FakeS3, lake: dict[str, Object], etags: bool
) -> None:
    """By the ETag of each answer; where it has none, by looking at the object again."""
    data = some_bytes(8 * PART)
    lake["a"] = Object(data)
    fake_s3.conditions, fake_s3.etags = False, etags
    store = s3_files(fake_s3, "s3://lake/").store()
    (file,) = await listed(store)
    assert await content(store, file) == data
    other = Object(data[:-1] + b"x")
    with pytest.raises(FileChanged, match="it was overwritten"):
        async with aclosing(store.read(file)) as blocks:
            async for _ in blocks:
                lake["a"] = other
    await store.aclose()


async def test_a_slow_reader_holds_no_more_than_its_parts_and_no_connection(
    fake_s3: FakeS3, lake: dict[str, Object]
) -> None:
    lake["a"] = Object(bytes(12 * PART))
    store = s3_files(fake_s3, "s3://lake/", parallel_parts=3).store()
    (file,) = await listed(store)
    async with aclosing(store.read(file)) as blocks:
        await anext(blocks)
        await anyio.sleep(0.3)  # nothing tells that nothing happens
    assert len([asked for asked in fake_s3.asked if asked.key]) == 3
    await store.aclose()


async def test_a_busy_store_is_asked_again(fake_s3: FakeS3, lake: dict[str, Object], quick: None) -> None:
    lake["a"] = Object(b"1")
    for code, status in (("SlowDown", 503), ("InternalError", 500), ("RequestTimeout", 400)):
        fake_s3.faults.append(Fault(code, status, times=1))
    options = s3_files(fake_s3, "s3://lake/")
    assert (await only(options)).name == "a"
    fake_s3.faults.append(Fault("SlowDown", 503))
    assert isinstance(await error_of(options), TransientError)


# Who asks ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "remedy"),
    [
        ({"access_key": "nobody"}, "InvalidAccessKeyId", "check access_key and secret_key"),
        ({"secret_key": "not-the-secret"}, "SignatureDoesNotMatch", "check access_key and secret_key"),
        ({"url": "s3://sea/"}, "NoSuchBucket", "check the bucket in url"),
        ({"url": "s3://lake/secret/"}, "AccessDenied", "s3:ListBucket"),
    ],
)
async def test_what_the_user_must_correct_is_named(
    fake_s3: FakeS3, lake: dict[str, Object], words: dict[str, str], code: str, remedy: str
) -> None:
    fake_s3.denied = ("secret/",)
    url = words.pop("url", "s3://lake/")
    error = await error_of(s3_files(fake_s3, url, **words))
    assert isinstance(error, ConfigError)
    assert f"listing {url} was refused: {code}" in str(error) and remedy in error.remedy
    assert "not-the-secret" not in str(error)


async def test_a_denied_object_is_named(fake_s3: FakeS3, lake: dict[str, Object]) -> None:
    lake["secret/a"] = Object(b"1")
    file = await only(s3_files(fake_s3, "s3://lake/"))
    fake_s3.denied = ("secret/",)
    error = await error_of(s3_files(fake_s3, "s3://lake/"), file)
    assert isinstance(error, ConfigError) and "reading s3://lake/secret/a was refused: AccessDenied" in str(error)


async def test_the_right_region_is_named(fake_s3: FakeS3, lake: dict[str, Object]) -> None:
    fake_s3.region = "eu-central-1"
    error = await error_of(s3_files(fake_s3, "s3://lake/", region="us-west-2"))
    assert isinstance(error, ConfigError) and "the store names eu-central-1" in error.remedy
    fake_s3.faults.append(Fault("PermanentRedirect", 301, headers={"x-amz-bucket-region": "ap-east-1"}))
    error = await error_of(s3_files(fake_s3, "s3://lake/", region="eu-central-1"))
    assert isinstance(error, ConfigError) and "the store names ap-east-1" in error.remedy


async def test_a_wrong_clock_is_named(fake_s3: FakeS3, lake: dict[str, Object]) -> None:
    fake_s3.clock = lambda: datetime.now(UTC) + timedelta(hours=1)
    error = await error_of(s3_files(fake_s3, "s3://lake/"))
    assert isinstance(error, ConfigError) and "clock of this machine" in error.remedy


async def test_nobody_asks_for_a_public_bucket(fake_s3: FakeS3, lake: dict[str, Object]) -> None:
    lake["a"] = Object(b"1")
    options = S3Files("s3://lake/", endpoint=fake_s3.endpoint, anonymous=True)
    assert isinstance(await error_of(options), ConfigError)
    fake_s3.public.add("lake")
    assert (await only(options)).name == "a"
    assert "authorization" not in fake_s3.asked[-1].headers
    with pytest.raises(ConfigError, match="anonymous contradicts"):
        s3_files(fake_s3, "s3://lake/", anonymous=True).store()


async def test_credentials_come_from_the_environment_or_a_profile(
    fake_s3: FakeS3, lake: dict[str, Object], no_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lake["a"] = Object(b"1")
    options = S3Files("s3://lake/", endpoint=fake_s3.endpoint)
    error = await error_of(options)
    assert isinstance(error, ConfigError) and "there are no credentials" in str(error)
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    (tmp_path / "credentials").write_text(f"[lake]\n{keys}")
    assert (await only(S3Files("s3://lake/", endpoint=fake_s3.endpoint, profile="lake"))).name == "a"
    error = await error_of(S3Files("s3://lake/", endpoint=fake_s3.endpoint, profile="sea"))
    assert isinstance(error, ConfigError) and "sea" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    assert (await only(options)).name == "a"


async def test_credentials_that_expire_are_looked_up_afresh_and_named_where_they_stay_old(
    fake_s3: FakeS3, lake: dict[str, Object], tmp_path: Path, quick: None
) -> None:
    from retl.model.secret import secret_file

    lake["a"] = Object(some_bytes(3 * PART))
    token = tmp_path / "token"
    token.write_text("the first token")
    store = s3_files(fake_s3, "s3://lake/", session_token=secret_file(token)).store()
    (file,) = await listed(store)
    fake_s3.expired.add("the first token")
    with pytest.raises(ConfigError, match="ExpiredToken") as caught:
        await content(store, file)
    assert "get new credentials" in caught.value.remedy and "the first token" not in str(caught.value)
    token.write_text("the second token")
    assert await content(store, file) == lake["a"].content
    await store.aclose()


async def test_credentials_that_stay_old_are_named_to_each_of_many_readers(
    fake_s3: FakeS3, lake: dict[str, Object], quick: None
) -> None:
    """One of them finds the fresh ones refused while others have just begun to hope for these."""
    lake.update({name: Object(some_bytes(10)) for name in "abcdefgh"})
    store = s3_files(fake_s3, "s3://lake/", session_token="the first token").store()
    files = await listed(store)
    fake_s3.expired.add("the first token")
    told: list[str] = []

    async def read(file: FileInfo) -> None:
        with pytest.raises(RetlError) as caught:
            await content(store, file)
        told.append(type(caught.value).__name__)

    async with anyio.create_task_group() as tasks:
        for file in files:
            tasks.start_soon(read, file)
    assert told == ["ConfigError"] * 8
    await store.aclose()


class Sts(BaseHTTPRequestHandler):
    """Gives credentials for a role, one pair after another, each valid for as long as it is told."""

    asked: list[dict[str, list[str]]]
    seconds: float
    fake: FakeS3

    def do_POST(self) -> None:
        words = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.asked.append(words)
        number = len(self.asked)
        self.fake.secrets[f"role-key-{number}"] = "role-secret"
        self.fake.tokens[f"role-key-{number}"] = f"role-token-{number}"
        until = (datetime.now(UTC) + timedelta(seconds=self.seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        action = words["Action"][0]
        body = (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
            f"<AccessKeyId>role-key-{number}</AccessKeyId><SecretAccessKey>role-secret</SecretAccessKey>"
            f"<SessionToken>role-token-{number}</SessionToken><Expiration>{until}</Expiration>"
            f"</Credentials></{action}Result></{action}Response>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def sts(fake_s3: FakeS3) -> Iterator[tuple[type[Sts], str]]:
    handler = type("Handler", (Sts,), {"asked": [], "seconds": 3_600, "fake": fake_s3})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_role_is_assumed_once_and_again_before_it_expires(
    fake_s3: FakeS3, lake: dict[str, Object], sts: tuple[type[Sts], str]
) -> None:
    handler, endpoint = sts
    lake["a"] = Object(b"1")
    role = Role(arn="arn:aws:iam::123456789012:role/reader", external_id="known", endpoint=endpoint)
    store = s3_files(fake_s3, "s3://lake/", role=role).store()
    for _ in range(3):
        await listed(store)
    assert len(handler.asked) == 1
    assert (handler.asked[0]["RoleArn"], handler.asked[0]["ExternalId"]) == ([role.arn], ["known"])
    await store.aclose()
    handler.seconds = 20  # less than the time for which the driver still trusts a pair
    store = s3_files(fake_s3, "s3://lake/", role=role).store()
    for _ in range(3):
        await listed(store)
    assert len(handler.asked) == 4
    assert fake_s3.asked[-1].headers["x-amz-security-token"] == "role-token-4"
    await store.aclose()


async def test_a_web_identity_needs_no_other_credentials(
    fake_s3: FakeS3, lake: dict[str, Object], sts: tuple[type[Sts], str], no_environment: None, tmp_path: Path
) -> None:
    handler, endpoint = sts
    lake["a"] = Object(b"1")
    (tmp_path / "jwt").write_text("a.b.c")
    arn = "arn:aws:iam::123456789012:role/reader"
    role = Role(arn=arn, web_identity_token_file=str(tmp_path / "jwt"), endpoint=endpoint)
    options = S3Files("s3://lake/", endpoint=fake_s3.endpoint, role=role)
    assert (await only(options)).name == "a"
    assert handler.asked[0]["WebIdentityToken"] == ["a.b.c"]


async def test_authorities_that_cannot_be_read_are_named(fake_s3: FakeS3) -> None:
    options = s3_files(fake_s3, "s3://lake/", endpoint="https://127.0.0.1:1", tls_ca="/nowhere.pem")
    assert "the authorities in '/nowhere.pem' cannot be read" in str(await error_of(options))


async def test_plain_http_is_told_of(fake_s3: FakeS3, lake: dict[str, Object], virtual_hosts: None) -> None:
    store = s3_files(fake_s3, "s3://lake/", endpoint=f"http://store.test:{fake_s3.port}").store()
    assert "read over http" in (await store.ping()).warnings[0]
    await store.aclose()


async def test_a_bucket_may_stand_in_the_host(fake_s3: FakeS3, lake: dict[str, Object], virtual_hosts: None) -> None:
    lake["a b"] = Object(b"1")
    endpoint = f"http://{fake_s3.domain}:{fake_s3.port}"
    assert (await only(s3_files(fake_s3, "s3://lake/", endpoint=endpoint, addressing="virtual"))).name == "a b"
    assert fake_s3.asked[-1].headers["host"] == f"lake.{fake_s3.domain}:{fake_s3.port}"


async def test_the_endpoints_of_amazon_are_those_of_its_driver(no_environment: None) -> None:
    from retl.connectors.files.stores.objects.credentials import base_url, new_session
    from retl.connectors.files.stores.objects.options import Login

    for words, expected in (
        ({"region": "eu-central-1"}, "https://lake.s3.eu-central-1.amazonaws.com"),
        ({"region": "cn-north-1"}, "https://lake.s3.cn-north-1.amazonaws.com.cn"),
        ({"region": "eu-west-1", "addressing": "path"}, "https://s3.eu-west-1.amazonaws.com/lake"),
    ):
        location = S3Files("s3://lake/in", **words).location()  # type: ignore[arg-type]
        url = await base_url(await anyio.to_thread.run_sync(new_session, Login()), location, location.region)
        assert url == expected
    assert "needs a region" in str(await error_of(S3Files("s3://lake/", access_key="a", secret_key="b")))


def test_addresses_that_are_none_are_refused() -> None:
    for url in ("lake", "http://lake/", "s3://", "s3:///key", "oss://lake/"):
        with pytest.raises(ConfigError, match="is not the address of a bucket"):
            S3Files(url).store()
    with pytest.raises(ConfigError, match="endpoint is"):
        S3Files("s3://lake/", endpoint="s3.example.com").store()
    with pytest.raises(ConfigError, match="belong together"):
        S3Files("s3://lake/", access_key="a").store()


def test_every_error_of_the_driver_is_one_of_retl() -> None:
    for name in dir(botocore):
        kind = getattr(botocore, name)
        if isinstance(kind, type) and issubclass(kind, botocore.BotoCoreError):
            error = kind.__new__(kind)  # type: ignore[call-overload]
            Exception.__init__(error, name)
            error.kwargs = {}
            found = to_retl(error, "listing s3://lake/", "S3")
            assert isinstance(found, ConfigError | ConnectionFailed) and found.remedy
    for code in REMEDIES:
        found = to_retl(Refused(400, {"Code": code}), "listing s3://lake/", "S3")
        assert isinstance(found, ConfigError) and "{" not in found.remedy
    assert isinstance(to_retl(Refused(418, {}), "listing", "S3"), SourceError)


# SeaweedFS --------------------------------------------------------------------


async def test_a_real_server_refuses_a_wrong_secret(bucket: Bucket) -> None:
    error = await error_of(bucket.files(secret_key="not-the-secret"))
    assert isinstance(error, ConfigError) and "SignatureDoesNotMatch" in str(error)
    error = await error_of(bucket.files(access_key="nobody"))
    assert isinstance(error, ConfigError) and "InvalidAccessKeyId" in str(error)


# OSS --------------------------------------------------------------------------


@pytest.fixture
def oss_lake(fake_oss: FakeOSS) -> dict[str, Object]:
    return fake_oss.buckets.setdefault("lake", {})


async def test_oss_is_asked_by_virtual_hosts_and_signed_for_its_region(
    fake_oss: FakeOSS, oss_lake: dict[str, Object]
) -> None:
    oss_lake["a"] = Object(b"1")
    for region in ("cn-hangzhou", "oss-cn-hangzhou"):
        assert (await only(oss_files(fake_oss, "oss://lake/", region=region))).name == "a"
    asked = fake_oss.asked[-1]
    assert asked.headers["host"] == f"lake.{fake_oss.domain}:{fake_oss.port}"
    assert "/cn-hangzhou/s3/aws4_request" in asked.headers["authorization"]
    assert "x-amz-checksum-mode" not in asked.headers and "content-encoding" not in asked.headers


async def test_oss_refuses_what_an_ordinary_client_of_s3_does(fake_oss: FakeOSS, oss_lake: dict[str, Object]) -> None:
    by_path = s3_files(fake_oss, "s3://lake/", region="cn-hangzhou", addressing="path")
    error = await error_of(by_path)
    assert "SecondLevelDomainForbidden" in str(error) and 'type "oss"' in error.remedy
    signed = s3_files(fake_oss, "s3://lake/", region="oss-cn-hangzhou", addressing="virtual")
    assert "InvalidArgument" in str(await error_of(signed))


async def test_oss_names_the_domain_that_new_users_need(fake_oss: FakeOSS, oss_lake: dict[str, Object]) -> None:
    oss_lake["dir//a b"] = Object(b"1")
    fake_oss.public_endpoint = False
    error = await error_of(oss_files(fake_oss, "oss://lake/"))
    assert isinstance(error, ConfigError) and "0048-00000401" in str(error) and "bucket_in_host" in error.remedy
    fake_oss.domains["files.example.test"] = "lake"
    domain = f"http://files.example.test:{fake_oss.port}"
    options = oss_files(fake_oss, "oss://lake/dir", endpoint=domain, bucket_in_host=True)
    assert (await only(options)).name == "/a b"
    store = options.store()
    assert await content(store, (await listed(store))[0]) == b"1"
    await store.aclose()


async def test_what_oss_refuses_has_a_remedy(fake_oss: FakeOSS, oss_lake: dict[str, Object]) -> None:
    assert "NoSuchBucket" in str(await error_of(oss_files(fake_oss, "oss://sea/")))
    assert "SignatureDoesNotMatch" in str(await error_of(oss_files(fake_oss, "oss://lake/", secret_key="no")))
    fake_oss.denied = ("secret/",)
    assert "AccessDenied" in str(await error_of(oss_files(fake_oss, "oss://lake/secret/")))
    oss_lake["old"] = Object(b"1", "Archive")
    fake_oss.denied = ()
    file = await only(oss_files(fake_oss, "oss://lake/"))
    assert file.archived and isinstance(await error_of(oss_files(fake_oss, "oss://lake/"), file), FileArchived)


def test_the_endpoints_of_oss_are_those_of_its_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    def endpoint(**words: Any) -> str | None:
        return OSSFiles("oss://lake/", **{"region": "cn-hangzhou", **words}).location().endpoint

    assert endpoint() == "https://s3.oss-cn-hangzhou.aliyuncs.com"
    assert endpoint(network="internal") == "https://s3.oss-cn-hangzhou-internal.aliyuncs.com"
    assert endpoint(network="accelerate") == "https://s3.oss-accelerate.aliyuncs.com"
    assert endpoint(endpoint="https://s3.example.com/") == "https://s3.example.com"
    for name in ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="oss needs credentials"):
        OSSFiles("oss://lake/", region="cn-hangzhou").store()
    with pytest.raises(ConfigError, match="needs the region"):
        OSSFiles("oss://lake/").store()
    with pytest.raises(ConfigError, match="bound to the bucket"):
        OSSFiles("oss://lake/", region="cn-hangzhou", bucket_in_host=True).store()
    for name in ("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"):
        monkeypatch.setenv(name, "from the environment")
    OSSFiles("oss://lake/", region="cn-hangzhou").store()
