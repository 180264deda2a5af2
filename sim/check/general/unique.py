"""Two polynomial checks, for histories in which what a read returned says which operations it saw.

*Zones* (Gibbons and Korach 1997, section 4): a register whose written values differ from each other and from the initial
one, without compare-and-set. A value's *cluster* is its write and the reads of it; its zone stretches from the first
return in it to the last invocation in it. If the return comes first the zone is *forward*: the register must hold the value
from one to the other. Else it is *backward*: some moment in it will do. The history is linearizable if and only if no
read returned before its value's write was invoked, no two forward zones overlap, and no backward zone lies within a
forward one.

*Append order*: a key with nothing but appends of different texts. The longest value read spells out the order of all
appends that were seen, each read names a prefix of it, and what nobody saw stands behind. What is left is to hold this
order against real time.

Both take O(n log n) for an answer, and log n times as long to find the operation at which a history fails: a history cut
off at a return (what has not returned by then need not have happened) is linearizable if the whole one is, so a bisection
finds it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sim.check.general.operations import APPEND, READ, WRITE, Op, typed


@dataclass(slots=True)
class Decided:
    """The answer of a polynomial check."""

    method: str
    linearization: list[int] | None
    """None: there is none."""
    failed: int | None = None
    before: list[int] | None = None
    """If it fails: a linearization of what had returned before."""


def decide(ops: Sequence[Op], initial: Any = None) -> Decided | None:
    """Decide in polynomial time, if one of the two checks fits the history; else None."""
    for method, fits, check in (("zones", fits_zones, _zones), ("append order", fits_appends, _append_order)):
        if not fits(ops, initial):
            continue
        ranked = _ranked(ops)
        order = check(ranked, initial)
        if order is _Unfit:
            return None
        if isinstance(order, list):
            return Decided(method, order)
        return _locate(method, ranked, initial, check)
    return None


class _Unfit:
    """Returned as a class: the history does not fit after all."""


_Answer = list[int] | type[_Unfit] | None
_Check = Callable[[Sequence[Op], Any], _Answer]


def _ranked(ops: Sequence[Op]) -> list[Op]:
    """The same history with places in the order of events for times: no two are equal. At one time, invocations come
    first: what touches overlaps."""
    times = [(op.invoke, 0, number) for number, op in enumerate(ops)]
    times += [(op.returned, 1, number) for number, op in enumerate(ops) if op.returned is not None]
    times.sort()
    ranked = [Op(op.kind, op.key, op.process, 0, None, op.value, length=op.length) for op in ops]
    for rank, (_, returned, number) in enumerate(times):
        if returned:
            ranked[number].returned = rank
        else:
            ranked[number].invoke = rank
    return ranked


def _locate(method: str, ops: Sequence[Op], initial: Any, check: _Check) -> Decided | None:
    """Bisect for the first return that cannot be explained. None: a prefix does not fit the check."""
    returns = sorted((op.returned, number) for number, op in enumerate(ops) if op.returned is not None)
    low, high = 0, len(returns) - 1
    before: list[int] = []
    while low <= high:
        middle = (low + high) // 2
        part, numbers = _upto(ops, returns[middle][0])
        order = check(part, initial)
        if order is _Unfit:
            return None
        if isinstance(order, list):
            low, before = middle + 1, [numbers[each] for each in order]
        else:
            high = middle - 1
    return Decided(method, None, returns[low][1], before)


def _upto(ops: Sequence[Op], time: int) -> tuple[list[Op], list[int]]:
    """The history up to a time: what has not returned by then need not have happened (if it has, then with the answer that
    it got later)."""
    part: list[Op] = []
    numbers: list[int] = []
    for number, op in enumerate(ops):
        if op.invoke > time:
            continue
        if op.returned is None or op.returned > time:
            if op.kind == READ:
                continue
            op = Op(op.kind, op.key, op.process, op.invoke, None, op.value, length=op.length)
        part.append(op)
        numbers.append(number)
    return part, numbers


def fits_zones(ops: Sequence[Op], initial: Any = None) -> bool:
    """Reads and writes only, and no value written twice."""
    written = {typed(initial)}
    for op in ops:
        if op.kind == WRITE:
            key = typed(op.value)
            if key in written:
                return False
            written.add(key)
        elif op.kind != READ:
            return False
    return True


@dataclass(slots=True)
class _Cluster:
    write: int
    """-1: the initial value."""
    members: list[int]
    first_return: float
    last_invoke: float
    written: float
    """When its write was invoked."""


def _zones(ops: Sequence[Op], initial: Any) -> _Answer:
    clusters: dict[Any, _Cluster] = {
        typed(initial): _Cluster(-1, [], float("-inf"), float("-inf"), float("-inf"))
    }
    for number, op in enumerate(ops):
        if op.kind == WRITE:
            end = float("inf") if op.returned is None else op.returned
            clusters[typed(op.value)] = _Cluster(number, [number], end, op.invoke, op.invoke)
    for number, op in enumerate(ops):
        if op.kind != READ or op.returned is None:
            continue
        cluster = clusters.get(typed(op.value))
        if cluster is None or op.returned < cluster.written:
            return None
        cluster.members.append(number)
        cluster.first_return = min(cluster.first_return, op.returned)
        cluster.last_invoke = max(cluster.last_invoke, op.invoke)
    # What was written without an answer and never read need not have happened.
    zones = [
        cluster for cluster in clusters.values() if cluster.first_return != float("inf") and cluster.members
    ]
    forward = sorted(
        (zone for zone in zones if zone.first_return < zone.last_invoke), key=lambda zone: zone.first_return
    )
    for one, other in pairwise(forward):
        if other.first_return < one.last_invoke:
            return None
    starts = [zone.first_return for zone in forward]
    rows = [(place, 0, zone.first_return, zone) for place, zone in enumerate(forward)]
    for zone in zones:
        low, high = zone.last_invoke, zone.first_return
        if high < low:
            continue
        # Placed at its start or, if a forward zone is there, at that one's end, behind which it must reach.
        place = bisect_right(starts, low) - 1
        if place >= 0 and low < forward[place].last_invoke:
            low = forward[place].last_invoke
            if high < low:
                return None
        rows.append((place, 1, low, zone))
    rows.sort(key=lambda row: (row[0], row[1], row[2], row[3].write))
    order: list[int] = []
    for *_, zone in rows:
        reads = [number for number in zone.members if number != zone.write]
        reads.sort(key=lambda number: ops[number].invoke)
        order += [zone.write, *reads] if zone.write >= 0 else reads
    return order


def fits_appends(ops: Sequence[Op], initial: Any = None) -> bool:
    """Appends and reads only, no text appended twice, none empty, all of one type."""
    if initial is not None:
        return False
    texts: set[Any] = set()
    kinds: set[type] = set()
    for op in ops:
        if op.kind == APPEND:
            if not op.value or op.value in texts:
                return False
            texts.add(op.value)
            kinds.add(op.value.__class__)
        elif op.kind != READ:
            return False
        elif op.value is not None and op.returned is not None:
            if not op.value:
                return False
            kinds.add(op.value.__class__)
    return bool(texts) and len(kinds) == 1 and kinds <= {str, bytes}


def _append_order(ops: Sequence[Op], initial: Any) -> _Answer:
    longest: Any = None
    for op in ops:
        if op.kind == READ and op.returned is not None and op.value is not None:
            if longest is None:
                longest = op.value
            short, long = (op.value, longest) if len(op.value) < len(longest) else (longest, op.value)
            if not long.startswith(short):
                return None
            longest = long
    spelled = _spelled(ops, longest)
    if not isinstance(spelled, dict):
        return spelled
    unseen = len(longest or "") + 1
    rows: list[tuple[int, int, int, int]] = []
    ends = set(spelled.values()) | {0}
    for number, op in enumerate(ops):
        if op.kind == READ:
            if op.returned is None:
                continue
            place = len(op.value) if op.value is not None else 0
            if place not in ends:
                return None
            rows.append((place, 1, op.invoke, number))
            continue
        end = spelled.get(op.value)
        if end is None:
            if op.returned is None:
                continue
            if op.length is not None:
                return _Unfit
            rows.append((unseen, 0, op.invoke, number))
        elif op.length is not None and op.length != end:
            return None
        else:
            rows.append((end, 0, op.invoke, number))
    rows.sort()
    latest = float("-inf")
    for _, _, invoke, number in rows:
        returned = ops[number].returned
        if returned is not None and returned < latest:
            return None
        latest = max(latest, invoke)
    return [number for *_, number in rows]


def _spelled(ops: Sequence[Op], longest: Any) -> dict[Any, int] | type[_Unfit] | None:
    """Where in the longest value read each append that was seen ends. None: it is not made of the appends, each used once;
    unfit: it can be cut up in more than one way."""
    if longest is None:
        return {}
    sizes: dict[int, set[Any]] = {}
    for op in ops:
        if op.kind == APPEND:
            sizes.setdefault(len(op.value), set()).add(op.value)
    lengths = sorted(sizes)
    spelled: dict[Any, int] = {}
    at = 0
    while at < len(longest):
        pieces = [piece for size in lengths if (piece := longest[at : at + size]) in sizes[size]]
        if len(pieces) > 1:
            return _Unfit
        if not pieces or pieces[0] in spelled:
            return None
        at += len(pieces[0])
        spelled[pieces[0]] = at
    return spelled
