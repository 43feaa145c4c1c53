import re
from pathlib import Path

import pytest
import yaml
from dagster_cloud_cli.config.models import load_dagster_cloud_yaml

from clinical_assets.protocol import ModelProtocol, protocol_names, read_protocol
from clinical_assets.resources.dagster_plus import DeploymentError, agent_hosts, refuse_unfit_deployment
from clinical_assets.resources.home import PROJECT

PLUS = {"DAGSTER_CLOUD_DEPLOYMENT_NAME": "prod", "DAGSTER_REDACT_USER_CODE_ERRORS": "1"}
HYBRID = {**PLUS, "CLINICAL_DAGSTER_PLUS": "hybrid"}
CONTEXT = yaml.safe_load((PROJECT / "container_context.yaml").read_text())


@pytest.fixture
def in_production() -> list[ModelProtocol]:
    return [read_protocol(name).model_copy(update={"environment": "production"}) for name in protocol_names()[:1]]


@pytest.mark.parametrize("environment", [PLUS, {**HYBRID, "DAGSTER_CLOUD_SERVERLESS_REGION": "us-west-2"}])
def test_serverless_refuses_a_model_in_production_by_its_name(
    environment: dict[str, str], in_production: list[ModelProtocol]
) -> None:
    with pytest.raises(DeploymentError, match=f"Serverless may not run {in_production[0].model}:"):
        refuse_unfit_deployment(environment, in_production)


def test_hybrid_runs_production_and_serverless_a_demonstration(in_production: list[ModelProtocol]) -> None:
    refuse_unfit_deployment(HYBRID, in_production)
    refuse_unfit_deployment(PLUS, [read_protocol(name) for name in protocol_names()])


def test_where_dagster_plus_is_not_nothing_is_asked(in_production: list[ModelProtocol]) -> None:
    refuse_unfit_deployment({}, in_production)
    assert agent_hosts({"CLINICAL_DAGSTER_PLUS_AGENT": "hospital.agent.dagster.cloud"}) == []


def test_without_redaction_of_errors_nothing_is_loaded(in_production: list[ModelProtocol]) -> None:
    with pytest.raises(DeploymentError, match="DAGSTER_REDACT_USER_CODE_ERRORS=1"):
        refuse_unfit_deployment({**HYBRID, "DAGSTER_REDACT_USER_CODE_ERRORS": "0"}, in_production)


@pytest.mark.parametrize("said", ["hospital.agent.dagster.cloud", "https://hospital.agent.dagster.cloud:443/graphql"])
def test_the_agent_s_host_and_no_other_is_allowed(said: str) -> None:
    assert agent_hosts({**HYBRID, "CLINICAL_DAGSTER_PLUS_AGENT": said}) == ["hospital.agent.dagster.cloud"]
    assert agent_hosts(HYBRID) == []


def test_what_the_pods_are_given_is_a_deployment_that_may_be_loaded(in_production: list[ModelProtocol]) -> None:
    given = dict(pair.split("=", 1) for pair in CONTEXT["k8s"]["env_vars"])
    refuse_unfit_deployment({"DAGSTER_CLOUD_DEPLOYMENT_NAME": "prod", **given}, in_production)
    assert agent_hosts({"DAGSTER_CLOUD_DEPLOYMENT_NAME": "prod", **given}) == ["hospital.agent.dagster.cloud"]


def test_the_older_and_the_newer_files_say_the_same() -> None:
    [location] = load_dagster_cloud_yaml((PROJECT / "dagster_cloud.yaml").read_text()).locations
    build = yaml.safe_load((PROJECT / "build.yaml").read_text())
    assert location.container_context == CONTEXT
    assert location.build is not None
    assert location.build.model_dump() == build


def test_the_image_holds_the_agent_s_package_of_the_locked_dagster_and_nothing_of_a_home() -> None:
    recipe = (PROJECT / "deploy" / "dagster_plus" / "Dockerfile").read_text()
    lock = (PROJECT / "requirements.lock").read_text().splitlines()
    locked = dict(line.split(" ")[0].split("==") for line in lock if re.match(r"[a-z]", line))
    assert f"dagster-cloud=={locked['dagster']}" in recipe
    copied = [name for line in recipe.splitlines() if line.startswith("COPY") for name in line.split()[1:-1]]
    assert all((PROJECT / Path(name)).exists() for name in copied)
    assert "data" not in copied
