"""Connectors for code of the user: an iterator of rows as a source, a callable for batches as a target."""

from retl.connectors.function.selection import ReadWindow
from retl.connectors.function.source import IteratorSource
from retl.connectors.function.target import BatchContext, FunctionTarget

__all__ = ["BatchContext", "FunctionTarget", "IteratorSource", "ReadWindow"]
