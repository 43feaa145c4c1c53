"""Prometheus's own promtool on the rules: each alert fires in its situation, in no other, and none when all is well."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rule_situations import BARELY, SITUATIONS, Series, all_is_well, promtool_test

from clinical_assets.metrics.monitoring_files import (
    ALERTMANAGER,
    RULES,
    alertmanager_config,
    rule_files,
    scrape_config,
)
from clinical_assets.metrics.rules import alerts_of, platform_alerts
from clinical_assets.protocol import ModelProtocol, protocol_names, read_protocol
from clinical_assets.resources.home import PROJECT

Program = Callable[[str], str]

EVERY_KIND_OF_LIMIT = {
    "acceptance": [
        {"metric": "auroc", "at_least": 0.65},
        {"metric": "brier", "at_most": 0.5},
        {"metric": "ppv", "at_least": 0.1, "at_most": 0.9, "in_every_subgroup": True},
        {"metric": "auroc", "not_worse_than": "champion", "by": 0.02},
    ],
    "rollback_guard": {"metric": "sensitivity", "at_least": 0.3},
    "release_valid_days": 90,
}


@pytest.fixture(scope="module")
def protocol() -> ModelProtocol:
    """A protocol that asks for every kind of limit there is."""
    return ModelProtocol.model_validate(read_protocol(protocol_names()[0]).model_dump() | EVERY_KIND_OF_LIMIT)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def promtool(
    program: Program, folder: Path, protocol: ModelProtocol, changes: Series, alerts: list[tuple[str, str]]
) -> None:
    (folder / RULES).write_text(rule_files([protocol], "home")[RULES])
    tests = {
        "rule_files": [RULES],
        "evaluation_interval": "1m",
        "tests": [promtool_test(RULES, protocol, changes, alerts)],
    }
    (folder / "tests.yml").write_text(yaml.safe_dump(tests))
    run(program("promtool"), "test", "rules", str(folder / "tests.yml"))


def test_every_alert_has_a_situation(protocol: ModelProtocol) -> None:
    assert {alert.name for alert in (*platform_alerts(), *alerts_of(protocol))} == SITUATIONS.keys()


@pytest.mark.parametrize("alert", SITUATIONS)
def test_each_alert_fires_in_its_situation_and_no_other_with_it(
    alert: str, protocol: ModelProtocol, program: Program, tmp_path: Path
) -> None:
    own = {x.name for x in alerts_of(protocol)}
    names_model = alert in own or "Incident" in alert
    fired = [(alert, protocol.model if names_model else "")]
    promtool(program, tmp_path, protocol, SITUATIONS[alert](protocol), fired)


def test_none_fires_when_all_is_well(protocol: ModelProtocol, program: Program, tmp_path: Path) -> None:
    promtool(program, tmp_path, protocol, {}, [])


@pytest.mark.parametrize("situation", BARELY)
def test_none_fires_where_nothing_is_shown_to_be_wrong(
    situation: str, protocol: ModelProtocol, program: Program, tmp_path: Path
) -> None:
    promtool(program, tmp_path, protocol, BARELY[situation](protocol), [])


def test_an_exporter_that_is_not_there_at_all_is_told(
    protocol: ModelProtocol, program: Program, tmp_path: Path
) -> None:
    gone: Series = {'up{instance="home",job="clinical"}': None}
    promtool(program, tmp_path, protocol, gone, [("ClinicalExporterSilent", "")])


def test_two_platforms_in_one_prometheus_are_told_apart(
    protocol: ModelProtocol, program: Program, tmp_path: Path
) -> None:
    well = all_is_well(protocol).items()
    other: Series = {name.replace('instance="home"', 'instance="other"'): value for name, value in well}
    below = other | SITUATIONS["ClinicalMetricBelowLimit"](protocol)
    promtool(program, tmp_path, protocol, below, [("ClinicalMetricBelowLimit", protocol.model)])


def test_the_files_of_the_repository_pass_the_programs_own_checks(program: Program, tmp_path: Path) -> None:
    files = PROJECT / "deploy" / "monitoring"
    assert "SUCCESS" in run(program("promtool"), "check", "rules", str(files / RULES))
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(scrape_config("127.0.0.1:9464", rules=str(files / RULES))))
    run(program("promtool"), "check", "config", str(config))
    run(program("amtool"), "check-config", str(files / ALERTMANAGER))
    assert yaml.safe_load((files / ALERTMANAGER).read_text()) == alertmanager_config()
