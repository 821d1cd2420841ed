"""What a server was sent is counted, and the test's own questions are not."""

from __future__ import annotations

from tests.servers.database import Server
from tests.servers.statements import counted


def test_statements_and_logins_of_all_connections_are_counted(server: Server) -> None:
    with counted(server) as sent:
        server.query("SELECT 1")
        server.query("SELECT 'two'")
    # PyMySQL tells the server its mode of autocommit.
    assert [text for text in sent.statements if text.startswith("SELECT")] == ["SELECT 1", "SELECT 'two'"]
    assert sent.logins == 2 and len(sent) <= 6
    with counted(server) as nothing:
        pass
    assert nothing.statements == [] and nothing.logins == 0
