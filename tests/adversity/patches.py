"""What tests put in the place of a clock or of a pause, wherever the package uses it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import retl.pipeline  # noqa: F401  # with it comes everything that is looked through here


def patch_everywhere(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    """Replace what modules of the package have imported under a name."""
    found = [
        module for module in list(sys.modules.values()) if module.__name__.startswith("retl.") and name in vars(module)
    ]
    assert found
    for module in found:
        monkeypatch.setattr(module, name, value)


def patch_backoff(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """How long is waited before anything is tried again."""
    patch_everywhere(monkeypatch, "backoff", lambda *_, **__: seconds)
