from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import polars as pl
import pytest
from small_icu import ICU, SilentMonth
from small_platform import small_protocol

from clinical_assets.learning.estimator import LearningError
from clinical_assets.lifecycle.candidate import measure_transport
from clinical_assets.protocol import ModelProtocol


class SeenRows:
    """An estimator that notes what it is fitted on; the risk is what the rows say it is."""

    fitted_on: ClassVar[list[pl.DataFrame]] = []
    fewest_rows: ClassVar[int] = 0
    packages = ()
    feature_names = ("stated_risk",)

    @classmethod
    def fit(cls, training_set: pl.DataFrame, protocol: ModelProtocol) -> Self:
        if training_set.height < cls.fewest_rows:
            raise LearningError("too few rows to learn from")
        cls.fitted_on.append(training_set)
        return cls()

    def predict(self, features: pl.DataFrame) -> np.ndarray:
        return features["stated_risk"].to_numpy()

    def represent(self, features: pl.DataFrame) -> pl.DataFrame:
        return pl.DataFrame()

    def save(self, directory: Path) -> None:
        raise AssertionError("what is fitted for transport is never kept")

    @classmethod
    def load(cls, directory: Path) -> Self:
        raise AssertionError("what is fitted for transport is never kept")


@pytest.fixture
def protocol(monkeypatch: pytest.MonkeyPatch) -> ModelProtocol:
    monkeypatch.setattr(SeenRows, "fitted_on", [])
    return small_protocol(estimator=f"{__name__}.SeenRows", transported_across="site", subgroups=["sex"], minimum_n=50)


def rows(**of_site: int) -> pl.DataFrame:
    """So many rows of each site, with a risk that tells the outcome well, and half, a quarter, a quarter in splits."""
    site = [name for name, count in of_site.items() for _ in range(count)]
    rng = np.random.default_rng(2)
    risk = rng.random(len(site))
    return pl.DataFrame(
        {
            "encounter_id": [f"e{row}" for row in range(len(site))],
            "patient_id": [f"p{row}" for row in range(len(site))],
            "site": site,
            "sex": rng.choice(["female", "male"], len(site)),
            "stated_risk": risk,
            "readmitted_30d": (rng.random(len(site)) < risk).astype(np.int8),
            "split": (["train", "calibrate", "test", "train"] * len(site))[: len(site)],
        }
    )


def test_a_model_of_one_site_alone_or_without_sites_is_not_transported(protocol: ModelProtocol) -> None:
    assert measure_transport(protocol, rows(A=400)) == []
    unasked = protocol.model_copy(update={"transported_across": None})
    assert measure_transport(unasked, rows(A=400, B=400)) == []
    assert SeenRows.fitted_on == []


def test_what_is_measured_at_a_site_was_never_fitted_or_calibrated_there(protocol: ModelProtocol) -> None:
    findings = measure_transport(protocol, rows(A=400, B=600, C=800))
    fitted_on = [set(seen["site"]) for seen in SeenRows.fitted_on]
    assert fitted_on == [{"B", "C"}, {"A", "C"}, {"A", "B"}]
    n = {x.subgroup: x.n for x in findings if x.metric == "transported_auroc"}
    assert n == {"site=A": 100, "site=B": 150, "site=C": 200}


def test_a_site_without_which_nothing_can_be_learnt_is_left_out_and_the_others_are_measured(
    protocol: ModelProtocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SeenRows, "fewest_rows", 300)
    findings = measure_transport(protocol, rows(A=280, B=600))
    assert {x.subgroup for x in findings} == {"site=A"}


def test_every_metric_is_transported_under_its_own_name_overall_for_the_site(protocol: ModelProtocol) -> None:
    findings = measure_transport(protocol, rows(A=400, B=600))
    assert {x.subgroup for x in findings} == {"site=A", "site=B"}
    assert all(x.metric.startswith("transported_") for x in findings)
    (auroc,) = [x for x in findings if (x.metric, x.subgroup) == ("transported_auroc", "site=A")]
    assert auroc.value is not None and auroc.low is not None and auroc.high is not None
    assert 0.6 < auroc.low < auroc.value < auroc.high


def test_the_threshold_is_chosen_on_the_other_sites(protocol: ModelProtocol) -> None:
    """Where a site's risks are halved, the threshold of the others alerts nearly nobody there."""
    halved = pl.when(pl.col("site") == "A").then(0.5).otherwise(1.0)
    findings = measure_transport(protocol, rows(A=400, B=600).with_columns(pl.col("stated_risk") * halved))
    sensitivity = {x.subgroup: x.value for x in findings if x.metric == "transported_sensitivity"}
    assert sensitivity["site=A"] == 0.0
    assert (sensitivity["site=B"] or 0) > 0.8


def test_a_site_with_few_test_rows_is_not_measured_and_nothing_is_fitted_for_it(protocol: ModelProtocol) -> None:
    findings = measure_transport(protocol, rows(A=400, B=196))
    assert {x.subgroup for x in findings} == {"site=A"}
    assert [set(seen["site"]) for seen in SeenRows.fitted_on] == [{"B"}]


def test_the_lifecycle_measures_it_for_each_hospital_beside_the_candidate_s_own_figures(
    silent_month: SilentMonth,
) -> None:
    measured = silent_month.platform.lake.read(f"{ICU}.evaluation", where={"version": 1})
    transported = measured.filter(metric="transported_auroc").sort("subgroup")
    assert transported["subgroup"].to_list() == ["site=A", "site=B"]
    test = silent_month.platform.lake.read(f"{ICU}.training_set").filter(split="test")
    assert transported["n"].sum() == test.height
