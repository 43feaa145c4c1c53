"""Rules and boards speak of series that there are, hold no limit, and are what the commands write."""

import json
import re

import pytest
import yaml

from clinical_assets.metrics.boards import boards
from clinical_assets.metrics.monitoring_files import RULES, board_files, rule_files
from clinical_assets.metrics.rules import alerts_of, platform_alerts
from clinical_assets.metrics.series import FAMILIES, shown_name
from clinical_assets.protocol import ModelProtocol, protocol_names, read_protocol
from clinical_assets.resources.home import PROJECT

PROTOCOLS = [read_protocol(model) for model in protocol_names()]
EXPORTER = "127.0.0.1:9464"
NAMES = {shown_name(family): family for family in FAMILIES}
OF_PROMETHEUS = {"up", "ALERTS"}


def conditions(protocols: list[ModelProtocol]) -> dict[str, str]:
    alerts = [*platform_alerts(), *(alert for protocol in protocols for alert in alerts_of(protocol))]
    return {f"{alert.name} {place}": alert.condition for place, alert in enumerate(alerts)}


def without_texts(expression: str) -> str:
    return re.sub(r'"[^"]*"', '""', expression)


def test_the_files_in_the_repository_are_what_the_commands_write() -> None:
    for name, text in (rule_files(PROTOCOLS, EXPORTER) | board_files(PROTOCOLS)).items():
        assert (PROJECT / "deploy" / "monitoring" / name).read_text() == text, f"{name}: run `clinical metrics rules`"


@pytest.mark.parametrize("condition", conditions(PROTOCOLS).values(), ids=conditions(PROTOCOLS).keys())
def test_no_rule_holds_a_limit(condition: str) -> None:
    assert set(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", without_texts(condition))) <= {"0", "1"}


def asked() -> list[tuple[str, str]]:
    of_panels = [
        (f"{board.name}: {panel.title}", query.expression)
        for board in boards(PROTOCOLS)
        for panel in board.panels
        for query in panel.queries
    ]
    return [*conditions(PROTOCOLS).items(), *of_panels]


@pytest.mark.parametrize(("where", "expression"), asked(), ids=[where for where, _ in asked()])
def test_rules_and_panels_ask_for_series_and_labels_that_there_are(where: str, expression: str) -> None:
    bare = without_texts(expression)
    names = set(re.findall(r"\b(?:clinical|dagster)_\w+", bare)) | (set(re.findall(r"\b\w+", bare)) & OF_PROMETHEUS)
    assert names, where
    assert names <= NAMES.keys() | OF_PROMETHEUS
    for name, chosen in re.findall(r"\b((?:clinical|dagster)_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)(?:=~|!=|!~|=)", without_texts(chosen))) <= set(NAMES[name].labels)


def test_every_alert_says_what_to_do_in_a_command_that_there_is() -> None:
    verbs = re.compile(r"(clinical|make) \w+")
    for alert in (*platform_alerts(), *(alert for protocol in PROTOCOLS for alert in alerts_of(protocol))):
        assert verbs.match(alert.command), alert.name
        assert alert.action.endswith(".")


def test_a_protocols_own_limits_bring_their_rules() -> None:
    names = {alert.name for alert in alerts_of(read_protocol("readmission"))}
    assert {"ClinicalMetricBelowLimit", "ClinicalMetricAboveLimit", "ClinicalSubgroupBelowLimit"} <= names
    assert not names & {"ClinicalSubgroupAboveLimit", "ClinicalRollbackFloor", "ClinicalReleaseExpiring"}
    guarded = {"rollback_guard": {"metric": "auroc", "at_least": 0.6}, "release_valid_days": 90}
    more = ModelProtocol.model_validate(read_protocol("readmission").model_dump() | guarded)
    assert {"ClinicalRollbackFloor", "ClinicalReleaseExpiring"} <= {alert.name for alert in alerts_of(more)}


def test_no_rule_stands_twice_and_each_of_a_model_names_it() -> None:
    groups = yaml.safe_load(rule_files(PROTOCOLS, EXPORTER)[RULES])["groups"]
    rules = [(rule["alert"], rule["labels"].get("model")) for group in groups for rule in group["rules"]]
    assert len(set(rules)) == len(rules)
    assert {model for _, model in rules} == {None, *protocol_names()}


def test_panels_of_a_board_lie_side_by_side_and_none_over_another() -> None:
    for text in board_files(PROTOCOLS).values():
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(text)["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken
            assert max(x for x, _ in cells) < 24
            taken |= cells
