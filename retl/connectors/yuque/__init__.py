"""Yuque: the documents of books, by its open API, as a source."""

from retl.connectors.yuque.options import Yuque

__all__ = ["Yuque"]
