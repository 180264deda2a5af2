"""Where two runs part: the first moment that a failing run and its nearest passing one do not share."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.report.facts import words
from sim.virtual.trace import Moment, Trace

SCHEDULE_KINDS: Final = ("fault", "calm", "bite", "phase", "mark")
"""Kinds that tell of the schedule and of the watching, not of the nodes: two runs whose schedules differ differ in them at
once, and that is known."""


@dataclass(slots=True)
class Divergence:
    """The first moment at which two traces differ, and what lies around it."""

    at: int
    """Virtual microseconds: the earlier of the two moments that differ."""
    common: int
    """Moments compared and found equal before it."""
    left: Moment | None
    """None if the first trace had ended."""
    right: Moment | None
    differs: tuple[str, ...]
    """What differs between `left` and `right`: at, kind, node, peer, or a key of their data; empty if one is None."""
    before: Sequence[Moment]
    """The last moments in common."""
    left_after: Sequence[Moment]
    right_after: Sequence[Moment]
    left_sent: Mapping[Any, Mapping[str, Any]]
    """Number of a message -> what was told when it was sent."""
    right_sent: Mapping[Any, Mapping[str, Any]]


def divergence(
    a: Trace, b: Trace, *, ignore: Collection[str] = SCHEDULE_KINDS, context: int = 8
) -> Divergence | None:
    """Compare moment by moment, without the kinds in `ignore` and without the numbers of messages (a copy more in one run
    shifts them all); None if nothing differs. `context`: how many moments to keep on each side."""
    left = [moment for moment in a.moments if moment.kind not in ignore]
    right = [moment for moment in b.moments if moment.kind not in ignore]
    most = max(len(left), len(right))
    place = next(
        (n for n in range(most) if n >= len(left) or n >= len(right) or _differs(left[n], right[n])), most
    )
    if place == most:
        return None
    one = left[place] if place < len(left) else None
    two = right[place] if place < len(right) else None
    return Divergence(
        at=min(moment.at for moment in (one, two) if moment is not None),
        common=place,
        left=one,
        right=two,
        differs=_differs(one, two) if one is not None and two is not None else (),
        before=left[max(place - context, 0) : place],
        left_after=left[place + 1 : place + 1 + context],
        right_after=right[place + 1 : place + 1 + context],
        left_sent=_sent(a),
        right_sent=_sent(b),
    )


def _sent(trace: Trace) -> dict[Any, dict[str, Any]]:
    return {moment.data.get("id"): moment.data for moment in trace.moments if moment.kind == "send"}


def _differs(one: Moment, two: Moment) -> tuple[str, ...]:
    fields = [name for name in ("at", "kind", "node", "peer") if getattr(one, name) != getattr(two, name)]
    if "kind" in fields:
        return tuple(fields)
    missing = object()
    keys = [key for key in (*one.data, *two.data) if key != "id"]
    fields += [key for key in dict.fromkeys(keys) if one.data.get(key, missing) != two.data.get(key, missing)]
    return tuple(fields)


def lines(
    found: Divergence | None, *, names: tuple[str, str] = ("failing", "passing"), width: int = 160
) -> Iterator[str]:
    """A divergence as text, the runs side by side in `width` columns: `=` lines in common, `!` where they part, then how
    each goes on."""
    if found is None:
        yield "the two runs do not differ"
        return
    half = max((width - 17) // 2, 20)
    what = f" in {', '.join(found.differs)}" if found.differs else ": one of them ends there"
    yield f"{found.common:,} moments in common; the runs part at {_seconds(found.at)} s{what}"
    yield f"{'seconds':>12}  | {names[0]:<{half}}| {names[1]}"
    for moment in found.before:
        yield _line(found, "=", moment, moment, half)
    yield _line(found, "!", found.left, found.right, half)
    for place in range(max(len(found.left_after), len(found.right_after))):
        yield _line(found, " ", _get(found.left_after, place), _get(found.right_after, place), half)


def _get(moments: Sequence[Moment], place: int) -> Moment | None:
    return moments[place] if place < len(moments) else None


def _seconds(us: int) -> str:
    return f"{us // 1_000_000}.{us % 1_000_000:06d}"


def _line(found: Divergence, sign: str, one: Moment | None, two: Moment | None, half: int) -> str:
    first = next((moment.at for moment in (one, two) if moment is not None), found.at)
    cells = []
    for moment, sent in ((one, found.left_sent), (two, found.right_sent)):
        if moment is None:
            cells.append("(no more moments)" if sign == "!" else "")
            continue
        text = words(moment, sent.get(moment.data.get("id")) if moment.kind in ("deliver", "drop") else None)
        # The first column shows one time; where the other one differs, it stands with its moment.
        cells.append(text if moment.at == first else f"[{_seconds(moment.at)}] {text}")
    left, right = (cell if len(cell) < half else cell[: half - 2] + "…" for cell in cells)
    return f"{_seconds(first):>12} {sign}| {left:<{half}}| {right}".rstrip()
