"""A virtual run in a terminal: one line a moment, a column a node.

A column always says what its node is: `L7` leads in term 7, `f7` follows, `c7` and `p7` ask for votes and pre-votes,
`##` is down, `==` is paused, `?` is not known yet. Behind it stands a sign in the line of a moment at that node (`GLYPHS`);
`>` in the sender's column, `<` in the receiver's. Then the moment in words. `legend()` is that in one line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from sim.report.facts import RunFacts, clean, words
from sim.virtual.trace import KINDS, Moment, Trace

GLYPHS: Final = {
    "send": ">",
    "deliver": "<",
    "drop": "x",
    "role": "*",
    "log": "+",
    "write": "w",
    "sync": "s",
    "boot": "^",
    "down": "#",
    "pause": "=",
    "bite": "b",
    "event": "~",
    "mark": "m",
    "violation": "!",
}
_ROLES: Final = {"leader": "L", "follower": "f", "candidate": "c", "precandidate": "p"}
_STYLES: Final = {
    "drop": "red",
    "down": "bold white on grey23",
    "boot": "bold",
    "pause": "yellow",
    "role": "bold blue",
    "fault": "bold yellow",
    "calm": "yellow",
    "bite": "yellow",
    "phase": "bold magenta",
    "mark": "magenta",
    "violation": "bold white on red",
    "write": "dim",
    "sync": "dim",
    "log": "dim",
    "deliver": "dim",
}


class TerminalError(ValueError):
    """A kind or node that the run does not have; the text says what there is."""


def legend() -> str:
    """What the signs mean, in one line."""
    signs = " ".join(f"{sign} {kind}" for kind, sign in GLYPHS.items())
    return f"L leads, f follows, c candidate, p pre-candidate (with the term), ## down, == paused; {signs}"


def lines(
    trace: Trace,
    facts: RunFacts,
    *,
    around_us: int | None = None,
    at_us: int | None = None,
    kinds: Collection[str] | None = None,
    nodes: Collection[str] | None = None,
) -> Iterator[str]:
    """The run as lines of plain text: what it is, the legend, the names of the columns, a line a moment, and how many
    moments were shown of how many.

    `around_us`: only moments at most so far from `at_us` (default: the violation; without one the end). `kinds`: only
    these. `nodes`: only moments at or between these nodes, and those of the world (faults, phases, the violation).
    Raises TerminalError for an unknown kind or node."""
    for _, line in _rows(trace, facts, around_us, at_us, kinds, nodes):
        yield line


def show(console: Console, trace: Trace, facts: RunFacts, **filters: Any) -> None:
    """Print `lines` (same filters) to a console, coloured if it is a terminal. Raises TerminalError."""
    for kind, line in _rows(
        trace,
        facts,
        filters.get("around_us"),
        filters.get("at_us"),
        filters.get("kinds"),
        filters.get("nodes"),
    ):
        console.print(
            Text(line, style=_STYLES.get(kind, "")),
            soft_wrap=True,
            highlight=False,
            no_wrap=not console.is_terminal,
        )


def _rows(
    trace: Trace,
    facts: RunFacts,
    around_us: int | None,
    at_us: int | None,
    kinds: Collection[str] | None,
    nodes: Collection[str] | None,
) -> Iterator[tuple[str, str]]:
    for asked, known, what in ((kinds, KINDS, "kind of moment"), (nodes, facts.nodes, "node")):
        for name in sorted(asked or ()):
            if name not in known:
                raise TerminalError(f"no {what} {name!r}; there are {', '.join(known)}")
    centre, reach = _window(trace, facts, around_us, at_us)
    yield "title", f"seed {facts.seed}: {clean(facts.command)}"
    if facts.violation is not None:
        v = facts.violation
        yield "violation", f"{clean(v.oracle)} violated at {v.at / 1e6:.6f} s: {clean(v.text)}"
    yield "title", legend()
    columns = _Columns(facts)
    yield "title", f"{'seconds':>12}  {columns.names()}"
    shown = 0
    for moment in trace.moments:
        columns.follow(moment)
        if abs(moment.at - centre) > reach or (kinds is not None and moment.kind not in kinds):
            continue
        if nodes is not None and moment.node and moment.node not in nodes and moment.peer not in nodes:
            continue
        shown += 1
        at = f"{moment.at // 1_000_000}.{moment.at % 1_000_000:06d}"
        yield moment.kind, f"{at:>12}  {columns.row(moment)}  {words(moment, columns.sent(moment))}"
    yield "title", f"{shown:,} of {len(trace.moments):,} moments shown"


def _window(trace: Trace, facts: RunFacts, around_us: int | None, at_us: int | None) -> tuple[int, int]:
    """(centre, reach) of the time to show."""
    end = trace.moments[-1].at if trace.moments else 0
    if at_us is not None:
        centre = at_us
    elif facts.violation is not None:
        centre = facts.violation.at
    else:
        told = (moment.at for moment in trace.moments if moment.kind == "violation")
        centre = next(told, end)
    return (centre, around_us) if around_us is not None else (0, max(end, 0) + 1)


class _Columns:
    """What every node is, as the moments tell."""

    def __init__(self, facts: RunFacts) -> None:
        self._nodes = list(facts.nodes)
        self._role = dict.fromkeys(self._nodes, "?")
        self._down: dict[str, bool] = dict.fromkeys(self._nodes, False)
        self._paused = dict.fromkeys(self._nodes, -1)
        self._sent: dict[Any, dict[str, Any]] = {}
        self._widths = {node: max(len(clean(node)), 6) for node in self._nodes}

    def names(self) -> str:
        """The heads of the columns."""
        return " ".join(clean(node).ljust(self._widths[node]) for node in self._nodes)

    def sent(self, moment: Moment) -> dict[str, Any] | None:
        """The data of the send that a deliver or drop belongs to, where it was told."""
        return self._sent.get(moment.data.get("id")) if moment.kind in ("deliver", "drop") else None

    def follow(self, moment: Moment) -> None:
        """Take note of a moment, shown or not."""
        kind, node, data = moment.kind, moment.node, moment.data
        if kind == "send":
            if data.get("id") is not None:
                self._sent[data["id"]] = data
        elif node not in self._role:
            return
        elif kind == "role":
            role = clean(data.get("role", "?"), 20)
            self._role[node] = f"{_ROLES.get(role, role[:1])}{clean(data.get('term', '?'), 12)}"
        elif kind == "boot":
            self._down[node], self._role[node], self._paused[node] = False, "?", -1
        elif kind == "down":
            self._down[node] = True
        elif kind == "pause":
            self._paused[node] = int(data.get("until") or 0)

    def row(self, moment: Moment) -> str:
        """The columns at a moment."""
        here = moment.peer if moment.kind == "deliver" else moment.node
        cells = []
        for node in self._nodes:
            state = self._role[node]
            if self._down[node]:
                state = "##"
            elif moment.at < self._paused[node]:
                state = "=="
            sign = GLYPHS.get(moment.kind, "~") if node == here else ""
            cells.append(f"{state:<4}{sign}".ljust(self._widths[node]))
        return " ".join(cells)
