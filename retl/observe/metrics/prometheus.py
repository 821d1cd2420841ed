"""The numbers of pipelines for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from retl.model.errors import ConfigError
from retl.observe.metrics.names import BUCKETS, DURATION, METRICS, Metric
from retl.observe.metrics.tally import Labels, Tally
from retl.pipeline import Pipeline


class PrometheusMetrics(Collector):
    """The numbers of some pipelines, in a registry of Prometheus, from now on.

    ``registry`` is the host's own, such as ``prometheus_client.REGISTRY``: then they stand beside the host's. Without one
    they have a registry of their own. One object holds all pipelines of a registry; a second one is a ``ConfigError``.
    """

    content_type = CONTENT_TYPE_LATEST
    """The content type of ``text()``."""

    def __init__(self, *pipelines: Pipeline, registry: CollectorRegistry | None = None) -> None:
        self._registry = CollectorRegistry(auto_describe=False) if registry is None else registry
        self._durations: dict[Labels, list[float]] = {}
        try:
            self._registry.register(self)
        except ValueError:
            raise ConfigError(
                "the registry of Prometheus holds retl's metrics already.",
                remedy="give all pipelines to one PrometheusMetrics, or each a registry of its own.",
            ) from None
        self._tally = Tally(pipelines, self._took)

    def text(self) -> bytes:
        """What Prometheus reads: everything in the registry, in its text format."""
        return generate_latest(self._registry)

    def follow(self, pipelines: Iterable[Pipeline]) -> None:
        """Count these pipelines from now on. What was counted before stays; gauges of the others are gone."""
        self._tally.follow(pipelines)

    def close(self) -> None:
        """Leave the registry, and count no more."""
        self._tally.close()
        self._registry.unregister(self)

    def describe(self) -> Iterator[Family]:
        """Called by the registry: the names."""
        yield from [_family(metric) for metric in _FLAT]
        yield _histogram()

    def collect(self) -> Iterator[Family]:
        """Called by the registry: the numbers as they stand."""
        families = {metric: _family(metric) for metric in _FLAT}
        for metric, labels, number in (*self._tally.counters(), *self._tally.gauges()):
            families[metric].add_metric(labels, float(number))
        yield from families.values()
        histogram = _histogram()
        for labels, (*counts, total) in list(self._durations.items()):
            histogram.add_metric(labels, list(zip(_BOUNDS, accumulate(counts), strict=True)), total)
        yield histogram

    def _took(self, labels: Labels, seconds: float) -> None:
        counts = list(self._durations.get(labels) or [0.0] * (len(BUCKETS) + 2))
        counts[bisect_left(BUCKETS, seconds)] += 1
        counts[-1] += seconds
        self._durations[labels] = counts  # at once, for another thread may be reading


_FLAT = tuple(metric for metric in METRICS if metric is not DURATION)
_BOUNDS = (*map(str, BUCKETS), "+Inf")


def _family(metric: Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, _plain(metric), labels=metric.labels)


def _histogram() -> HistogramMetricFamily:
    return HistogramMetricFamily(DURATION.name, _plain(DURATION), labels=DURATION.labels)


def _plain(metric: Metric) -> str:
    return metric.meaning.replace("`", "")
