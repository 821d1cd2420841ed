"""Keeps what the driver says of our own connections out of the host's log; of others it goes on telling.

It writes users, addresses and file names with each connection. What matters of that is raised as an error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ours: ContextVar[bool] = ContextVar("retl_ssh", default=False)


class _NotOurs(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not _ours.get()


@contextmanager
def unheard() -> Iterator[None]:
    """What is called in this block, and the callbacks and tasks that it begins, write nothing into a log."""
    before = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(before)


# A filter of a logger does not count for its children.
_FILTER = _NotOurs()
for _name in ("asyncssh", "asyncssh.sftp"):
    logging.getLogger(_name).addFilter(_FILTER)
