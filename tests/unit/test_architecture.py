"""The house keeps its shape: who may import whom, and what ``import retl`` may load."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRIVERS = ("aioboto3", "aiobotocore", "aiohttp", "aiomysql", "asyncpg", "asyncssh", "duckdb", "elasticsearch", "rich")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_rooms_import_only_what_they_may() -> None:
    done = run_python("import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_retl_loads_no_driver() -> None:
    # structlog loads rich by itself wherever it finds it, so rich is hidden; that retl does not is held above.
    done = run_python(
        "import sys; sys.modules['rich'] = None; import retl; "
        f"print(*(name for name in {DRIVERS!r} if sys.modules.get(name)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_no_end_of_an_iterator_becomes_the_end_of_a_coroutine() -> None:
    """A ``next`` without a default raises StopIteration, which no coroutine can carry: it needs a default, or a ``try``."""
    found = []
    for path in sorted((ROOT / "retl").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        caught = {
            node
            for tried in ast.walk(tree)
            if isinstance(tried, ast.Try) and any("StopIteration" in ast.unparse(one) for one in tried.handlers)
            for statement in tried.body
            for node in ast.walk(statement)
        }
        found += [
            f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "next"
            and len(node.args) == 1
            and node not in caught
        ]
    assert found == []


def test_a_file_is_one_room() -> None:
    """No more than 400 lines."""
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "retl").rglob("*.py")
    }
    assert {name for name, count in lines.items() if count > 400} == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: a circle that is hidden there is one all the same. TopologicalSorter names it."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "retl").rglob("*.py")
    }
    graph = {
        name: {
            found if (found := f"{node.module}.{item.name}") in paths else node.module
            for node in _imports(ast.parse(path.read_text(encoding="utf-8")))
            for item in node.names
        }
        for name, path in paths.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def _imports(node: ast.AST) -> list[ast.ImportFrom]:
    """The imports below a node, without those for type checkers only."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return []
    below = [found for child in ast.iter_child_nodes(node) for found in _imports(child)]
    return [node, *below] if isinstance(node, ast.ImportFrom) else below
