"""What a finished demonstration shows of calibration and of retrainings.

Belongs here: the reading of a home's published tables. Does not belong here: what should be reached.
"""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from clinical_assets.protocol import Repair, read_protocol


@dataclass(frozen=True, slots=True)
class Replayed:
    """Events observed and expected over all months with ripe outcomes, and how often the model was fully retrained."""

    observed: float
    expected: float
    rows: int
    months: int
    retrainings: int
    counted_by: str


def read_replay(home: Path, model: str) -> Replayed | None:
    """The replay of one model out of the home's `analytics.duckdb`; None where the model was not replayed.

    Retrainings are the months whose `repair_plan` asks for one; in a home from before repair plans, the versions after
    the first.
    """
    protocol = read_protocol(model)
    with duckdb.connect(str(home / "analytics.duckdb"), read_only=True) as connection:
        named = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = ?", [model]
        ).fetchall()
        tables = {row[0] for row in named}
        if not {"predictions", "dataset", "evaluation"} <= tables:
            return None
        last = connection.execute(f"SELECT max({protocol.index_time}) FROM {model}.predictions").fetchone()
        totals = connection.execute(
            f"""
            SELECT sum(CAST(d.{protocol.outcome.column} >= {protocol.outcome.event_from} AS INTEGER)), sum(p.risk),
                   count(*), count(DISTINCT p.month)
            FROM {model}.predictions p JOIN {model}.dataset d USING ({protocol.unit})
            WHERE d.outcome_known_on <= ?::DATE
            """,
            [last[0] if last else None],
        ).fetchone()
        if totals is None or not totals[2]:
            return None
        if "repair_plan" in tables:
            query = f"SELECT count(DISTINCT month) FROM {model}.repair_plan WHERE repair = '{Repair.RETRAIN}'"
            counted_by = "repair plans"
        else:
            query = f"SELECT count(DISTINCT version) - 1 FROM {model}.evaluation"
            counted_by = "versions after the first; no repair plans there"
        retrainings = connection.execute(query).fetchone()
    observed, expected, rows, months = totals
    return Replayed(float(observed), float(expected), rows, months, retrainings[0] if retrainings else 0, counted_by)
