"""The programs of the pages type-check as strictly as a user's may."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_docs import ROOT, Block, blocks, pages, write_block

STRICT = ("--strict", "--ignore-missing-imports", "--follow-imports=silent", "--no-error-summary")


def programs(page: Path) -> list[Block]:
    """The Python blocks that stand for themselves; others are parts of something."""
    return [block for block in blocks(page) if block.language == "python" and block.title]


@pytest.mark.large
def test_every_program_of_every_page_type_checks(tmp_path: Path) -> None:
    found: list[str] = []
    for page in pages():
        folder = tmp_path / page.stem
        for block in programs(page):
            folder.mkdir(exist_ok=True)
            write_block(block, folder)
        if folder.exists():
            checked = subprocess.run(
                [sys.executable, "-m", "mypy", *STRICT, f"--cache-dir={tmp_path / 'cache'}", "."],
                cwd=folder,
                env={"MYPYPATH": str(ROOT)},
                capture_output=True,
                text=True,
                check=False,
            )
            found += [f"{page.name}: {line}" for line in (checked.stdout + checked.stderr).splitlines()]
    assert found == []
