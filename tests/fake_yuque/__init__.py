"""A stand-in for Yuque, by its published API 2.0.1: ``library`` holds what is there, ``server`` answers as strictly as it.

What it cannot show: the order of lists, what ``changed_at_gte`` compares, how long a bin keeps what, where the body of a data table
keeps its columns, what a board looks like inside, and how quotas are counted.
"""

from tests.fake_yuque.library import Document, Library
from tests.fake_yuque.server import FakeYuque, Moods

__all__ = ["Document", "FakeYuque", "Library", "Moods"]
