"""The documentation says everything, links to what is there, and its commands and snippets run."""

from __future__ import annotations

import ast
import importlib.util
import os
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import duckdb
import msgspec
import pytest

import retl
from retl.config import load_jobs
from retl.config.words import JobFile, PipelineWords, StateWords
from retl.model import events
from retl.model.table import Table
from retl.model.window import Position, Scope, Slice
from retl.observe.metrics import METRICS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q '.[duckdb,cli]'"

_FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    text: str
    once: bool


def blocks(page: Path) -> list[Block]:
    found = []
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        info = match["info"]
        title = re.search(r'title="([^"]*)"', info)
        language = re.match(r"\{?\s*\.?([\w+-]+)", info)
        assert language is not None, f"{page.name}: a block without a language: {match['text'][:60]}"
        found.append(Block(language[1], title[1] if title else "", match["text"], ".once" in info))
    return found


def pages() -> list[Path]:
    return sorted([*DOCS.rglob("*.md"), ROOT / "README.md"])


@cache
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def everything() -> str:
    """All pages as they are built, but for what mkdocstrings writes."""
    return "\n".join(hooks().expand(page.read_text(encoding="utf-8")) for page in pages())


@cache
def written() -> str:
    """All pages as people wrote them."""
    return "\n".join(page.read_text(encoding="utf-8") for page in pages())


# Everything is said ---------------------------------------------------------


def test_every_command_and_option_is_documented() -> None:
    shown = (DOCS / "cli.md").read_text(encoding="utf-8")
    for command, parser in hooks().subcommands().items():
        assert f"retl {command}" in shown, f"docs/cli.md does not speak of `retl {command}`"
        for action in parser._actions:
            if action.option_strings and action.dest != "help":
                assert action.option_strings[-1] in everything(), f"{action.option_strings[-1]} is not documented"


def _job_file_words() -> Iterator[str]:
    for kind in (JobFile, StateWords, PipelineWords, Table, retl.Alert):
        yield from (item.encode_name for item in msgspec.structs.fields(kind) if item.name != "call")


def test_every_word_of_a_job_file_is_in_the_tables_and_in_the_text() -> None:
    page = hooks().expand((DOCS / "job-files.md").read_text(encoding="utf-8"))
    for word in _job_file_words():
        assert re.search(rf"^(\| `{word}` \||.*\b{word}\b)", page, re.MULTILINE), f"job-files.md does not list {word}"
        assert re.search(rf"\b{word}\b", written()), f"no page says what {word} is good for"


def test_words_that_describe_themselves_are_not_described_twice() -> None:
    assert not hooks().undescribed_words()


def test_every_public_name_is_documented() -> None:
    absent = [name for name in retl.__all__ if not re.search(rf"\b{name}\b", written())]
    assert not absent, f"no page names {absent}"
    referenced = set(re.findall(r"^::: retl\.(\w+)$", written(), re.MULTILINE))
    missing = [
        name
        for name in retl.__all__
        if isinstance(getattr(retl, name), type | type(retl.env)) and name not in referenced
    ]
    assert not missing, f"the reference does not list {missing}"


def test_every_event_is_documented() -> None:
    for kind in events.Event.__subclasses__():
        assert f"`{kind.__name__}`" in everything()


def test_every_metric_is_documented_and_every_name_of_one_is_one() -> None:
    page = hooks().expand((DOCS / "observe.md").read_text(encoding="utf-8"))
    names = {metric.name for metric in METRICS}
    assert set(re.findall(r"\bretl_\w*[a-z]\b", page)) == names
    assert {metric.otel for metric in METRICS} <= set(re.findall(r"\bretl\.[\w.]+", page))


def test_every_error_has_its_advice() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    for name in retl.__all__:
        kind = getattr(retl, name)
        if (
            isinstance(kind, type)
            and issubclass(kind, retl.RetlError)
            and kind not in (retl.RetlError, retl.PermanentError)
        ):
            assert f"`{name}`" in page, f"docs/errors.md does not say what to do about {name}"


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"^\s+- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}


# Everything linked is there -------------------------------------------------


def _anchors(page: Path) -> set[str]:
    text = hooks().expand(page.read_text(encoding="utf-8"))
    found = set(re.findall(r"\{ #([\w-]+) \}", text))
    in_code = False
    for line in text.splitlines():
        in_code ^= line.startswith("```")
        heading = None if in_code else re.match(r"#+ (.+)", line)
        if heading:
            plain = re.sub(r"\{ #.*\}|[`*]", "", heading[1]).strip().lower()
            found.add(re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain)))
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = hooks().expand(page.read_text(encoding="utf-8"))
    for link in [*_LINK.findall(text), *_IMAGE.findall(text)]:
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{page.name} links to {link}"
        if anchor and place.suffix == ".md":
            assert anchor in _anchors(place), f"{page.name} links to {link}; there are {sorted(_anchors(place))}"


def test_pictures_are_complete_in_themselves() -> None:
    for picture in (DOCS / "images").glob("*.svg"):
        text = picture.read_text(encoding="utf-8")
        assert "<title" in text, f"{picture.name} needs a title for those who cannot see it"
        assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), f"{picture.name} needs the network"


# What is shown runs ---------------------------------------------------------


def _environment() -> dict[str, str]:
    """The commands of the Python that runs this test come first."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}


def _sh(text: str, folder: Path) -> str:
    """Run a shell block as a user would; its output."""
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", text],
        cwd=folder,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


# Times differ from run to run, and so does the room that they take.
_VARYING = (
    (re.compile(r"\b\d\d:\d\d:\d\d  "), "TIME  "),
    (re.compile(r"(?<= in )\d[\d.]*m?s\b"), "TOOK"),
    (re.compile(r"\b(\d+(\.\d+)?(ms|[smhd])( \d+[smhd])? ago|now\b)"), "AGO"),
    (re.compile(r"\b\d+d( \d+h)?\b"), "LAG"),
    (re.compile(r"[ \t]+"), " "),
)


def _stable(text: str) -> str:
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return "\n".join(line.strip() for line in text.strip().splitlines())


def write_block(block: Block, folder: Path) -> None:
    """A titled block is a file; one that says ``(the rest)`` goes on with it."""
    name, _, rest = block.title.partition(" (")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a" if rest else "w", encoding="utf-8") as file:
        file.write(("\n\n" if rest else "") + block.text)


def _run_page(page: Path, folder: Path) -> None:
    """Run a page from top to bottom: files are written, commands run, and what is shown of their output compared."""
    output = ""
    for block in blocks(page):
        if block.once:
            assert block.text.startswith(INSTALL)
        elif block.title:
            write_block(block, folder)
        elif block.language == "sh":
            output = _sh(block.text, folder)
        elif block.language == "text":
            assert _stable(output) == _stable(block.text)


def test_every_block_of_the_tutorial_is_a_file_a_command_or_an_output() -> None:
    for block in blocks(DOCS / "tutorial.md"):
        assert block.title or block.language in ("sh", "text"), f"this block would not be run: {block.text[:60]}"


@pytest.mark.processes
@pytest.mark.parametrize(
    "page",
    [
        "tutorial.md",
        "job-files.md",
        "observe.md",
        "synchronous.md",
        "pipelines/your-own.md",
        "pipelines/files.md",
        "pipelines/documents.md",
        pytest.param("pipelines/documents-to-vectors.md", marks=pytest.mark.timeout(120)),  # as its readers are told
        "write-a-connector.md",
    ],
)
def test_the_commands_of_a_page_run_and_print_what_it_shows(page: str, tmp_path: Path) -> None:
    _run_page(DOCS / page, tmp_path)


@pytest.mark.processes
def test_the_service_that_embeds_a_pipeline_runs(tmp_path: Path) -> None:
    _make_warehouse(
        tmp_path / "warehouse.duckdb",
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, updated_at TIMESTAMP)",
        "INSERT INTO customers VALUES (1, '2025-01-01'), (2, '2025-01-02')",
        "CREATE TABLE daily_report AS SELECT 1 AS day",
    )
    _run_page(DOCS / "embed.md", tmp_path)
    assert "every 30s" in _sh("python main.py", tmp_path)
    assert _customers(tmp_path / "app.db") == [(1,), (2,)]


def test_the_readme_names_the_two_commands() -> None:
    one_liners = [block.text.strip() for block in blocks(ROOT / "README.md") if block.language == "sh"]
    assert one_liners == [f"{INSTALL} && .venv/bin/retl demo", "./run-tests"]


@pytest.mark.processes
@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_example_runs(page: str, tmp_path: Path) -> None:
    _make_warehouse(
        tmp_path / "warehouse.duckdb",
        "CREATE TABLE flights (id INTEGER PRIMARY KEY, updated_at TIMESTAMP)",
        "INSERT INTO flights VALUES (1, '2025-01-01'), (2, '2025-01-02')",
    )
    (snippet,) = (block for block in blocks(ROOT / page) if block.language == "python")
    (tmp_path / "snippet.py").write_text(snippet.text, encoding="utf-8")
    service = subprocess.Popen([sys.executable, "snippet.py"], cwd=tmp_path, env=_environment(), stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while _flights(tmp_path / "app.db") != [(1,), (2,)]:
            assert service.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        service.send_signal(signal.SIGINT)
        try:
            _, errors = service.communicate(timeout=60)
        finally:
            service.kill()
    assert b"KeyboardInterrupt" in errors  # what Python itself says of Ctrl-C, and nothing else
    assert b"RetlError" not in errors


def test_every_job_file_shown_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in pages():
        for number, block in enumerate(blocks(page)):
            if block.language != "toml":
                continue
            assert tomllib.loads(block.text)
            if "[pipelines." in block.text:
                for variable in re.findall(r"\$\{(\w+)\}", block.text):
                    monkeypatch.setenv(variable, "secret")
                file = tmp_path / f"{page.stem}-{number}.toml"
                file.write_text(block.text, encoding="utf-8")
                assert load_jobs(file).pipelines


def test_every_python_snippet_is_python() -> None:
    for page in pages():
        for block in blocks(page):
            if block.language == "python":
                compile(block.text, f"{page.name}: {block.title}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_a_slice_is_as_small_as_the_contract_page_says() -> None:
    everything_set = Slice(
        index=10**6,
        lower="2024-05-01 12:00:00.000000001",
        upper="2024-05-02 12:00:00.000000001",
        modulus=1000,
        position=Position("2024-05-01 12:00:00.000000001", "2024-05-02 12:00:00.000000001", 1000, 999),
        scope=Scope("file", ("exports/2024/05/01/sales.csv.gz",)),
        detail={"exports/2024/05/01/sales.csv.gz": "etag:9f86d081884c7d659a2feaa0c55ad015"},
    )
    assert len(pickle.dumps(everything_set)) < 1024


def _make_warehouse(path: Path, *statements: str) -> None:
    with closing(duckdb.connect(str(path))) as warehouse:
        for statement in statements:
            warehouse.execute(statement)


def _flights(path: Path) -> list[tuple[int]]:
    return _ids(path, "flights")


def _customers(path: Path) -> list[tuple[int]]:
    return _ids(path, "customers")


def _ids(path: Path, table: str) -> list[tuple[int]]:
    if not path.exists():
        return []
    with closing(sqlite3.connect(path)) as database:
        try:
            return database.execute(f"SELECT id FROM {table} ORDER BY id").fetchall()
        except sqlite3.OperationalError:
            return []
