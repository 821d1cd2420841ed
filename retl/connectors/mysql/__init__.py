"""MySQL and MariaDB: the wire, source and target."""
