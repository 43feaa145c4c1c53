"""What is different between a candidate and the version released before it, in words.

Belongs here: comparing two versions' protocols, data, thresholds and figures. Does not belong here: whether a
difference matters.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from clinical_assets.governance.small_cells import shown_count
from clinical_assets.protocol import ModelProtocol
from clinical_assets.reporting.evidence.facts import Evidence, VersionFacts, events_in_words
from clinical_assets.reporting.metric_words import MINUS, plural_unit


def difference_in_words(evidence: Evidence) -> str:
    """The difference from the previous release as Markdown; or that there is none to compare with."""
    version, previous = evidence.version, evidence.previous
    lines = [f"# {evidence.protocol.title}: what is new in version {version.version}", ""]
    lines += [f"**{evidence.caution}**", ""] if evidence.caution else []
    if previous is None:
        return "\n".join(
            [*lines, "No version was released when this one was measured: there is nothing to compare with.", ""]
        )
    lines += [f"Compared with version {previous.version.version}, released when this one was measured.", ""]
    parts = {
        "How it was made": _making(evidence, previous),
        "Protocol": _protocols(previous, evidence.protocol),
        "Training data": _data(previous, evidence.candidate),
        "Thresholds": _thresholds(previous, evidence.candidate),
        "On the same test patients": _paired(evidence.candidate),
        "Each on its own test patients": _figures(previous, evidence.candidate),
    }
    for title, told in parts.items():
        lines += [f"## {title}", "", *(f"- {line}" for line in told), ""]
    return "\n".join(lines)


def _making(evidence: Evidence, previous: VersionFacts) -> Iterator[str]:
    yield f"This version was made by: {evidence.made_by.value.replace('_', ' ')}."
    same = evidence.version.artefact_sha256 == previous.version.artefact_sha256
    yield (
        "The model's files are the same, byte by byte; only the threshold may differ."
        if same
        else "The model's files differ: its parameters or its calibration are others."
    )
    before, now = previous.protocol.estimator, evidence.protocol.estimator
    yield f"Estimator: {now}, as before." if before == now else f"Estimator: {now}, before {before}."


def _protocols(previous: VersionFacts, now: ModelProtocol) -> Iterator[str]:
    if not previous.protocol_kept:
        yield f"What differs cannot be told: protocol {previous.version.protocol_sha256} was not kept with its version."
        return
    fields = _flat(previous.protocol.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    changed = [name for name in {**fields[0], **fields[1]} if fields[0].get(name) != fields[1].get(name)]
    if not changed:
        yield "No field differs."
    for name in changed:
        yield f"`{name}`: {_told(fields[0], name)} before, {_told(fields[1], name)} now."


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {name: x for key, part in value.items() for name, x in _flat(part, f"{at}.{key}" if at else key).items()}
    return {at: value}


def _told(fields: Mapping[str, Any], name: str) -> str:
    return f"“{fields[name]}”" if name in fields else "not in the protocol"


def _data(before: VersionFacts, now: VersionFacts) -> Iterator[str]:
    unit = plural_unit(now.protocol)
    for name in ("train", "calibrate", "test"):
        told = [_split(facts, name, unit) for facts in (before, now)]
        yield f"{name}: {told[0]} before, {told[1]} now."
    if before.version.data_origin != now.version.data_origin:
        yield f"data origin: {before.version.data_origin} before, {now.version.data_origin} now."


def _split(facts: VersionFacts, name: str, unit: str) -> str:
    for row in facts.cohort.filter(split=name).iter_rows(named=True):
        months = f"{row['first_month']:%b %Y} to {row['last_month']:%b %Y}"
        return f"{shown_count(row['rows'])} {unit}, {events_in_words(row)} with the outcome, {months}"
    return f"no {unit}"


def _thresholds(before: VersionFacts, now: VersionFacts) -> Iterator[str]:
    for name, value in now.version.thresholds.items():
        earlier = before.version.thresholds.get(name)
        yield f"{name}: {'none' if earlier is None else f'{earlier:.4g}'} before, {value:.4g} now."


def _paired(now: VersionFacts) -> Iterator[str]:
    paired = [x for x in now.findings if MINUS in x.metric]
    if not paired:
        yield "No difference was measured."
    for finding in paired:
        low, high = finding.low, finding.high
        if low is None or high is None:
            yield f"{now.figure(finding)}; without an interval it cannot be told from none."
        else:
            yield f"{now.figure(finding)}: {'its interval holds 0' if low <= 0 <= high else 'its interval excludes 0'}."


def _figures(before: VersionFacts, now: VersionFacts) -> Iterator[str]:
    for finding in now.on_test_rows:
        if finding.subgroup == "overall":
            earlier = before.finding(finding.metric)
            told = "not measured" if earlier is None else before.figure(earlier)
            yield f"{now.figure(finding)} now; {told} before."
