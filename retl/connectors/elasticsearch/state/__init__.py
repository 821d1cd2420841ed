"""The state store of Elasticsearch."""
