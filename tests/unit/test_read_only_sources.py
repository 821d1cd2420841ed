"""A source that does not allow writing will not soon: only a hook writes to it. A target may, after a failover."""

from __future__ import annotations

import pytest

from retl.connectors.mysql import errors as mysql
from retl.connectors.postgres import errors as postgres
from retl.model.errors import ConnectionFailed, RetlError, SourceError


@pytest.mark.parametrize(("role", "kind"), [("source", SourceError), ("target", ConnectionFailed)])
def test_a_replica_that_is_asked_to_write_refuses_for_good(role: mysql.Role, kind: type[RetlError]) -> None:
    for code in (1290, 1792, 1836, 3989):
        assert isinstance(mysql.server_error(code, "running with --read-only", role, "db:3306"), kind)
    assert isinstance(postgres.server_error("25006", "cannot execute INSERT", role, "db:5432"), kind)
