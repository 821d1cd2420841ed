"""The numbers of pipelines, for Prometheus and for OpenTelemetry. Each exporter needs its extra."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from retl.observe.metrics.names import METRICS, Metric

if TYPE_CHECKING:
    from retl.observe.metrics.otel import OpenTelemetryMetrics
    from retl.observe.metrics.prometheus import PrometheusMetrics

__all__ = ["METRICS", "Metric", "OpenTelemetryMetrics", "PrometheusMetrics"]

_ROOMS = {"OpenTelemetryMetrics": "otel", "PrometheusMetrics": "prometheus"}
"""Where each exporter stands; the extra has the same name."""


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = _ROOMS[name]
    try:
        return getattr(import_module(f"{__name__}.{room}"), name)
    except ModuleNotFoundError as error:
        missing = f"{name} needs the package {error.name!r}, which is not installed: pip install 'retl[{room}]'"
        raise ModuleNotFoundError(missing, name=error.name) from None
