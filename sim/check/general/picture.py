"""Pictures of a verdict: a compact timeline for the terminal, and a page with a drawing that needs nothing else.

Both draw the events of one cell in their order, at equal distances, a bar an operation. A dot is where the operation takes
effect in the linearization found (or, of a history that fails, in the longest partial one): the earliest moment that the
order allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from sim.check.general.operations import (
    CAS,
    READ,
    CellVerdict,
    Op,
    Outcome,
    Verdict,
    describe,
    printable,
    same,
    show,
)

ROWS: Final = 24
"""Operations in the terminal's timeline."""
DRAWN: Final = 300
"""Operations in a drawing: beyond that only those around the point of failure, or the first ones."""


@dataclass(slots=True)
class Bar:
    """An operation in a picture. Positions count the events that are shown, from 0."""

    op: Op
    start: int
    end: int | None
    """None: it never returned, or behind what is shown."""
    point: float | None
    """Where it takes effect: between two events."""
    order: int | None
    """Its place in the linearization, from 1."""
    illegal: bool


def bars(ops: Sequence[Op], cell: CellVerdict, most: int) -> list[Bar]:
    """What a picture of at most `most` operations shows, by invocation."""
    own = [number for number, op in enumerate(ops) if same(op.key, cell.key)]
    own.sort(key=lambda number: (ops[number].invoke, number))
    own = [number for number in own if ops[number].returned is not None or ops[number].kind != READ]
    order = cell.linearization or (cell.partials[0] if cell.partials else [])
    points: dict[int, int] = {}
    latest: int | None = None
    for number in order:
        invoke = ops[number].invoke
        latest = invoke if latest is None else max(latest, invoke)
        points[number] = latest
    places = {number: place for place, number in enumerate(order, 1)}
    if cell.failed is None:
        chosen = own[:most]
    else:
        end = _end(ops, cell.failed)
        before = [number for number in own if ops[number].invoke <= end]
        if len(before) > most:
            # The latest, and those without an answer only where they take part in the linearization.
            before = [n for n in before if ops[n].returned is not None or n in points or n == cell.failed]
            before.sort(key=lambda number: _returned_or(ops[number], end))
            before = before[-most:]
        chosen = sorted({*before, cell.failed}, key=lambda number: (ops[number].invoke, number))
    times: dict[tuple[int, int, int], int] = {}
    for number in chosen:
        op = ops[number]
        times[(op.invoke, 0, number)] = 0
        if op.returned is not None and (cell.failed is None or op.returned <= _end(ops, cell.failed)):
            times[(op.returned, 1, number)] = 0
    for position, time in enumerate(sorted(times)):
        times[time] = position
    invokes = sorted((time[0], position) for time, position in times.items() if time[1] == 0)
    found = []
    for number in chosen:
        op = ops[number]
        start = times[(op.invoke, 0, number)]
        point = None
        if number in points:
            # The last invocation shown up to the one behind which it takes effect.
            shown = [position for invoke, position in invokes if invoke <= points[number]]
            point = float(max(start, max(shown, default=start)))
        end_at = times.get((op.returned, 1, number)) if op.returned is not None else None
        found.append(Bar(op, start, end_at, point, places.get(number), number == cell.failed))
    # What takes effect between the same two events stands there side by side, in order.
    gaps: dict[float, list[Bar]] = {}
    for bar in sorted((bar for bar in found if bar.point is not None), key=lambda bar: bar.order or 0):
        assert bar.point is not None
        gaps.setdefault(bar.point, []).append(bar)
    for gap, sharing in gaps.items():
        for place, bar in enumerate(sharing, 1):
            bar.point = gap + place / (len(sharing) + 1)
    return found


def _returned_or(op: Op, otherwise: int) -> int:
    return otherwise if op.returned is None else op.returned


def _end(ops: Sequence[Op], failed: int) -> int:
    """When the operation that cannot be explained returned."""
    end = ops[failed].returned
    assert end is not None
    return end


def client(op: Op) -> str:
    """The process that did it, in words."""
    return f"process {printable(str(op.process))}"


def timeline(ops: Sequence[Op], cell: CellVerdict, width: int = 100) -> list[tuple[str, bool]]:
    """Lines for a terminal of `width` characters, each with whether it is the operation that cannot be explained."""
    shown = bars(ops, cell, ROWS)
    if not shown:
        return []
    last = max(max(bar.start, bar.end or 0) for bar in shown)
    names = [client(bar.op) for bar in shown]
    texts = [describe(bar.op) for bar in shown]
    name_width = max(map(len, names))
    text_width = min(max(map(len, texts)), 44)
    room = max(width - name_width - text_width - 12, 20)
    step = min(2.0, (room - 2) / (last + 2))
    lines = []
    for bar, name, text in zip(shown, names, texts, strict=True):
        begin = round(bar.start * step)
        end = round((last + 1) * step) if bar.end is None else max(round(bar.end * step), begin + 1)
        drawn = [" "] * begin + ["├"] + ["─"] * (end - begin - 1) + ["▸" if bar.end is None else "┤"]
        if bar.point is not None:
            drawn[min(max(round(bar.point * step), begin), end)] = "●"
        if bar.illegal:
            drawn.append(" ✗")
        order = f"{bar.order:>4}" if bar.order is not None else "    "
        short = text if len(text) <= text_width else text[: text_width - 3] + "..."
        lines.append((f"{order}  {name:<{name_width}}  {short:<{text_width}}  {''.join(drawn)}", bar.illegal))
    return lines


_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1b1f24;--quiet:#667079;--paper:#fff;--read:#7aa7d9;--change:#e0b04f;--cas:#9b87c9;
--bad:#d3342f;--grid:#e7e9ec}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ea;--quiet:#98a2ab;--paper:#16191d;--read:#48719f;--change:#9c7526;
--cas:#6b589c;--bad:#ff6b61;--grid:#2a2f35}}
body{font:14px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:24px}
h1{font-size:20px;margin:0 0 4px}p{margin:4px 0;max-width:100ch}.bad{color:var(--bad);font-weight:600}
.quiet{color:var(--quiet)}.scroll{overflow-x:auto;border:1px solid var(--grid);margin:12px 0}
svg text{font:11px system-ui,sans-serif;fill:var(--ink)}svg .name{fill:var(--quiet)}
.read{fill:var(--read)}.change{fill:var(--change)}.cas{fill:var(--cas)}.illegal{fill:var(--bad)}
.open{opacity:.55}.point{fill:var(--ink)}.grid{stroke:var(--grid)}svg .white{fill:#fff}
code{font:12px ui-monospace,monospace}
"""

_SCROLL: Final = (
    "<script>for(const e of document.querySelectorAll('.scroll'))e.scrollLeft=e.scrollWidth</script>"
)
"""The page opens where the history fails."""

_LANE: Final = 26
_STEP: Final = 66
_LEFT: Final = 110


def page(ops: Sequence[Op], verdict: Verdict, title: str) -> str:
    """One self-contained HTML page: the verdict in words, and a drawing of the cell that fails, or of the first ones."""
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>"
    ]
    kind = ' class="bad"' if verdict.outcome is Outcome.NOT else ""
    parts.append(
        f"<p><span{kind}>{verdict.outcome.value}</span>: {verdict.operations:,} operations on {len(verdict.cells):,} "
        f"cell{'s' if len(verdict.cells) != 1 else ''}, {verdict.seconds:.3f} s</p>"
    )
    parts.append(
        '<p class="quiet">Events in their order from left to right. A bar is an operation from its invocation to its return; '
        "a fading one never returned. A dot is where it takes effect in the linearization"
        f"{' that goes furthest' if verdict.outcome is Outcome.NOT else ''}; the number is its place there.</p>"
    )
    failure = verdict.failure
    for cell in verdict.cells[:10] if failure is None else [failure]:
        parts.append(f"<h2>{escape('the register' if cell.key is None else 'key ' + show(cell.key))}</h2>")
        parts += [f"<p>{escape(line)}</p>" for line in words(ops, cell)]
        parts.append(f'<div class="scroll">{drawing(ops, cell)}</div>')
    parts.append(_SCROLL if failure is not None else "")
    return "".join(parts) + "</html>\n"


def words(ops: Sequence[Op], cell: CellVerdict) -> list[str]:
    """What there is to say about one cell."""
    if cell.outcome is Outcome.UNDECIDED:
        return [f"undecided: {cell.reason}"]
    if cell.failed is None:
        return [f"{cell.operations} operations, decided by {cell.method}"]
    op = ops[cell.failed]
    where = f" (line {op.line})" if op.line is not None else ""
    lines = [f"cannot be explained: {client(op)}: {describe(op)}{where}"]
    lines.append("everything that returned before it can be")
    if cell.values:
        held = ", ".join(show(value) for value in cell.values[:6])
        more = ", ..." if len(cell.values) > 6 else ""
        lines.append(f"possible values when it returned: {held}{more}")
    return lines


def drawing(ops: Sequence[Op], cell: CellVerdict) -> str:
    """The SVG of one cell. Lanes are shared by processes that do not overlap."""
    shown = bars(ops, cell, DRAWN)
    last = max((max(bar.start, bar.end or 0) for bar in shown), default=0) + 1
    lanes: list[tuple[int, object]] = []
    place_of: list[int] = []
    for bar in shown:
        end = last + 1 if bar.end is None else bar.end
        same_process = [
            lane for lane, (until, who) in enumerate(lanes) if who == bar.op.process and until < bar.start
        ]
        free = [lane for lane, (until, _) in enumerate(lanes) if until < bar.start]
        lane = (same_process or free or [len(lanes)])[0]
        if lane == len(lanes):
            lanes.append((end, bar.op.process))
        lanes[lane] = (end, bar.op.process)
        place_of.append(lane)
    width, height = _LEFT + (last + 1) * _STEP + 20, len(lanes) * _LANE + 20
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img">']
    named: set[int] = set()
    for bar, lane in zip(shown, place_of, strict=True):
        y = 10 + lane * _LANE
        if lane not in named:
            named.add(lane)
            parts.append(f'<text class="name" x="6" y="{y + 14}">{escape(client(bar.op)[:16])}</text>')
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{width}" y1="{y + 22}" y2="{y + 22}"/>')
        x = _LEFT + bar.start * _STEP
        x2 = _LEFT + (last if bar.end is None else bar.end) * _STEP
        kind = "illegal" if bar.illegal else {READ: "read", CAS: "cas"}.get(bar.op.kind, "change")
        fading = " open" if bar.end is None else ""
        line = f", line {bar.op.line}" if bar.op.line is not None else ""
        order = f"; number {bar.order} in the order" if bar.order is not None else ""
        title = f"{client(bar.op)}: {describe(bar.op)}{line}{order}"
        parts.append(
            f'<g><title>{escape(title)}</title><rect class="{kind}{fading}" x="{x}" y="{y}" '
            f'width="{max(x2 - x, 8)}" height="20" rx="3"/>'
        )
        text = _label(bar.op, max(x2 - x, 8))
        parts.append(
            f'<text x="{x + 5}" y="{y + 14}"{" class=white" if bar.illegal else ""}>{escape(text)}</text>'
        )
        if bar.point is not None:
            px = _LEFT + round(bar.point * _STEP)
            parts.append(f'<circle class="point" cx="{px}" cy="{y + 20}" r="3.5"/>')
            parts.append(
                f'<text class="name" x="{px + 5}" y="{y + 24}" style="font-size:8px">{bar.order}</text>'
            )
        parts.append("</g>")
    return "".join(parts) + "</svg>"


def _label(op: Op, width: int) -> str:
    """As much of the description as fits."""
    text = describe(op)
    most = max(width // 6 - 1, 3)
    return text if len(text) <= most else text[: most - 1] + "…"
