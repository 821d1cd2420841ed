"""What writes Elasticsearch."""
