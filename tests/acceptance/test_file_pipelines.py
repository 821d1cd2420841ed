"""Buckets of S3 and OSS into PostgreSQL, by a job file: what is read, what is replaced, and what is left alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from retl.cli import main
from tests.fake_s3 import FakeOSS, FakeS3, Object
from tests.fake_s3.server import ACCESS_KEY, SECRET_KEY
from tests.integration.files.buckets import Bucket
from tests.routes.ends import PostgresEnd
from tests.routes.fixtures import make_end
from tests.routes.route import Row
from tests.servers import s3


class Job:
    """A job file with one table of files, and what it has read and written."""

    def __init__(self, target: PostgresEnd, fake: FakeS3 | None, source: dict[str, Any]) -> None:
        self.target = target
        self.fake = fake
        self._source = source

    def write(self, *words: str) -> None:
        """The job file, in the folder in which the command runs."""
        server = self.target.server
        url = f"postgresql://{server.user}@{server.host}:{server.port}/{self.target.database}"
        target = {"type": "postgres", "url": url, "password": server.password}
        lines = [
            "[pipelines.files]", f"source = {_inline(self._source)}", f"target = {_inline(target)}", "",
            "[[pipelines.files.tables]]", 'name = "sales/*.csv"', 'to = "sales"', 'pre_action = "truncate"', *words,
        ]  # fmt: skip
        Path("jobs.toml").write_text("\n".join(lines))

    def rows(self) -> list[Row]:
        return sorted(self.target.rows("sales", "id", "city", "_file", "_row"))

    def gets(self) -> list[str]:
        """The keys of the objects that were read since the last call, sorted."""
        assert self.fake is not None
        found = sorted(asked.key for asked in self.fake.asked if asked.key and asked.method == "GET")
        self.fake.asked.clear()
        return found


def _inline(options: dict[str, Any]) -> str:
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in options.items()) + " }"


def csv(*rows: str) -> bytes:
    return "\n".join(("id,city", *rows, "")).encode()


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PostgresEnd]:
    with ExitStack() as stack:
        end = make_end("postgres", "app", request, tmp_path, stack)
        assert isinstance(end, PostgresEnd)
        yield end


@pytest.fixture(params=["s3", "oss"])
def job(request: pytest.FixtureRequest, target: PostgresEnd) -> Job:
    """The same files in either store."""
    fake: FakeS3 | FakeOSS = request.getfixturevalue(f"fake_{request.param}")
    fake.buckets["exports"] = {}
    keys = {"endpoint": fake.endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "region": "cn-hangzhou"}
    return Job(target, fake, {"type": request.param, "url": f"{request.param}://exports/daily/", **keys})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the job once; what it printed. It must end with this code."""
    monkeypatch.chdir(tmp_path)

    def once(code: int = 0) -> str:
        ended = main(("run", "--once", "jobs.toml"))
        out, err = capsys.readouterr()
        assert ended == code, out + err
        return str(out + err)

    return once


def test_only_what_has_changed_is_read_and_replaced(job: Job, run: Callable[..., str]) -> None:
    assert job.fake is not None
    lake = job.fake.buckets["exports"]
    lake["daily/sales/a.csv"] = Object(csv("1,Rome", "2,Oslo"))
    lake["daily/sales/b c+%.csv"] = Object(csv("3,Lima"))
    lake["daily/sales/"] = Object(b"")
    lake["daily/other.csv"] = Object(csv("9,no"))
    job.write()
    run()
    first = [(1, "Rome", "sales/a.csv", 1), (2, "Oslo", "sales/a.csv", 2), (3, "Lima", "sales/b c+%.csv", 1)]
    assert job.rows() == first
    assert {"daily/sales/a.csv", "daily/sales/b c+%.csv"} == set(job.gets())

    run()
    assert job.gets() == []
    assert job.rows() == first

    lake["daily/sales/a.csv"] = Object(csv("1,Roma"))
    del lake["daily/sales/b c+%.csv"]
    run()
    assert job.gets() == ["daily/sales/a.csv"]
    assert job.rows() == [(1, "Roma", "sales/a.csv", 1), (3, "Lima", "sales/b c+%.csv", 1)]

    job.write('vanished = "delete"')
    run()
    assert job.rows() == [(1, "Roma", "sales/a.csv", 1)]


def test_an_archived_object_is_named_and_keeps_its_rows(job: Job, run: Callable[..., str]) -> None:
    assert job.fake is not None
    lake = job.fake.buckets["exports"]
    content = csv("1,Rome")
    lake["daily/sales/a.csv"] = Object(content)
    lake["daily/sales/b.csv"] = Object(csv("2,Oslo"))
    job.write('vanished = "delete"')
    run()
    job.gets()
    lake["daily/sales/a.csv"] = Object(content, "GLACIER")
    lake["daily/sales/old.csv"] = Object(csv("3,Lima"), "GLACIER")
    assert "old.csv" in run()
    assert job.gets() == []
    assert job.rows() == [(1, "Rome", "sales/a.csv", 1), (2, "Oslo", "sales/b.csv", 1)]
    lake["daily/sales/old.csv"].restored = True
    run()
    assert job.rows()[-1] == (3, "Lima", "sales/old.csv", 1)


def test_an_object_that_changes_while_it_is_read_waits_for_the_next_scan(job: Job, run: Callable[..., str]) -> None:
    assert job.fake is not None
    lake = job.fake.buckets["exports"]
    lake["daily/sales/a.csv"] = Object(csv("1,Rome"))
    lake["daily/sales/b.csv"] = Object(csv("2,Oslo"))
    job.write()
    run()
    lake["daily/sales/a.csv"] = Object(csv("1,Roma"))
    lake["daily/sales/b.csv"] = Object(csv("2,Bergen"))

    def overwritten(asked: Any) -> bool:
        if asked.method == "GET" and asked.key == "daily/sales/a.csv":
            lake["daily/sales/a.csv"] = Object(csv("1,Milan"))
        return False

    from tests.fake_s3 import Fault

    job.fake.faults.append(Fault("Never", 500, overwritten))
    assert "a.csv" in run()
    assert job.rows() == [(1, "Rome", "sales/a.csv", 1), (2, "Bergen", "sales/b.csv", 1)]
    job.fake.faults.clear()
    run()
    assert job.rows() == [(1, "Milan", "sales/a.csv", 1), (2, "Bergen", "sales/b.csv", 1)]


def test_a_bucket_that_may_not_be_listed_deletes_nothing(job: Job, run: Callable[..., str]) -> None:
    assert job.fake is not None
    job.fake.buckets["exports"]["daily/sales/a.csv"] = Object(csv("1,Rome"))
    job.write('vanished = "delete"')
    run()
    job.fake.denied = ("daily/",)
    text = run(code=1)
    assert "AccessDenied" in text and "s3:ListBucket" in text
    assert job.rows() == [(1, "Rome", "sales/a.csv", 1)]


def test_a_real_bucket(bucket: Bucket, target: PostgresEnd, run: Callable[..., str]) -> None:
    host, port = bucket.address
    keys = {"endpoint": f"http://{host}:{port}", "access_key": s3.ACCESS_KEY, "secret_key": s3.SECRET_KEY}
    job = Job(target, None, {"type": "s3", "url": f"s3://{bucket.name}/daily/", **keys})
    bucket.put("daily/sales/a.csv", csv(*(f"{number},Rome" for number in range(1_000))))
    bucket.put("daily/sales/b.csv", csv("5000,Oslo"))
    job.write()
    run()
    assert len(job.rows()) == 1_001
    bucket.put("daily/sales/a.csv", csv("1,Roma"))
    run()
    assert job.rows() == [(1, "Roma", "sales/a.csv", 1), (5000, "Oslo", "sales/b.csv", 1)]
