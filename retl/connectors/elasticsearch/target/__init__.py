"""The target side of Elasticsearch."""
