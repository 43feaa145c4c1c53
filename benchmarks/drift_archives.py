"""Streams out of real archives: one hospital and then another, early and late encounters, one camera and then another.

Belongs here: what is reference, what comes after it, and the same without a change, to show what is not found there.
Does not belong here: any monitor, or a figure.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.drift_streams import Stream
from clinical_assets.archives.archive import MonthWindow
from clinical_assets.archives.calendar import FIRST_MONTH, LAST_MONTH
from clinical_assets.archives.diabetes130 import DIABETES130
from clinical_assets.archives.handheld_camera import photograph
from clinical_assets.archives.physionet2019 import PHYSIONET2019
from clinical_assets.archives.retinamnist import RETINAMNIST, read_images
from clinical_assets.defs.readmission.cohort import all_encounters
from clinical_assets.defs.sepsis.cohort import icu_hours
from clinical_assets.monitoring.image_statistics import measure_images
from clinical_assets.protocol import ModelProtocol, Monitoring, month_after, read_protocol

REFERENCE_PATIENTS = 4_000
PATIENTS_A_LOOK = 250
LOOKS = 12
IMAGES_A_LOOK = 10
DECILES = 10
ROWS_OF_A_DECILE_A_LOOK = 700


@dataclass(frozen=True, slots=True)
class RealStreams:
    """Streams with a change, streams of the same archive without one, and how their rows are grouped."""

    title: str
    columns: tuple[str, ...]
    patient: str | None
    policy: Monitoring
    changed: tuple[Stream, ...]
    unchanged: tuple[Stream, ...]


def hospitals(raw: Path, streams: int) -> RealStreams | None:
    """Hospital A, then hospital B; and A, then others of A: hours of whole patients. None without the archive.

    The sepsis protocol's watched columns, so neither the site nor the time of admission.
    """
    path = PHYSIONET2019.find(raw)
    if path is None:
        return None
    protocol = read_protocol("sepsis")
    hours = icu_hours(PHYSIONET2019.open(path), MonthWindow(FIRST_MONTH, month_after(LAST_MONTH)))
    columns = protocol.watched_columns(hours.columns)
    kept = hours.select(protocol.patient, "site", *columns)
    of_site = {site: kept.filter(site=site).drop("site") for site in ("A", "B")}

    def stream(seed: int, site: str, looks: int) -> Stream:
        random = np.random.default_rng(seed)
        drawn = {name: random.permutation(rows[protocol.patient].unique().sort()) for name, rows in of_site.items()}
        reference, rest = np.split(drawn["A"], [REFERENCE_PATIENTS])
        later = rest if site == "A" else drawn["B"]
        parts = [later[look * PATIENTS_A_LOOK : (look + 1) * PATIENTS_A_LOOK] for look in range(looks)]
        return Stream(
            _rows_of(of_site["A"], protocol, reference), [_rows_of(of_site[site], protocol, part) for part in parts]
        )

    return RealStreams(
        title="PhysioNet hospital A, then B",
        columns=tuple(columns),
        patient=protocol.patient,
        policy=protocol.monitoring,
        changed=tuple(stream(seed, "B", 1) for seed in range(streams)),
        unchanged=tuple(stream(seed, "A", LOOKS) for seed in range(streams)),
    )


def encounters_by_decile(raw: Path, streams: int) -> RealStreams | None:
    """The first decile of the diabetes archive by encounter order, then the last; and half of the first, then the rest.

    None without the archive. One encounter a patient, so that no patient is on both sides.
    """
    path = DIABETES130.find(raw)
    if path is None:
        return None
    protocol = read_protocol("readmission")
    rows = all_encounters(DIABETES130.open(path)).unique("patient_id", keep="first", maintain_order=True)
    left_out = {*protocol.key_columns, "death_or_hospice"}
    columns = [name for name, dtype in rows.schema.items() if name not in left_out and dtype != pl.Date]
    rows = rows.select(columns).with_columns(pl.col(pl.Enum, pl.Categorical).cast(pl.String))
    size = len(rows) // DECILES
    first, last = rows.head(size), rows.tail(size)

    def looks(of: pl.DataFrame, seed: int) -> list[pl.DataFrame]:
        shuffled = of.sample(fraction=1.0, shuffle=True, seed=seed)
        return [
            shuffled.slice(start, ROWS_OF_A_DECILE_A_LOOK)
            for start in range(0, len(of) - ROWS_OF_A_DECILE_A_LOOK + 1, ROWS_OF_A_DECILE_A_LOOK)
        ]

    def halves(seed: int) -> Stream:
        shuffled = first.sample(fraction=1.0, shuffle=True, seed=seed)
        half = len(shuffled) // 2
        return Stream(shuffled.head(half), looks(shuffled.slice(half), seed))

    return RealStreams(
        title="diabetes archive, first decile, then last",
        columns=tuple(columns),
        patient=None,
        policy=protocol.monitoring,
        changed=tuple(Stream(first, looks(last, seed)[:1]) for seed in range(streams)),
        unchanged=tuple(halves(seed) for seed in range(streams)),
    )


def cameras(raw: Path, streams: int) -> RealStreams | None:
    """RetinaMNIST's images in looks of 10: as they are, and through the simulated camera. None without the archive.

    The device is not among the columns: statistics of the image alone.
    """
    path = RETINAMNIST.find(raw)
    if path is None:
        return None
    images = read_images(RETINAMNIST.open(path)).pixels
    before, after = measure_images(images), measure_images(photograph(images))

    def stream(seed: int, of: pl.DataFrame) -> Stream:
        order = np.random.default_rng(seed).permutation(len(images))
        n_reference = len(images) - LOOKS * IMAGES_A_LOOK
        later = order[n_reference:].reshape(LOOKS, IMAGES_A_LOOK)
        return Stream(before[order[:n_reference]], [of[look] for look in later])

    return RealStreams(
        title="RetinaMNIST, then through a simulated handheld camera",
        columns=tuple(before.columns),
        patient=None,
        policy=Monitoring(headline="auroc", tolerated_loss=0.02),
        changed=tuple(stream(seed, after) for seed in range(streams)),
        unchanged=tuple(stream(seed, before) for seed in range(streams)),
    )


def _rows_of(hours: pl.DataFrame, protocol: ModelProtocol, patients: np.ndarray) -> pl.DataFrame:
    return hours.join(pl.DataFrame({protocol.patient: patients}), on=protocol.patient, how="semi")
