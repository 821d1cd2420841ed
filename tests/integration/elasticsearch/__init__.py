"""Elasticsearch and OpenSearch, against real servers."""
