"""Under Dagster+: whether the platform may be loaded there at all, and the one host it may then speak to.

Belongs here: what must hold of a deployment, by its environment. Does not belong here: what is reported
(outward_gate.py), and the guard of connections (governance/outbound.py).
"""

from collections.abc import Iterable, Mapping

from clinical_assets.protocol import ModelProtocol

DEPLOYMENT = "DAGSTER_CLOUD_DEPLOYMENT_NAME"
"""Set by Dagster+ in every process that it starts, Hybrid and Serverless alike."""
SERVERLESS = "DAGSTER_CLOUD_SERVERLESS_"
REDACTION = "DAGSTER_REDACT_USER_CODE_ERRORS"
KIND, HYBRID = "CLINICAL_DAGSTER_PLUS", "hybrid"
AGENT = "CLINICAL_DAGSTER_PLUS_AGENT"


class DeploymentError(RuntimeError):
    """The platform may not run where it was deployed; the message says why, and the remedy."""


def refuse_unfit_deployment(environment: Mapping[str, str], protocols: Iterable[ModelProtocol]) -> None:
    """Raise DeploymentError where Dagster+ runs a model in production elsewhere than in the hospital, or unredacted.

    Serverless runs code and keeps its rows at Dagster's; what is not said to be Hybrid counts as Serverless.
    """
    if DEPLOYMENT not in environment:
        return
    at_home = environment.get(KIND) == HYBRID and not any(name.startswith(SERVERLESS) for name in environment)
    production = [protocol.model for protocol in protocols if protocol.environment == "production"]
    if production and not at_home:
        raise DeploymentError(
            f"Dagster+ Serverless may not run {', '.join(production)}: environment: production in its protocol means "
            f"that rows of patients stay in the hospital; deploy Hybrid, and set {KIND}={HYBRID} there"
        )
    if environment.get(REDACTION, "").lower() not in ("1", "true", "t"):
        raise DeploymentError(
            f"under Dagster+ the text of an error would leave the hospital; set {REDACTION}=1 in container_context.yaml"
        )


def agent_hosts(environment: Mapping[str, str]) -> list[str]:
    """The host of Dagster+ that a process of a Hybrid deployment may connect to; none elsewhere."""
    said = environment.get(AGENT, "").strip()
    if DEPLOYMENT not in environment or not said:
        return []
    return [said.removeprefix("https://").partition("/")[0].partition(":")[0]]
