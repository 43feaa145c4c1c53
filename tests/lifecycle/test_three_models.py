"""What the shared lifecycle relies on in every model's rows: tables, time series and images alike."""

from pathlib import Path

import duckdb
import pytest
from small_fundus import SCREENING, NewCamera
from small_icu import ICU, SilentMonth
from small_platform import MODEL, Developed, SmallPlatform

from clinical_assets.learning.scoring import REPRESENTATION
from clinical_assets.monitoring.drift import JOINTLY
from clinical_assets.protocol import ModelProtocol, protocol_names, read_protocol
from clinical_assets.resources.analytics import publish_analytics

Platforms = dict[str, SmallPlatform]

ON_REQUEST = {"peer_report"}
"""Tables that the chain does not make: other tests of these homes may have asked for them."""


@pytest.fixture(scope="module")
def platforms(developed: Developed, silent_month: SilentMonth, new_camera: NewCamera) -> Platforms:
    return {MODEL: developed.platform, ICU: silent_month.platform, SCREENING: new_camera.platform}


@pytest.fixture(params=protocol_names())
def protocol(request: pytest.FixtureRequest) -> ModelProtocol:
    """A protocol as it is written, not as these tests make it small."""
    return read_protocol(request.param)


@pytest.fixture
def platform(platforms: Platforms, protocol: ModelProtocol) -> SmallPlatform:
    return platforms[protocol.model]


def columns(platform: SmallPlatform, asset: str) -> list[str]:
    return platform.lake.read(f"{platform.protocol.model}.{asset}").columns


def test_every_column_that_a_protocol_names_is_one_of_its_features(
    platform: SmallPlatform, protocol: ModelProtocol
) -> None:
    named = {
        *(protocol.unit, protocol.patient, protocol.index_time, protocol.outcome.column, "outcome_known_on", "month"),
        *protocol.not_features,
        *protocol.subgroups,
        *protocol.monitoring.watched,
        *filter(None, (protocol.monitoring.device, protocol.transported_across)),
    }
    assert named - set(columns(platform, "features")) == set()


def test_drift_watches_what_the_protocol_names_and_what_the_model_made_of_it(
    platform: SmallPlatform, protocol: ModelProtocol
) -> None:
    compared = set(platform.lake.read(f"{protocol.model}.drift_report")["column"]) - {JOINTLY}
    outputs = {name for name in compared if name.startswith("predicted_")}
    assert "predicted_risk" in outputs
    assert compared - outputs == set(protocol.watched_columns(columns(platform, "features")))


def test_a_profile_is_of_what_drift_watches(platform: SmallPlatform, protocol: ModelProtocol) -> None:
    profiled = set(platform.lake.read(f"{protocol.model}.profile")["column"])
    compared = set(platform.lake.read(f"{protocol.model}.drift_report")["column"]) - {JOINTLY}
    embedded = {name for name in profiled if name.startswith(REPRESENTATION)}
    assert profiled - embedded == compared - {"predicted_risk"} | {"risk", "alerted"}


def test_a_training_set_names_rows_and_splits_and_repeats_no_feature(
    platform: SmallPlatform, protocol: ModelProtocol
) -> None:
    assert set(columns(platform, "training_set")) == {
        *(protocol.unit, protocol.patient, protocol.index_time, protocol.outcome.column, "outcome_known_on", "month"),
        *("split", "data_origin", "protocol_sha256", "features_snapshot"),
    }


def test_the_three_stand_side_by_side_in_one_lake(platforms: Platforms) -> None:
    tables: dict[str, set[str]] = {name: set() for name in platforms}
    for table in next(iter(platforms.values())).lake.tables():
        model, _, asset = table.partition(".")
        if model in tables and asset not in ON_REQUEST:
            tables[model].add(asset)
    assert tables[MODEL] == tables[ICU] == tables[SCREENING]
    assert {"data_quality", "silent_run"} <= tables[MODEL]


@pytest.fixture(scope="module")
def published_file(platforms: Platforms) -> Path:
    platform = platforms[MODEL]
    return publish_analytics(platform.lake, platform.home.analytics, protocol_names()).path


def test_published_together_the_three_are_one_view_and_without_images(published_file: Path) -> None:
    with duckdb.connect(published_file, read_only=True) as analyst:
        for view in ("monitoring.data_quality", "monitoring.drift_report", "governance.silent_run"):
            told = analyst.sql(f"SELECT DISTINCT model FROM {view}").pl()
            assert set(told["model"]) == set(protocol_names()), view
        images = analyst.sql(f"SELECT * FROM {SCREENING}.dataset LIMIT 1").pl()
    assert "image_png" not in images.columns


def test_every_table_and_column_of_every_model_is_described(published_file: Path) -> None:
    with duckdb.connect(published_file, read_only=True) as analyst:
        silent = analyst.sql(
            "SELECT schema_name || '.' || table_name AS name FROM duckdb_tables() WHERE comment IS NULL"
            " UNION ALL SELECT schema_name || '.' || table_name || '.' || column_name FROM duckdb_columns()"
            " WHERE comment IS NULL AND NOT internal"
        ).pl()
    assert sorted(silent["name"]) == []
