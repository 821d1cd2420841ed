"""Texts become vectors on their way into any target: ``EmbeddingTarget`` wraps it."""
