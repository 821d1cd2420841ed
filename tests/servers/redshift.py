"""Redshift: the stand-in of ``tests.fake_redshift``, or a cluster that ``RETL_TEST_REDSHIFT_URL`` names.

Its user must be allowed to create schemas. UNLOAD is tested on the stand-in alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, urlsplit

from retl.connectors import Redshift
from tests.fake_redshift import Cluster, FakeRedshift

VARIABLE = "RETL_TEST_REDSHIFT_URL"


def connector(cluster: Cluster, **words: Any) -> Redshift:
    """What a pipeline takes: the reader's login, with the certificate verified."""
    return Redshift(cluster.url(), **{**trust(cluster), **words})


def trust(cluster: Cluster) -> dict[str, Any]:
    """The options by which a connector verifies the certificate."""
    return {"tls_ca": cluster.authority} if isinstance(cluster, FakeRedshift) else {}


@contextmanager
def any_server() -> Iterator[Cluster]:
    """The cluster that the environment names, or the stand-in."""
    if url := os.environ.get(VARIABLE):
        parts = urlsplit(url)
        if not parts.hostname or not parts.username:
            raise ValueError(f"{VARIABLE} is not of the form redshift://user:password@host:port/database")
        login = (unquote(parts.username), unquote(parts.password or ""))
        yield Cluster(parts.hostname, parts.port or 5439, parts.path.lstrip("/") or "dev", login)
    else:
        with FakeRedshift() as server:
            yield server
