"""What a look needs of earlier looks and of the release: kept once, read as that, and taken in order."""

from datetime import date
from typing import Any

import polars as pl
import pytest
from small_icu import ICU, SilentMonth
from small_platform import MODEL, MONTHS, Developed, SmallPlatform

from clinical_assets.learning.scoring import BOOKKEEPING, score
from clinical_assets.lifecycle import scored_training
from clinical_assets.lifecycle.candidate import read_training_rows
from clinical_assets.lifecycle.champion_move import Platform
from clinical_assets.lifecycle.drift_evidence import EVIDENCE, take_up_evidence
from clinical_assets.lifecycle.month_look import MonthLook, history_through, see_drift_report, see_scored_history
from clinical_assets.lifecycle.month_report import estimate_performance, scored_rows
from clinical_assets.lifecycle.release import predictions
from clinical_assets.lifecycle.release_reference import (
    MONITORING_REFERENCE,
    STORED_CLASSES,
    ReleaseReference,
    fit_release_reference,
    release_reference,
)
from clinical_assets.lifecycle.scored_history import (
    SCORED_HISTORY,
    history_rows,
    latest_matured,
    matured,
    scored_through,
    wholly_matured,
    with_previous_release,
)
from clinical_assets.lifecycle.scored_training import SCORED_TRAINING, with_training_scores
from clinical_assets.monitoring.drift import STATE_SCHEMA
from clinical_assets.monitoring.fitted_state import read_fitted, write_fitted
from clinical_assets.monitoring.units import DriftError
from clinical_assets.protocol import ModelVersion, ProtocolError

HISTORY = f"{MODEL}.{SCORED_HISTORY}"
EARLIER = MONTHS[1:4]
"""Months that were there before the release; looked at now, they stand for a year of the champion's."""


def made_by(result: Any) -> pl.DataFrame:
    return result.value


def scores_as_loaded(platform: SmallPlatform, version: ModelVersion, model: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What was kept of a version's training set, and what its files say of the same rows now."""
    rows = read_training_rows(platform.lake, platform.protocol, version.lake_snapshot)
    now = score(platform.registry.load(version, platform.protocol.estimator), rows, version, platform.protocol)
    kept = platform.lake.read(f"{model}.{SCORED_TRAINING}", where={"version": version.version})
    unit = platform.protocol.unit
    said = rows.select(unit).hstack(now.drop(BOOKKEEPING)).sort(unit)
    return kept.sort(unit), said


def test_the_scores_kept_with_a_version_are_what_its_files_say(developed: Developed, silent_month: SilentMonth) -> None:
    for platform, version, model in (
        (developed.platform, developed.champion, MODEL),
        (developed.platform, developed.candidate, MODEL),
        (silent_month.platform, silent_month.version, ICU),
    ):
        kept, said = scores_as_loaded(platform, version, model)
        assert kept.select(said.columns).equals(said)
        assert kept.columns[0] == "version"
        assert {"train", "calibrate", "test"} == set(kept["split"])


def test_a_training_set_is_scored_in_parts_in_which_every_patient_is_whole(
    developed: Developed, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = developed.platform
    monkeypatch.setattr(scored_training, "MOST_ROWS_AT_ONCE", 50)
    rows = read_training_rows(platform.lake, platform.protocol, developed.champion.lake_snapshot)
    parts = list(scored_training._parts_of_patients(rows, platform.protocol))
    assert len(parts) > 5
    assert pl.concat(parts).sort(platform.protocol.unit).equals(rows.sort(platform.protocol.unit), null_equal=True)
    assert (
        sum(part[platform.protocol.patient].n_unique() for part in parts) == rows[platform.protocol.patient].n_unique()
    )


def test_a_row_that_a_version_never_scored_is_named(developed: Developed) -> None:
    platform = developed.platform
    rows = read_training_rows(platform.lake, platform.protocol, developed.champion.lake_snapshot)
    stranger = rows.head(2).with_columns(pl.lit("0" * 32).alias(platform.protocol.unit))
    with pytest.raises(ProtocolError, match="version 1 has no scores of 2 of 2 rows of its training set"):
        with_training_scores(stranger, platform.lake, platform.protocol, developed.champion)


def test_the_reference_that_is_kept_with_a_release_is_that_which_is_fitted(developed: Developed) -> None:
    platform = developed.platform
    fitted = fit_release_reference(platform.lake, developed.champion, platform.protocol)
    before = platform.lake.latest_snapshot()
    kept = release_reference(platform.lake, developed.champion, platform.protocol, "a test")
    assert write_fitted(kept) == write_fitted(fitted)
    assert platform.lake.latest_snapshot() == before
    row = platform.lake.read(f"{MODEL}.{MONITORING_REFERENCE}", where={"version": 1})
    assert row["reference"].to_list() == [fitted.drift.digest]
    assert isinstance(read_fitted(row["fitted_reference"][0], STORED_CLASSES), ReleaseReference)


def test_the_history_has_a_row_a_unit_with_what_later_looks_need_and_no_feature(developed: Developed) -> None:
    platform, month = developed.platform, MONTHS[4]
    rows, scored = platform.lake.read(HISTORY, month=month), platform.lake.read(f"{MODEL}.predictions", month=month)
    protocol = platform.protocol
    assert sorted(rows[protocol.unit]) == sorted(scored[protocol.unit])
    told = rows.join(scored, on=protocol.unit, suffix="_said")
    assert told["risk"].equals(told["risk_said"], check_names=False)
    features = set(protocol.feature_columns(platform.lake.read(f"{MODEL}.features", month=month).columns))
    assert features & set(rows.columns) == {*protocol.subgroups}
    assert rows["event"].null_count() == rows["expected_event"].null_count() == 0
    assert rows["previous_release_risk"].null_count() == rows.height


@pytest.mark.parametrize("table", [SCORED_TRAINING, SCORED_HISTORY, MONITORING_REFERENCE, EVIDENCE])
def test_every_column_that_is_kept_says_what_it_means(developed: Developed, table: str) -> None:
    query = (
        "SELECT column_name FROM duckdb_columns() WHERE database_name = 'lake' AND schema_name = ? AND comment IS NULL"
    )
    with developed.platform.lake.cursor() as cursor:
        silent = cursor.execute(f"{query} AND table_name = ?", [MODEL, table]).fetchall()
    assert silent == []


@pytest.fixture(scope="module")
def reference(developed: Developed) -> ReleaseReference:
    return release_reference(developed.platform.lake, developed.champion, developed.platform.protocol, "a test")


class Looks:
    """The champion's looks at months, one by one, as the assets take them."""

    def __init__(self, developed: Developed) -> None:
        self.platform, self.version = developed.platform, developed.champion
        self.asked = {"protocol": self.platform.protocol, "registry": self.platform.resources["registry"]}
        self.estimated = self.platform.lake.read(f"{MODEL}.estimated_performance")

    def at(self, month: date) -> MonthLook:
        """The look at a month, scored now."""
        platform, features = self.platform, self.platform.lake.read(f"{MODEL}.features", month=month)
        scored = made_by(predictions(features=features, release=self.version, **self.asked))
        return MonthLook.of(platform.protocol, features, scored, platform.lake, platform.registry, "a test")

    def score(self, month: date) -> pl.DataFrame:
        """Score a month, and append it to the history."""
        rows = see_scored_history(self.at(month)).frame
        self.platform.lake.write_month(HISTORY, month, rows, author="a test", message="scored")
        return rows

    def compare(self, month: date) -> pl.DataFrame:
        """Score a month, and compare it with the training data."""
        look = self.at(month)
        seen = see_drift_report(look, history_through(look, self.score(month)), self.estimated)
        self.platform.lake.write_together(seen.beside, author="a test", message="compared")
        return seen.frame


@pytest.fixture
def looks(developed: Developed) -> Any:
    """Looks at a platform whose history and evidence are as before once the test is over."""
    lake = developed.platform.lake
    tables = (HISTORY, f"{MODEL}.{EVIDENCE}")
    before = {table: lake.read(table) for table in tables}
    for table in tables:
        lake.write_table(table, before[table].clear(), author="a test", message="nothing was looked at")
    yield Looks(developed)
    for table in tables:
        lake.write_table(table, before[table], author="a test", message="restored")


def evidence_of(report: pl.DataFrame) -> dict[str, float]:
    return dict(report.select("column", pl.col("evidence").max().over("column")).unique().iter_rows())


def test_the_evidence_of_earlier_months_is_carried_into_a_look(looks: Looks, reference: ReleaseReference) -> None:
    alone = looks.compare(EARLIER[2])
    lake = looks.platform.lake
    lake.write_table(f"{MODEL}.{EVIDENCE}", lake.read(f"{MODEL}.{EVIDENCE}").clear(), author="a test", message="anew")
    lake.write_table(HISTORY, lake.read(HISTORY).clear(), author="a test", message="anew")
    third = [looks.compare(month) for month in EARLIER][-1]
    assert evidence_of(third) != evidence_of(alone)
    monitor, reports = reference.drift.resume(STATE_SCHEMA.to_frame()), []
    for month in EARLIER:
        features = lake.read(f"{MODEL}.features", month=month)
        scored = made_by(predictions(features=features, release=looks.version, **looks.asked))
        risks = scored.select(looks.platform.protocol.unit, pl.col("risk").alias("predicted_risk"))
        reports.append(monitor.check(features.join(risks, on=looks.platform.protocol.unit), period=month))
    assert evidence_of(third) == pytest.approx(evidence_of(reports[-1].columns), abs=1e-9)
    assert third["reason"][0] == reports[-1].reason


def test_a_month_looked_at_again_says_the_same(looks: Looks) -> None:
    first = [looks.compare(month) for month in EARLIER]
    assert looks.compare(EARLIER[1]).equals(first[1], null_equal=True)
    assert looks.compare(EARLIER[2]).equals(first[2], null_equal=True)


def test_a_look_that_would_pass_over_a_month_is_refused_until_the_months_are_taken_in_order(looks: Looks) -> None:
    in_order = [looks.compare(month) for month in EARLIER]
    lake = looks.platform.lake
    for table in (HISTORY, f"{MODEL}.{EVIDENCE}"):
        lake.write_table(table, lake.read(table).clear(), author="a test", message="anew")
    looks.score(EARLIER[0])
    with pytest.raises(DriftError, match=r"the evidence before 2024-03 lacks 2024-02, which was scored: materialise"):
        looks.compare(EARLIER[1])
    looks.compare(EARLIER[0])
    looks.score(EARLIER[2])
    with pytest.raises(DriftError, match=r"drift_report of 2024-03 and of the months from 2024-04 on again"):
        looks.score(EARLIER[1])
        looks.compare(EARLIER[2])
    late = [looks.compare(month) for month in EARLIER[1:]]
    for again, before in zip(late, in_order[1:], strict=True):
        assert again.equals(before, null_equal=True)


def test_a_month_compared_late_is_missed_by_the_looks_after_it(looks: Looks, reference: ReleaseReference) -> None:
    for month in (EARLIER[0], EARLIER[2], EARLIER[1]):
        looks.compare(month)
    with pytest.raises(DriftError, match="lacks 2024-03, which was scored"):
        take_up_evidence(looks.platform.lake, MODEL, reference.drift, MONTHS[4], EARLIER)


def test_an_estimate_does_not_depend_on_the_order_in_which_months_were_scored(
    looks: Looks, reference: ReleaseReference
) -> None:
    lake, protocol, month = looks.platform.lake, looks.platform.protocol, MONTHS[4]
    features = lake.read(f"{MODEL}.features", month=month)
    scored = scored_rows(protocol, features, lake.read(f"{MODEL}.predictions", month=month))

    def estimate_after(months: tuple[date, ...]) -> Any:
        lake.write_table(HISTORY, lake.read(HISTORY).clear(), author="a test", message="anew")
        for each in months:
            looks.score(each)
        return estimate_performance(scored, scored_through(lake, protocol, 1, month), reference, month)

    in_order = estimate_after(EARLIER)
    assert estimate_after((EARLIER[2], EARLIER[0], EARLIER[1], EARLIER[0])) == in_order
    assert estimate_after(EARLIER[:1]) != in_order


def test_a_month_scored_again_replaces_its_rows_of_the_version_and_no_others(looks: Looks) -> None:
    looks.score(EARLIER[0])
    lake = looks.platform.lake
    ours = lake.read(HISTORY, month=EARLIER[0])
    theirs = ours.with_columns(model_version=pl.lit(7, pl.Int32))
    lake.write_month(HISTORY, EARLIER[0], pl.concat([ours, theirs]), author="a test", message="two versions")
    looks.score(EARLIER[0])
    rows = lake.read(HISTORY, month=EARLIER[0])
    assert rows.height == 2 * ours.height
    assert scored_through(lake, looks.platform.protocol, 1, MONTHS[4]).equals(ours, null_equal=True)


HISTORY_OF_THREE = pl.DataFrame(
    {
        "patient_id": [f"p{row}" for row in range(6)],
        "month": [date(2025, 1, 1)] * 2 + [date(2025, 2, 1)] * 2 + [date(2025, 3, 1)] * 2,
        "event": [1, 0, 0, 1, None, 1],
        "outcome_known_on": [date(2025, 2, 5)] * 2 + [date(2025, 3, 5), date(2025, 4, 5)] + [date(2025, 3, 9)] * 2,
        "previous_release": pl.Series([1] * 6, dtype=pl.Int32),
        "previous_release_risk": [0.1] * 6,
    }
)


def test_of_a_month_only_known_outcomes_count_and_a_part_of_a_month_is_no_whole_one() -> None:
    by = date(2025, 3, 31)
    assert matured(HISTORY_OF_THREE, by)["patient_id"].to_list() == ["p0", "p1", "p2", "p5"]
    assert wholly_matured(HISTORY_OF_THREE, by)["patient_id"].to_list() == ["p0", "p1"]
    assert wholly_matured(HISTORY_OF_THREE, date(2025, 4, 30))["patient_id"].to_list() == ["p0", "p1", "p2", "p3"]


def test_a_repair_rests_on_months_since_the_shift_or_on_as_many_as_have_enough_events(developed: Developed) -> None:
    protocol = developed.platform.protocol
    assert latest_matured(HISTORY_OF_THREE, protocol, date(2025, 2, 1)).height == 4
    assert latest_matured(HISTORY_OF_THREE, protocol, None).height == 6


def test_the_risk_by_the_release_before_is_the_history_s_where_it_is_of_that_release(
    candidate: Developed, twice_released: Platform
) -> None:
    lake, protocol = twice_released.lake, candidate.platform.protocol
    assert "previous_release_risk" not in with_previous_release(HISTORY_OF_THREE, lake, protocol, 1).columns
    assert with_previous_release(HISTORY_OF_THREE, lake, protocol, 2).equals(HISTORY_OF_THREE)
    others = HISTORY_OF_THREE.with_columns(previous_release=pl.lit(3, pl.Int32))
    assert "previous_release_risk" not in with_previous_release(others, lake, protocol, 2).columns


def test_the_previous_release_s_risk_is_that_of_its_files(developed: Developed, reference: ReleaseReference) -> None:
    platform, month = developed.platform, MONTHS[4]
    features = platform.lake.read(f"{MODEL}.features", month=month)
    scored = platform.lake.read(f"{MODEL}.predictions", month=month)
    before = score(
        platform.registry.load(developed.candidate, platform.protocol.estimator),
        features,
        developed.candidate,
        platform.protocol,
    )["risk"]
    rows = history_rows(platform.protocol, features, scored, reference, (2, before))
    assert rows["previous_release"].unique().to_list() == [2]
    assert rows["previous_release_risk"].equals(before, check_names=False)
