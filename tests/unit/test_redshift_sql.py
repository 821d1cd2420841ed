"""Redshift's SQL and its errors, without a cluster."""

from __future__ import annotations

import pyarrow as pa
import pytest

from retl.connectors.redshift import catalog
from retl.connectors.redshift.dialect import DIALECT, UNLOADED
from retl.connectors.redshift.errors import redshift_error
from retl.connectors.redshift.options import Unload
from retl.connectors.redshift.types import logical_field, spelled
from retl.connectors.redshift.unload import statement
from retl.model.errors import ConfigError, ConnectionFailed, RetlError, SourceError


def test_backslashes_escape_in_texts() -> None:
    assert DIALECT.string("it's \\ a") == "'it''s \\\\ a'"


@pytest.mark.parametrize(
    ("native", "by_protocol", "by_file"),
    [
        ("bigint", "x", "x"),
        ("double precision", "x", "x"),
        ("boolean", "x", "x"),
        ("character varying(20)", "x", "x"),
        ("character(20)", "CAST(x AS VARCHAR(65535))", "CAST(x AS VARCHAR(65535))"),
        ("numeric(18,4)", "CAST(x AS VARCHAR(65535))", "x"),
        ("timestamp with time zone", "CAST(x AS VARCHAR(65535))", "x"),
        ("time without time zone", "CAST(x AS VARCHAR(65535))", "CAST(x AS VARCHAR(65535))"),
        ("super", "JSON_SERIALIZE(x)", "x"),
        ("varbyte(100)", "TO_HEX(x)", "TO_HEX(x)"),
        ("binary varying", "TO_HEX(x)", "TO_HEX(x)"),
        ("geometry", "ST_AsText(x)", "ST_AsText(x)"),
        ("intervald2s", "CAST(x AS VARCHAR(65535))", "CAST(x AS VARCHAR(65535))"),
    ],
)
def test_a_type_is_selected_so_that_no_driver_has_to_know_it(native: str, by_protocol: str, by_file: str) -> None:
    column = logical_field("x", native)
    assert DIALECT.select_expression(column, "x") == by_protocol
    assert UNLOADED.select_expression(column, "x") == by_file


def test_types_of_the_catalog_have_their_length_and_digits() -> None:
    assert spelled("character varying", 30, None, None) == "character varying(30)"
    assert spelled("numeric", None, 18, 4) == "numeric(18,4)"
    assert spelled("integer", None, 32, 0) == "integer"
    assert logical_field("n", "numeric(38,10)").type == pa.decimal128(38, 10)


def test_bounds_of_times_keep_their_type() -> None:
    moment, instant = (logical_field("t", f"timestamp {how} time zone") for how in ("without", "with"))
    assert DIALECT.literal("2024-01-01 00:00:00.5", moment) == "CAST('2024-01-01 00:00:00.5' AS TIMESTAMP)"
    assert DIALECT.literal("2024-01-01 00:00:00.5+00", instant) == "CAST('2024-01-01 00:00:00.5+00' AS TIMESTAMPTZ)"


def test_an_unload_doubles_quotes_and_backslashes_and_holds_no_keys() -> None:
    options = Unload(
        url="s3://lake/a/",
        iam_role="arn:aws:iam::1:role/r",
        region="eu-west-1",
        kms_key_id="k-1",
        access_key="AK",
        secret_key="SK",
    )
    assert statement("SELECT 'a\\\\b'", options, "a/retl-1/000001/") == (
        "UNLOAD ('SELECT ''a\\\\\\\\b''') TO 's3://lake/a/retl-1/000001/' IAM_ROLE 'arn:aws:iam::1:role/r' "
        "FORMAT PARQUET MANIFEST VERBOSE MAXFILESIZE 64 MB REGION 'eu-west-1' KMS_KEY_ID 'k-1' ENCRYPTED"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([("PRIMARY KEY (id)",)], ("id",)),
        ([('PRIMARY KEY (a, "Odd, ""name""")',)], ("a", 'Odd, "name"')),
        ([], ()),
    ],
)
def test_a_key_is_read_from_its_definition(given: list[tuple[str]], expected: tuple[str, ...]) -> None:
    assert catalog.key(given) == expected


@pytest.mark.parametrize(
    ("state", "text", "kind"),
    [
        ("XX000", "exceeded the maximum size allowed for the total set of cursor data: 8000MB.", SourceError),
        (
            "XX000",
            "1023; Serializable isolation violation on table - 1, transactions forming the cycle are: 2, 3",
            ConnectionFailed,
        ),
        ("40001", "could not serialize access", ConnectionFailed),
        ("XX000", "S3ServiceException:Access Denied,Status 403,Error AccessDenied", ConfigError),
        ("XX000", "S3ServiceException:Please reduce your request rate,Status 503,Error SlowDown", ConnectionFailed),
        ("57014", "Query (1) cancelled on user's request", ConnectionFailed),
        ("57014", "Query (1) cancelled by WLM abort action of Query Monitoring Rule", ConnectionFailed),
        ("57P01", "terminating connection due to administrator command", ConnectionFailed),
        ("42501", "permission denied for relation orders", ConfigError),
        ("28000", "password authentication failed for user", ConfigError),
        ("42P01", "relation does not exist", SourceError),
        ("22000", "The serialized json is larger than the max size of 65535 bytes", SourceError),
    ],
)
def test_an_error_says_how_to_recover(state: str, text: str, kind: type[RetlError]) -> None:
    error = redshift_error(state, text, "source", "cluster:5439")
    assert isinstance(error, kind)
    assert "cluster:5439" in error.message or kind is SourceError
    assert text.partition(";")[0] in error.message
