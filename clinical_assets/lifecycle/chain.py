"""The chain of every model, in reading order, as thin Dagster assets; what they call knows no Dagster."""

from clinical_assets.lifecycle import data, development, monitoring, peer_reports, release

CHAIN = [data, development, release, monitoring, peer_reports]
