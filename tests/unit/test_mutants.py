"""The mutants are tried by a session of their own; here they only have to fit the code, so that they do not rot."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.__main__ import ROOT, Mutant, fits, mutants

ALL = mutants()


@pytest.mark.parametrize("mutant", ALL, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_and_names_tests_that_are_there(mutant: Mutant) -> None:
    assert fits(mutant), f"{mutant.file} does not hold the text of {mutant.name} once: bring the mutant up to date"
    assert mutant.old != mutant.new and mutant.loses
    files = [test.split("::")[0] for test in mutant.tests if test.startswith("tests/")]
    assert files and all(Path(ROOT, file).exists() for file in files)


def test_there_are_mutants_of_every_room_that_keeps_data_safe() -> None:
    files = {mutant.file for mutant in ALL}
    for room in (
        "engine",
        "model",
        "state",
        "connectors/sql",
        "connectors/mysql",
        "connectors/postgres",
        "connectors/sqlite",
        "connectors/duckdb",
    ):
        assert any(file.startswith(f"retl/{room}/") for file in files), f"no mutant of {room}"
    assert len(ALL) == len({mutant.name for mutant in ALL}) >= 60
