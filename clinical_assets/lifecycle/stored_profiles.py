"""The stored profiles of a model's months, merged, and that of a version's training set, made when it is asked for.

Belongs here: fetching profiles and what stands beside them. Does not belong here: comparing and drawing them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from clinical_assets.governance.identified_zone import write_private
from clinical_assets.learning.scoring import OUTPUTS
from clinical_assets.lifecycle.scored_training import watched_training_rows
from clinical_assets.monitoring.profiles import distributions, merge, profile_frame, restore, serialise
from clinical_assets.protocol import ModelProtocol, ModelVersion
from clinical_assets.reporting.shown_profiles import Compared, ProfiledPeriod
from clinical_assets.resources.access_rights import make_private
from clinical_assets.resources.lake import Lake

if TYPE_CHECKING:
    from whylogs.core import DatasetProfileView


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """The whylogs profile of a period, and of how many patients its rows are."""

    label: str
    patients: int
    view: "DatasetProfileView" = field(repr=False)

    def opened(self) -> ProfiledPeriod:
        """The period with each column's distribution."""
        return ProfiledPeriod(self.label, self.patients, distributions(self.view))


@dataclass(frozen=True, slots=True)
class ComparedProfiles:
    """The profiles that are compared, those that were read beside them merged, and where their rows come from."""

    months: tuple[StoredProfile, ...]
    whole: StoredProfile
    against: StoredProfile | None
    parts: tuple[StoredProfile, ...]
    data_origin: str

    def opened(self) -> Compared:
        """What a page is made of."""
        months, whole = tuple(month.opened() for month in self.months), self.whole.opened()
        if self.against is None:
            return Compared(months, whole, whole, months)
        against = self.against.opened()
        return Compared(months, whole, against, tuple(part.opened() for part in self.parts) or (against,))


def compare_stored_profiles(
    lake: Lake, protocol: ModelProtocol, months: Sequence[date], against: Sequence[date], version: ModelVersion | None
) -> ComparedProfiles:
    """Profiles of months, merged, beside those of other months or of a version's training set, or of nothing.

    Raises LakeError where a month has no profile, and ProtocolError where the training set cannot be read any more.
    """
    asked = sorted({*months, *against})
    columns = ["month", protocol.patient]
    patients = lake.read(f"{protocol.model}.predictions", months=asked, columns=columns).rename(
        {protocol.patient: "patient"}
    )
    profiles, origin = _read_profiles(lake, protocol.model, asked, patients)
    own, others = [tuple(profiles[month] for month in some) for some in (months, against)]
    whole = _merged(patients, months, own)
    if version is not None:
        return ComparedProfiles(own, whole, profile_training_set(lake, protocol, version), (), origin)
    return ComparedProfiles(own, whole, _merged(patients, against, others) if others else None, others, origin)


def profile_training_set(lake: Lake, protocol: ModelProtocol, version: ModelVersion) -> StoredProfile:
    """The profile of a version's training set, of the columns that a month's profile has.

    It is made when it is asked for: what it rests on is pinned in the lake, and it takes about a second.
    """
    scored, watched = watched_training_rows(lake, protocol, version)
    profiled = scored.select(*watched, "risk", "alerted", pl.col(OUTPUTS))
    view = profile_frame(profiled, as_of=_midnight(version.trained_through))
    return StoredProfile(f"training set of version {version.version}", scored[protocol.patient].n_unique(), view)


def alarmed_columns(lake: Lake, model: str, months: Sequence[date]) -> dict[str, list[date]]:
    """The months in which a column's drift raised the alarm or a fault was found in it, by column."""
    table = f"{model}.drift_report"
    if not lake.exists(table):
        return {}
    report = lake.read(table, columns=["month", "column", "flagged", "faulty"])
    alarmed = report.filter(pl.col("month").is_in(list(months)), pl.col("flagged") | pl.col("faulty"))
    by_column = (
        alarmed.select("column", "month").unique().sort("column", "month").group_by("column", maintain_order=True)
    )
    return {str(name): rows["month"].to_list() for (name,), rows in by_column}


def write_bins(model: str, compared: ComparedProfiles, folder: Path) -> list[Path]:
    """Each profile as a `.bin` file that whylogs opens, in a folder that only its owner enters: counts in it are exact.

    Raises AccessRightsError where the folder cannot be closed to others.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    make_private(folder)
    profiles = {profile.label: profile for profile in (*compared.months, *compared.parts, compared.whole)}
    if compared.against is not None:
        profiles[compared.against.label] = compared.against
    written = []
    for label, profile in profiles.items():
        path = folder / f"{model}_{label.replace(' ', '_')}.bin"
        write_private(path, serialise(profile.view))
        written.append(path)
    return written


def months_in_words(months: Sequence[date]) -> str:
    """A stretch of months as it is asked for: `2025-01..2025-06`, or one month."""
    first, last = f"{months[0]:%Y-%m}", f"{months[-1]:%Y-%m}"
    return first if first == last else f"{first}..{last}"


def _read_profiles(
    lake: Lake, model: str, months: Sequence[date], patients: pl.DataFrame
) -> tuple[dict[date, StoredProfile], str]:
    columns = ["month", "column", "profile", "data_origin"]
    table = lake.read(f"{model}.profile", months=months, columns=columns).sort("month", "column")
    counts = dict(patients.group_by("month").agg(pl.col("patient").n_unique()).iter_rows())
    profiles = {
        month: StoredProfile(f"{month:%Y-%m}", counts[month], restore(rows, as_of=_midnight(month)))
        for (month,), rows in table.group_by("month", maintain_order=True)
        if isinstance(month, date)
    }
    return profiles, ", ".join(table["data_origin"].unique().sort())


def _merged(patients: pl.DataFrame, months: Sequence[date], profiles: Sequence[StoredProfile]) -> StoredProfile:
    if len(profiles) == 1:
        return profiles[0]
    seen = patients.filter(pl.col("month").is_in(list(months)))["patient"].n_unique()
    return StoredProfile(months_in_words(months), seen, merge(profile.view for profile in profiles))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
