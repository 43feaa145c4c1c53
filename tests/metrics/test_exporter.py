"""When figures are computed, and what is shown where that fails."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from clinical_assets.metrics import series
from clinical_assets.metrics.exporter import Exporter, page_of
from clinical_assets.metrics.series import Sample


def value_of(samples: list[Sample], family: series.Family) -> float:
    [value] = [sample.value for sample in samples if sample.family is family]
    return value


class Counted:
    """A computation that says how often it was asked, and how many were at work at once."""

    def __init__(self) -> None:
        self.asked, self.at_once, self.most_at_once = 0, 0, 0
        self.fails = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self._counting = threading.Lock()

    def __call__(self) -> list[Sample]:
        with self._counting:
            self.asked, self.at_once = self.asked + 1, self.at_once + 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.goes_on.wait(10)
            if self.fails:
                raise OSError("a value that must not be told: 123-45-6789")
            return [series.LAKE_SNAPSHOT.at(self.asked)]
        finally:
            self.at_once -= 1


def test_figures_are_kept_for_some_seconds_and_then_computed_again() -> None:
    compute = Counted()
    patient, at_once = Exporter(compute, kept_seconds=60), Exporter(compute, kept_seconds=0)
    assert value_of(patient.samples(), series.LAKE_SNAPSHOT) == 1
    assert value_of(patient.samples(), series.LAKE_SNAPSHOT) == 1
    at_once.samples()
    assert value_of(at_once.samples(), series.LAKE_SNAPSHOT) == 3


def test_ten_scrapes_at_once_compute_one_at_a_time_and_all_are_answered() -> None:
    compute = Counted()
    exporter = Exporter(compute, kept_seconds=0.01)
    with ThreadPoolExecutor(10) as scrapers:
        pages = list(scrapers.map(lambda _: exporter.samples(), range(100)))
    assert compute.most_at_once == 1
    assert all(value_of(page, series.LAKE_SNAPSHOT) >= 1 for page in pages)


def test_before_there_are_any_figures_all_wait_for_the_first() -> None:
    compute = Counted()
    exporter = Exporter(compute, kept_seconds=60)
    compute.goes_on.clear()
    with ThreadPoolExecutor(10) as scrapers:
        asked = [scrapers.submit(exporter.samples) for _ in range(10)]
        while not compute.at_once:
            pass
        assert not any(page.done() for page in asked)
        compute.goes_on.set()
        assert {value_of(page.result(10), series.LAKE_SNAPSHOT) for page in asked} == {1}


def test_while_one_computes_others_are_shown_the_figures_from_before() -> None:
    compute = Counted()
    exporter = Exporter(compute, kept_seconds=0)
    exporter.samples()
    compute.goes_on.clear()
    with ThreadPoolExecutor(1) as slow:
        computing = slow.submit(exporter.samples)
        while not compute.at_once:
            pass
        assert value_of(exporter.samples(), series.LAKE_SNAPSHOT) == 1
        compute.goes_on.set()
        assert value_of(computing.result(10), series.LAKE_SNAPSHOT) == 2


def test_a_failed_computation_leaves_the_last_figures_and_says_so_without_the_errors_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    compute = Counted()
    exporter = Exporter(compute, kept_seconds=0)
    computed = value_of(exporter.samples(), series.EXPORTER_COMPUTED)
    compute.fails = True
    shown = exporter.samples()
    assert value_of(shown, series.EXPORTER_SUCCESS) == 0
    assert value_of(shown, series.LAKE_SNAPSHOT) == 1
    assert value_of(shown, series.EXPORTER_COMPUTED) == computed
    assert "OSError" in caplog.text
    assert "123-45" not in caplog.text
    compute.fails = False
    assert value_of(exporter.samples(), series.EXPORTER_SUCCESS) == 1


def test_an_exporter_that_never_computed_says_so_and_shows_no_figure() -> None:
    compute = Counted()
    compute.fails = True
    page = page_of(Exporter(compute).samples())
    assert "clinical_exporter_last_scrape_success 0.0" in page
    assert "clinical_lake_snapshot" not in page
    assert "clinical_exporter_last_success" not in page


def test_a_computation_that_yields_and_then_fails_shows_nothing_of_it() -> None:
    def half() -> Iterator[Sample]:
        yield series.LAKE_SNAPSHOT.at(7)
        raise ValueError

    assert "clinical_lake_snapshot" not in page_of(Exporter(half).samples())
