"""A stand-in for Yuque, by its published API 2.0.1."""

from tests.fake_yuque.library import Document, Library
from tests.fake_yuque.server import FakeYuque, Moods

__all__ = ["Document", "FakeYuque", "Library", "Moods"]
