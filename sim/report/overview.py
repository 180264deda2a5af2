"""A virtual run on one SVG: what the lanes page shows in print and without script.

Spans narrower than a fraction of a pixel beside one another are drawn as one, so that its size is bounded by its width
and not by the run. Messages are counts a column here, drops apart; arrows need the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from sim.check.history import OUTCOMES, Operation
from sim.report.facts import RunFacts, clean, natural
from sim.report.story import Span, Story
from sim.report.svg import Scale, duration, line, path, rect, text, ticks

WIDTH: Final = 1180
LEFT: Final = 150
_ROLES: Final = ("leader", "follower", "candidate", "precandidate")
_BIN: Final = 3
"""Pixels of one column of a count."""


def overview(story: Story, history: Sequence[Operation], facts: RunFacts) -> str:
    """The SVG element. Colours are classes of `style.css`."""
    x = Scale(story.begin, story.end, LEFT, WIDTH - 18)
    parts: list[str] = []
    top = 16.0
    for draw in (_power, _faults, _nodes, _messages, _clients):
        body, height = draw(story, history, facts, x, top)
        if height:
            parts.append(body)
            top += height + 8
    axis = [line(x.start, top, x.stop, top, "axis")]
    for value in ticks(story.begin / 1e6, story.end / 1e6, 10):
        at = x(value * 1e6)
        axis.append(line(at, top, at, top + 5, "axis") + text(at, top + 18, f"{value:g} s", "tick", "middle"))
    if story.violation is not None:
        at = x(story.violation.at)
        left = at > WIDTH - 260
        axis.append(line(at, 4, at, top, "violation-line"))
        label = f"✕ {clean(story.violation.oracle, 60)}"
        axis.append(text(at + (-5 if left else 5), 11, label, "violation-text", "end" if left else "start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="timeline" viewBox="0 0 {WIDTH} {top + 26:.0f}" role="img" '
        'aria-label="Overview of the run"><defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect width="6" height="6" class="off-ground"/><rect width="2.2" height="6" '
        f'class="off-stripe"/></pattern></defs>{"".join(parts)}{"".join(axis)}</svg>'
    )


def _thin(spans: Iterable[tuple[int, int, str, str]], x: Scale) -> Iterable[tuple[float, float, str, str]]:
    """(left, right, class, title) in pixels; of spans that share a third of a pixel only the first is kept."""
    last = -1.0
    for begin, end, style, title in spans:
        left, right = x(begin), x(end)
        if right - left < 0.35 and left - last < 0.35:
            continue
        last = right
        yield left, max(right, left + 0.7), style, title


_Part = Callable[[Story, Sequence[Operation], RunFacts, Scale, float], tuple[str, float]]


def _power(
    story: Story, history: Sequence[Operation], facts: RunFacts, x: Scale, top: float
) -> tuple[str, float]:
    parts = []
    names = list(dict.fromkeys(facts.domains.values()))
    for place, domain in enumerate(names):
        y = top + place * 16
        parts.append(
            text(8, y + 10, clean(domain, 20), "label") + rect(x.start, y, x.stop - x.start, 11, "power-on")
        )
        dark = [
            (
                begin,
                end,
                "power-off" if whole else "gap",
                f"{clean(domain)}: {'no' if whole else 'in part no'} power",
            )
            for name, begin, end, whole in story.power
            if name == domain
        ]
        for left, right, style, title in _thin(dark, x):
            parts.append(rect(left, y, right - left, 11, style, title))
    return "".join(parts), 16.0 * len(names)


def _faults(
    story: Story, history: Sequence[Operation], facts: RunFacts, x: Scale, top: float
) -> tuple[str, float]:
    parts = []
    # A run that ended early has faults that it never came to: they are in the table.
    bands = [band for band in story.faults if band.begin <= story.end]
    rows = pack([(x(band.begin), max(x(band.end), x(band.begin) + 90)) for band in bands], 12)
    for band, row in zip(bands, rows, strict=True):
        y = top + row * 16
        left, right = x(band.begin), x(band.end)
        style = "fault" if band.happened else "fault planned"
        parts.append(rect(left, y, right - left, 12, style, f"{band.text} (bit {band.bites} times)"))
        name = f"#{band.number} {band.name}"
        fits = left < x.stop - 90
        parts.append(
            text(left + 3 if fits else x.stop, y + 10, name[:40], "tick", "start" if fits else "end")
        )
    if not parts:
        return "", 0
    return text(8, top + 10, "faults", "label") + "".join(parts), 16.0 * (max(rows) + 1)


def _nodes(
    story: Story, history: Sequence[Operation], facts: RunFacts, x: Scale, top: float
) -> tuple[str, float]:
    parts = []
    for place, node in enumerate(facts.nodes):
        y = top + place * 24
        parts.append(text(8, y + 13, clean(node, 20), "label"))
        parts.append(text(x.start - 8, y + 13, clean(facts.domains.get(node, ""), 14), "tick", "end"))

        def own(spans: Sequence[Span], style: str, node: str = node) -> list[tuple[int, int, str, str]]:
            return [
                (span.begin, span.end, _style(style, span), f"{clean(node)}: {_title(style, span)}")
                for span in spans
                if span.node == node
            ]

        for spans, style in ((story.roles, "role"), (story.pauses, "paused"), (story.downs, "node-off")):
            for left, right, classes, title in _thin(own(spans, style), x):
                parts.append(rect(left, y, right - left, 18, classes, title))
        for span in story.roles:
            if span.node == node and x(span.end) - x(span.begin) > 50:
                style = "on-leader" if span.name == "leader" else "on-follower"
                parts.append(text(x(span.begin) + 4, y + 13, f"term {span.term}", style))
    return "".join(parts), 24.0 * len(facts.nodes)


def _style(style: str, span: Span) -> str:
    """The class of a span: of what a run says only known words become part of one."""
    return f"role {span.name}" if style == "role" and span.name in _ROLES else style


def _title(style: str, span: Span) -> str:
    term = f" in term {span.term}" if style == "role" else ""
    return f"{span.name}{term}, {duration(span.end - span.begin)}"


def _messages(
    story: Story, history: Sequence[Operation], facts: RunFacts, x: Scale, top: float
) -> tuple[str, float]:
    if not story.messages:
        return "", 0
    columns = int((x.stop - x.start) / _BIN) + 1
    sent, dropped = [0] * columns, [0] * columns
    for message in story.messages:
        sent[int((x(message.sent) - x.start) / _BIN)] += 1
        if message.outcome == "dropped":
            dropped[int((x(message.end) - x.start) / _BIN)] += 1
    y = Scale(0, max(sent), top + 40, top)
    parts = [text(8, top + 12, "messages", "label"), text(8, top + 26, "sent; dropped in red", "tick")]
    for counts, style in ((sent, "acked"), (dropped, "dropped")):
        points = [(x.start + place * _BIN, y(count)) for place, count in enumerate(counts)]
        parts.append(path(points, style, close_at=top + 40))
    return "".join(parts), 40


def _clients(
    story: Story, history: Sequence[Operation], facts: RunFacts, x: Scale, top: float
) -> tuple[str, float]:
    illegal = set(story.violation.operations) if story.violation else set()
    parts = []
    clients = sorted({operation.client for operation in history}, key=natural)
    for place, client in enumerate(clients):
        y = top + place * 14
        parts.append(text(8, y + 9, clean(client, 20), "label"))
        own = [
            (
                operation.invoke,
                operation.invoke if operation.returned is None else operation.returned,
                f"op {operation.outcome}" if operation.outcome in OUTCOMES else "op",
                f"{operation.op}: {operation.outcome}",
            )
            for operation in history
            if operation.client == client
        ]
        for left, right, style, title in _thin(sorted(own), x):
            parts.append(rect(left, y, right - left, 9, style, title))
        for number in sorted(illegal):
            if 0 <= number < len(history) and history[number].client == client:
                at = x(history[number].invoke)
                parts.append(rect(at - 2, y - 1, 4, 11, "op illegal", "cannot be put in order"))
    return "".join(parts), 14.0 * len(clients)


def pack(spans: Sequence[tuple[float, float]], most: int) -> list[int]:
    """A row for each span so that no two in one row overlap, as few rows as that takes; where `most` rows do not suffice
    the least crowded is used again. Spans come in the order of their beginnings."""
    ends: list[float] = []
    rows = []
    for begin, end in spans:
        row = next((place for place, busy in enumerate(ends) if busy <= begin), len(ends))
        if row == len(ends):
            if row < most:
                ends.append(end)
            else:
                row = min(range(most), key=ends.__getitem__)
        ends[row] = max(ends[row], end)
        rows.append(row)
    return rows
