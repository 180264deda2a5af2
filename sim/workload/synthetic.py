"""A made-up stream with what makes real ones hard: tastes, bursts of one user, and drift. Integers from one seed."""

from __future__ import annotations

from random import Random
from typing import Final

from sim.workload.stream import DataError, LoadReport, Stream, in_time_order

_START: Final = 1_000_000_000
_LONGEST_BURST: Final = 24


def synthetic(
    users: int = 300,
    items: int = 1500,
    events: int = 20_000,
    *,
    tastes: int = 8,
    drifts: int = 6,
    seed: int = 1,
) -> Stream:
    """`events` interactions of `users` users with `items` items.

    Every item belongs to one of `tastes` groups, every user has a main and a second one; within a group low ranks are
    taken far more often. Users come in bursts of 1 to 24 interactions. `drifts` times in the stream a quarter of the
    users change their main taste and each group's ranks turn by a tenth. No user takes an item twice.
    Raises DataError if there are not enough items for that.
    """
    for name, value, least in (
        ("users", users, 1),
        ("items", items, 1),
        ("events", events, 1),
        ("tastes", tastes, 1),
    ):
        if value < least:
            raise DataError(f"a synthetic stream needs {name} of at least {least}, not {value}")
    if items < 4 * tastes or events > users * items // 4:
        raise DataError(
            f"{items} items are too few for {events} interactions of {users} users in {tastes} tastes without repetition; "
            "ask for more items, more users or fewer events"
        )
    rng = Random(seed)
    groups = [list(range(taste, items, tastes)) for taste in range(tastes)]
    for group in groups:
        rng.shuffle(group)
    main = [rng.randrange(tastes) for _ in range(users)]
    second = [rng.randrange(tastes) for _ in range(users)]
    taken: list[set[int]] = [set() for _ in range(users)]
    next_drift = events // (drifts + 1) + 1
    rows: list[tuple[int, int, int]] = []
    time = _START
    while len(rows) < events:
        user = min(rng.randrange(users), rng.randrange(users))
        time += rng.randrange(60, 3600)
        for _ in range(min(rng.randrange(1, _LONGEST_BURST + 1), events - len(rows))):
            time += rng.randrange(1, 60)
            item = _take(rng, groups, main[user], second[user], taken[user])
            if item is None:
                break
            rows.append((time, user + 1, item + 1))
        if len(rows) >= next_drift:
            next_drift += events // (drifts + 1) + 1
            for other in rng.sample(range(users), users // 4):
                main[other] = rng.randrange(tastes)
            for group in groups:
                turn = len(group) // 10
                group[:] = group[turn:] + group[:turn]
    report = LoadReport(f"synthetic stream, seed {seed}", len(rows), 0, None)
    return in_time_order(rows, [(item + 1, f"item {item + 1}") for item in range(items)], report)


def _take(rng: Random, groups: list[list[int]], main: int, second: int, taken: set[int]) -> int | None:
    """An item that the user has not taken yet, or None if a few tries found none."""
    for _ in range(32):
        draw = rng.randrange(10)
        group = groups[main if draw < 7 else second if draw < 9 else rng.randrange(len(groups))]
        item = group[min(rng.randrange(len(group)), rng.randrange(len(group)), rng.randrange(len(group)))]
        if item not in taken:
            taken.add(item)
            return item
    return None
