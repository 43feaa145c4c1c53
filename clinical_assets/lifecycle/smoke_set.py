"""The smoke set of a released version: a few rows that are no patients, and what the version said of each.

Belongs here: drawing the rows, keeping them in the lake, and scoring them again. Does not belong here: what follows
where the version no longer says the same.
"""

import hashlib
import io

import numpy as np
import polars as pl

from clinical_assets.governance.ledger import LedgerError
from clinical_assets.learning.estimator import FittedEstimator
from clinical_assets.protocol import ModelProtocol, ModelVersion
from clinical_assets.resources.lake import Lake

ROWS = 64
ROWS_A_PATIENT = 8
TOLERANCE = 1e-12
"""The same files on the same rows give the same risks; more than rounding apart, something else is at work."""

SMOKE_DESCRIPTIONS = {
    "version": "The registered version",
    "rows": "How many rows the smoke set has",
    "smoke_set": "Rows drawn column by column, hence of no patient, with what the version said of each, as Parquet",
    "smoke_sha256": "SHA-256 of these rows and of what the version must say of them",
}
_SAID = "said_"


def keep_smoke_set(
    lake: Lake, estimator: FittedEstimator, protocol: ModelProtocol, version: ModelVersion, author: str
) -> str:
    """Draw a version's smoke set, keep it in the lake with what the version says of it, and give its SHA-256.

    Drawn from the last month that the version learnt from, as the lake had it then.
    """
    month = lake.read(f"{protocol.model}.features", month=version.trained_through, snapshot=version.lake_snapshot)
    rows = draw_rows(month.select(estimator.feature_names), protocol, seed=version.version)
    written = io.BytesIO()
    rows.hstack(_said(estimator, rows)).write_parquet(written)
    content = written.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    lake.write_table(
        f"{protocol.model}.smoke_set",
        pl.DataFrame(
            {"version": [version.version], "rows": [rows.height], "smoke_set": [content], "smoke_sha256": [digest]},
            schema_overrides={"version": pl.Int32, "rows": pl.Int32},
        ),
        replace_by="version",
        author=author,
        message=f"smoke set of version {version.version}",
        description="Rows of no patient, on which a version is proved before it is live again.",
        comments=SMOKE_DESCRIPTIONS,
    )
    return digest


def prove_smoke_set(lake: Lake, estimator: FittedEstimator, version: ModelVersion, smoke_sha256: str) -> int:
    """How many rows the version was proved on; raises LedgerError where it says anything else than at its release."""
    table, name = f"{version.model}.smoke_set", f"the smoke set of {version.model} version {version.version}"
    kept = lake.read(table, where={"version": version.version}) if lake.exists(table) else pl.DataFrame()
    if kept.is_empty() or hashlib.sha256(kept["smoke_set"][0]).hexdigest() != smoke_sha256:
        raise LedgerError(f"{name} is gone or was changed since its release; choose another version with --to")
    rows = pl.read_parquet(io.BytesIO(kept["smoke_set"][0]))
    then, now = rows.select(pl.col(f"^{_SAID}.*$")), _said(estimator, rows)
    apart = float(np.max(np.abs(then.to_numpy() - now.to_numpy()))) if then.columns == now.columns else float("inf")
    if not apart <= TOLERANCE:
        raise LedgerError(
            f"{name}: its risks are up to {apart:.3g} from those at its release ({TOLERANCE:g} is allowed), though its "
            "files are unchanged; compare the installed packages with requirements.lock, or choose another version"
        )
    return rows.height


def draw_rows(rows: pl.DataFrame, protocol: ModelProtocol, seed: int) -> pl.DataFrame:
    """Rows of no patient: each column drawn by itself, patients numbered anew, moments in their order.

    An image stays whole, since a column is one; it never leaves the lake.
    """
    drawn = [
        rows[name].sample(ROWS, with_replacement=True, shuffle=True, seed=seed * rows.width + place)
        for place, name in enumerate(rows.columns)
    ]
    frame = pl.DataFrame(drawn)
    if protocol.patient in rows.columns:
        patients = [f"smoke-{row // ROWS_A_PATIENT}" for row in range(ROWS)]
        frame = frame.with_columns(pl.Series(protocol.patient, patients))
    if protocol.index_time in rows.columns:
        moments = rows[protocol.index_time].unique().sort()
        frame = frame.with_columns(moments.gather([row % len(moments) for row in range(ROWS)]))
    return frame


def _said(estimator: FittedEstimator, rows: pl.DataFrame) -> pl.DataFrame:
    said = np.atleast_2d(estimator.predict(rows).T)
    return pl.DataFrame({f"{_SAID}{place}": column for place, column in enumerate(said, start=1)})
