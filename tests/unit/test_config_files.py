"""Job files that include others: what holds in which of them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from retl.config import load_jobs
from retl.model.errors import ConfigError


def pipeline(name: str, *more: str) -> str:
    source = 'source = { type = "duckdb", path = "w.duckdb" }\ntarget = { type = "sqlite", path = "app.db" }'
    return "\n".join([f"[pipelines.{name}]", source, 'tables = ["orders"]', *more]) + "\n"


def write(folder: Path, **texts: str) -> Path:
    """Write files, whose names have ``__`` for a slash; the first one is the job file."""
    paths = [folder / f"{name.replace('__', '/')}.toml" for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return paths[0]


def errors(folder: Path, **texts: str) -> list[str]:
    """The lines of the error, with the names of the files as seen from the folder."""
    with pytest.raises(ConfigError) as caught:
        load_jobs(write(folder, **texts))
    return caught.value.message.replace(f"{folder}/", "").splitlines()


def test_files_folders_and_globs_are_included_from_the_folder_of_the_file_that_names_them(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        jobs='include = ["one.toml", "teams/", "s*/*.toml"]\n' + pipeline("first"),
        one='include = "deep/d.toml"',
        deep__d='include = "../deeper/x.toml"\n' + pipeline("d"),
        deeper__x=pipeline("x"),
        teams__b=pipeline("b"),
        teams__a=pipeline("a"),
        shops__s=pipeline("s"),
    )
    (tmp_path / "teams" / ".b.toml").write_text("what an editor leaves behind")
    jobs = load_jobs(file)
    assert list(jobs.pipelines) == ["first", "d", "x", "a", "b", "s"]


def test_a_glob_leaves_out_the_file_that_names_it(tmp_path: Path) -> None:
    jobs = load_jobs(write(tmp_path, jobs='include = ["*.toml"]\n' + pipeline("first"), other=pipeline("second")))
    assert list(jobs.pipelines) == ["first", "second"]


def test_defaults_hold_for_the_files_below_until_one_says_otherwise(tmp_path: Path) -> None:
    jobs = load_jobs(
        write(
            tmp_path,
            jobs='include = "a.toml"\n[defaults]\ninterval = 7\ncursor = "changed"\n' + pipeline("top"),
            a='include = "b.toml"\n[defaults]\ncron = "0 3 * * *"\nlookback = "1m"\n' + pipeline("middle"),
            b='[defaults]\nlookback = "2m"\n' + pipeline("low", "interval = 9"),
        )
    )
    found = {one.name: (one.schedule.describe(), one._config.tables.defaults) for one in jobs}
    assert {name: (every, words.cursor, words.lookback) for name, (every, words) in found.items()} == {
        "top": ("every 7s", "changed", None),
        "middle": ("cron 0 3 * * * UTC", "changed", "1m"),
        "low": ("every 9s", "changed", "2m"),
    }


def test_variables_and_files_of_secrets_are_those_of_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", "teams")
    monkeypatch.setenv("CITY", "Bern")
    file = write(
        tmp_path,
        jobs='include = "${FOLDER}/"\n',
        teams__a=pipeline("a").replace('"orders"', '{ name = "orders", where = "city = \'${CITY}${file:more}\'" }'),
    )
    (tmp_path / "teams" / "more").write_text("!")
    (table,) = load_jobs(file).pipelines["a"]._tables.declared
    assert table.where == "city = 'Bern!'"


def test_what_is_wrong_is_told_with_its_file_and_all_at_once(tmp_path: Path) -> None:
    assert errors(
        tmp_path,
        jobs='include = ["none.toml", "empty/*.toml", "bad.toml", "a.toml"]\nincluded = 1\n' + pipeline("shop"),
        bad="[pipelines\n",
        a="\n[state]\nstore = 'memory'\n" + pipeline("shop", "intervall = 3", 'interval = "soon"'),
        nothing="[defaults]\ninterval = 3\n",
    ) == [
        "jobs.toml:1: include[0]: there is no file 'none.toml'",
        "jobs.toml:1: include[1]: no file matches: 'empty/*.toml'",
        "jobs.toml:2: included: unknown section; did you mean 'include'?",
        "a.toml:2: state: [state] belongs into the job file that is run; jobs.toml includes this one",
        "a.toml:8: pipelines.shop.intervall: unknown option; did you mean 'interval'?",
        (
            "a.toml:9: pipelines.shop.interval: interval is 'soon', which is not a length of time. What to do: write seconds "
            'as a number, or a text such as "250ms", "30s", "5m", "1h30m" or "2d".'
        ),
        "bad.toml:1: column 11: this is not TOML: expected ']' at the end of a table declaration",
    ]


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (
            {"jobs": 'include = "a.toml"', "a": 'include = "b.toml"', "b": 'include = "a.toml"\n' + pipeline("x")},
            "b.toml:1: include: files include each other in a circle: a.toml includes b.toml includes a.toml",
        ),
        (
            {"jobs": 'include = "./jobs.toml"'},
            "jobs.toml:1: include: files include each other in a circle: jobs.toml includes jobs.toml",
        ),
        (
            {"jobs": 'include = ["a.toml", "b.toml"]', "a": 'include = "b.toml"', "b": pipeline("x")},
            "jobs.toml:1: include[1]: 'b.toml' is included twice: here, and by a.toml",
        ),
        (
            {"jobs": 'include = ["a.toml"]\n' + pipeline("x"), "a": "\n" + pipeline("x")},
            "a.toml:2: pipelines.x: a pipeline of this name stands at jobs.toml:2 too; rename one of them",
        ),
        (
            {"jobs": 'include = ["a.toml"]\n' + pipeline("x"), "a": "[defaults]\ninterval = 3"},
            "a.toml:1: pipelines: the file has no pipeline; begin one with [pipelines.NAME], or see what `retl init` writes",
        ),
        (
            {"jobs": "include = 3\n" + pipeline("x")},
            "jobs.toml:1: include: expected text or a list, got a whole number",
        ),
        (
            {"jobs": 'include = "${NOT_SET}"\n' + pipeline("x")},
            "jobs.toml:1: include: the environment variable NOT_SET is not set. What to do: set NOT_SET before starting.",
        ),
    ],
)
def test_refused(tmp_path: Path, texts: dict[str, str], line: str) -> None:
    assert errors(tmp_path, **texts) == [line]
