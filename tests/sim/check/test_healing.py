"""Progress while a fault lasts and after it was healed: what is counted, and what is a failure."""

from __future__ import annotations

import pytest

from sim.check.healing import Window, check_progress_after, check_progress_during, longest_gap, time_to_first
from sim.check.history import Operation

S = 1_000_000
BOUND = 3 * S


def acks(*seconds: float) -> list[Operation]:
    """Writes acknowledged at these seconds."""
    return [
        Operation("write", "c", int(at * S) - 10, int(at * S), "ok", 1, seq, seq, 0, command=b"", result=b"")
        for seq, at in enumerate(seconds, 1)
    ]


def window(begin: float, end: float, progress: bool = True, name: str = "fault 1") -> Window:
    return Window(name, int(begin * S), int(end * S), progress)


def test_the_longest_gap_begins_with_the_fault_and_ends_with_its_heal() -> None:
    times = [1 * S, 4 * S, 5 * S]
    assert longest_gap(times, 2 * S, 9 * S) == 4 * S
    assert longest_gap(times, 0, 5 * S) == 3 * S
    assert longest_gap([], 2 * S, 9 * S) == 7 * S
    assert time_to_first(times, 4 * S) == 1 * S
    assert time_to_first(times, 5 * S) is None


def test_writes_that_go_on_during_a_fault_pass_and_a_pause_beyond_the_bound_fails_by_name() -> None:
    good = check_progress_during(acks(1, 3.5, 6, 8), [window(2, 9)], BOUND)
    assert (good.passed, good.counted) == (True, 1)
    assert "longest pause 2500 ms" in good.detail
    bad = check_progress_during(acks(1, 2.5, 8.9), [window(2, 9)], BOUND)
    assert not bad.passed
    assert "fault 1: no write was acknowledged for 6400 ms" in bad.detail


def test_a_fault_that_leaves_no_quorum_is_long_silent_and_that_is_no_failure() -> None:
    check = check_progress_during(acks(1), [window(2, 9, progress=False)], BOUND)
    assert (check.passed, check.counted, check.needs_count) == (True, 0, False)


@pytest.mark.parametrize("other", [(3, 4), (0, 2.1), (8.9, 20)])
def test_two_faults_at_once_demand_no_progress_of_either(other: tuple[float, float]) -> None:
    windows = [window(2, 9), window(*other, name="fault 2")]
    check = check_progress_during([], windows, BOUND)
    assert (check.passed, check.counted, check.needs_count) == (True, 0, True)  # and so the run is void
    cut = check_progress_during([], windows[:1], BOUND, [(int(other[0] * S), int(other[1] * S))])
    assert cut.counted == 0


def test_a_window_shorter_than_the_bound_shows_nothing_and_is_not_counted() -> None:
    assert check_progress_during([], [window(2, 5)], BOUND).counted == 0


def test_a_heal_must_be_followed_by_an_acknowledgement_within_the_bound() -> None:
    good = check_progress_after(acks(1, 6), [window(2, 5)], BOUND, 10 * S)
    assert (good.passed, good.counted) == (True, 1)
    assert "the slowest took 1000 ms" in good.detail
    late = check_progress_after(acks(1, 8.5), [window(2, 5)], BOUND, 10 * S)
    assert not late.passed
    assert "no write was acknowledged for 3500 ms" in late.detail
    never = check_progress_after(acks(1), [window(2, 5)], BOUND, 10 * S)
    assert "no write was acknowledged ever again" in never.detail


def test_a_heal_is_not_judged_while_something_else_is_in_force_or_too_little_time_is_left() -> None:
    assert check_progress_after([], [window(2, 5), window(4, 12, name="fault 2")], BOUND, 12 * S).counted == 0
    assert check_progress_after([], [window(2, 5)], BOUND, 7 * S).counted == 0
    assert check_progress_after([], [window(2, 5)], BOUND, 20 * S, [(7 * S, 9 * S)]).counted == 0
    # An acknowledgement that did come is counted all the same.
    assert check_progress_after(acks(5.5), [window(2, 5)], BOUND, 7 * S).counted == 1


def test_refused_and_unknown_writes_are_no_progress() -> None:
    operations = acks(6)
    operations[0].outcome = "refused"
    assert not check_progress_after(operations, [window(2, 5)], BOUND, 20 * S).passed
