import polars as pl
import pytest
from small_fundus import SCREENING, SCREENING_MONTHS, screening_protocol, write_screening_archive
from small_platform import SmallPlatform

from clinical_assets.governance.audit_trail import AuditTrail
from clinical_assets.governance.audit_verification import read_records
from clinical_assets.governance.pseudonyms import PseudonymError, load_or_create_key, next_key, pseudonymise
from clinical_assets.governance.reidentification import ReidentificationTable
from clinical_assets.governance.signatures import create_key, open_key
from clinical_assets.governance.signers import Signer, add_signer
from clinical_assets.learning.splits import BUCKET, assign_splits, kept_split, patient_buckets
from clinical_assets.lifecycle import pseudonym_rotation
from clinical_assets.lifecycle.identified_month import zone_of
from clinical_assets.lifecycle.pseudonym_rotation import Rotation, rotate_pseudonyms
from clinical_assets.protocol import last_day
from clinical_assets.resources.home import Home

MONTH, NEXT_MONTH = SCREENING_MONTHS[:2]
DATASET, FEATURES = f"{SCREENING}.dataset", f"{SCREENING}.features"
WHO = {"actor": "user:test", "reason": "a drill"}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> SmallPlatform:
    """A screening programme after one month, with a privacy officer; every test renews what the last one left."""
    folder = tmp_path_factory.mktemp("rotated")
    platform = SmallPlatform.on(folder / "home", write_screening_archive(folder / "raw"), screening_protocol())
    public = create_key(platform.home.keys / "olga.pem", None)
    add_signer(platform.home.signers, Signer("olga", ("privacy_officer",), public, demo=True))
    platform.run("intake", MONTH)
    return platform


def rotate(platform: SmallPlatform) -> Rotation:
    return rotate_pseudonyms(platform.home, platform.lake, [platform.protocol], **WHO)


def by_image(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows without pseudonyms, in an order that a rotation does not change."""
    return rows.drop("image_id", "patient_id").sort("sha256")


def splits_of(platform: SmallPlatform) -> pl.DataFrame:
    """Each image's part in a training set drawn now."""
    lake, kept = platform.lake, kept_split(SCREENING)
    features = lake.read(FEATURES)
    known = last_day(NEXT_MONTH.replace(month=NEXT_MONTH.month + 1))
    buckets = lake.read(kept) if lake.exists(kept) else None
    drawn = assign_splits(features, platform.protocol, known, buckets)
    return drawn.select("sha256", "split").sort("sha256")


def test_every_pseudonym_is_new_and_nothing_else_has_changed(platform: SmallPlatform) -> None:
    before = {table: platform.lake.read(table) for table in (DATASET, FEATURES)}
    rotation = rotate(platform)
    assert {DATASET, FEATURES} <= set(rotation.tables)
    for table, rows in before.items():
        after = platform.lake.read(table)
        assert by_image(after).equals(by_image(rows)), table
        for column in ("image_id", "patient_id"):
            assert not set(after[column]) & set(rows[column]), table
            assert after[column].n_unique() == rows[column].n_unique()


def test_the_new_pseudonyms_are_those_of_the_new_key(platform: SmallPlatform) -> None:
    old = load_or_create_key(platform.home.pseudonym_key)
    rotate(platform)
    new = load_or_create_key(platform.home.pseudonym_key)
    assert new != old
    assert not next_key(platform.home.pseudonym_key).exists()
    assert platform.home.pseudonym_key.stat().st_mode & 0o777 == 0o600
    months = platform.lake.months(DATASET)
    feed = pl.concat([zone_of(platform.home).read(SCREENING, month, **WHO) for month in months])
    expected = set(pseudonymise(feed.select("patient_id"), ["patient_id"], new)["patient_id"])
    assert set(platform.lake.read(DATASET)["patient_id"]) == expected


def test_every_patient_keeps_their_split_through_two_rotations(platform: SmallPlatform) -> None:
    before = splits_of(platform)
    for _ in range(2):
        rotate(platform)
        assert splits_of(platform).equals(before)
    kept = platform.lake.read(kept_split(SCREENING))
    assert (patient_buckets(kept["patient_id"]) != kept[BUCKET]).any()


def test_a_month_that_follows_joins_what_was_rewritten_and_one_taken_in_again_is_the_same(
    platform: SmallPlatform,
) -> None:
    rotate(platform)
    before = platform.lake.read(DATASET, month=MONTH)
    for month in (NEXT_MONTH, MONTH):
        platform.run("intake", month)
    features = platform.lake.read(FEATURES)
    assert platform.lake.read(DATASET, month=MONTH).sort("image_id").equals(before.sort("image_id"))
    assert features.height == features["image_id"].n_unique() == platform.lake.read(DATASET).height


@pytest.mark.parametrize("interrupted_at", ["_keep_splits", "_rewrite", "_seal_again"])
def test_an_interrupted_rotation_stops_intake_and_is_finished_by_the_same_call(
    platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch, interrupted_at: str
) -> None:
    before, splits = platform.lake.read(DATASET), splits_of(platform)
    whole = getattr(pseudonym_rotation, interrupted_at)

    def dies_afterwards(*given: object) -> None:
        whole(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pseudonym_rotation, interrupted_at, dies_afterwards)
        with pytest.raises(KeyboardInterrupt):
            rotate(platform)
    with pytest.raises(PseudonymError, match="begun and not finished; finish it with"):
        load_or_create_key(platform.home.pseudonym_key)
    rotate(platform)
    after = platform.lake.read(DATASET)
    assert not set(after["patient_id"]) & set(before["patient_id"])
    assert by_image(after).equals(by_image(before))
    assert splits_of(platform).equals(splits)


def test_a_privacy_officer_resolves_the_new_pseudonym_and_the_old_one(platform: SmallPlatform) -> None:
    key = open_key(platform.home.keys / "olga.pem", None).private_bytes_raw()
    table = ReidentificationTable(platform.home.identified)
    first = platform.lake.read(DATASET).sort("sha256")["patient_id"][0]
    rotate(platform)
    renamed = platform.lake.read(DATASET).sort("sha256")["patient_id"][0]
    assert first != renamed
    assert table.find(first, key).mrn == table.find(renamed, key).mrn


def test_pseudonyms_that_no_archive_explains_stop_the_rotation_before_anything_is_written(
    platform: SmallPlatform,
) -> None:
    rows = platform.lake.read(FEATURES)
    platform.lake.write_table(
        FEATURES, rows.with_columns(patient_id=pl.lit("0" * 32)), author="test", message="foreign"
    )
    before = platform.lake.latest_snapshot()
    with pytest.raises(PseudonymError, match=f"{FEATURES}: 1 values of patient_id belong to no identifier"):
        rotate(platform)
    assert platform.lake.latest_snapshot() == before
    assert not next_key(platform.home.pseudonym_key).exists()
    platform.lake.write_table(FEATURES, rows, author="test", message="restored")
    rotate(platform)


def test_a_key_from_the_environment_is_not_rotated(platform: SmallPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINICAL_PSEUDONYM_KEY", "00" * 32)
    with pytest.raises(PseudonymError, match="a rotation cannot change it"):
        rotate(platform)


def test_a_rotation_is_recorded_with_who_and_why(platform: SmallPlatform) -> None:
    home: Home = platform.home
    rotation = rotate(platform)
    *_, record = read_records(AuditTrail(home.audit))
    assert (record.action, record.actor, record.reason) == ("key_rotated", "user:test", "a drill")
    assert record.details["pseudonyms"] == rotation.pseudonyms
    assert load_or_create_key(home.pseudonym_key).hex() not in AuditTrail(home.audit).path.read_text()
