"""A virtual run as a Chrome JSON trace, which ui.perfetto.dev opens: `write`.

Processes: `world` (phases, faults, the violation), one a node (named with its power domain), `clients`. A node's threads
are its role, its messages out, dropped and in, its disk, its fsyncs, its cpu (down and paused times) and its events; its
log is a counter. A message is a slice of a microsecond at each end, joined by a flow; a dropped one ends in the thread
`drops` of its sender. Client operations are asynchronous slices, for they overlap.

Format: Trace Event Format (the Chromium project), as Perfetto reads it: durations in one thread must nest, so what can
overlap gets rows of its own; numbers of threads are unique over all processes; a flow is one by (category, name, id).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from sim.check.history import Operation
from sim.faults.fault import Fault
from sim.report.facts import RunFacts, clean, natural
from sim.report.overview import pack
from sim.report.story import Span, Story, tell
from sim.virtual.trace import Trace

_WORLD: Final = 1
_NODES: Final = 10
_THREADS: Final = ("role", "out", "drops", "in", "disk", "fsync", "cpu", "events")
_TRACK: Final = 1000
"""Numbers of threads: a process's own times this, plus the row."""

Event = dict[str, Any]


def write(
    path: Path,
    trace: Trace,
    history: Sequence[Operation],
    facts: RunFacts,
    schedule: Sequence[Fault] = (),
) -> Path:
    """Write the trace to `path` (compressed if it ends in `.gz`, which Perfetto opens as well); the path. Raises OSError."""
    document = {
        "traceEvents": events(trace, history, facts, schedule),
        "displayTimeUnit": "ms",
        "otherData": {
            "seed": str(facts.seed),
            "command": facts.command,
            "outcome": facts.outcome,
            "trace_hash": facts.trace_hash,
        },
    }
    text = json.dumps(document, separators=(",", ":")).encode("ascii")
    if path.suffix == ".gz":
        # No time of day in the header: the same run gives the same bytes.
        text = gzip.compress(text, 6, mtime=0)
    path.write_bytes(text)
    return path


def events(
    trace: Trace, history: Sequence[Operation], facts: RunFacts, schedule: Sequence[Fault] = ()
) -> list[Event]:
    """The events: names first, then all others by time, those of one instant in the order of their telling."""
    story = tell(trace, history, schedule, facts)
    writer = _Writer(story, facts)
    writer.world()
    writer.nodes()
    writer.messages()
    writer.clients(history)
    writer.out.sort(key=lambda event: event["ts"])
    return writer.names + writer.out


class _Writer:
    def __init__(self, story: Story, facts: RunFacts) -> None:
        self._story = story
        self._facts = facts
        self._pids = {node: _NODES + place for place, node in enumerate(facts.nodes)}
        self._clients = _NODES + len(facts.nodes)
        self._clients_named = False
        self._known: dict[int, str] = {}
        self.names: list[Event] = []
        self.out: list[Event] = []
        self._process(_WORLD, "world", 0)
        for node, pid in self._pids.items():
            self._process(pid, f"{node} ({facts.domains.get(node, '?')})", pid)

    def _client_process(self) -> int:
        """The process of all clients, named when first used."""
        if not self._clients_named:
            self._clients_named = True
            self._process(self._clients, "clients", self._clients)
        return self._clients

    def _process(self, pid: int, name: str, order: int) -> None:
        self.names.append(_named("process_name", pid, pid * _TRACK, name=clean(name, 80)))
        self.names.append(_named("process_sort_index", pid, pid * _TRACK, sort_index=order))

    def _thread(self, pid: int, row: int, name: str) -> int:
        """The number of a thread; named when first used."""
        tid = pid * _TRACK + row + 1
        if tid not in self._known:
            self._known[tid] = name
            self.names.append(_named("thread_name", pid, tid, name=clean(name, 80)))
            self.names.append(_named("thread_sort_index", pid, tid, sort_index=row))
        return tid

    def _node_thread(self, node: str, name: str, row: int = 0) -> tuple[int, int]:
        """(process, thread) of a node; `row` counts further ones of the same name. Whoever is no node is a client."""
        pid = self._pids[node] if node in self._pids else self._client_process()
        place = 50 * (_THREADS.index(name) + 1) + row
        return pid, self._thread(pid, place, name if not row else f"{name} {row + 1}")

    def _slice(self, where: tuple[int, int], begin: int, end: int, name: str, **args: Any) -> None:
        pid, tid = where
        event = {
            "ph": "X",
            "ts": begin,
            "dur": end - begin,
            "pid": pid,
            "tid": tid,
            "name": name,
            "cat": "run",
        }
        self.out.append({**event, "args": args} if args else event)

    def _instant(self, where: tuple[int, int], at: int, name: str, scope: str = "t", **args: Any) -> None:
        pid, tid = where
        self.out.append(
            {"ph": "i", "ts": at, "pid": pid, "tid": tid, "name": name, "cat": "run", "s": scope, "args": args}
        )  # fmt: skip

    def world(self) -> None:
        """Phases, faults, what happened nowhere in particular, and the violation, through all tracks."""
        story = self._story
        for span in story.phases:
            where = _WORLD, self._thread(_WORLD, 1, "phase")
            self._slice(where, span.begin, span.end, span.name or "phase", text=span.text)
        rows = pack(
            [(band.begin, max(band.end, band.begin + 1)) for band in story.faults], len(story.faults) or 1
        )
        for band, row in zip(story.faults, rows, strict=True):
            where = _WORLD, self._thread(_WORLD, 10 + row, "faults" if not row else f"faults {row + 1}")
            name = f"#{band.number} {band.name}{'' if band.happened else ' (never began)'}"
            self._slice(
                where, band.begin, max(band.end, band.begin + 1), name, text=band.text, bites=band.bites
            )
        for domain in dict.fromkeys(self._facts.domains.values()):
            place = list(dict.fromkeys(self._facts.domains.values())).index(domain)
            for name, begin, end, whole in story.power:
                if name == domain:
                    where = _WORLD, self._thread(_WORLD, 500 + place, f"power of {domain}")
                    self._slice(where, begin, end, "no power" if whole else "power in part")
        for point in story.points:
            if point.node not in self._pids and point.kind != "violation":
                where = _WORLD, self._thread(_WORLD, 2, "events")
                self._instant(where, point.at, f"{point.kind} {point.name}", text=point.text)
        if story.violation is not None:
            v = story.violation
            where = _WORLD, self._thread(_WORLD, 0, "violation")
            name = f"VIOLATION {clean(v.oracle)}"
            self._slice(where, v.at, v.at + 1, name, text=clean(v.text), nodes=", ".join(v.nodes))
            self._instant(where, v.at, name, "g", text=clean(v.text))

    def nodes(self) -> None:
        """Roles, logs, disks, down and paused times, events."""
        story = self._story
        for span in story.roles:
            name = f"{span.name}, term {span.term}"
            self._slice(self._node_thread(span.node, "role"), span.begin, span.end, name, text=span.text)
        self._states(story.downs, "down: ")
        self._states(story.pauses, "")
        for log in story.logs:
            pid, tid = self._node_thread(log.node, "role")
            args = {"last": log.last, "durable": log.durable, "commit": log.commit, "applied": log.applied}
            self.out.append(
                {"ph": "C", "ts": log.at, "pid": pid, "tid": tid, "name": "log", "cat": "run", "args": args}
            )
        self._disks()
        for point in story.points:
            if point.node in self._pids:
                where = self._node_thread(point.node, "events")
                self._instant(where, point.at, f"{point.kind} {point.name}", text=point.text)

    def _states(self, spans: Iterable[Span], prefix: str) -> None:
        """Down and paused times; a pause may run into a power cut, so each has its row."""
        for span in spans:
            where = self._node_thread(span.node, "cpu", 0 if prefix else 1)
            self._slice(where, span.begin, span.end, prefix + span.name, text=span.text)

    def _disks(self) -> None:
        for node in dict.fromkeys(work.node for work in self._story.disks):
            syncs = sorted(
                (work.at - work.took, work.at, work.text)
                for work in self._story.disks
                if work.sync and work.node == node
            )
            rows = pack([(begin, max(end, begin + 1)) for begin, end, _ in syncs], 40)
            for (begin, end, text), row in zip(syncs, rows, strict=True):
                self._slice(self._node_thread(node, "fsync", row), begin, end, "fsync", text=text)
        for work in self._story.disks:
            if not work.sync:
                self._instant(self._node_thread(work.node, "disk"), work.at, "write", text=work.text)

    def messages(self) -> None:
        """A slice at each end, and the flow between them."""
        for number, message in enumerate(self._story.messages, 1):
            args = {"to": message.target, "note": message.note}
            here = self._node_thread(message.source, "out")
            self._slice(here, message.sent, message.sent + 1, message.name, **args)
            if message.outcome == "open":
                continue
            flow = {"name": "message", "cat": "message", "id": number}
            self.out.append({"ph": "s", "ts": message.sent, "pid": here[0], "tid": here[1], **flow})
            if message.outcome == "delivered":
                there, name = self._node_thread(message.target, "in"), message.name
            else:
                there, name = self._node_thread(message.source, "drops"), f"dropped: {message.why}"
                args["fault"] = "none" if message.fault is None else f"#{message.fault}"
            args["from"] = message.source
            self._slice(there, message.end, message.end + 1, name, **args)
            self.out.append(
                {"ph": "f", "bp": "e", "ts": message.end, "pid": there[0], "tid": there[1], **flow}
            )

    def clients(self, history: Sequence[Operation]) -> None:
        """One process; the operations of one client and kind share a track. One that never returned ends with the run."""
        if not history:
            return
        self._client_process()
        illegal = set(self._story.violation.operations) if self._story.violation else set()
        order = {
            client: place for place, client in enumerate(sorted({o.client for o in history}, key=natural))
        }
        tid = self._clients * _TRACK
        for number, o in enumerate(history):
            name = f"{clean(o.client, 40)} {o.op}"
            common = {
                "pid": self._clients,
                "tid": tid,
                "cat": "client",
                "id": f"{order[o.client]}.{number}",
                "name": name,
            }
            end = self._story.end if o.returned is None else o.returned
            args: dict[str, Any] = {"outcome": o.outcome}
            for key in ("session", "seq", "index", "place", "consistency", "node", "error"):
                value = getattr(o, key)
                if value is not None:
                    args[key] = clean(value) if isinstance(value, str) else value
            if o.returned is None:
                args["returned"] = "never"
            if number in illegal:
                args["illegal"] = "cannot be put in order"
            self.out.append({"ph": "b", "ts": o.invoke, **common, "args": args})
            self.out.append({"ph": "e", "ts": max(end, o.invoke), **common})


def _named(what: str, pid: int, tid: int, **args: Any) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "ts": 0, "args": args}
