"""The page `/metrics`: figures computed when somebody asks, kept for some seconds, and shown even where that fails.

Belongs here: when figures are computed, and how the page is written. Does not belong here: any figure, and the server.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from clinical_assets.metrics import series
from clinical_assets.metrics.series import FAMILIES, Family, Sample

KEPT_SECONDS = 5.0
_log = logging.getLogger(__name__)


class Exporter(Collector):
    """Computes figures for whoever asks, one computation at a time, and keeps them for some seconds.

    While one computes, others are shown the figures from before; only the first of all waits. A computation that fails
    leaves them standing, with `clinical_exporter_last_scrape_success` at 0.
    """

    def __init__(self, compute: Callable[[], Iterable[Sample]], kept_seconds: float = KEPT_SECONDS) -> None:
        self._compute, self._kept_seconds = compute, kept_seconds
        self._started = time.time()
        self._computing = threading.Lock()
        self._samples: tuple[Sample, ...] = ()
        self._asked = -float("inf")
        self._computed: float | None = None
        self._seconds = 0.0
        self._went_well = False

    def samples(self) -> list[Sample]:
        """The figures, computed again where they are older than they are kept; and how that went."""
        never_asked = self._asked == -float("inf")
        if self._computing.acquire(blocking=never_asked):
            try:
                if time.monotonic() - self._asked >= self._kept_seconds:
                    self._renew()
            finally:
                self._computing.release()
        own = [
            series.EXPORTER_SUCCESS.at(self._went_well),
            series.EXPORTER_SECONDS.at(self._seconds),
            series.EXPORTER_STARTED.at(self._started),
        ]
        if self._computed is not None:
            own.append(series.EXPORTER_COMPUTED.at(self._computed))
        return [*self._samples, *own]

    def collect(self) -> Iterator[Metric]:
        """The figures as prometheus_client writes them."""
        yield from families_of(self.samples())

    def _renew(self) -> None:
        began = time.monotonic()
        try:
            self._samples = tuple(self._compute())
            self._computed, self._went_well = time.time(), True
        except Exception as error:  # noqa: BLE001 - whatever fails: the last figures stand, and the page says so
            self._went_well = False
            # No message: what a database says of an error may quote a value.
            _log.warning("the figures could not be computed (%s); the last ones stand", type(error).__name__)
        self._seconds, self._asked = time.monotonic() - began, time.monotonic()


def families_of(samples: Iterable[Sample]) -> Iterator[Metric]:
    """Samples by family, in the order of the page; a family without a sample is left out."""
    by_family: dict[Family, list[Sample]] = {}
    for sample in samples:
        by_family.setdefault(sample.family, []).append(sample)
    for family in FAMILIES:
        if own := by_family.get(family):
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            written = kind(family.name, family.says, labels=family.labels)
            for sample in own:
                written.add_metric(sample.values, sample.value)
            yield written


def page_of(samples: Sequence[Sample]) -> str:
    """The page as text, as Prometheus, and the search for identifiers, read it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(samples))
    return generate_latest(registry).decode()


class _Fixed(Collector):
    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        yield from families_of(self._samples)
