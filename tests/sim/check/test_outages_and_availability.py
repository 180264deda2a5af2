from __future__ import annotations

import pytest

from sim.check.availability import failure, percentiles, rank_availability, rates, write_outages
from sim.check.history import Operation

MS = 1000


def writes(ack_ms: list[float], invoke_ms: list[float] | None = None) -> list[Operation]:
    """A write acknowledged at each of these instants; further ones invoked and never acknowledged."""
    made = [
        Operation("write", "c", int((t - 1) * MS), int(t * MS), "ok", session=1, seq=i, index=i, place=0)
        for i, t in enumerate(ack_ms, 1)
    ]
    return made + [
        Operation("write", "c", int(t * MS), None, "unknown", session=1, seq=0) for t in invoke_ms or []
    ]


def gaps(operations: list[Operation], cuts_ms: list[int], end_ms: int | None = None) -> list[float]:
    cuts = [cut * MS for cut in cuts_ms]
    return [o.gap_ms for o in write_outages(operations, cuts, None if end_ms is None else end_ms * MS)]


def test_a_gap_counts_from_the_cut_on_not_from_the_acknowledgement_before() -> None:
    assert gaps(writes([10, 20, 90, 100, 110]), [30]) == [60]


def test_the_longest_gap_of_the_window_counts_not_the_first() -> None:
    assert gaps(writes([10, 20, 31, 32, 182, 190]), [30]) == [150]


def test_each_cut_has_its_own_window_and_a_gap_over_two_cuts_counts_to_both() -> None:
    assert gaps(writes([10, 60, 70, 80, 100, 110]), [20, 75]) == [40, 20]
    assert gaps(writes([10, 200, 210]), [20, 75]) == [180, 125]


def test_writes_that_never_come_back_are_an_outage_without_end() -> None:
    operations = writes([10, 20], invoke_ms=[50, 900])
    (outage,) = write_outages(operations, [30 * MS])
    assert (outage.gap_ms, outage.ended) == (870, False)


def test_a_silence_at_the_end_of_the_load_is_seen_behind_a_short_gap() -> None:
    (outage,) = write_outages(writes([10, 35], invoke_ms=[600]), [30 * MS])
    assert (outage.gap_ms, outage.ended) == (565, False)


def test_the_load_offered_around_a_cut_is_counted() -> None:
    (outage,) = write_outages(writes([10 * i for i in range(1, 101)]), [500 * MS])
    assert outage.offered_per_s == pytest.approx(100, rel=0.05)
    (idle,) = write_outages([], [500 * MS])
    assert (idle.gap_ms, idle.offered_per_s) == (0, 0)


def test_cuts_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="order of time"):
        write_outages([], [2, 1])


def rank(
    took_ms: float, outcome: str = "ok", source: str | None = "model", tier: str | None = "fresh"
) -> Operation:
    return Operation(
        "query", "q", 0, int(took_ms * MS), outcome, consistency="any", source=source, tier=tier, node="n1"
    )


def test_a_rank_request_fails_if_late_unanswered_or_answered_by_no_model() -> None:
    assert failure(rank(500)) is None
    assert failure(rank(500.1)) == "slower than 500 ms"
    assert failure(rank(1, source="popularity", tier="popularity")) == "answered by popularity"
    assert failure(rank(1, outcome="failed")) == "failed"


def test_availability_counts_every_request_once_by_tier_and_reason() -> None:
    found = rank_availability(
        [
            rank(1),
            rank(2, tier="stale"),
            rank(900),
            rank(3, "failed", None, None),
            rank(4, source="static", tier="static"),
        ],
        {"n1": "east"},
    )
    assert (found.requests, found.failed) == (5, 3)
    assert found.by_tier == {"fresh": 2, "none": 1, "stale": 1, "static": 1}
    assert found.failed_by_reason == {"answered by static": 1, "failed": 1, "slower than 500 ms": 1}
    assert found.by_domain == {"east": 4}
    assert found.latency_us["max"] == 900 * MS
    assert len(found.examples) == 3


def test_percentiles_are_values_that_occurred() -> None:
    assert percentiles(range(1, 101)) == {"p50": 50, "p90": 90, "p99": 99, "p999": 100, "max": 100}
    assert percentiles([7]) == dict.fromkeys(("p50", "p90", "p99", "p999", "max"), 7)
    assert percentiles([]) == {}


def test_rates_sum_to_the_events_within_the_range() -> None:
    begins, per_second = rates([0, 1, 250_000, 999_999, 5_000_000], 0, 1_000_000, 250_000)
    assert begins[:4] == [0, 250_000, 500_000, 750_000]
    assert per_second[:4] == [8, 4, 0, 4]
