"""The folder that keeps what servers are made of from one run to the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

# The longest that one download may take.
DOWNLOAD_SECONDS = 600


def cache_folder() -> Path:
    """The folder of ``RETL_TEST_CACHE``, or one where caches are kept. Everybody may read it: servers run as nobody."""
    if given := os.environ.get("RETL_TEST_CACHE"):
        folder = Path(given).absolute()
    else:
        home = Path("/var/cache") if os.geteuid() == 0 else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        folder = home.expanduser() / "retl-test-servers"
    if not folder.exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    return folder


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, filled by ``make`` where it is not there yet.

    It is there as a whole or not at all, however many processes ask for it and whenever one of them is killed.
    """
    if folder.exists():
        return folder
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder
        # Only a process that was killed leaves one of these.
        for remains in folder.parent.glob(f"{folder.name}.making-*"):
            shutil.rmtree(remains)
        making = Path(tempfile.mkdtemp(prefix=f"{folder.name}.making-", dir=folder.parent))
        try:
            making.chmod(0o755)
            make(making)
            making.rename(folder)
        except BaseException:
            shutil.rmtree(making)
            raise
    return folder
