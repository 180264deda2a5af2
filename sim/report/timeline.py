"""The main picture: power, roles, log, writes and rank requests on one time axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.check.availability import RANK_LIMIT_US, failure, rates
from sim.check.history import Operation
from sim.report.data import Run, Samples
from sim.report.svg import (
    Scale,
    compact,
    crosses,
    decades,
    dots,
    duration,
    line,
    number,
    path,
    rect,
    text,
    ticks,
)

LEFT: Final = 150
RIGHT: Final = 18
PANELS: Final = ("power", "faults", "nodes", "log", "writes", "ranking", "age")
CLOSE_PANELS: Final = ("power", "faults", "nodes", "acks", "ranking")
TIERS: Final = ("fresh", "stale")
ROLE_WORDS: Final = {
    "leader": "leader",
    "follower": "follower",
    "candidate": "candidate",
    "precandidate": "pre-candidate",
}


@dataclass(slots=True)
class Frame:
    """Where a panel may draw, and what range of time."""

    run: Run
    x: Scale
    top: float
    width: float
    origin_us: int
    """Instant that the axis calls 0."""
    close: bool = False
    """A close-up: exact instants instead of rates."""

    def when(self, us: int) -> str:
        """An instant in words."""
        return f"{(us - self.origin_us) / 1e6:.3f} s"

    def visible(self, us: int | None) -> bool:
        """Whether an instant lies in the range drawn."""
        return us is not None and self.x.low <= us <= self.x.high


Panel = Callable[[Frame], tuple[str, float]]


def timeline(
    run: Run,
    begin_us: int | None = None,
    end_us: int | None = None,
    *,
    panels: Sequence[str] = PANELS,
    width: int = 1180,
    origin_us: int | None = None,
    label: str = "Timeline of the run",
    style: str = "",
) -> str:
    """One SVG element. Draws [begin_us, end_us] (default: the whole run); seconds count from `origin_us` (default: the
    begin of the run). `style`: CSS to put inside, for a picture that stands alone."""
    begin = run.begin_us if begin_us is None else begin_us
    end = run.end_us if end_us is None else end_us
    x = Scale(begin, max(end, begin + 1), LEFT, width - RIGHT)
    origin = run.begin_us if origin_us is None else origin_us
    body: list[str] = []
    top = 16.0
    for name in panels:
        drawn, height = _PANELS[name](Frame(run, x, top, width, origin, panels is not PANELS))
        if drawn:
            body.append(f'<g class="panel {name}">{drawn}</g>')
        top += height
    marks = [_cut_lines(run, x, top - 8), _axis(x, origin, top)]
    if style:
        # A page explains the colours beside the drawing; a picture that stands alone must do it itself.
        marks.append(_legend(run, top + 38))
    height = top + (58 if style else 30)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="timeline" viewBox="0 0 {width} {number(height)}" '
        f'width="{width}" height="{number(height)}" role="img" aria-label="{label}" data-begin="{begin}" '
        f'data-end="{max(end, begin + 1)}" data-left="{LEFT}" data-right="{width - RIGHT}" data-origin="{origin}">'
        + (f"<style>{style}</style>" if style else "")
        + '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="6" height="6" class="off-ground"/><rect width="2.2" height="6" class="off-stripe"/></pattern></defs>'
        + (f'<rect width="{width}" height="{number(height)}" class="paper"/>' if style else "")
        + marks[0]
        + "".join(body)
        + "".join(marks[1:])
        + "</svg>"
    )


def _axis(x: Scale, origin: int, bottom: float) -> str:
    low, high = (x.low - origin) / 1e6, (x.high - origin) / 1e6
    narrow = high - low < 5
    parts = [line(x.start, bottom - 8, x.stop, bottom - 8, "axis")]
    for value in ticks(low, high, 10 if x.stop > 800 else 6):
        at = x(value * 1e6 + origin)
        parts.append(line(at, bottom - 8, at, bottom - 3, "axis"))
        words = f"{value * 1000:g} ms" if narrow else f"{value:g} s"
        parts.append(text(at, bottom + 10, words, "tick", "middle"))
    return "".join(parts)


def _legend(run: Run, y: float) -> str:
    """One line of swatches with their meaning; `y` is its middle."""
    blocks = [
        ("role leader", "leader"),
        ("role", "follower"),
        ("role precandidate", "asks for votes"),
        ("node-off", "no power"),
        ("gap", "no write acknowledged"),
    ]
    dotted = [(f"dot {tier}", f"{tier} answer") for tier in TIERS]
    lines = [(f"curve d{place % 6}", f"nodes of {domain}") for place, domain in enumerate(run.domains)]
    parts, at = [], 8.0
    for classes, words in [*blocks, *dotted, *lines]:
        if classes.startswith("dot"):
            parts.append(dots([(at + 7, y)], classes))
        elif classes.startswith("curve"):
            parts.append(line(at, y, at + 14, y, classes))
        else:
            parts.append(rect(at, y - 6, 14, 12, classes))
        parts.append(text(at + 20, y + 4, words, "tick"))
        at += 36 + 5.8 * len(words)
    return f'<g class="legend">{"".join(parts)}</g>'


def _cut_lines(run: Run, x: Scale, bottom: float) -> str:
    parts = []
    for cut in run.verdict["cuts"]:
        for at, kind in ((cut["at_us"], "cut-line"), (cut.get("restored_at_us"), "restore-line")):
            if at is not None and x.low <= at <= x.high:
                parts.append(line(x(at), 6, x(at), bottom, kind))
    return "".join(parts)


def _title(frame: Frame, height: float, words: str, unit: str = "") -> str:
    y = frame.top + 12
    return text(8, y, words, "label") + (text(8, y + 14, unit, "tick") if unit else "")


def _power(frame: Frame) -> tuple[str, float]:
    parts = []
    y = frame.top
    for domain in frame.run.domains:
        parts.append(text(8, y + 12, domain, "label"))
        parts.append(
            rect(frame.x.start, y + 2, frame.x.stop - frame.x.start, 12, "power-on", f"{domain}: power on", 2)
        )
        for begin, end in frame.run.dark.get(domain, ()):
            if end < frame.x.low or begin > frame.x.high:
                continue
            left, right = frame.x(begin), frame.x(end)
            title = f"{domain}: dark from {frame.when(begin)} to {frame.when(end)} ({duration(end - begin)})"
            parts.append(rect(left, y + 2, right - left, 12, "power-off", title))
            if right - left > 64:
                parts.append(
                    text((left + right) / 2, y + 11.5, f"dark {duration(end - begin)}", "on-dark", "middle")
                )
        y += 18
    return "".join(parts), y - frame.top + 10


def _faults(frame: Frame) -> tuple[str, float]:
    """A row a kind of fault that was laid on the network or on processes, a band each; no height without faults."""
    parts = []
    y = frame.top
    for kind in dict.fromkeys(fault["kind"] for fault in frame.run.faults):
        parts.append(text(8, y + 12, kind, "label"))
        for fault in frame.run.faults:
            begin, end = fault["at_us"], fault["until_us"] or frame.run.end_us
            if fault["kind"] != kind or end < frame.x.low or begin > frame.x.high:
                continue
            left, right = frame.x(begin), frame.x(end)
            title = f"{fault['label']}, {kind} {fault['what']}: {frame.when(begin)} to {frame.when(end)}; {fault_counts(fault)}"
            parts.append(rect(left, y + 2, right - left, 12, "fault", title, 2))
            if right - left > 14 + 6.2 * len(fault["what"]):
                parts.append(text((left + right) / 2, y + 11.5, fault["what"], "on-fault", "middle"))
        y += 18
    return "".join(parts), (y - frame.top + 10 if parts else 0.0)


def fault_counts(fault: Mapping[str, Any]) -> str:
    """What a fault did, in words."""
    counts = [
        duration(count) if name.endswith("_us") else f"{name.replace('_', ' ')} {count:,}"
        for name, count in fault["counts"].items()
    ]
    return ", ".join(counts) or "nothing was lost or held up"


def _nodes(frame: Frame) -> tuple[str, float]:
    parts = []
    y = frame.top
    for samples in frame.run.nodes:
        parts.append(text(8, y + 13, samples.node, "label"))
        parts.append(text(frame.x.start - 8, y + 13, samples.domain, "tick", "end"))
        for begin, end in frame.run.dark.get(samples.domain, ()):
            if end >= frame.x.low and begin <= frame.x.high:
                left, right = frame.x(begin), frame.x(end)
                parts.append(rect(left, y + 1, right - left, 16, "node-off", f"{samples.node}: no power"))
        for stretch in samples.stretches:
            if stretch.end < frame.x.low or stretch.begin > frame.x.high:
                continue
            left, right = frame.x(stretch.begin), frame.x(stretch.end)
            words = ROLE_WORDS.get(stretch.role, stretch.role)
            title = f"{samples.node}: {words} in term {stretch.term}, {frame.when(stretch.begin)} to {frame.when(stretch.end)}"
            parts.append(rect(left, y + 1, right - left, 16, f"role {stretch.role}", title))
            named = stretch.role == "leader"
            if right - left > (74 if named else 46):
                content = f"leader, term {stretch.term}" if named else f"term {stretch.term}"
                if named and right - left < 100:
                    content = f"term {stretch.term}"
                parts.append(text(left + 5, y + 13, content, "on-leader" if named else "on-follower"))
        y += 21
    return "".join(parts), y - frame.top + 10


def _grid(frame: Frame, y: Scale, values: Sequence[float], words: Callable[[float], str]) -> str:
    parts = []
    for value in values:
        at = y(value)
        parts.append(line(frame.x.start, at, frame.x.stop, at, "grid"))
        parts.append(text(frame.x.start - 8, at + 4, words(value), "tick", "end"))
    return "".join(parts)


def _curve(samples: Samples, frame: Frame, name: str, y: Scale) -> list[list[tuple[float, float]]]:
    """A node's curve, broken where it had no power."""
    pieces: list[list[tuple[float, float]]] = [[]]
    dark = frame.run.dark.get(samples.domain, ())
    for row in samples.rows:
        value, t = row.get(name), row["t"]
        if any(begin <= t < end for begin, end in dark) or not frame.visible(t):
            if pieces[-1]:
                pieces.append([])
        elif value is not None:
            if pieces[-1] and any(pieces[-1][-1][0] < frame.x(begin) <= frame.x(t) for begin, _ in dark):
                pieces.append([])
            pieces[-1].append((frame.x(t), y(value)))
    return [piece for piece in pieces if piece]


def _domain_class(frame: Frame, domain: str) -> str:
    return f"d{frame.run.domains.index(domain) % 6}"


def _log(frame: Frame) -> tuple[str, float]:
    height = 96.0
    rows = [row for samples in frame.run.nodes for row in samples.rows]
    high = max((row.get("commit") or 0 for row in rows), default=0)
    y = Scale(0, max(high, 1) * 1.05, frame.top + height, frame.top)
    parts = [_title(frame, height, "Log", "entries"), _grid(frame, y, ticks(0, high, 3), compact)]
    best, outline = 0, []
    for t, commit in sorted((row["t"], row.get("commit") or 0) for row in rows):
        if commit > best and frame.visible(t):
            best = commit
            outline.append((frame.x(t), y(best)))
    parts.append(
        path(outline, "committed", "committed: the highest index any node knew of", frame.top + height)
    )
    for samples in frame.run.nodes:
        for piece in _curve(samples, frame, "applied", y):
            title = f"{samples.node} ({samples.domain}): applied"
            parts.append(path(piece, f"curve {_domain_class(frame, samples.domain)}", title))
    return "".join(parts), height + 26


def _gaps(frame: Frame, height: float) -> str:
    parts = []
    for place, outage in enumerate(frame.run.verdict["write_outages"], 1):
        begin, end = outage["begin_us"], outage["end_us"]
        if end <= begin or end < frame.x.low or begin > frame.x.high:
            continue
        left, right = frame.x(begin), frame.x(end)
        words = f"{outage['gap_us'] / 1000:.0f} ms"
        title = (
            f"cut {place}: no write acknowledged for {words}, from {frame.when(begin)} to {frame.when(end)}"
        )
        parts.append(rect(left, frame.top, max(right - left, 1.5), height, "gap", title))
        middle = (left + right) / 2
        parts.append(
            text(
                min(max(middle, frame.x.start + 24), frame.x.stop - 24),
                frame.top - 3,
                words,
                "gap-text",
                "middle",
            )
        )
    return "".join(parts)


def _acks(run: Run) -> list[Operation]:
    return [o for o in run.operations if o.op == "write" and o.outcome == "ok"]


def _writes(frame: Frame) -> tuple[str, float]:
    height, frame.top = 96.0, frame.top + 12
    span = int(frame.x.high - frame.x.low)
    bin_us = max(20_000, -(-span // 400 // 10_000) * 10_000)
    times = [o.returned for o in _acks(frame.run) if o.returned is not None]
    begins, values = rates(times, int(frame.x.low), int(frame.x.high), bin_us)
    high = max(values, default=0.0)
    y = Scale(0, max(high, 1.0) * 1.05, frame.top + height, frame.top)
    steps = []
    for begin, value in zip(begins, values, strict=True):
        steps += [(frame.x(begin), y(value)), (frame.x(begin + bin_us), y(value))]
    parts = [
        _title(frame, height, "Writes", "acked a second"),
        _grid(frame, y, ticks(0, high, 3), compact),
        path(
            steps,
            "acked",
            f"acknowledged writes a second, in steps of {bin_us // 1000} ms",
            frame.top + height,
        ),
        _gaps(frame, height),
    ]
    return "".join(parts), height + 38


def _ack_ticks(frame: Frame) -> tuple[str, float]:
    height, frame.top = 84.0, frame.top + 12
    shown = [o for o in _acks(frame.run) if frame.visible(o.returned)]
    slowest = max(((o.returned or 0) - o.invoke for o in shown), default=1)
    y = Scale(100, max(slowest * 1.3, 10_000), frame.top + height, frame.top, True)
    points = [(frame.x(o.returned or 0), y((o.returned or 0) - o.invoke)) for o in shown]
    parts = [
        _title(frame, height, "Writes", "time to ack"),
        _grid(frame, y, decades(y.low, y.high), duration),
        _gaps(frame, height),
        dots(points, "dot write", "one dot an acknowledged write: when it returned, how long it took"),
    ]
    return "".join(parts), height + 38


def _ranking(frame: Frame) -> tuple[str, float]:
    height = 84.0 if frame.close else 132.0
    queries = [o for o in frame.run.operations if o.op == "query" and frame.visible(o.returned)]
    taken = [(o, (o.returned or 0) - o.invoke) for o in queries]
    slowest = max((time for _, time in taken), default=0)
    y = Scale(100, max(slowest * 1.3, RANK_LIMIT_US * 1.6), frame.top + height, frame.top, True)
    parts = [
        _title(frame, height, "Ranking", "time to answer"),
        _grid(frame, y, decades(y.low, y.high), duration),
        line(frame.x.start, y(RANK_LIMIT_US), frame.x.stop, y(RANK_LIMIT_US), "limit"),
        text(frame.x.stop, y(RANK_LIMIT_US) - 4, f"limit {duration(RANK_LIMIT_US)}", "limit-text", "end"),
    ]
    good = [(o, time) for o, time in taken if failure(o) is None]
    for tier in TIERS:
        points = [(frame.x(o.returned or 0), y(time)) for o, time in good if o.tier == tier]
        parts.append(dots(points, f"dot {tier}", f"answers of tier {tier}: {len(points):,}"))
    bad = [
        (frame.x(o.returned or 0), y(time), f"{frame.when(o.invoke)}: {failure(o)}")
        for o, time in taken
        if failure(o) is not None
    ]
    parts.append(crosses(bad[:2000], "failed"))
    return "".join(parts), height + 26


def _age(frame: Frame) -> tuple[str, float]:
    height = 84.0
    ages = [
        row["age_us"] for samples in frame.run.nodes for row in samples.rows if row.get("age_us") is not None
    ]
    y = Scale(1000, max([*ages, 100_000]) * 1.3, frame.top + height, frame.top, True)
    parts = [
        _title(frame, height, "Staleness", "age of the state"),
        _grid(frame, y, decades(y.low, y.high), duration),
    ]
    for samples in frame.run.nodes:
        for piece in _curve(samples, frame, "age_us", y):
            title = f"{samples.node} ({samples.domain}): time since its last successful barrier"
            parts.append(path(piece, f"curve {_domain_class(frame, samples.domain)}", title))
    return "".join(parts), height + 24


_PANELS: Final[dict[str, Panel]] = {
    "power": _power,
    "faults": _faults,
    "nodes": _nodes,
    "log": _log,
    "writes": _writes,
    "acks": _ack_ticks,
    "ranking": _ranking,
    "age": _age,
}
