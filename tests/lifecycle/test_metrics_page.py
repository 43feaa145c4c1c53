"""What `/metrics` shows of a home: read from the lake, its files and Dagster, as it may be shown."""

import time

from small_platform import Developed

from clinical_assets.lifecycle.metrics_page import MetricsPage
from clinical_assets.metrics.exporter import page_of


def test_x(developed: Developed) -> None:
    p = developed.platform
    page = MetricsPage(p.home, p.lake, developed.instance, [p.protocol])
    t = time.perf_counter()
    s = page.read()
    print(time.perf_counter() - t)
    print(page_of(s))
    assert 0
