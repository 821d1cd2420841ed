"""What the user of a target may see: an empty answer of the catalog means nothing without the right to look."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from retl.connectors.mysql.connection import MySQLConnection
from retl.connectors.mysql.errors import TargetRefused
from retl.connectors.sql.statement import Step, query
from retl.connectors.sql.tables import TableName
from retl.model.errors import ConfigError

REFERRED_TO = frozenset({1217, 1451, 1701, 3730, 3776})
"""Error numbers of statements that fail because another table has a foreign key to this one."""
_NO_COLUMN = 1072
_NAME = r"(\*|`(?:[^`]|``)+`)"
_GRANT = re.compile(rf"(GRANT|REVOKE) (.+?) ON (?:TABLE )?{_NAME}\.{_NAME} (?:TO|FROM) ")


def sees_triggers(place: TableName) -> Step[bool]:
    """Whether a trigger of the table would be in MySQL's catalog."""
    grants = yield query("SHOW GRANTS")
    return granted([str(text) for (text,) in grants], "TRIGGER", place)


def granted(grants: Sequence[str], privilege: str, place: TableName) -> bool:
    """Whether lines of SHOW GRANTS give a right on a table. An unknown line gives none."""
    found = [line for line in map(_GRANT.match, grants) if line is not None and _about(line[3], line[4], place)]
    wide = (privilege, "ALL PRIVILEGES")
    given = {line[1] for line in found if any(word in line[2].split(", ") for word in wide)}
    return given == {"GRANT"}


def _about(database: str, table: str, place: TableName) -> bool:
    """Whether a line is about the table; the name of a database is a pattern."""
    of_table = table == "*" or _unquoted(table) == place.name
    if database == "*" or not of_table:
        return of_table and table == "*"
    if table != "*":
        return _unquoted(database) == str(place.schema)
    return re.fullmatch(_pattern(_unquoted(database)), str(place.schema), re.DOTALL) is not None


def _unquoted(name: str) -> str:
    return name[1:-1].replace("``", "`")


def _pattern(like: str) -> str:
    """A pattern of LIKE as a regular expression."""
    wild = {"%": ".*", "_": "."}
    return "".join(
        re.escape(text[1]) if len(text) > 1 else wild.get(text) or re.escape(text)
        for text in re.findall(r"\\.|.", like, re.DOTALL)
    )


async def is_referred_to(connection: MySQLConnection, place: TableName) -> bool | None:
    """Whether any table has a foreign key to this one, even in a database that the user cannot see; ``None`` if unknown.

    It tries an ALTER TABLE that always fails, since it wants an index over a missing column: for a table that others
    refer to, servers complain first that its engine cannot be changed.
    """
    nowhere = f"retl_no_such_column_{secrets.token_hex(8)}"
    try:
        await connection.execute(f"ALTER TABLE {place.sql} ENGINE=MyISAM, ADD KEY (`{nowhere}`)")
    except TargetRefused as error:
        return True if error.code in REFERRED_TO else False if error.code == _NO_COLUMN else None
    except ConfigError:
        return None  # the user may not alter the table
    raise AssertionError("an index over no column was made")
