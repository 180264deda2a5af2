"""Whether writes went on: while a fault left a quorum, and after it was healed. From the client history alone."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from sim.check.history import Operation
from sim.check.verdict import Check


@dataclass(slots=True)
class Window:
    """The time of one fault."""

    name: str
    begin_us: int
    end_us: int
    """When it was healed (us)."""
    progress: bool
    """Writes are to go on meanwhile: a majority stays connected, and nothing else was asked for."""


def acknowledgements(operations: Sequence[Operation]) -> list[int]:
    """Instants at which writes were acknowledged, in order (us)."""
    return sorted(
        o.returned for o in operations if o.op == "write" and o.outcome == "ok" and o.returned is not None
    )


def longest_gap(acks: Sequence[int], begin_us: int, end_us: int) -> int:
    """The longest time within [begin, end] without an acknowledgement (us)."""
    inside = [begin_us, *acks[bisect_right(acks, begin_us) : bisect_left(acks, end_us)], end_us]
    return max(after - before for before, after in itertools.pairwise(inside))


def time_to_first(acks: Sequence[int], since_us: int) -> int | None:
    """Time from an instant to the first acknowledgement behind it (us); None if there is none."""
    place = bisect_right(acks, since_us)
    return acks[place] - since_us if place < len(acks) else None


def check_progress_during(
    operations: Sequence[Operation],
    windows: Sequence[Window],
    bound_us: int,
    others: Sequence[tuple[int, int]] = (),
) -> Check:
    """While a fault leaves a quorum, writes never stand still for longer than the bound.

    Counted are windows of which progress is wanted and that no other window and none of `others` (power cuts, begin and end)
    overlaps: two faults together may leave no quorum. A window no longer than the bound shows nothing and is not counted."""
    acks = acknowledgements(operations)
    problems, worst, counted = [], 0, 0
    for place, window in enumerate(windows):
        if not window.progress or window.end_us - window.begin_us <= bound_us:
            continue
        rest = [(w.begin_us, w.end_us) for at, w in enumerate(windows) if at != place]
        if any(begin < window.end_us and end > window.begin_us for begin, end in [*rest, *others]):
            continue
        counted += 1
        gap = longest_gap(acks, window.begin_us, window.end_us)
        worst = max(worst, gap)
        if gap > bound_us:
            problems.append(f"{window.name}: no write was acknowledged for {gap / 1000:.0f} ms")
    detail = (
        f"writes went on during {counted} faults that left a quorum; longest pause {worst / 1000:.0f} ms, allowed "
        f"{bound_us / 1000:.0f} ms"
    )
    wanted = any(window.progress for window in windows)
    return Check("progress_during_faults", not problems, "; ".join(problems) or detail, counted, wanted)


def check_progress_after(
    operations: Sequence[Operation],
    windows: Sequence[Window],
    bound_us: int,
    end_us: int,
    others: Sequence[tuple[int, int]] = (),
) -> Check:
    """After a fault is healed a write is acknowledged within the bound.

    Counted are heals at which nothing else is in force and after which no other fault begins, nor the load ends
    (`end_us`), before the bound is over, unless an acknowledgement came before."""
    acks = acknowledgements(operations)
    problems, worst, counted = [], 0, 0
    spans = [*((w.begin_us, w.end_us) for w in windows), *others]
    for window in windows:
        healed = window.end_us
        if any(begin <= healed < end for begin, end in spans):
            continue
        took = time_to_first(acks, healed)
        if took is None or took > bound_us:
            quiet = min([end_us, *(begin for begin, _ in spans if begin > healed)])
            if quiet - healed < bound_us:
                continue
            words = "ever again" if took is None else f"for {took / 1000:.0f} ms"
            problems.append(f"{window.name}: after it was healed no write was acknowledged {words}")
        else:
            worst = max(worst, took)
        counted += 1
    detail = (
        f"a write was acknowledged after each of {counted} heals; the slowest took {worst / 1000:.0f} ms, allowed "
        f"{bound_us / 1000:.0f} ms"
    )
    return Check("progress_after_heals", not problems, "; ".join(problems) or detail, counted)
