"""What is kept is made once and as a whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.servers.cache import cache_folder, made_once


def test_a_folder_is_made_once_for_all_who_ask_at_once(tmp_path: Path) -> None:
    made: list[Path] = []
    together = Barrier(8)

    def make(folder: Path) -> None:
        (folder / "file").write_text("whole")
        made.append(folder)

    def ask(_: int) -> str:
        together.wait()
        return (made_once(tmp_path / "thing", make) / "file").read_text()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == ["whole"] * 8
    assert len(made) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing", "thing.lock"]


def test_what_fails_or_is_killed_halfway_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("the line was cut")

    with pytest.raises(OSError, match="cut"):
        made_once(tmp_path / "thing", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["thing.lock"]

    (tmp_path / "thing.making-killed").mkdir()
    (tmp_path / "thing.making-killed" / "half").touch()
    assert list(made_once(tmp_path / "thing", lambda folder: (folder / "file").touch()).iterdir()) == [
        tmp_path / "thing" / "file"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thing", "thing.lock"]


def test_a_variable_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETL_TEST_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b"
    assert cache_folder().stat().st_mode & 0o777 == 0o755
