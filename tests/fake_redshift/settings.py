"""What a session begins with, and which settings a cluster knows: the guide's "Configuration reference"."""

from __future__ import annotations

import re

from tests.fake_redshift.wire import Refusal

AT_START = {
    "server_version": "8.0.2",
    "server_encoding": "UNICODE",
    "client_encoding": "UNICODE",
    "integer_datetimes": "on",
    "is_superuser": "off",
    "padb_revision": "b9ae2f3",
    "padb_version": "1.0.117891",
    "DateStyle": "ISO, MDY",
}
"""What a cluster tells of itself at start-up."""

DEFAULTS = {
    "analyze_threshold_percent": "10",
    "cast_super_null_on_error": "on",
    "describe_field_name_in_uppercase": "off",
    "downcase_delimited_identifier": "on",
    "enable_case_sensitive_identifier": "off",
    "enable_case_sensitive_super_attribute": "off",
    "enable_numeric_rounding": "on",
    "enable_result_cache_for_session": "on",
    "json_serialization_enable": "off",
    "max_cursor_result_set_size": "0",
    "navigate_super_null_on_error": "on",
    "parse_super_null_on_error": "off",
    "query_group": "unset",
    "wlm_query_slot_count": "1",
}
"""Settings that PostgreSQL lacks."""

SHARED = {
    "datestyle",
    "extra_float_digits",
    "search_path",
    "statement_timeout",
    "timezone",
    "client_encoding",
    "application_name",
}
"""Those that both have."""

_SUPERUSERS = {"server_version"}
_SET = re.compile(r"set\s+(?:session\s+|local\s+)?([\w.]+)\s*(?:=|\bto\b)\s*(.+)", re.IGNORECASE | re.DOTALL)
_SHOW = re.compile(r"show\s+(\w+)", re.IGNORECASE)


def assigned(sql: str) -> tuple[str, str] | None:
    """Name and value of a SET."""
    found = _SET.fullmatch(sql.strip())
    return (found[1].lower(), found[2].strip().strip("'")) if found else None


def asked(sql: str) -> str | None:
    """The name that a SHOW asks for."""
    found = _SHOW.fullmatch(sql.strip())
    return found[1].lower() if found else None


def unknown(name: str, *, superuser: bool) -> Refusal | None:
    """How a cluster refuses a setting."""
    if name in _SUPERUSERS and not superuser:
        return Refusal(f'must be superuser to examine "{name}"', "42501")
    if name in DEFAULTS or name in SHARED or name in _SUPERUSERS:
        return None
    return Refusal(f'unrecognized configuration parameter "{name}"', "42704")
