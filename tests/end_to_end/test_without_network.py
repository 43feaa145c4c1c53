import subprocess
import sys

import pytest
from network_namespace import is_without_route, without_network
from replayed_home import ReplayedHome


def test_the_whole_demonstration_runs_where_there_is_no_route(replayed: ReplayedHome) -> None:
    """`clinical demo`, the daemon, releases, a retraining, a validation; DuckDB and gRPC as well as Python."""
    assert replayed.network is not None
    if replayed.network.why_not:
        pytest.skip(f"{replayed.network.why_not}; run as root, or the tests under `unshare -rn`")
    assert is_without_route(replayed.network)
    assert replayed.champion == 2
    assert replayed.validation.exit_code == 0


def test_nothing_was_refused_on_the_way(replayed: ReplayedHome) -> None:
    """No library even tried: a refused attempt would stand in the audit trail."""
    trail = replayed.home.audit / "audit.jsonl"
    records = trail.read_text().splitlines() if trail.exists() else []
    assert not [record for record in records if '"reason":"outbound connection"' in record]


def test_in_such_a_network_there_is_loopback_and_no_other_way() -> None:
    with without_network() as network:
        if network.why_not:
            pytest.skip(network.why_not)
        assert is_without_route(network)
        loopback = (
            "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname(), 5)"
        )
        assert subprocess.run([sys.executable, "-c", loopback], check=False).returncode == 0
    with without_network() as again:
        assert is_without_route(again)
