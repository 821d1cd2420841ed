"""Checkpoints in an index."""
