"""Programs of Debian on any machine that has apt: unpacked into a folder, run with the C library they were made for.

Nothing is installed, no service is started, and nobody needs to be root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.servers.cache import DOWNLOAD_SECONDS, cache_folder, made_once

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def unpacked(suite: str, package: str, *, instead: str) -> Path:
    """The root folder of a package and all that it depends on. The first call downloads them.

    Where this machine is no Debian the test is skipped, and told of the variable ``instead``.
    """

    def make(root: Path) -> None:
        mirror = _mirror()
        if mirror is None:
            pytest.skip(
                f"Debian's {package} can't be had: this machine has no apt that knows a mirror of Debian. "
                f"For most tests {instead} may name a server to use instead."
            )
        _unpack(mirror, suite, package, root)

    return made_once(cache_folder() / f"{suite}-{package}", make)


def command(root: Path, program: str) -> list[str]:
    """How a program below ``root`` is called: by the loader that lies there, with the libraries that lie there."""
    # Older releases have libraries in /lib too, newer ones in /usr/lib alone.
    libraries = [folder for lib in ("lib", "usr/lib") for folder in root.glob(f"{lib}/*-linux-gnu")]
    (loader,) = (file for folder in libraries for file in folder.glob("ld-linux-*.so.*"))
    return [str(loader), "--library-path", ":".join(map(str, libraries)), str(root / program)]


def _unpack(mirror: str, suite: str, package: str, root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="retl-apt-") as made:
        apt = Path(made)
        # An apt that believes that nothing is installed yet: it brings the dependencies too, down to the C library.
        (apt / "status").touch()
        (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        (apt / "apt.conf").write_text(_configuration(apt))
        environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "LC_ALL": "C"}
        _run("apt-get", "-q", "update", environment=environment)
        _run("apt-get", "-q", "-y", "--download-only", "install", package, environment=environment)
        for archive in sorted((apt / "archives").glob("*.deb")):
            _run("dpkg", "-x", str(archive), str(root))


def _configuration(apt: Path) -> str:
    """The machine's own configuration, which may name a proxy, with every folder replaced and without its hooks."""
    dump = _run("apt-config", "dump")
    kept = [line for line in dump.splitlines() if "-Invoke" not in line and "DEP-11" not in line]
    nowhere = ("Dir::Etc::parts", "Dir::Etc::main", "Dir::Etc::sourceparts", "Dir::Etc::preferences")
    return "\n".join(
        [
            *kept,
            *(f'{name} "/dev/null";' for name in (*nowhere, "Dir::Etc::preferencesparts")),
            f'Dir::Etc::sourcelist "{apt}/sources.list";',
            f'Dir::State "{apt}";',
            f'Dir::State::lists "{apt}/lists";',
            f'Dir::State::status "{apt}/status";',
            f'Dir::Cache "{apt}";',
            f'Dir::Cache::archives "{apt}/archives";',
            # The user that apt downloads as could not write into the folder.
            'APT::Sandbox::User "root";',
            'APT::Install-Recommends "false";',
            'Acquire::Languages "none";',
            'Debug::NoLocking "true";',
            "",
        ]
    )


def _mirror() -> str | None:
    """The mirror of Debian that this machine uses itself, if it does."""
    if not all(shutil.which(program) for program in ("apt-get", "apt-config", "dpkg")) or not KEYRING.exists():
        return None
    sources = Path("/etc/apt")
    for file in (*sorted(sources.glob("sources.list.d/*")), sources / "sources.list"):
        if file.is_file() and (found := re.search(r"^(?!#).*?(https?://\S+/debian)/?(?=\s|$)", file.read_text(), re.M)):
            return found[1]
    return None


def _run(*arguments: str, environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DOWNLOAD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(arguments)} did not end within {DOWNLOAD_SECONDS} s") from error
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
