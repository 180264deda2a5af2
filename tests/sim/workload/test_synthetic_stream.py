"""The made-up stream is reproducible and has what it claims."""

from __future__ import annotations

import pytest

from sim.workload.stream import DataError
from sim.workload.synthetic import synthetic


def test_the_same_seed_gives_the_same_stream_and_another_seed_another() -> None:
    one = synthetic(50, 400, 2000, seed=3)
    assert synthetic(50, 400, 2000, seed=3) == one
    assert synthetic(50, 400, 2000, seed=4).items != one.items


def test_the_stream_has_the_size_asked_for_runs_forward_in_time_and_repeats_no_pair() -> None:
    stream = synthetic(50, 400, 2000)
    assert len(stream) == 2000
    assert stream.timestamps == sorted(stream.timestamps)
    assert len(set(zip(stream.users, stream.items, strict=True))) == 2000
    assert {*stream.items} <= {item for item, _ in stream.catalogue}
    assert len(stream.catalogue) == 400


def test_users_come_in_bursts() -> None:
    stream = synthetic(50, 400, 2000)
    same = sum(one == other for one, other in zip(stream.users, stream.users[1:], strict=False))
    assert same > 1500


def test_tastes_drift() -> None:
    steady, drifting = (synthetic(20, 2000, 6000, drifts=drifts, seed=2) for drifts in (0, 12))
    half = len(steady) // 2
    assert steady.items[:200] == drifting.items[:200]
    popular = [
        set(sorted(set(s.items[half:]), key=lambda i, s=s: -s.items[half:].count(i))[:40])
        for s in (steady, drifting)
    ]  # type: ignore[misc]
    assert len(popular[0] & popular[1]) < 30


@pytest.mark.parametrize(
    ("sizes", "text"), [((0, 9, 9), "users"), ((5, 10, 9), "too few"), ((2, 100, 90), "too few")]
)
def test_sizes_that_cannot_be_are_refused(sizes: tuple[int, int, int], text: str) -> None:
    with pytest.raises(DataError, match=text):
        synthetic(*sizes)
