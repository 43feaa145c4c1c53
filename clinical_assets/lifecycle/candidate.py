"""What the assets of development and release fetch and assemble around one candidate version; no asset stands here.

Belongs here: findings to rows and back, the released versions a candidate is compared with, what may not be mixed.
Does not belong here: any measuring or judging.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import polars as pl

from clinical_assets.evaluation import calibration_curve
from clinical_assets.evaluation.assessment import Assessment, Thresholds
from clinical_assets.governance.signatures import (
    CheckedSignature,
    SignatureError,
    check_signatures,
    missing_for_release,
    read_signatures,
)
from clinical_assets.governance.signers import read_signers
from clinical_assets.learning.estimator import FittedEstimator, LearningError
from clinical_assets.learning.recalibration import (
    fit_recalibration_intercept,
    fit_recalibration_slope,
    recalibrate,
)
from clinical_assets.learning.recipe import RECIPE_FILE, Recipe
from clinical_assets.learning.scoring import score
from clinical_assets.protocol import (
    SILENT_MONTHS,
    Finding,
    JudgedLimit,
    Judgement,
    ModelProtocol,
    ModelVersion,
    ProtocolError,
    Repair,
    last_day,
    load_object,
)
from clinical_assets.reporting.figures import calibration_figure
from clinical_assets.resources.home import Home, hash_file
from clinical_assets.resources.lake import Lake
from clinical_assets.resources.registry import CHAMPION, FIRST_RELEASE, Registry

RESAMPLES = 500

MONTHS_AT_ONCE = 4
PLACE = "place_in_training_set"

RECALIBRATIONS = {
    Repair.RECALIBRATE_INTERCEPT: fit_recalibration_intercept,
    Repair.RECALIBRATE_SLOPE: fit_recalibration_slope,
}

FINDING_SCHEMA = {
    "metric": pl.String,
    "subgroup": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}


class Estimators(Protocol):
    """Where the estimators of earlier versions are found: the registry, or the pinned releases of a Git."""

    def load(self, version: ModelVersion, estimator: str) -> FittedEstimator:
        """The version's estimator, of the class at this dotted path, once its files have proved unchanged."""
        ...


def refuse_mixed_protocols(protocol: ModelProtocol, recorded: Iterable[str], upstream: str) -> None:
    """Raise ProtocolError where an upstream result was made under another protocol than the one now in force."""
    if others := {digest for digest in recorded if digest != protocol.sha256}:
        raise ProtocolError(
            f"{protocol.model}/{upstream} was made under protocol {', '.join(sorted(x[:12] for x in others))}, now "
            f"{protocol.sha256[:12]} is in force: the protocol was edited in between; materialise "
            f"{protocol.model}/training_set and all that follows again"
        )


def read_training_rows(
    lake: Lake,
    protocol: ModelProtocol,
    snapshot: int,
    columns: Sequence[str] | None = None,
    split: str | None = None,
) -> pl.DataFrame:
    """The rows of the training set at a snapshot of the lake, with the features they had when it was drawn.

    With `columns`, of the features these, the unit, the month and where the row comes from alone; with `split` the rows
    of this split alone. Raises ProtocolError where rows of the training set have no features any more.
    """
    drawn = lake.read(f"{protocol.model}.training_set", snapshot=snapshot)
    drawn_at: int = drawn["features_snapshot"][0]
    drawn = drawn if split is None else drawn.filter(split=split)
    parts = drawn.select(protocol.unit, "split", "protocol_sha256").with_row_index(PLACE)
    wanted = list(dict.fromkeys((protocol.unit, "month", "data_origin", *columns))) if columns is not None else None
    # Some months at a time, and columns are put in order one by one: the whole is never held twice.
    months = drawn["month"].unique().sort().to_list()
    table = f"{protocol.model}.features"
    some_months = (months[at : at + MONTHS_AT_ONCE] for at in range(0, len(months), MONTHS_AT_ONCE))
    rows = pl.concat(
        [
            parts.clear(),
            *(
                parts.join(
                    lake.read(table, months=some, snapshot=drawn_at, columns=wanted),
                    on=protocol.unit,
                    how="inner",
                    maintain_order="left",
                )
                for some in some_months
            ),
        ],
        how="diagonal",
    )
    rows = _in_order(rows)
    if lost := drawn.height - rows.height:
        raise ProtocolError(
            f"{protocol.model}.training_set: {lost:,} of {drawn.height:,} rows have no features at snapshot "
            f"{drawn_at}; materialise the training set again"
        )
    return rows


def _in_order(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows by their place, without it; what is given is used up."""
    place = rows.drop_in_place(PLACE)
    if place.is_sorted():
        return rows
    order = place.arg_sort()
    return pl.DataFrame([rows.drop_in_place(name).gather(order) for name in rows.columns])


def make_estimator(
    rows: pl.DataFrame, protocol: ModelProtocol, repair: Repair, base: ModelVersion | None, estimators: Estimators
) -> tuple[FittedEstimator, pl.DataFrame]:
    """The estimator that a repair calls for, and the rows on which its thresholds are to be chosen.

    A retraining learns anew from the training set and has no `base`. A recalibration lays a line over the base, the
    champion of the day, and a moved threshold leaves it as it is; both are fitted on the rows of months that it has not
    learnt from, those of test patients never. Raises ProtocolError where these are too few.
    """
    if base is None:
        return load_object(protocol.estimator).fit(rows, protocol), rows.filter(split="calibrate")
    recent = rows.filter(pl.col("split") != "test", pl.col("month") > base.trained_through)
    if recent.height < protocol.minimum_n:
        raise ProtocolError(
            f"{protocol.model}: {repair.value} rests on {recent.height:,} ripe rows since {base.trained_through}; "
            f"at least {protocol.minimum_n:,} are needed; wait for more outcomes or retrain"
        )
    estimator = estimators.load(base, protocol.estimator)
    if fit := RECALIBRATIONS.get(repair):
        assessment: Assessment = load_object(protocol.assessment)
        risk = assessment.tabulate(estimator.predict(recent), protocol)["risk"]
        return recalibrate(estimator, fit(protocol.outcome.is_event(recent), risk)), recent
    return estimator, recent


def choose_thresholds(
    estimator: FittedEstimator, calibrate: pl.DataFrame, protocol: ModelProtocol
) -> tuple[pl.DataFrame, Thresholds]:
    """The calibration rows with what the estimator says of them, and the thresholds that follow."""
    assessment: Assessment = load_object(protocol.assessment)
    tabulated = calibrate.hstack(assessment.tabulate(estimator.predict(calibrate), protocol))
    return tabulated, assessment.choose_thresholds(tabulated, protocol)


def register_candidate(
    estimator: FittedEstimator,
    rows: pl.DataFrame,
    calibrate: pl.DataFrame,
    protocol: ModelProtocol,
    snapshot: int,
    registry: Registry,
    mlflow: Any,
    trained_by: str,
    recipe: Recipe,
) -> ModelVersion:
    """Choose the thresholds on the calibration rows, log what was learnt in the open MLflow run, and register it."""
    assessment: Assessment = load_object(protocol.assessment)
    tabulated, thresholds = choose_thresholds(estimator, calibrate, protocol)
    decided = assessment.decide(tabulated, thresholds)
    findings = [x for x in assessment.measure(decided, protocol, 0) if x.subgroup == "overall" and x.value is not None]
    mlflow.log_params({**protocol.estimator_settings, "estimator": protocol.estimator, "lake_snapshot": snapshot})
    mlflow.log_params({f"threshold_{name}": value for name, value in thresholds.items()})
    mlflow.log_params({"protocol_sha256": protocol.sha256, "rows": rows.height})
    mlflow.log_metrics({f"calibrate_{x.metric}": x.value for x in findings})
    curve = calibration_curve(protocol.outcome.is_event(decided), decided["risk"])
    mlflow.log_figure(calibration_figure(curve), "calibration.png")
    mlflow.log_dict(recipe.to_dict(), RECIPE_FILE)
    return registry.register(estimator, protocol, thresholds, rows, snapshot, trained_by)


def read_rows_of_sites(lake: Lake, protocol: ModelProtocol, snapshot: int) -> list[pl.DataFrame]:
    """The rows of a training set, if the protocol has them compared across sites and there are several; else none."""
    if protocol.transported_across is None:
        return []
    sites = read_training_rows(lake, protocol, snapshot, [protocol.transported_across])
    several = sites[protocol.transported_across].n_unique() > 1
    return [read_training_rows(lake, protocol, snapshot)] if several else []


def measure_transport(protocol: ModelProtocol, rows: pl.DataFrame) -> list[Finding]:
    """What a model that never saw one site reaches there: `transported_<metric>` of every site large enough.

    For each level of the protocol's `transported_across` an estimator is fitted, calibrated and given its thresholds
    on the rows of all others, and measured on the test rows of that level. A level is left out where nothing can be
    learnt without it: that tells nothing of the candidate. Empty where the training set has one level only.
    """
    if protocol.transported_across is None or rows[protocol.transported_across].n_unique() < 2:
        return []
    assessment: Assessment = load_object(protocol.assessment)
    findings: list[Finding] = []
    for level in rows[protocol.transported_across].unique().sort():
        there = pl.col(protocol.transported_across) == level
        test = rows.filter(there, split="test")
        if test.height < protocol.minimum_n:
            continue
        elsewhere = rows.filter(~there)
        try:
            estimator = load_object(protocol.estimator).fit(elsewhere, protocol)
        except LearningError:
            continue
        calibrate = elsewhere.filter(split="calibrate")
        tabulated = calibrate.hstack(assessment.tabulate(estimator.predict(calibrate), protocol))
        thresholds = assessment.choose_thresholds(tabulated, protocol)
        decided = test.hstack(assessment.decide(assessment.tabulate(estimator.predict(test), protocol), thresholds))
        subgroup = f"{protocol.transported_across}={level}"
        findings += [
            replace(x, metric=f"transported_{x.metric}", subgroup=subgroup)
            for x in assessment.measure(decided, protocol, RESAMPLES)
            if x.subgroup == "overall"
        ]
    return findings


def measure_silent_months(
    lake: Lake, registry: Registry, protocol: ModelProtocol, version: ModelVersion
) -> list[Finding]:
    """How many months have arrived since a version was trained, and what it said of them, shown to nobody.

    `silent_months`, and `silent_<metric>` on the rows of these months whose outcomes are known.
    """
    table = f"{protocol.model}.features"
    known = lake.months(table, snapshot=version.lake_snapshot)
    months = [month for month in lake.months(table) if month > known[-1]]
    if not months:
        return [Finding(SILENT_MONTHS, "overall", 0.0, None, None, 0)]
    rows = lake.read(table, months=months)
    scored = rows.hstack(score(registry.load(version, protocol.estimator), rows, version, protocol))
    ripe = scored.filter(pl.col("outcome_known_on") <= last_day(months[-1]))
    assessment: Assessment = load_object(protocol.assessment)
    measured = assessment.measure(ripe, protocol, RESAMPLES) if ripe.height else []
    return [
        Finding(SILENT_MONTHS, "overall", float(len(months)), None, None, scored.height),
        *(replace(x, metric=f"silent_{x.metric}") for x in measured if x.subgroup == "overall"),
    ]


def silent_months_left(findings: Sequence[Finding], protocol: ModelProtocol) -> int:
    """How many silent months a version still has to run."""
    [run] = [finding for finding in findings if finding.metric == SILENT_MONTHS]
    return max(0, protocol.silent_months - int(run.value or 0))


def count_splits(rows: pl.DataFrame, protocol: ModelProtocol) -> pl.DataFrame:
    """Each split of a training set with its rows, patients, events and months."""
    return (
        rows.group_by("split", maintain_order=True)
        .agg(
            pl.len().alias("rows"),
            pl.col(protocol.patient).n_unique().alias("patients"),
            (pl.col(protocol.outcome.column) >= protocol.outcome.event_from).sum().cast(pl.Int64).alias("events"),
            pl.col("month").min().alias("first_month"),
            pl.col("month").max().alias("last_month"),
        )
        .sort(pl.col("split").replace_strict({"train": 0, "calibrate": 1, "test": 2}))
    )


def released_versions(registry: Registry, candidate: ModelVersion) -> dict[str, ModelVersion]:
    """The released versions that the candidate is compared with, by the name a limit gives them; itself never."""
    found = {name: registry.find(candidate.model, name) for name in (CHAMPION, FIRST_RELEASE)}
    return {name: version for name, version in found.items() if version and version.version != candidate.version}


def compare_with_released(
    test: pl.DataFrame, scores: pl.DataFrame, protocol: ModelProtocol, candidate: ModelVersion, registry: Registry
) -> list[Finding]:
    """The candidate minus each released version, on the same test rows, from which no version ever learnt."""
    assessment: Assessment = load_object(protocol.assessment)
    released = released_versions(registry, candidate)
    # The champion is often the first release still.
    others = {
        version: score(registry.load(version, protocol.estimator), test, version, protocol)
        for version in set(released.values())
    }
    findings: list[Finding] = []
    for name, version in released.items():
        findings += assessment.compare(test.hstack(scores), test.hstack(others[version]), name, protocol)
    return findings


def findings_table(findings: Sequence[Finding], version: ModelVersion) -> pl.DataFrame:
    """One row a finding, with the version it is about and the protocol it was measured under."""
    rows = pl.DataFrame([asdict(finding) for finding in findings], schema=FINDING_SCHEMA)
    return rows.select(
        pl.lit(version.version, pl.Int32).alias("version"),
        pl.all(),
        pl.lit(version.protocol_sha256).alias("protocol_sha256"),
        pl.lit(version.data_origin).alias("data_origin"),
        pl.lit(datetime.now(UTC)).alias("created_at"),
    )


def findings_of(evaluation: pl.DataFrame, version: ModelVersion, protocol: ModelProtocol) -> list[Finding]:
    """The findings of one version; raises ProtocolError where they are missing or from another protocol."""
    rows = evaluation.filter(pl.col("version") == version.version)
    if rows.is_empty():
        raise ProtocolError(f"{version.model} version {version.version} was not evaluated; materialise its evaluation")
    refuse_mixed_protocols(protocol, rows["protocol_sha256"].unique(), "evaluation")
    return [Finding(**row) for row in rows.select(*FINDING_SCHEMA).to_dicts()]


def report_table(judged: Sequence[JudgedLimit], version: ModelVersion, report_sha256: str) -> pl.DataFrame:
    """One row a judged limit, with the hash of the report that shows it."""
    rows = [
        {
            "metric": item.limit.metric,
            "subgroup": item.subgroup,
            "limit": item.limit.in_words(),
            "value": item.finding.value if item.finding else None,
            "low": item.finding.low if item.finding else None,
            "high": item.finding.high if item.finding else None,
            "n": item.finding.n if item.finding else None,
            "judgement": item.judgement.value,
            "reason": item.reason,
        }
        for item in judged
    ]
    schema = {
        "metric": pl.String,
        "subgroup": pl.String,
        "limit": pl.String,
        **dict.fromkeys(("value", "low", "high"), pl.Float64),
        "n": pl.Int64,
        "judgement": pl.String,
        "reason": pl.String,
    }
    return pl.DataFrame(rows, schema=schema).select(
        pl.lit(version.version, pl.Int32).alias("version"),
        pl.all(),
        pl.lit(report_sha256).alias("report_sha256"),
        pl.lit(version.artefact_sha256).alias("artefact_sha256"),
        pl.lit(version.protocol_sha256).alias("protocol_sha256"),
        pl.lit(version.data_origin).alias("data_origin"),
        pl.lit(datetime.now(UTC)).alias("created_at"),
    )


def check_sign_offs(
    home: Home, protocol: ModelProtocol, version: ModelVersion, report: pl.DataFrame
) -> list[CheckedSignature]:
    """The signatures on a version, each with what is wrong with it; raises SignatureError where nobody signed."""
    signatures = read_signatures(home.sign_offs, version.model, version.version)
    if not signatures:
        roles = ", ".join(protocol.sign_off.roles)
        raise SignatureError(
            f"nobody has signed {version.model} version {version.version}; it needs {roles}: "
            f"`clinical sign {version.model} {version.version} --role ROLE --decision approve|reject --reason ...`"
        )
    signers = read_signers(home.signer_files)
    return check_signatures(signatures, signers, version, report["report_sha256"][0], protocol, datetime.now(UTC))


def sign_off_table(checked: Sequence[CheckedSignature], version: ModelVersion) -> pl.DataFrame:
    """One row a signature, with the statement's words and whether it counts."""
    rows = [
        asdict(item.signature.statement)
        | {"signature": item.signature.signature, "demo": item.demo, "fault": item.fault or None}
        for item in checked
    ]
    return pl.DataFrame(rows, schema_overrides={"version": pl.Int32, "fault": pl.String}).with_columns(
        pl.col("signed_at").str.to_datetime(time_unit="us", time_zone="UTC"),
        data_origin=pl.lit(version.data_origin),
    )


def reasons_against_release(
    home: Home, protocol: ModelProtocol, version: ModelVersion, report: pl.DataFrame
) -> list[str]:
    """All that forbids the release of a version, read afresh: its findings, its report's file, its signatures."""
    if report.is_empty():
        return ["it has no validation report; materialise its validation_report"]
    refuse_mixed_protocols(protocol, [version.protocol_sha256, *report["protocol_sha256"].unique()], "trained_model")
    blocking = report.filter(pl.col("judgement").is_in([Judgement.FAIL, Judgement.CANNOT_TELL]))
    reasons = [f"{row['metric']} ({row['subgroup']}): {row['reason']}" for row in blocking.iter_rows(named=True)]
    path = home.report(version.model, version.version)
    if not path.is_file() or hash_file(path) != report["report_sha256"][0]:
        reasons.append(
            f"the report {path} is gone or was changed after it was made; materialise validation_report again"
        )
    return reasons + missing_for_release(check_sign_offs(home, protocol, version, report), protocol)
