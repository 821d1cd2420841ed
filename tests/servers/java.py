"""Java and Maven: those of this machine, or those of Debian 12, unpacked and not installed."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.servers.cache import DOWNLOAD_SECONDS, made_once
from tests.servers.debian import unpacked
from tests.servers.process import Process, ended

# As Process guards a server, but for the whole group: what a launcher has started ends with it.
_GUARD = 'read -r _; kill -s KILL -- "-$1"; rm -rf "$2" || { sleep 1; rm -rf "$2"; }'

QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote")
"""A server is soon there: its code is neither verified nor compiled as well as it could be."""


class JavaProcess(Process):
    """A server that is started by a launcher, both in Java: a group of processes that ends as a whole."""

    def start(self) -> None:
        super().start()
        assert self._process is not None and self._guard is not None
        with self._guard:
            self._guard.kill()
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(self._process.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def _end(self, how: signal.Signals) -> None:
        group = self._process.pid if self._process else 0
        if group and how is signal.SIGKILL:
            # By itself the server would see its launcher go, and end in order. Both may have ended already.
            with suppress(ProcessLookupError):
                os.killpg(group, how)
        super()._end(how)
        while group and _alive(group):
            time.sleep(0.01)


def _alive(group: int) -> bool:
    """Whether a process of the group still holds its files and its port."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.Error):
            if os.getpgid(process.pid) == group and not ended(process):
                return True
    return False


def newest(at_least: int, at_most: int = 999) -> Path | None:
    """The home of the newest full JDK of this machine between two versions: in JAVA_HOME, on PATH, or where Linux has them."""
    found = [home for home in _homes() if (home / "bin/javac").exists() and at_least <= _version(home) <= at_most]
    return max(found, key=_version, default=None)


def debian(package: str, *, instead: str) -> Path:
    """The home of Debian 12's Java 17 in ``package`` or in what it depends on. Where it can't be had the test is skipped."""
    try:
        root = unpacked("bookworm", package, instead=instead)
    except pytest.skip.Exception:
        pytest.skip(
            f"Java and Maven can't be had: this machine has no apt that knows a mirror of Debian. Put a JDK of 21 or "
            f"newer and Maven on PATH, or let {instead} name a server, as http://user:password@host:port."
        )
    made_once(root / "links", lambda _: _relink(root))
    (home,) = root.glob("usr/lib/jvm/java-17-openjdk-*")
    return home


def maven(*arguments: str, folder: Path, instead: str) -> None:
    """Run Maven in ``folder``, by the machine's own configuration where it has one, which may name a mirror.

    What it downloads is not kept: archives would stay beside what is taken out of them. ``RuntimeError`` where it
    fails, or takes more than ten minutes.
    """
    words = ["-q", "-B", *shlex.split(os.environ.get("MAVEN_ARGS", "")), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "MAVEN_ARGS"}
    with tempfile.TemporaryDirectory(prefix="maven.", dir=folder) as repository:
        try:
            done = subprocess.run(
                [*_maven_command(Path(repository), instead), f"-Dmaven.repo.local={repository}", *words],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"Maven did not end within {DOWNLOAD_SECONDS} s: {' '.join(words)}") from error
    if done.returncode:
        raise RuntimeError(f"Maven failed: {' '.join(words)}\n{done.stdout}{done.stderr}")


def _maven_command(folder: Path, instead: str) -> list[str]:
    if (mvn := shutil.which("mvn")) and shutil.which("java"):
        return [mvn]
    home = debian("maven", instead=instead)
    root = home.parents[3]
    maven_home = root / "usr/share/maven"
    own = Path("/etc/maven/settings.xml")
    # What the script `mvn` does, whose folders are those of an installed Maven.
    return [
        str(home / "bin/java"),
        *_trust(folder),
        "-classpath",
        str(maven_home / "boot/plexus-classworlds-2.x.jar"),
        f"-Dclassworlds.conf={maven_home}/bin/m2.conf",
        f"-Dmaven.home={maven_home}",
        f"-Dmaven.multiModuleProjectDirectory={folder}",
        *shlex.split(os.environ.get("MAVEN_OPTS", "")),
        "org.codehaus.plexus.classworlds.launcher.Launcher",
        *(["-gs", str(own)] if own.exists() else []),
    ]


def _trust(folder: Path) -> list[str]:
    """Whom Python trusts, Java trusts too: the certificates of this machine, in the form that Java reads (JKS)."""
    trusted = ssl.create_default_context().get_ca_certs(binary_form=True)
    entries = [
        struct.pack(">IH8sQH5sI", 2, 8, b"%08d" % place, 0, 5, b"X.509", len(certificate)) + certificate
        for place, certificate in enumerate(trusted)
    ]
    store = struct.pack(">III", 0xFEEDFEED, 2, len(entries)) + b"".join(entries)
    # Against damage, not against anybody: the password is the one that everybody uses.
    seal = hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + store, usedforsecurity=False)
    file = folder / "trusted.jks"
    file.write_bytes(store + seal.digest())
    return [f"-Djavax.net.ssl.trustStore={file}"]


def _relink(root: Path) -> None:
    """Links that mean a file of the installed package lead to the one that lies below ``root``."""
    for link in root.rglob("*"):
        if link.is_symlink() and (target := link.readlink()).is_absolute() and os.path.lexists(f"{root}{target}"):
            link.unlink()
            link.symlink_to(f"{root}{target}")


def _homes() -> Iterator[Path]:
    if given := os.environ.get("JAVA_HOME"):
        yield Path(given)
    if program := shutil.which("java"):
        yield Path(program).resolve().parents[1]
    yield from sorted(Path("/usr/lib/jvm").glob("*"))


def _version(home: Path) -> int:
    """17 for a Java 17, 0 where there is none."""
    release = home / "release"
    found = re.search(r'^JAVA_VERSION="(\d+)', release.read_text(), re.M) if release.is_file() else None
    return int(found[1]) if found else 0
