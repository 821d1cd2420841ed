"""The source side of Elasticsearch."""
