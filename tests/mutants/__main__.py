"""``python -m tests.mutants [WORD ...]``: tries every mutant, or those whose name holds one of the words.

Each one is tried in a copy of the project, so nothing here changes. Exits with 1 where
fewer than 95 % are noticed, with 2 where one no longer fits the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import msgspec

ROOT = Path(__file__).parents[2]
GOAL = 0.95
SECONDS = 600
AT_ONCE = 2

Outcome = Literal["noticed", "NOT NOTICED", "STALE"]


class Mutant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to be wrong. ``tests`` are arguments of pytest."""

    name: str
    file: str
    old: str
    new: str
    loses: str
    tests: tuple[str, ...]


def mutants(words: Sequence[str] = ()) -> list[Mutant]:
    """All mutants of this folder, or those that are asked for."""
    found = list(_all())
    return [mutant for mutant in found if not words or any(word in mutant.name for word in words)]


def _all() -> Iterator[Mutant]:
    for file in sorted(Path(__file__).parent.glob("*.toml")):
        document = tomllib.loads(file.read_text(encoding="utf-8"))
        shared = {"tests": document.pop("tests", [])}
        for name, words in document.items():
            yield msgspec.convert({"name": f"{file.stem}.{name}", **shared, **words}, Mutant)


def fits(mutant: Mutant, root: Path = ROOT) -> bool:
    """Whether the code still holds the text that the mutant replaces, once."""
    file = root / mutant.file
    return file.is_file() and file.read_text(encoding="utf-8").count(mutant.old) == 1


def attempt(mutant: Mutant) -> tuple[Outcome, str]:
    """Try one: what became of it, and the test that noticed it."""
    if not fits(mutant):
        return "STALE", f"{mutant.file} does not hold its text once"
    with tempfile.TemporaryDirectory(prefix="retl-mutant-") as folder:
        copy = Path(folder, "project")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "site", "build", "dist"))
        file = copy / mutant.file
        file.write_text(file.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *mutant.tests]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return "noticed", "the tests did not end"
    failed = [
        line.removeprefix("FAILED ") for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))
    ]
    if done.returncode == 0:
        return "NOT NOTICED", ""
    if not failed:
        return "STALE", (done.stdout + done.stderr).strip().splitlines()[-1]
    return "noticed", failed[0].split(" - ")[0]


def main(words: Sequence[str]) -> int:
    chosen = mutants(words)
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for mutant, (outcome, by) in zip(chosen, threads.map(attempt, chosen), strict=True):
            outcomes.append(outcome)
            print(f"{outcome:<12} {mutant.name:<44} {by or mutant.loses}", flush=True)
    noticed, stale = outcomes.count("noticed"), outcomes.count("STALE")
    print(
        f"{noticed} of {len(chosen)} mutants noticed, {outcomes.count('NOT NOTICED')} not, {stale} no longer fit the code"
    )
    if stale:
        return 2
    return 0 if noticed >= GOAL * len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
