"""What the assets of development and release fetch and assemble around one candidate version; no asset stands here.

Belongs here: findings to rows and back, the released versions a candidate is compared with, what may not be mixed.
Does not belong here: any measuring or judging.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import polars as pl

from clinical_assets.evaluation import compare
from clinical_assets.governance.signatures import (
    CheckedSignature,
    SignatureError,
    check_signatures,
    missing_for_release,
    read_signatures,
    read_signers,
)
from clinical_assets.learning.scoring import SCORE_COLUMNS, score
from clinical_assets.protocol import Finding, JudgedLimit, Judgement, ModelProtocol, ModelVersion, ProtocolError
from clinical_assets.resources.home import Home, hash_file
from clinical_assets.resources.registry import CHAMPION, FIRST_RELEASE, Registry

FINDING_SCHEMA = {
    "metric": pl.String,
    "subgroup": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}


def refuse_mixed_protocols(protocol: ModelProtocol, recorded: Iterable[str], upstream: str) -> None:
    """Raise ProtocolError where an upstream result was made under another protocol than the one now in force."""
    if others := {digest for digest in recorded if digest != protocol.sha256}:
        raise ProtocolError(
            f"{protocol.model}/{upstream} was made under protocol {', '.join(sorted(x[:12] for x in others))}, now "
            f"{protocol.sha256[:12]} is in force: the protocol was edited in between; materialise "
            f"{protocol.model}/training_set and all that follows again"
        )


def count_splits(rows: pl.DataFrame, protocol: ModelProtocol) -> pl.DataFrame:
    """Each split of a training set with its rows, patients, events and months."""
    return (
        rows.group_by("split", maintain_order=True)
        .agg(
            pl.len().alias("rows"),
            pl.col(protocol.patient).n_unique().alias("patients"),
            pl.col(protocol.outcome.column).sum().cast(pl.Int64).alias("events"),
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
    scored: pl.DataFrame, protocol: ModelProtocol, candidate: ModelVersion, registry: Registry
) -> list[Finding]:
    """The candidate minus each released version, on the same test rows, from which no version ever learnt."""
    findings: list[Finding] = []
    for name, version in released_versions(registry, candidate).items():
        other = score(registry.load(version, protocol.estimator), scored.select(pl.exclude(SCORE_COLUMNS)), version)
        outcome, patient = scored[protocol.outcome.column], scored[protocol.patient]
        findings += compare(outcome, scored["risk"], other["risk"], patient, name)
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


def release_row(
    version: ModelVersion, previous: ModelVersion | None, report: pl.DataFrame, released_at: datetime
) -> pl.DataFrame:
    """The release as a row: which version, in place of which, on which files, report and protocol."""
    return pl.DataFrame(
        {
            "version": version.version,
            "previous_champion": previous.version if previous and previous.version != version.version else None,
            "released_at": released_at,
            "artefact_sha256": version.artefact_sha256,
            "report_sha256": report["report_sha256"][0],
            "protocol_sha256": version.protocol_sha256,
            "trained_through": version.trained_through,
            "training_set_snapshot": version.lake_snapshot,
            "data_origin": version.data_origin,
        },
        schema_overrides={"version": pl.Int32, "previous_champion": pl.Int32},
    )
