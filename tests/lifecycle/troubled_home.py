"""A home with the tables of one troubled month, made by hand: a column moved in the source, and harm followed."""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from clinical_assets.governance.incidents import Breach, Cause, Event, Incident
from clinical_assets.governance.signatures import create_key, sign_message
from clinical_assets.governance.signers import Signer, add_signer
from clinical_assets.lifecycle.incidents import change_incident, open_incident
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import HomeResource

MODEL = "readmission"
QUIET_MONTH, MONTH = date(2025, 4, 1), date(2025, 5, 1)
RUN = "3f1c6f0e-0000-4000-8000-000000000001"


@dataclass(frozen=True)
class TroubledHome:
    """A home, and what people and the platform do on it."""

    home: Home
    lake: Lake

    @classmethod
    def at(cls, root: Path) -> "TroubledHome":
        home = Home(root, root)
        home.prepare()
        return cls(home, Lake(str(home.lake_catalogue), home.lake_data))

    @property
    def resources(self) -> dict[str, Any]:
        lake = LakeResource(catalogue=str(self.home.lake_catalogue), data=str(self.home.lake_data))
        return {"home": HomeResource(root=str(self.home.root), raw=str(self.home.raw)), "lake": lake}

    def write(self, asset: str, rows: list[dict[str, Any]], month: date = MONTH, **types: Any) -> None:
        """One month of one asset's table, as a run would have written it."""
        frame = pl.DataFrame([{"month": month} | row for row in rows], schema_overrides=types)
        note = {"run_id": RUN, "asset": f"{MODEL}/{asset}", "partition": f"{month:%Y-%m}"}
        self.lake.write_month(f"{MODEL}.{asset}", month, frame, author=RUN, message=json.dumps(note))

    def bring_trouble(
        self, moved: str = "payer_code", rows: int = 100, missing: int = 60, groups: bool = False
    ) -> None:
        """A quiet month, and one in which a column moved and a fault is more frequent."""
        for month, n, affected in ((QUIET_MONTH, 100, 2), (MONTH, rows, missing)):
            self.write("dataset", [{"payer_code": "x", "age": 1.0}] * n, month)
            quality = {"subgroup": "overall", "fault": "missing", "rows": n}
            faults = [{"column": "age", "affected": affected}, {"column": "payer_code", "affected": 0}]
            self.write("data_quality", [quality | fault for fault in faults], month)
        drift = {
            "verdict": "population_shift",
            "severity": 0.03,
            "reason": f"1 of 3 columns moved: {moved}",
            "statistic": "psi",
            "critical": 0.1,
            "value": 0.4,
            "faulty": False,
            "data_origin": "simulated",
        }
        columns = ("payer_code", "age_squared", "predicted_risk")
        self.write("drift_report", [drift | {"column": name, "flagged": name == moved} for name in columns])
        sensitivity = {
            "metric": "event_sensitivity",
            "value": 0.5,
            "value_so_far": 0.6,
            "baseline": 0.6,
            "status": "ripe",
            "below_baseline": False,
        }
        told = [
            {"subgroup": "overall", "n": 100, "alarmed": False},
            {"subgroup": "sex=female", "n": 9, "alarmed": groups},
        ]
        self.write("performance_report", [sensitivity | group for group in told])

    def breach(self, month: date | None = MONTH, cause: Cause = Cause.DRIFT_WITH_HARM, **changes: Any) -> Incident:
        """An incident, opened or observed."""
        given: dict[str, Any] = {
            "subject": "champion",
            "what": "harm",
            "run_id": RUN,
            "job": f"{MODEL}_month",
        } | changes
        recorded = open_incident(self.lake, self.home, Breach(MODEL, cause, month=month, **given))
        assert recorded is not None
        return recorded

    def signer(self, name: str = "dr-lead", role: str = "clinical_lead", demo: bool = True) -> Path:
        """The private key of a signer, who is made where there is none."""
        key = self.home.keys / f"{name}.pem"
        if not key.exists():
            add_signer(self.home.signers, Signer(name, (role,), create_key(key, None), demo=demo))
        return key

    def act(self, incident: Incident, event: Event, **changes: Any) -> Incident:
        """What a person does about an incident."""
        key = self.signer()
        given = {"actor": "dr-lead", "role": "clinical_lead", "text": "as agreed"} | changes
        sign = changes.pop("sign", lambda message: sign_message(message, key, None))
        return change_incident(self.lake, self.home, incident.incident_id, event, sign=sign, **given)

    def close(self, incident: Incident) -> Incident:
        return self.act(incident, Event.CLOSED, root_cause="a new payer", action="payers are announced")
