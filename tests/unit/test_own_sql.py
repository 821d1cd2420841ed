"""Which statements of the user's a scan takes as ``before_sql`` and ``after_sql``."""

from __future__ import annotations

import pytest

from retl.model.errors import ConfigError
from retl.model.hooks import own_statements


def test_one_text_is_one_statement() -> None:
    assert own_statements("after_sql", "ANALYZE t") == ("ANALYZE t",)
    assert own_statements("after_sql", ["-- first\nDELETE FROM t", "  /* end */ SELECT 1;"]) == (
        "-- first\nDELETE FROM t",
        "  /* end */ SELECT 1;",
    )
    assert own_statements("after_sql", None) == ()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("COMMIT", r"after_sql\[1\] begins with COMMIT, but it is a part of retl's own transaction"),
        ("  -- note\n/* x */ rollback", r"after_sql\[1\] begins with ROLLBACK"),
        (" -- nothing", r"after_sql\[1\] holds no statement"),
        ("", r"after_sql\[1\] holds no statement"),
    ],
)
def test_what_would_break_the_transaction_is_refused(statement: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_statements("after_sql", ["SELECT 1", statement])
