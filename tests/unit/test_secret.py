"""A secret is read late and never shown."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from retl.model.errors import ConfigError
from retl.model.secret import Secret, env, reveal, secret_file, without_password


def test_a_secret_is_shown_by_its_origin_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETL_TEST_PASSWORD", "hunter2")
    secret = env("RETL_TEST_PASSWORD")
    assert secret.reveal() == "hunter2"
    assert repr(secret) == str(secret) == f"{secret}" == "<secret from environment variable RETL_TEST_PASSWORD>"


def test_a_secret_cannot_leave_the_process_by_pickling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETL_TEST_PASSWORD", "hunter2")
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        pickle.dumps(env("RETL_TEST_PASSWORD"))


def test_the_environment_is_read_when_the_secret_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETL_TEST_PASSWORD", raising=False)
    secret = env("RETL_TEST_PASSWORD")
    with pytest.raises(ConfigError, match=r"RETL_TEST_PASSWORD is not set\..* What to do: set RETL_TEST_PASSWORD"):
        secret.reveal()
    monkeypatch.setenv("RETL_TEST_PASSWORD", "first")
    assert secret.reveal() == "first"
    monkeypatch.setenv("RETL_TEST_PASSWORD", "second")
    assert secret.reveal() == "second"


@pytest.mark.parametrize(
    ("content", "value"), [(b"pw", "pw"), (b"pw\n", "pw"), (b"pw\r\n", "pw"), (b"pw\n\n", "pw\n"), (b" pw ", " pw ")]
)
def test_one_newline_at_the_end_of_a_secret_file_is_cut_off(tmp_path: Path, content: bytes, value: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    assert secret_file(path).reveal() == value


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere' cannot be read: No such file.* What to do: check the path"):
        secret_file(tmp_path / "nowhere").reveal()
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        secret_file(tmp_path).reveal()
    with pytest.raises(ConfigError, match=r"cannot be read"):
        secret_file("a\0b").reveal()


def test_a_secret_file_that_is_no_text_is_refused_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"hunter2\xff")
    with pytest.raises(ConfigError, match="it is not UTF-8 text") as caught:
        secret_file(path).reveal()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_reveal_takes_plain_text_too() -> None:
    assert reveal("plain") == "plain"
    assert reveal(Secret(lambda: "kept", "a vault")) == "kept"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:s3cret@db:1/x", "https://me:***@db:1/x"),
        ("https://me:s3:c@r/et@db", "https://me:***@db"),
        ("https://m/e:s3cret@db", "https://m/e:***@db"),
        ("https://me@corp:s3cret@db", "https://me@corp:***@db"),
        ("https://me:@db", "https://me:***@db"),
        ("me:s3cret@db:1", "***@db:1"),
        ("me:s3cret://x@db", "***@db"),
        ("https:/me:s3cret@db", "***@db"),
        ("https:me:s3cret@db", "***@db"),
        ("htps//me:s3cret@db", "***@db"),
        ("https://me@db:1", "https://me@db:1"),
        ("https://db:1/x", "https://db:1/x"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password_however_it_is_written(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_a_file_without_an_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: it is a device, not a file"):
        secret_file("/dev/zero").reveal()
    path = tmp_path / "disk-image"
    path.write_bytes(b"x" * 65_537)
    with pytest.raises(ConfigError, match="it has more than 64 KiB, which no secret has"):
        secret_file(path).reveal()
    path.write_bytes(b"x" * 65_536)
    assert secret_file(path).reveal() == "x" * 65_536
