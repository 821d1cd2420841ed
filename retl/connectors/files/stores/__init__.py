"""The places where files lie, each behind ``FileStore``."""
