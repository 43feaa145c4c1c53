"""What the README's guide has a reader do, in one process of the package that stands first on the path.

Run by the tests of the guide, with a home in the environment and the model's name as argument; prints what came of it.
"""

import json
import sys
from datetime import date
from pathlib import Path

import dagster as dg

import clinical_assets
from clinical_assets.archives.calendar import FIRST_MONTH
from clinical_assets.definitions import defs
from clinical_assets.protocol import month_after, read_protocol
from clinical_assets.replay import sign_as_demonstration
from clinical_assets.resources.home import Home
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import Registry

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def run_to_sign_off(model: str) -> dict[str, object]:
    """Months of development, a candidate, its report, the demonstration signatures, the release, one scored month."""
    home = Home.from_environment()
    home.prepare()
    registry = Registry(home.registry_uri, home.registry_artefacts)
    registry.prepare()
    lake = Lake(str(home.lake_catalogue), home.lake_data)
    protocol, definitions, instance = read_protocol(model), defs(), dg.DagsterInstance.ephemeral()

    def job(name: str, month: date | None = None) -> dg.ExecuteInProcessResult:
        return definitions.resolve_job_def(f"{model}_{name}").execute_in_process(
            instance=instance, partition_key=f"{month:%Y-%m}" if month else None, run_config=QUIET
        )

    month = FIRST_MONTH
    for _ in range(protocol.development_months):
        job("intake", month)
        month = month_after(month)
    job("retraining")
    candidate = registry.challenger(model)
    champion_before = registry.find(model, "champion")
    sign_as_demonstration(home, lake, protocol, candidate)
    job("release")
    whole_month = job("month", month)
    scored = lake.read(f"{model}.predictions")
    signed = lake.read(f"{model}.sign_off")
    return {
        "package": str(Path(clinical_assets.__file__).parent),
        "champion_before_signatures": champion_before.version if champion_before else None,
        "champion": registry.champion(model).version,
        "data_origin": candidate.data_origin,
        "report": str(home.report(model, candidate.version)),
        "judgements": lake.read(f"{model}.validation_report")["judgement"].to_list(),
        "signed": sorted(signed.select("role", "decision", "demo").iter_rows()),
        "rows_taken_in": lake.read(f"{model}.features").height,
        "scored_months": [f"{found:%Y-%m}" for found in scored["month"].unique()],
        "risks": scored["risk"].to_list(),
        "verdicts": lake.read(f"{model}.drift_report")["verdict"].unique().to_list(),
        "checks_passed": all(check.passed for check in whole_month.get_asset_check_evaluations()),
    }


if __name__ == "__main__":
    print(json.dumps(run_to_sign_off(sys.argv[1])))
