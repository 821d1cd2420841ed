"""A filter in words: what Lucene would read in another way than it is meant is refused."""

from __future__ import annotations

import json

import pytest

from retl.connectors.elasticsearch.source.where import Fields, filters_of
from retl.model.errors import ConfigError

FIELDS = Fields(
    {
        "status": {"type": "keyword"},
        "n": {"type": "long"},
        "text": {"type": "text", "fields": {"raw": {"type": "keyword"}}},
        "user": {"properties": {"age": {"type": "long"}}},
        "parts": {"type": "nested", "properties": {"a": {"type": "long"}, "deep": {"type": "nested"}}},
        "flat": {"type": "flattened"},
        "@timestamp": {"type": "date"},
        "C:\\Temp": {"type": "long"},
        "other-id": {"type": "alias", "path": "status"},
    },
    ["computed"],
)


@pytest.mark.parametrize(
    "where",
    [
        *(
            "status:paid",
            "n:[8 TO *]",
            "n:>5",
            'n:<=5 AND NOT status:(paid OR "not paid")',
            "_exists_:status",
            "*:*",
            "*",
        ),
        *("stat*:x", "user.age:1", "_exists_:user", "flat.any.key:1", "text.raw:/ab+/", "+status:paid -n:5", "!n:5"),
        *("@timestamp:[now-1d TO now}", "status:paid^2 n:5~1", "n:-5", "C\\:\\\\Temp:5", "other-id:a-b", "computed:1"),
        *(
            "NOT (n:1 OR status:x)",
            "status:pa*d",
            "n:<5 && status:x",
            "_id:7",
            'status:"a = 1"',
            "status:http\\:\\/\\/a",
        ),
        *('{"term": {"user.age": 1}}', '{"exists": {"field": "user"}}', '{"match_all": {}}'),
        '{"bool": {"must_not": {"term": {"_ignored": "n"}}, "filter": [{"range": {"n": {"gt": 5}}}]}}',
        '{"nested": {"path": "parts", "query": {"term": {"parts.a": 1}}}}',
        '{"query_string": {"query": "any words"}}',
    ],
)
def test_what_names_its_fields_is_a_filter(where: str) -> None:
    (query,) = filters_of(where, FIELDS)
    assert query == (json.loads(where) if where.startswith("{") else {"query_string": {"query": where}})


@pytest.mark.parametrize(
    ("where", "instead"),
    [
        ("status <> 'paid'", "NOT status:paid"),
        ("status != paid", "NOT status:paid"),
        ("status = 'not paid'", 'status:"not paid"'),
        ("n > 5", "n:>5"),
        ("n>=5", "n:>=5"),
        ("status IN ('a', 'b c')", 'status:(a OR "b c")'),
        ("status not in (1,2)", "NOT status:(1 OR 2)"),
        ("n IS NULL", "NOT _exists_:n"),
        ("n is not null", "_exists_:n"),
    ],
)
def test_words_of_sql_are_refused_with_those_of_lucene(where: str, instead: str) -> None:
    with pytest.raises(ConfigError) as refused:
        filters_of(where, FIELDS)
    assert f"write {instead}. In general: write field:value" in refused.value.remedy


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("n = 1 AND status", "n belongs to no field"),
        ("status:paid and n:5", "and belongs to no field"),
        ("n BETWEEN 1 AND 2", "n belongs to no field"),
        ("status LIKE 'x%'", "status belongs to no field"),
        ("n:5 OR 1=1", "1 belongs to no field"),
        ("paid", "paid belongs to no field"),
        ("status:'paid'", "quoted as in SQL"),
        ("n := 5", "'=' is a sign of another language"),
        ("", "it is empty"),
        ("(n:5", "a parenthesis is not closed"),
        ("n:5)", "closed that was not opened"),
        ("n:", "a field has no value"),
        ("stats:paid", "no field 'stats'; did you mean 'status'?"),
        ("_exists_:stats", "no field 'stats'"),
        ("x*:1", "no field 'x*'"),
        ("user:1", "'user' is an object"),
        ("parts.a:1", "lies in the nested field 'parts'"),
        ('{"term": {"stats": 1}}', "no field 'stats'; did you mean 'status'?"),
        ('{"bool": {"filter": [{"match": {"nope": 1}}]}}', "no field 'nope'"),
        ('{"term": {"parts.a": 1}}', "lies in the nested field 'parts'"),
        ('{"term": ', "where is not valid JSON"),
        ('{"a":' * 5000, "where is not valid JSON"),
    ],
)
def test_what_would_match_nothing_or_anything_is_refused(where: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        filters_of(where, FIELDS)
    assert why in refused.value.message
    assert refused.value.remedy


def test_without_a_filter_there_is_none() -> None:
    assert filters_of(None, FIELDS) == []
