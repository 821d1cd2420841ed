"""PostgreSQL: what hangs on a real server."""
