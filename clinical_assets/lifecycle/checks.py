"""What must hold of a table, as asset checks of one model; they know its protocol, so the stamp makes them.

Belongs here: facts about rows, as named checks. Does not belong here: limits on a model's performance.
"""

from collections.abc import Sequence

import dagster as dg
import dataframely as dy
import polars as pl
from dataframely.exc import SchemaError

from clinical_assets.archives.archive import contract_of
from clinical_assets.governance.pseudonyms import PSEUDONYM_HEX_DIGITS
from clinical_assets.learning.splits import check_one_patient_one_split
from clinical_assets.lifecycle.data import MONTHS
from clinical_assets.protocol import Judgement, ModelProtocol, load_object
from clinical_assets.resources.outward_gate import reporting


def checks(protocol: ModelProtocol) -> Sequence[dg.AssetChecksDefinition]:
    """Every check of one model's tables."""
    model = protocol.model

    contract = contract_of(load_object(protocol.cohort))

    @dg.asset_check(asset=[model, "dataset"], partitions_def=MONTHS, blocking=True)
    @reporting
    def every_value_keeps_the_contract(dataset: pl.DataFrame) -> dg.AssetCheckResult:
        """Every value is of the type, the range and the categories that its column's contract allows."""
        if contract is None:
            raise TypeError("this check is made of cohorts that promise a contract")
        return breaches_of(contract, dataset)

    @dg.asset_check(asset=[model, "dataset"], partitions_def=MONTHS, blocking=True)
    @reporting
    def patients_are_pseudonyms(dataset: pl.DataFrame) -> dg.AssetCheckResult:
        """Units and patients are named by keyed pseudonyms alone."""
        identified = dataset.filter(
            ~pl.all_horizontal(
                pl.col(protocol.unit, protocol.patient).str.contains(f"^[0-9a-f]{{{PSEUDONYM_HEX_DIGITS}}}$")
            )
        )
        return dg.AssetCheckResult(passed=identified.is_empty(), metadata={"rows_with_other_names": identified.height})

    @dg.asset_check(asset=[model, "features"], partitions_def=MONTHS, blocking=True)
    @reporting
    def one_row_a_unit(features: pl.DataFrame) -> dg.AssetCheckResult:
        """Every prediction unit of the month has one row."""
        repeated = features.height - features[protocol.unit].n_unique()
        return dg.AssetCheckResult(passed=repeated == 0, metadata={"repeated_rows": repeated})

    @dg.asset_check(asset=[model, "training_set"], blocking=True)
    @reporting
    def one_patient_one_split(training_set: pl.DataFrame) -> dg.AssetCheckResult:
        """No patient stands in more than one split."""
        torn = check_one_patient_one_split(training_set, protocol)
        return dg.AssetCheckResult(passed=torn == 0, metadata={"patients_in_several_splits": torn})

    @dg.asset_check(asset=[model, "validation_report"])
    @reporting
    def every_limit_is_met(validation_report: pl.DataFrame) -> dg.AssetCheckResult:
        """Every limit of the protocol is passed by the newest candidate, or does not apply to it."""
        newest = validation_report.filter(pl.col("version") == pl.col("version").max())
        unmet = newest.filter(pl.col("judgement").is_in([Judgement.FAIL, Judgement.CANNOT_TELL]))
        words = [f"- {row['metric']} ({row['subgroup']}): {row['reason']}" for row in unmet.iter_rows(named=True)]
        return dg.AssetCheckResult(
            passed=unmet.is_empty(),
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"limits": newest.height, "unmet": dg.MetadataValue.md("\n".join(words) or "none")},
        )

    @dg.asset_check(asset=[model, "performance_report"], partitions_def=MONTHS)
    @reporting
    def no_sensitivity_has_fallen(performance_report: pl.DataFrame) -> dg.AssetCheckResult:
        """Nobody's sensitivity, overall or in a subgroup, has fallen since release by what its evidence shows."""
        fallen = performance_report.filter("alarmed")["subgroup"].to_list()
        return dg.AssetCheckResult(
            passed=not fallen,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={"fallen_in": ", ".join(fallen) or "no group"},
        )

    return [
        *([every_value_keeps_the_contract] if contract else []),
        patients_are_pseudonyms,
        one_row_a_unit,
        one_patient_one_split,
        every_limit_is_met,
        no_sensitivity_has_fallen,
    ]


def breaches_of(contract: type[dy.Schema], frame: pl.DataFrame) -> dg.AssetCheckResult:
    """How many rows break which rule of a contract; columns that are missing or of another type are named."""
    try:
        _, failure = contract.filter(frame)
    except SchemaError as error:
        return dg.AssetCheckResult(passed=False, metadata={"breach": str(error).splitlines()[0]})
    counts = failure.counts()
    return dg.AssetCheckResult(passed=not counts, metadata={"rows_breaking": dg.MetadataValue.json(counts)})
