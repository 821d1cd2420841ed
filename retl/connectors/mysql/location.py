"""One text for one table of one server, by whatever address and role it is reached."""

from __future__ import annotations

from retl.connectors.mysql.connection import MySQLConnection


async def location(connection: MySQLConnection, database: str, name: str) -> str:
    """``mysql:<server>/<database>/<table>``, equal for a source and a target where they are the same table."""
    # MariaDB gives itself no number that is unique: what tells two servers of one network apart has to do.
    own = "@@hostname, @@port, @@datadir, @@server_id" if connection.server.mariadb else "@@server_uuid"
    ((lower, *server),) = await connection.query(f"SELECT @@lower_case_table_names, {own}")
    place = f"{database}/{name}"
    return f"mysql:{':'.join(map(str, server))}/{place.lower() if int(lower) else place}"
