"""Anything of the user's: an iterator of rows as a source, a callable that takes batches as a target."""

from retl.connectors.function.selection import ReadWindow
from retl.connectors.function.source import IteratorSource
from retl.connectors.function.target import BatchContext, FunctionTarget

__all__ = ["BatchContext", "FunctionTarget", "IteratorSource", "ReadWindow"]
