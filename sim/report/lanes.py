"""A virtual run as one page: a lane a node, messages as arrows, faults above, clients below, open at the violation.

`render` writes it. The page loads nothing: its data stand in it as JSON, its script and styles too
(`lanes_page/`). Without script, and in print, the same run is an SVG (`sim.report.overview`).

A page has a bound (`SIZE_LIMIT`). Where a run is larger, what lies farthest from the violation is left out, messages
first, and the page says how many and from where on.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from sim.check.history import Operation
from sim.faults.fault import Fault
from sim.report.facts import RunFacts, clean, natural
from sim.report.overview import overview, pack
from sim.report.story import Story, tell
from sim.virtual.trace import Trace

SIZE_LIMIT: Final = 4_800_000
"""Bytes of a page."""
CLIENT_ROWS: Final = 5
"""Operations of one client drawn above one another at most; more share rows."""

_HERE: Final = Path(__file__).parent
_SCRIPTS: Final = ("data.js", "layout.js", "paint.js", "steer.js")
_BEFORE_US: Final = 90_000
_AFTER_US: Final = 30_000
_CROWDED: Final = 110
"""A page opens at a window with at most so many messages."""

_OUTCOMES: Final = ("open", "delivered", "dropped")
_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False)


def _encode(value: Any) -> str:
    """JSON that may stand inside a script element."""
    return _encoder.encode(value).replace("<", "\\u003c")


def render(
    path: Path,
    trace: Trace,
    history: Sequence[Operation],
    schedule: Sequence[Fault],
    facts: RunFacts,
    size_limit: int = SIZE_LIMIT,
) -> Path:
    """Write the page; its path. Raises OSError."""
    path.write_text(page(trace, history, schedule, facts, size_limit), encoding="utf-8")
    return path


def page(
    trace: Trace,
    history: Sequence[Operation],
    schedule: Sequence[Fault],
    facts: RunFacts,
    size_limit: int = SIZE_LIMIT,
) -> str:
    """The page as text, of at most `size_limit` bytes (its frame and the overview alone take about 100,000)."""
    story = tell(trace, history, schedule, facts)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "lanes_page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html.j2")
    values: dict[str, Any] = {
        "facts": facts,
        "clean": clean,
        "story": story,
        "violation": story.violation,
        "faults": story.faults,
        "options": [(clean(key), clean(value)) for key, value in facts.options.items()],
        "marks": sorted(facts.marks.items()),
        "counts": _counts(trace, history, story),
        "style": Markup((_HERE / "style.css").read_text("utf-8") + _asset("page.css")),
        "script": Markup("".join(map(_asset, _SCRIPTS))),
        "overview": Markup(overview(story, history, facts)),
    }
    frame = len(template.render(**values, data="", left_out=[]).encode("utf-8"))
    data, left_out = _Data(story, history, facts).encode(size_limit - frame - 2_000)
    return template.render(**values, data=Markup(data), left_out=left_out)


def _asset(name: str) -> str:
    return (_HERE / "lanes_page" / name).read_text("utf-8")


def _counts(trace: Trace, history: Sequence[Operation], story: Story) -> list[tuple[str, str]]:
    dropped = sum(message.outcome == "dropped" for message in story.messages)
    still = sum(message.outcome == "open" for message in story.messages)
    ok = sum(operation.outcome == "ok" for operation in history)
    return [
        ("virtual time", f"{(story.end - story.begin) / 1e6:.3f} s"),
        ("moments", f"{len(trace.moments):,}"),
        ("messages", f"{len(story.messages):,}, {dropped:,} dropped, {still:,} still under way"),
        ("operations", f"{len(history):,}, {ok:,} ok"),
    ]


def opening(story: Story) -> tuple[int, int]:
    """[begin, end) of the window that a page opens with: it holds the violation, and few enough messages to follow; the
    whole run if there is no violation."""
    if story.violation is None:
        return story.begin, story.end
    at = story.violation.at
    before, after = _BEFORE_US, _AFTER_US
    sent = [message.sent for message in story.messages]
    while before > 1_500 and bisect_left(sent, at + after) - bisect_left(sent, at - before) > _CROWDED:
        before, after = before * 3 // 4, after * 3 // 4
    return at - before, at + after


class _Data:
    """What the script draws, as JSON text: rows of numbers, names as places in `names`."""

    def __init__(self, story: Story, history: Sequence[Operation], facts: RunFacts) -> None:
        self._story = story
        self._history = history
        self._facts = facts
        self._names: dict[str, int] = {}
        self._nodes = {node: place for place, node in enumerate(facts.nodes)}
        self._domains = {domain: place for place, domain in enumerate(dict.fromkeys(facts.domains.values()))}
        self._rows = [0] * len(history)
        self._clients: dict[str, tuple[int, int]] = {}
        self._ends = dict(self._nodes)
        """Node or client -> its place among the ends of messages: nodes first."""
        self._place_operations()

    def _name(self, text: str) -> int:
        return self._names.setdefault(text, len(self._names))

    def _node(self, node: str) -> int:
        return self._nodes.get(node, -1)

    def encode(self, room: int) -> tuple[str, list[str]]:
        """(JSON of at most about `room` bytes, what was left out in words)."""
        story = self._story
        focus = story.violation.at if story.violation else (story.begin + story.end) // 2
        parts: dict[str, list[tuple[int, str]]] = {
            "messages": self._messages(),
            "disks": self._disks(),
            "logs": self._logs(),
            "points": self._points(),
            "ops": self._operations(),
            "roles": self._spans(),
        }
        head = _encode(self._head())
        left_out = []
        room -= len(head) + 200
        need = {name: sum(len(row) + 1 for _, row in rows) for name, rows in parts.items()}
        for name, rows in parts.items():
            over = sum(need.values()) - room
            if over <= 0:
                break
            parts[name], words = _nearest(rows, need[name] - over, focus, name)
            left_out.append(words)
            need[name] = sum(len(row) + 1 for _, row in parts[name])
        body = "".join(f',"{name}":[{",".join(row for _, row in rows)}]' for name, rows in parts.items())
        return head[:-1] + body + "}", left_out

    def _head(self) -> dict[str, Any]:
        story, facts = self._story, self._facts
        bands = pack([(band.begin, max(band.end, band.begin + 1)) for band in story.faults], 12)
        return {
            "begin": story.begin,
            "end": story.end,
            "window": opening(story),
            "violation": None
            if story.violation is None
            else {
                "at": story.violation.at,
                "oracle": clean(story.violation.oracle, 60),
                "nodes": [self._node(node) for node in story.violation.nodes],
            },
            "nodes": [
                {"name": clean(node, 40), "domain": self._domains.get(facts.domains.get(node, ""), -1)}
                for node in facts.nodes
            ],
            "domains": [clean(domain, 40) for domain in self._domains],
            "power": [
                [self._domains[name], begin, end, int(whole)] for name, begin, end, whole in story.power
            ],
            "phases": [[span.begin, span.end, span.name, span.text] for span in story.phases],
            "faults": [
                [band.number, band.name, band.text, band.begin, band.end, band.bites, int(band.happened), row]
                for band, row in zip(story.faults, bands, strict=True)
            ],
            "clients": [
                {"name": clean(client, 40), "rows": count, "at_once": at_once}
                for client, (count, at_once) in self._clients.items()
            ],
            "names": list(self._names),
            "outcomes": _OUTCOMES,
        }

    def _spans(self) -> list[tuple[int, str]]:
        """Roles, downs and pauses: [what, node, begin, end, name, term, text]."""
        story = self._story
        return [
            (
                (span.begin + span.end) // 2,
                _encode([kind, self._node(span.node), span.begin, span.end, self._name(span.name), span.term, span.text]),
            )
            for kind, spans in enumerate((story.roles, story.downs, story.pauses))
            for span in spans
        ]  # fmt: skip

    def _messages(self) -> list[tuple[int, str]]:
        """[sent, took, from, to (places in `nodes` followed by `clients`), name, outcome, why, fault or -1, note, copy]."""
        return [
            (
                m.end,
                f"[{m.sent},{m.end - m.sent},{self._ends[m.source]},{self._ends[m.target]},{self._name(m.name)},"
                f"{_OUTCOMES.index(m.outcome)},{self._name(m.why)},{-1 if m.fault is None else int(m.fault)},"
                f"{_encode(m.note)},{int(m.copy)}]",
            )
            for m in self._story.messages
        ]

    def _logs(self) -> list[tuple[int, str]]:
        """[node, at, last, durable, commit, applied]."""
        return [
            (log.at, f"[{self._node(log.node)},{log.at},{log.last},{log.durable},{log.commit},{log.applied}]")
            for log in self._story.logs
        ]

    def _disks(self) -> list[tuple[int, str]]:
        """[node, at, took, sync, text]."""
        return [
            (
                work.at,
                f"[{self._node(work.node)},{work.at},{work.took},{int(work.sync)},{_encode(work.text)}]",
            )
            for work in self._story.disks
        ]

    def _points(self) -> list[tuple[int, str]]:
        """[at, kind, node, name, text, fault or -1]."""
        return [
            (
                point.at,
                _encode(
                    [
                        point.at,
                        self._name(point.kind),
                        self._node(point.node),
                        point.name,
                        point.text,
                        -1 if point.fault is None else int(point.fault),
                    ]
                ),
            )
            for point in self._story.points
        ]

    def _place_operations(self) -> None:
        """Give every operation a row within its client's, and count how many each client had open at once."""
        own: dict[str, list[tuple[int, int, int]]] = {}
        # An operation that never returned is drawn with a short tail.
        tail = max((self._story.end - self._story.begin) // 400, 1)
        for number, o in enumerate(self._history):
            end = o.invoke + tail if o.returned is None else max(o.returned, o.invoke + 1)
            own.setdefault(o.client, []).append((o.invoke, end, number))
        for message in self._story.messages:
            for party in (message.source, message.target):
                if party not in self._nodes:
                    own.setdefault(party, [])
        for client in sorted(own, key=natural):
            self._ends[client] = len(self._ends)
            spans = sorted(own[client])
            placed = pack([(begin, end) for begin, end, _ in spans], CLIENT_ROWS)
            for (_, _, number), row in zip(spans, placed, strict=True):
                self._rows[number] = row
            count = most = 0
            for _, change in sorted(
                [(begin, 1) for begin, _, _ in spans] + [(end, -1) for _, end, _ in spans]
            ):
                count += change
                most = max(most, count)
            self._clients[client] = (max(placed, default=0) + 1, most)

    def _operations(self) -> list[tuple[int, str]]:
        """[client, row, invoke, returned or -1, op, outcome, index or -1, place or -1, point or -1, outside, illegal, text].

        `point`: when the entry was first known committed (a write, an open), or the latest instant at which the state
        that a query was answered from can have been current, as far as the moments tell; `outside` 1 where that lies
        outside of the operation's own time and is drawn at its nearest edge."""
        clients = {client: place for place, client in enumerate(self._clients)}
        illegal = set(self._story.violation.operations) if self._story.violation else set()
        rows = []
        for number, o in enumerate(self._history):
            point, outside = self._point(o)
            rows.append(
                (
                    o.invoke,
                    _encode(
                        [
                            clients[o.client],
                            self._rows[number],
                            o.invoke,
                            -1 if o.returned is None else o.returned,
                            self._name(o.op),
                            self._name(o.outcome),
                            -1 if o.index is None else o.index,
                            -1 if o.place is None else o.place,
                            point,
                            outside,
                            int(number in illegal),
                            _said(o),
                        ]
                    ),
                )
            )
        return rows

    def _point(self, o: Operation) -> tuple[int, int]:
        if o.outcome != "ok" or o.index is None or o.returned is None:
            return -1, 0
        at = self._story.committed_at(o.index) if o.index else self._story.begin
        if o.op == "query":
            # The state of entry `index` was current from its commit until the next one's.
            if at is None:
                return -1, 0
            until = self._story.committed_at(o.index + 1)
            begin, end = max(at, o.invoke), min(self._story.end if until is None else until, o.returned)
            if begin <= end:
                return begin, 0
            return (o.returned, 1) if at > o.returned else (o.invoke, int(o.consistency == "linearizable"))
        if at is None:
            return -1, 0
        return min(max(at, o.invoke), o.returned), int(not o.invoke <= at <= o.returned)


def _said(o: Operation) -> str:
    """What an operation asked for and heard, short."""
    parts = []
    if o.session is not None:
        parts.append(f"session {o.session}" + (f" seq {o.seq}" if o.seq is not None else ""))
    if o.consistency:
        parts.append(o.consistency)
    for name, value in (("asked", o.command if o.query is None else o.query), ("heard", o.result)):
        if value:
            parts.append(f"{name} {clean(value, 80)}")
    if o.node:
        parts.append(f"answered by {o.node}")
    if o.attempts > 1:
        parts.append(f"{o.attempts} attempts")
    if o.error:
        parts.append(o.error)
    return clean("; ".join(parts))


def _nearest(
    rows: list[tuple[int, str]], room: int, focus: int, name: str
) -> tuple[list[tuple[int, str]], str]:
    """The rows nearest to `focus` that fit, in their order, and what was left out in words."""
    distance: Callable[[int], int] = lambda place: abs(rows[place][0] - focus)  # noqa: E731
    kept, used = 0, 0
    order: Iterable[int] = sorted(range(len(rows)), key=distance)
    keep = [False] * len(rows)
    edge = 0
    for place in order:
        used += len(rows[place][1]) + 1
        if used > max(room, 0):
            edge = distance(place)
            break
        keep[place] = True
        kept += 1
    what = {
        "disks": "disk writes and syncs",
        "logs": "log positions",
        "ops": "operations",
        "roles": "roles and downs",
    }
    words = (
        f"{len(rows) - kept:,} of {len(rows):,} {what.get(name, name)}: those {edge / 1e6:.3f} s and more from "
        f"{focus / 1e6:.3f} s"
    )
    return [row for row, wanted in zip(rows, keep, strict=True) if wanted], words
