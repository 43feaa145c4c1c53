"""The one sensor of a model: it looks whether anything is new, and only then asks its questions.

Belongs here: when a look is more than a glance, what of it is remembered, and how answers become runs and incidents.
Does not belong here: the questions (questions/), their facts (model_facts.py), and the flow of months (months_flow.py).

A glance on which nothing is new makes one query on Dagster's event log and reads the times of a few files. It opens
neither the lake nor the registry.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from clinical_assets.governance.incidents import Breach, Cause
from clinical_assets.lifecycle.alias_check import look_at_champion
from clinical_assets.lifecycle.asking_again import EarlierRun, earlier_runs, key_of_attempt, next_attempt
from clinical_assets.lifecycle.automation import ASSETS, WaitingCandidate
from clinical_assets.lifecycle.champion_move import Platform, intent_path
from clinical_assets.lifecycle.event_index import NewEvents, new_events, runs_of
from clinical_assets.lifecycle.incidents import MODEL, open_incident
from clinical_assets.lifecycle.intervals import LONGEST_PAUSE_SECONDS, SECONDS_BETWEEN_COMPARISONS, sensor_seconds
from clinical_assets.lifecycle.model_facts import NewReports, read_facts, time_of, time_of_signatures
from clinical_assets.lifecycle.questions.answer import Answer, Request
from clinical_assets.lifecycle.questions.breaches import anything_breached
from clinical_assets.lifecycle.questions.facts import ModelFacts
from clinical_assets.lifecycle.questions.floor_broken import floor_broken
from clinical_assets.lifecycle.questions.rejection_to_record import rejection_to_record
from clinical_assets.lifecycle.questions.release_signed import release_signed
from clinical_assets.lifecycle.questions.repair_due import repair_due
from clinical_assets.lifecycle.questions.silent_month_due import silent_month_due
from clinical_assets.monitoring.repair_request import RepairNotice
from clinical_assets.protocol import ModelProtocol
from clinical_assets.resources.lake_io_manager import LakeResource
from clinical_assets.resources.platform import HomeResource, RegistryResource

QUESTIONS: tuple[Callable[[ModelFacts], Answer], ...] = (
    repair_due,
    silent_month_due,
    release_signed,
    rejection_to_record,
    anything_breached,
    floor_broken,
)
REPORTS = ("repair_plan", "drift_report", "performance_report")
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the sensor remembers from look to look; its cursor.

    `events` is the newest event of the platform that was looked at, `reports` the newest of each report, `pending` the
    repair notices that no repair has met yet, `signatures` the time of the folder of signatures on `candidate`,
    `compared` the times of the files of ledger and registry when they were compared, `mismatch` what people were told
    of, `again_at` when a run that failed is asked for again, `said` the answers of the last look by question.
    """

    events: int = 0
    reports: Mapping[str, int] = field(default_factory=dict)
    pending: tuple[RepairNotice, ...] = ()
    candidate: int = 0
    signatures: int = 0
    thorough_at: datetime = NEVER
    compared: str = ""
    compared_at: datetime = NEVER
    expires_at: datetime | None = None
    mismatch: str = ""
    again_at: datetime | None = None
    said: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, cursor: str | None) -> "Seen":
        """From a cursor; nothing was seen where there is none, or a person has written another."""
        try:
            return _SEEN.validate_json(cursor or "{}")
        except ValidationError:
            return cls()

    def written(self) -> str:
        """As a cursor."""
        return _SEEN.dump_json(self).decode()


_SEEN = TypeAdapter(Seen)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look led to: runs to ask for, what is remembered, and the answers in words."""

    requests: tuple[dg.RunRequest, ...]
    seen: Seen
    reason: str

    @property
    def result(self) -> dg.SensorResult:
        """As Dagster takes it."""
        if self.requests:
            return dg.SensorResult(run_requests=list(self.requests), cursor=self.seen.written())
        return dg.SensorResult(skip_reason=dg.SkipReason(self.reason), cursor=self.seen.written())


def watch_name(model: str) -> str:
    """The name of a model's sensor."""
    return f"{model}_watch"


def model_watch(protocol: ModelProtocol, jobs: Sequence[Any]) -> dg.SensorDefinition:
    """The sensor that watches a model's reports, signatures, ledger and champion; `jobs` are all of the model's."""
    model = protocol.model

    @dg.sensor(
        name=watch_name(model),
        jobs=list(jobs),
        minimum_interval_seconds=sensor_seconds(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Watches {model}: asks for repairs, silent runs, signed releases, records of rejections and what "
        "is due about the champion; opens incidents for breaches and where the champion is not the ledger's.",
    )
    def sensor(
        context: dg.SensorEvaluationContext, home: HomeResource, lake: LakeResource, registry: RegistryResource
    ) -> dg.SensorResult:
        at = Platform(home.open(), lake.open(), registry.open(), context.instance)
        return look(at, protocol, Seen.read(context.cursor), datetime.now(UTC)).result

    return sensor


def look(at: Platform, protocol: ModelProtocol, seen: Seen, now: datetime) -> Look:
    """One look at a model; a glance where nothing is new.

    Raises what kept a question from being answered, where no other asks for a run; the next look then asks all again.
    """
    keys = [dg.AssetKey([protocol.model, asset]) for asset in ASSETS]
    news = new_events(at.instance, keys, seen.events)
    champion_due = _champion_is_due(at, protocol, seen, news, now)
    if not (champion_due or _questions_are_due(at, protocol, seen, news, now)):
        waits = _in_words(seen.said)
        unchanged = replace(seen, events=news.newest)
        return Look((), unchanged, f"nothing new of {protocol.model} since the last look: {waits}")
    asked = Asked(at, protocol, now)
    found = replace(seen, events=news.newest, again_at=None)
    if champion_due:
        found = _look_at_champion(asked, found)
    if _questions_are_due(at, protocol, seen, news, now):
        found = ask_questions(asked, found)
    if asked.errors and not asked.requests:
        raise asked.errors[0]
    found = replace(
        found,
        again_at=min(asked.again_at, default=None),
        # What was not answered is asked again at the next look.
        events=seen.events if asked.errors else found.events,
        said={**found.said, **asked.said},
    )
    return Look(tuple(asked.requests), found, _in_words(asked.said))


def _in_words(said: Mapping[str, str]) -> str:
    """Answers as one line, each once: that there is no candidate is the answer of three questions."""
    return "; ".join(dict.fromkeys(said.values()))


def _questions_are_due(at: Platform, protocol: ModelProtocol, seen: Seen, news: NewEvents, now: datetime) -> bool:
    return (
        bool(news.materialised)
        or now - seen.thorough_at >= timedelta(seconds=LONGEST_PAUSE_SECONDS)
        or (seen.again_at is not None and now >= seen.again_at)
        or time_of_signatures(at.home, protocol.model, seen.candidate) != seen.signatures
        or bool(news.ended and runs_of(at.instance, news.ended, protocol.model))
    )


def _champion_is_due(at: Platform, protocol: ModelProtocol, seen: Seen, news: NewEvents, now: datetime) -> bool:
    since = (now - seen.compared_at).total_seconds()
    return (
        "release" in news.materialised
        or intent_path(at.home, protocol.model).exists()
        or (seen.expires_at is not None and now >= seen.expires_at)
        or (since >= SECONDS_BETWEEN_COMPARISONS and _times_of_stores(at) != seen.compared)
        or since >= LONGEST_PAUSE_SECONDS
    )


class Asked:
    """What the answers of one look add up to: runs, when to look again, words, and what went wrong."""

    def __init__(self, at: Platform, protocol: ModelProtocol, now: datetime) -> None:
        self.at, self.protocol, self.now = at, protocol, now
        self.requests: list[dg.RunRequest] = []
        self.again_at: list[datetime] = []
        self.said: dict[str, str] = {}
        self.errors: list[Exception] = []

    def take(self, name: str, answer: Answer) -> None:
        """Open the incidents of an answer, and ask for its run, where it is due."""
        for breach in answer.breaches:
            open_incident(self.at.lake, self.at.home, breach)
        self.said[name] = answer.reason
        if request := answer.request:
            self._ask(name, request, answer.reason)

    def _ask(self, name: str, request: Request, reason: str) -> None:
        tags = {MODEL: self.protocol.model, **request.tags}
        if request.counts_attempts:
            self.requests.append(dg.RunRequest(run_key=request.key, job_name=request.job, tags=tags))
            return
        attempt = next_attempt(earlier_runs(self.at.instance, request.key), self.now)
        if attempt.again_at:
            self.again_at.append(attempt.again_at)
        if attempt.given_up:
            open_incident(self.at.lake, self.at.home, self._given_up(request, reason, attempt.given_up, attempt.reason))
        if attempt.reason:
            self.said[name] = f"{reason}: {attempt.reason}"
        if attempt.number is not None:
            key = key_of_attempt(request.key, attempt.number)
            self.requests.append(dg.RunRequest(run_key=key, job_name=request.job, tags=tags))

    def _given_up(self, request: Request, reason: str, last: EarlierRun, why: str) -> Breach:
        return Breach(
            self.protocol.model,
            Cause.FAILED_RUN,
            subject=f"{request.job}|given up",
            what=f"{request.job}: {why}; {reason}",
            run_id=last.run_id,
            job=request.job,
            step="none",
            seen_at=last.ended_at or self.now,
        )


def ask_questions(asked: Asked, seen: Seen) -> Seen:
    """Ask every question once; what was seen is unchanged where one could not be answered."""
    at, protocol = asked.at, asked.protocol
    reports = {x: NewReports.of(at.instance, protocol.model, x, seen.reports.get(x, 0)) for x in REPORTS}
    facts = read_facts(at, protocol, {asset: report.entries for asset, report in reports.items()}, seen.pending)
    pending = seen.pending
    for question in QUESTIONS:
        try:
            answer = question(facts)
            asked.take(question.__name__, answer)
        except Exception as error:  # noqa: BLE001 - one question that cannot be answered keeps no other from its turn
            asked.errors.append(error)
            asked.said[question.__name__] = f"{question.__name__} was not answered: {type(error).__name__}: {error}"
            continue
        if question is repair_due:
            pending = answer.pending
    version = facts.candidate.version if isinstance(facts.candidate, WaitingCandidate) else 0
    if asked.errors:
        return seen
    if any(report.more for report in reports.values()):
        asked.again_at.append(asked.now)
    return replace(
        seen,
        reports={asset: report.seen for asset, report in reports.items()},
        pending=pending,
        candidate=version,
        signatures=facts.signatures_changed,
        thorough_at=asked.now,
    )


def _look_at_champion(asked: Asked, seen: Seen) -> Seen:
    at, compared = asked.at, _times_of_stores(asked.at)
    try:
        found = look_at_champion(at, asked.protocol, seen.mismatch, asked.now)
        asked.take("champion", Answer(found.reason, found.request))
    except Exception as error:  # noqa: BLE001 - nor does the champion
        asked.errors.append(error)
        asked.said["champion"] = f"the champion was not compared: {type(error).__name__}: {error}"
        return seen
    return replace(seen, compared=compared, compared_at=asked.now, expires_at=found.expires_at, mismatch=found.told)


def _times_of_stores(at: Platform) -> str:
    """The times of the files in which ledger and registry lie; empty where they lie in no file of this machine."""
    registry = at.registry.uri.removeprefix("sqlite:///")
    files = [Path(x) for x in (at.lake.catalogue, registry) if "://" not in x and not x.startswith("postgres:")]
    with_journals: Iterable[Path] = (y for x in files for y in (x, x.with_name(f"{x.name}-wal")))
    return " ".join(str(time_of(x)) for x in with_journals)
