"""A service of embeddings that counts what it is asked for, and is as strict as the real one."""

from tests.fake_embeddings.server import KEY, MODELS, EmbeddingService, Fault, Point

__all__ = ["KEY", "MODELS", "EmbeddingService", "Fault", "Point"]
