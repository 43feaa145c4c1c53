"""The files that Prometheus, Alertmanager and Grafana read, as texts by name.

Belongs here: their names and formats. Does not belong here: what is alerted and shown (rules.py, boards.py), and the
writing to a disk.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from clinical_assets.governance.incidents import Severity
from clinical_assets.metrics.boards import board_json, boards
from clinical_assets.metrics.rules import JOB, rule_groups
from clinical_assets.protocol import ModelProtocol

RULES = "clinical.rules.yml"
PROMETHEUS, ALERTMANAGER = "prometheus.yml", "alertmanager.yml"
BOARDS = "grafana"

_MADE = "# Made by `clinical metrics rules` from the protocols; change those, or the command, and make it again.\n"
_EXAMPLE = "# An example, made by `clinical metrics rules`: copy it, and put in your own addresses.\n"
_SCRAPED, _JUDGED = "5s", "5s"


def rule_files(protocols: Sequence[ModelProtocol], exporter: str) -> dict[str, str]:
    """The alert rules, and examples of what scrapes and what tells people; `exporter` is HOST:PORT."""
    return {
        RULES: _MADE + _yaml(rule_groups(protocols)),
        PROMETHEUS: _EXAMPLE + _yaml(scrape_config(exporter)),
        ALERTMANAGER: _EXAMPLE + _yaml(alertmanager_config()),
    }


def board_files(protocols: Sequence[ModelProtocol]) -> dict[str, str]:
    """Every board as JSON."""
    return {
        f"{BOARDS}/{board.name}.json": json.dumps(board_json(board), indent=2, ensure_ascii=False) + "\n"
        for board in boards(protocols)
    }


def scrape_config(
    exporter: str, alertmanager: str = "127.0.0.1:9093", rules: str = f"/etc/prometheus/{RULES}"
) -> dict[str, Any]:
    """What Prometheus scrapes and where it sends alerts.

    With a scrape and a judgement every five seconds, and figures that are kept for five, a fault is told within half a
    minute of the materialisation that says so.
    """
    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": _JUDGED},
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [{"job_name": JOB, "scrape_interval": _SCRAPED, "static_configs": [{"targets": [exporter]}]}],
    }


def alertmanager_config(webhook: str = "http://127.0.0.1:9095/alerts") -> dict[str, Any]:
    """Who is told of which alert: all go to one webhook here, those that cannot wait more often."""
    return {
        "route": {
            "receiver": "on-call",
            "group_by": ["alertname", "instance", "model"],
            "group_wait": "5s",
            "group_interval": "1m",
            "repeat_interval": "12h",
            "routes": [
                {
                    "matchers": [f'severity = "{Severity.AT_ONCE}"'],
                    "receiver": "on-call",
                    "repeat_interval": "1h",
                }
            ],
        },
        "receivers": [{"name": "on-call", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
        "inhibit_rules": [
            {
                # Figures that are old tell of nothing new.
                "source_matchers": ['alertname = "ClinicalExporterSilent"'],
                "target_matchers": ['alertname = "ClinicalExporterFailing"'],
                "equal": ["instance"],
            }
        ],
    }


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, width=120, allow_unicode=True)
