"""Settings of an index that another one is created with, below ``index``.

A list names what is copied. What is not in it may be the server's own, and refused, or mean what retl does not
know: it is left out, and ``plan`` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# How documents are kept, analyzed and searched in any cluster.
_OF_DOCUMENTS = frozenset(
    {
        *("number_of_shards", "number_of_replicas", "number_of_routing_shards", "routing_partition_size"),
        *("auto_expand_replicas", "refresh_interval", "analysis", "analyze", "similarity", "mapping", "sort", "codec"),
        *("max_result_window", "max_inner_result_window", "max_rescore_window", "max_docvalue_fields_search"),
        *("max_script_fields", "max_ngram_diff", "max_shingle_diff", "max_refresh_listeners", "max_terms_count"),
        *("max_regex_length", "max_slices_per_scroll", "max_slices_per_pit", "max_adjacency_matrix_filters"),
        *("highlight", "query", "query_string", "queries", "requests", "fielddata", "search", "indexing", "write"),
        *("gc_deletes", "soft_deletes", "translog", "merge", "merge_on_flush", "flush_after_merge", "warmer", "shard"),
        *("load_fixed_bitset_filters_eagerly", "bloom_filter_for_id_field", "use_compound_file"),
        "optimize_auto_generated_id",
    }
)
# What binds an index to its cluster, its product, its life cycle and its pipelines, or makes it another kind of index: only
# an index that takes the place of the one that has them is given them.
_OF_PLACE = frozenset(
    {
        *("default_pipeline", "final_pipeline", "search_pipeline", "hidden", "priority", "unassigned", "recovery"),
        *("mode", "routing_path", "time_series", "top_metrics_max_size", "esql", "dense_vector"),
        *("knn", "derived_source", "composite_index", "append_only"),
    }
)
# The parts of other settings that are copied.
_WITHIN = tuple(
    f"{outer}.{name}"
    for outer, names in (
        ("lifecycle", ("name", "rollover_alias", "parse_origination_date", "prefer_ilm")),
        ("routing", ("rebalance",)),
        (
            "routing.allocation",
            ("include", "exclude", "require", "total_shards_per_node", "enable", "disk", "max_retries"),
        ),
        ("store", ("type", "preload", "fs", "hybrid")),
    )
    for name in names
)
# Of an index that was made from another one, or set by the server.
_QUIET = ("routing.allocation.initial_recovery", "lifecycle.indexing_complete", "lifecycle.origination_date")
# What the server sets itself.
_GIVEN = frozenset(
    {
        *("uuid", "creation_date", "creation_date_string", "provided_name", "version", "history_uuid", "resize"),
        *("verified_before_close", "replication", "shrink", "frozen", "split"),
    }
)
# Not copied, but checked beforehand and put back afterwards.
BLOCKS = "blocks"


def of_documents(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that an index of any cluster can be created with."""
    return {name: value for name, value in settings.items() if name in _OF_DOCUMENTS}


def copyable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an index that replaces the one that has these; those within others by their dotted path."""
    whole = {name: value for name, value in settings.items() if name in _OF_DOCUMENTS | _OF_PLACE}
    return whole | {path: value for path, value in _flat(settings) if _within(path, _WITHIN)}


def left_out(settings: Mapping[str, Any]) -> list[str]:
    """The settings that are not copied, though somebody may have set them."""
    quiet = _OF_DOCUMENTS | _OF_PLACE | _GIVEN | {BLOCKS}
    return sorted(
        path
        for path, _ in _flat(settings)
        if path.split(".")[0] not in quiet and not _within(path, (*_WITHIN, *_QUIET))
    )


def blocks(settings: Mapping[str, Any]) -> frozenset[str]:
    """The blocks of an index: ``write``, ``read_only`` and so on."""
    return frozenset(name for name, value in (settings.get(BLOCKS) or {}).items() if str(value).lower() == "true")


def _within(path: str, parents: Iterable[str]) -> bool:
    return any(f"{path}.".startswith(f"{parent}.") for parent in parents)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value, by its dotted path."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
