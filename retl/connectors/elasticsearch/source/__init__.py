"""What reads Elasticsearch."""
