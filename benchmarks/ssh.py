"""SFTP from a real OpenSSH server on the loopback interface: one large file beside the command ``sftp``, and a large folder."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio

from benchmarks import common
from retl.connectors import SSHFiles
from tests.servers import sshd

MEGABYTES = int(os.environ.get("RETL_BENCH_SSH_MB", "500"))
FILES = int(os.environ.get("RETL_BENCH_SSH_FILES", "100000"))
RUNS = 3
HERE = "benchmarks.ssh"
GOAL = 1.0


def main() -> None:
    with sshd.started() as server, tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        folder = Path(made)
        folder.chmod(0o755)
        with (folder / "large").open("wb") as file:
            for _ in range(MEGABYTES):
                file.write(os.urandom(1_000_000))
        options = {"url": server.url(folder), "key": str(server.key), "fingerprint": server.fingerprint}
        theirs, ours = [], []
        for _ in range(RUNS):  # in turn, so that a busy machine hits both
            theirs.append(_sftp(server, folder))
            ours.append(common.in_own_process(HERE, "read", options))
        (folder / "large").unlink()
        for number in range(FILES):
            (folder / f"{number:07}").touch()
        _show(
            min(theirs), min(ours, key=lambda found: found["seconds"]), common.in_own_process(HERE, "list_all", options)
        )


def _sftp(server: sshd.SSHServer, folder: Path) -> float:
    """Seconds that the command takes."""
    known = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null")
    place = f"{server.user}@{server.host}:{folder}/large"
    begun = time.perf_counter()
    command = ["sftp", "-q", "-i", str(server.key), "-P", str(server.port), *known, place, str(folder / "copy")]
    subprocess.run(command, check=True, capture_output=True)
    took = time.perf_counter() - begun
    (folder / "copy").unlink()
    return took


def read(options: dict[str, Any]) -> dict[str, Any]:
    """Read the large file."""
    return anyio.run(_watched, options, "large")


def list_all(options: dict[str, Any]) -> dict[str, Any]:
    """List the folder."""
    return anyio.run(_watched, options, "")


async def _watched(options: dict[str, Any], name: str) -> dict[str, Any]:
    store = SSHFiles(**options).store()
    await store.ping()
    stalls = common.StallWatch()
    count = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stalls.watch, anyio.sleep)
        file = await store.stat(name) if name else None
        begun = time.perf_counter()
        async with aclosing(store.list() if file is None else store.read(file)) as parts:
            async for part in parts:
                count += len(part)
        took = time.perf_counter() - begun
        tasks.cancel_scope.cancel()
    await store.aclose()
    return {"seconds": took, "count": count, "stall_ms": round(stalls.longest * 1000)}


def _show(theirs: float, ours: dict[str, Any], listing: dict[str, Any]) -> None:
    ratio = theirs / ours["seconds"]
    rows = [
        ("sftp", f"{MEGABYTES / theirs:,.0f} MB/s", "", "", ""),
        (
            "retl",
            f"{MEGABYTES / ours['seconds']:,.0f} MB/s",
            f"{ratio:.2f} ({common.verdict(ratio, GOAL, at_least=True)})",
            ours["stall_ms"],
            ours["peak_mb"],
        ),
        (
            f"retl, a folder of {listing['count']:,} files",
            f"{listing['count'] / listing['seconds']:,.0f} files/s",
            "",
            listing["stall_ms"],
            listing["peak_mb"],
        ),
    ]
    header = ("SFTP", "speed", "times sftp", "longest stall, ms", "peak, MB")
    common.table("Files by SFTP", header, rows, common.versions("asyncssh", "cryptography"))
