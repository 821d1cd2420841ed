"""A connector whose driver is missing says what installs it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import retl
from retl import connectors

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

_WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {drivers!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import retl
from retl.connectors import SQLite, {connector}
retl.Pipeline("p", source={connector}({address!r}), target=SQLite("app.db"), tables=["t"])
"""


@pytest.mark.parametrize(
    ("connector", "drivers", "address", "extra"),
    [
        ("MySQL", ("aiomysql", "pymysql"), "mysql://app@db/shop", "mysql"),
        ("StarRocks", ("aiomysql", "pymysql"), "starrocks://etl@fe:9030/dw", "starrocks"),
        ("PostgreSQL", ("asyncpg",), "postgresql://app@db/shop", "postgres"),
        ("Elasticsearch", ("elasticsearch",), "http://localhost:9200", "elasticsearch"),
        ("Yuque", ("aiohttp",), "", "yuque"),
        ("S3Files", ("aiobotocore",), "s3://exports/daily/", "s3"),
    ],
)
def test_a_missing_driver_names_its_extra(connector: str, drivers: tuple[str, ...], address: str, extra: str) -> None:
    program = _WITHOUT.format(drivers=drivers, connector=connector, address=address)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "is not installed" in last and f"pip install 'retl[{extra}]'" in last, done.stderr
    assert any(f"'{driver}" in last for driver in drivers)


def test_every_extra_that_is_named_is_one() -> None:
    assert set(connectors._EXTRAS.values()) <= set(PROJECT["optional-dependencies"])
    assert set(connectors._EXTRAS) <= set(connectors.__all__)


def test_the_package_says_what_it_is() -> None:
    assert PROJECT["version"] == retl.__version__
    assert (ROOT / PROJECT["readme"]).read_text().startswith("#")
