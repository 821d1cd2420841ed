"""Tools for rows in Arrow that connectors share: canonical text, CSV, rejects, keys."""
