"""The programs of the pages type-check as strictly as a user's may."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_docs import ROOT, Block, blocks, pages, write_block

STRICT = ("--strict", "--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary")

MADE_AT_IMPORT = 'is not a known attribute of module "pyarrow.compute"'
"""pyarrow makes those functions when it is imported, so pyright cannot see them."""


def programs(page: Path) -> list[Block]:
    """The Python blocks that stand for themselves; others are parts of something."""
    return [block for block in blocks(page) if block.language == "python" and block.title]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each page, with its programs."""
    top = tmp_path_factory.mktemp("pages")
    for page in pages():
        for block in programs(page):
            (top / page.stem).mkdir(exist_ok=True)
            write_block(block, top / page.stem)
    return top


@pytest.mark.large
def test_every_program_of_every_page_type_checks(written: Path) -> None:
    """By mypy. Programs of several pages have the same name, so each page is checked alone."""
    found: list[str] = []
    for folder in sorted(path for path in written.iterdir() if path.is_dir()):
        checked = subprocess.run(
            [sys.executable, "-m", "mypy", *STRICT, f"--cache-dir={written / '.cache'}", "."],
            cwd=folder,
            env={"MYPYPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        found += [f"{folder.name}: {line}" for line in (checked.stdout + checked.stderr).splitlines()]
    assert found == []


@pytest.mark.large
def test_every_program_of_every_page_type_checks_under_pyright(written: Path) -> None:
    folders = sorted(path.name for path in written.iterdir() if path.is_dir() and not path.name.startswith("."))
    config = {
        "executionEnvironments": [{"root": name, "extraPaths": [str(ROOT)]} for name in folders],
        "reportMissingModuleSource": False,
    }
    (written / "pyrightconfig.json").write_text(json.dumps(config))
    program = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    checked = subprocess.run(program, cwd=written, capture_output=True, text=True, check=False)
    answer = json.loads(checked.stdout)
    assert answer["summary"]["filesAnalyzed"] == sum(1 for _ in written.rglob("*.py"))
    said = (
        f"{one['file']}:{one['range']['start']['line'] + 1}: {one['message']}" for one in answer["generalDiagnostics"]
    )
    assert sorted(line for line in said if MADE_AT_IMPORT not in line) == []
