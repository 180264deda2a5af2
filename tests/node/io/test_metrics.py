"""What a node shows of itself to Prometheus."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from node.io.metrics import FSYNC_BUCKETS, Metrics

STATUS: dict[str, Any] = {
    "node": "n1",
    "role": "leader",
    "term": 3,
    "leader": "n1",
    "commit_index": 120,
    "applied_index": 119,
    "durable_index": 121,
    "first_index": 5,
    "last_index": 122,
    "digest_agreed_index": None,
    "age_us": 250_000,
    "tier": "fresh",
    "quarantined": None,
    "sessions": 2,
    "commands_applied": 9000,
    "snapshot_index": 100,
    "journal_bytes": 4096,
    "queries_waiting": 1,
    "match_index": {"n2": 118, "n3": 0},
    "storage_stalled": False,
    "uptime_us": 60_000_000,
}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"ridethrough_{name}", labels)


def test_a_status_is_shown_in_seconds_and_in_truths_of_0_and_1() -> None:
    metrics = Metrics("n1", "c0ffee01", process=False)
    metrics.update(STATUS)
    assert value(metrics, "server_info", node="n1", cluster="c0ffee01") == 1
    assert value(metrics, "server_has_leader") == 1
    assert value(metrics, "server_is_leader") == 1
    assert value(metrics, "server_proposals_committed_total") == 120
    assert value(metrics, "server_proposals_applied_total") == 119
    assert value(metrics, "server_commands_applied_total") == 9000
    assert value(metrics, "server_state_age_seconds") == 0.25
    assert value(metrics, "server_quarantined") == 0
    assert value(metrics, "server_fresh") == 1
    assert value(metrics, "server_match_index", peer="n2") == 118
    assert [value(metrics, "server_role", role=role) for role in ("leader", "follower")] == [1, 0]
    assert value(metrics, "server_digest_agreed_index") is None


def test_what_a_status_does_not_say_is_not_shown() -> None:
    metrics = Metrics(process=False)
    assert value(metrics, "server_has_leader") is None, "nothing is known before the first look"
    metrics.update(
        {
            **STATUS,
            "role": "follower",
            "leader": None,
            "age_us": None,
            "quarantined": "differs",
            "tier": "stale",
        }
    )
    assert value(metrics, "server_has_leader") == 0
    assert value(metrics, "server_is_leader") == 0
    assert value(metrics, "server_state_age_seconds") is None
    assert value(metrics, "server_quarantined") == 1
    assert value(metrics, "server_fresh") == 0
    assert value(metrics, "server_match_index", peer="n2") is None


def test_a_leader_counts_once_however_often_it_is_told() -> None:
    metrics = Metrics(process=False)
    for leader, term in [(None, 1), ("n1", 1), ("n1", 1), (None, 2), ("n1", 1), ("n2", 2), ("n2", 3)]:
        metrics.leader(leader, term)
    metrics.event("role", {"role": "follower", "leader": "n2", "term": 3})
    metrics.update({**STATUS, "leader": "n2", "term": 3})
    assert value(metrics, "server_leader_changes_seen_total") == 3


def test_fsyncs_fall_into_etcds_buckets_and_finer_ones() -> None:
    assert FSYNC_BUCKETS[4:] == tuple(0.001 * 2**n for n in range(14))
    metrics = Metrics(process=False)
    for seconds in (0.000_1, 0.003, 20.0):
        metrics.fsync(seconds)
    name = "disk_wal_fsync_duration_seconds"
    assert value(metrics, f"{name}_bucket", le="0.000125") == 1
    assert value(metrics, f"{name}_bucket", le="0.004") == 2
    assert value(metrics, f"{name}_bucket", le="8.192") == 2
    assert value(metrics, f"{name}_count") == 3


def test_events_feed_what_they_have_figures_for() -> None:
    metrics = Metrics(process=False)
    metrics.event("snapshot", {"index": 7, "bytes": 500})
    metrics.event("snapshot", {"index": 9, "bytes": 700})
    metrics.event("diverged", {"node": "n2"})
    metrics.event("installed")
    assert value(metrics, "disk_snapshot_bytes") == 700
    assert value(metrics, "disk_snapshots_total") == 2
    assert value(metrics, "server_divergences_total") == 1
    assert value(metrics, "server_events_total", event="installed") == 1


def test_the_rest_is_noted_as_told() -> None:
    metrics = Metrics(process=False)
    metrics.peer_round_trip("n2", 0.0015)
    metrics.peer_connected("n2", True)
    metrics.clients(4)
    metrics.proposals_failed("not_leader", 3)
    metrics.proposals_pending(17)
    metrics.query("client", "any", "ok", 0.0004)
    assert value(metrics, "network_peer_round_trip_time_seconds_bucket", peer="n2", le="0.0016") == 1
    assert value(metrics, "network_peer_connected", peer="n2") == 1
    assert value(metrics, "network_clients") == 4
    assert value(metrics, "server_proposals_failed_total", reason="not_leader") == 3
    assert value(metrics, "server_proposals_pending") == 17
    assert value(metrics, "queries_total", via="client", consistency="any", outcome="ok") == 1


def test_two_nodes_of_one_process_count_apart() -> None:
    one, other = Metrics(process=False), Metrics(process=False)
    one.fsync(0.001)
    assert value(other, "disk_wal_fsync_duration_seconds_count") == 0


def test_noting_and_rendering_at_the_same_time_lose_nothing() -> None:
    metrics = Metrics(process=False)

    def note() -> None:
        for number in range(2000):
            metrics.fsync(0.001)
            metrics.leader("n1", number)
            metrics.update({**STATUS, "term": number})

    threads = [threading.Thread(target=note) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.render()
    for thread in threads:
        thread.join()
    assert value(metrics, "disk_wal_fsync_duration_seconds_count") == 4000


def _documented() -> list[str]:
    page = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
    return re.findall(r"^\| `(ridethrough_\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("process", [True, False])
def test_the_text_parses_and_the_reference_lists_every_metric(process: bool) -> None:
    metrics = Metrics("n1", "c0ffee01", process=process)
    metrics.update({**STATUS, "digest_agreed_index": 90})
    families = list(text_string_to_metric_families(metrics.render().decode()))
    ours = [
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families
        if family.name.startswith("ridethrough_")
    ]
    assert sorted(ours) == sorted(_documented())
    assert any(family.name.startswith("process_") for family in families) == process
    assert not [family.name for family in families if family.name.endswith("_created")]
