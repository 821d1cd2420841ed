"""The numbers of pipelines for OpenTelemetry."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from retl.observe.metrics.names import BUCKETS, DURATION, METRICS, Metric
from retl.observe.metrics.tally import Labels, Tally
from retl.pipeline import Pipeline


class OpenTelemetryMetrics:
    """The numbers of some pipelines, as instruments of the meter ``retl``, from now on.

    ``meter_provider`` is the host's; without one it is the global one. Each reading of the instruments takes the numbers
    as they stand.
    """

    def __init__(self, *pipelines: Pipeline, meter_provider: MeterProvider | None = None) -> None:
        meter = (meter_provider or get_meter_provider()).get_meter("retl")
        for metric in METRICS:
            if metric.kind == "histogram":
                continue
            make = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            make(metric.otel, callbacks=[self._reader(metric)], unit=metric.unit, description=metric.meaning)
        self._duration = meter.create_histogram(
            DURATION.otel,
            unit=DURATION.unit,
            description=DURATION.meaning,
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self._tally = Tally(pipelines, self._took)

    def close(self) -> None:
        """Count no more; the instruments, which cannot be taken back, show nothing any more."""
        self._tally.close()

    def _reader(self, metric: Metric) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def read(_: CallbackOptions) -> Iterator[Observation]:
            for value in self._tally.counters() if metric.kind == "counter" else self._tally.gauges():
                if value.metric is metric:
                    yield Observation(float(value.number), _attributes(metric, value.labels))

        return read

    def _took(self, labels: Labels, seconds: float) -> None:
        self._duration.record(seconds, _attributes(DURATION, labels))


def _attributes(metric: Metric, labels: Labels) -> dict[str, str]:
    return {metric.attribute(label): value for label, value in zip(metric.labels, labels, strict=True)}
