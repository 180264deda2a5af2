"""A virtual run as spans and points: what the pictures draw, made from its moments in one pass.

A moment tells a change; a picture needs how long each state lasted. `tell` pairs sends with their ends, boots with
what went down, begins of faults with their ends. Nothing is judged here and nothing is left out: a message that was
neither delivered nor dropped is `open`, a copy that arrives again is a message of its own with `copy` set.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sim.check.history import Operation
from sim.faults.fault import Fault
from sim.report.facts import RunFacts, Violation, clean, details
from sim.virtual.trace import Moment, Trace

_NAME: Final = 60
"""Characters of a name: what a message or a role is called, why something was dropped."""


@dataclass(slots=True)
class Span:
    """[begin, end) at one node: a role (`name`, `term`), a time down (`name` is why), a pause."""

    node: str
    begin: int
    end: int
    name: str = ""
    term: int = 0
    text: str = ""


@dataclass(slots=True)
class Message:
    """One message, or one more copy of it. `end`: when it was delivered or dropped; `sent` while it is open."""

    sent: int
    end: int
    source: str
    target: str
    name: str
    note: str
    outcome: str = "open"
    """`open`, `delivered` or `dropped`."""
    why: str = ""
    fault: int | None = None
    copy: bool = False


@dataclass(slots=True)
class Log:
    """Indices of a node's log from `at` on."""

    node: str
    at: int
    last: int
    durable: int
    commit: int
    applied: int


@dataclass(slots=True)
class DiskWork:
    """A write (`took` 0) at `at`, or a sync that became durable at `at` and took `took` us."""

    node: str
    at: int
    took: int
    text: str
    sync: bool


@dataclass(slots=True)
class Point:
    """Something at one instant: `boot`, `event`, `mark`, `bite` or `violation`. `fault`: its number, of a bite."""

    at: int
    kind: str
    node: str
    name: str
    text: str
    fault: int | None = None


@dataclass(slots=True)
class FaultBand:
    """A fault: the time it was in force, and how often it bit. `happened` False: scheduled, never begun."""

    number: int
    name: str
    text: str
    begin: int
    end: int
    bites: int
    happened: bool


@dataclass(slots=True)
class Story:
    """Everything a picture of a run shows. Lists are in the order of their beginnings."""

    begin: int
    end: int
    violation: Violation | None
    roles: list[Span] = field(default_factory=list)
    downs: list[Span] = field(default_factory=list)
    pauses: list[Span] = field(default_factory=list)
    phases: list[Span] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    disks: list[DiskWork] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    faults: list[FaultBand] = field(default_factory=list)
    power: list[tuple[str, int, int, bool]] = field(default_factory=list)
    """(domain, begin, end, whether all of its nodes were without power)."""
    commits: list[tuple[int, int]] = field(default_factory=list)
    """(index, when some node first knew it committed), both rising."""

    def committed_at(self, index: int) -> int | None:
        """When entry `index` was first known committed by any node; None if that was not seen."""
        place = bisect_left(self.commits, (index, -1))
        return self.commits[place][1] if place < len(self.commits) else None


def tell(trace: Trace, history: Sequence[Operation], schedule: Sequence[Fault], facts: RunFacts) -> Story:
    """Make the story of a run. Nodes that moments name and the facts do not are ignored by the pictures, not here."""
    moments = trace.moments
    times = [moment.at for moment in moments]
    times += [operation.invoke for operation in history]
    times += [operation.returned for operation in history if operation.returned is not None]
    if facts.violation is not None:
        times.append(facts.violation.at)
    begin = min(0, *times) if times else 0
    story = Story(begin, max([*times, begin + 1]), facts.violation)
    _Teller(story, facts).run(moments, schedule)
    return story


class _Teller:
    """One pass over the moments: `on_<kind>` takes one; a kind without its own becomes a point."""

    def __init__(self, story: Story, facts: RunFacts) -> None:
        self._story = story
        self._facts = facts
        self._roles: dict[str, Span] = {}
        self._downs: dict[str, Span] = {}
        self._sent: dict[Any, Message] = {}
        self._faults: dict[int, FaultBand] = {}
        self._bites: dict[int, int] = {}
        self._commit = 0
        self._accused: tuple[str, ...] = ()

    def run(self, moments: Sequence[Moment], schedule: Sequence[Fault]) -> None:
        story = self._story
        for moment in moments:
            getattr(self, f"on_{moment.kind}", self.on_other)(moment)
        for span in [*self._roles.values(), *self._downs.values(), *story.phases[-1:]]:
            span.end = story.end
        self._settle_faults(schedule)
        story.power = _dark(story.downs, self._facts.domains)
        story.messages.sort(key=lambda message: message.sent)
        if story.violation is None:
            told = next((point for point in story.points if point.kind == "violation"), None)
            if told is not None:
                story.violation = Violation(told.name, told.at, told.text, self._accused)

    def _settle_faults(self, schedule: Sequence[Fault]) -> None:
        for fault in schedule:
            band = self._faults.get(fault.number)
            if band is None:
                self._faults[fault.number] = FaultBand(
                    fault.number, clean(fault.kind), clean(fault), fault.at, fault.until, 0, False
                )
            else:
                band.text = clean(fault)
        for band in self._faults.values():
            band.bites = self._facts.bites.get(band.number, self._bites.get(band.number, 0))
            if band.end < band.begin:
                band.end = self._story.end
        self._story.faults = sorted(self._faults.values(), key=lambda band: (band.begin, band.number))

    def on_other(self, moment: Moment) -> None:
        name = moment.data.get("name", moment.kind)
        self._point(moment, name, details(moment.data, ("name",)))

    def _point(self, moment: Moment, name: Any, text: str, fault: int | None = None) -> None:
        self._story.points.append(Point(moment.at, moment.kind, moment.node, clean(name), clean(text), fault))

    def on_send(self, moment: Moment) -> None:
        data = moment.data
        name, note = clean(data.get("message", "message"), _NAME), clean(data.get("note") or "")
        message = Message(moment.at, moment.at, moment.node, moment.peer, name, note)
        self._story.messages.append(message)
        if data.get("id") is not None:
            self._sent[data["id"]] = message

    def _ended(self, moment: Moment) -> Message:
        """The message that a deliver or drop ends: the one sent, or one more copy of it."""
        first = self._sent.get(moment.data.get("id"))
        if first is not None and first.outcome == "open":
            return first
        name = first.name if first else clean(moment.data.get("message", "message"), _NAME)
        note = first.note if first else clean(moment.data.get("note") or "")
        sent = first.sent if first else moment.at
        message = Message(sent, moment.at, moment.node, moment.peer, name, note, copy=first is not None)
        self._story.messages.append(message)
        return message

    def on_deliver(self, moment: Moment) -> None:
        message = self._ended(moment)
        message.end, message.outcome = moment.at, "delivered"

    def on_drop(self, moment: Moment) -> None:
        message = self._ended(moment)
        message.end, message.outcome = moment.at, "dropped"
        message.why, message.fault = clean(moment.data.get("why", ""), _NAME), moment.data.get("fault")

    def _end_role(self, moment: Moment) -> None:
        span = self._roles.pop(moment.node, None)
        if span is not None:
            span.end = moment.at

    def on_role(self, moment: Moment) -> None:
        data = moment.data
        role, term, leader = (
            clean(data.get("role", ""), _NAME),
            int(data.get("term") or 0),
            data.get("leader"),
        )
        text = f"leader {clean(leader)}" if leader else ""
        if moment.node in self._downs:
            self._point(moment, f"{role} in term {term} while down", text)
            return
        now = self._roles.get(moment.node)
        if now is not None and (now.name, now.term) == (role, term):
            # Only whom it follows is new: one span, which says whom it came to follow.
            now.text = text or now.text
            return
        self._end_role(moment)
        span = Span(moment.node, moment.at, moment.at, role, term, text)
        self._roles[moment.node] = span
        self._story.roles.append(span)

    def on_log(self, moment: Moment) -> None:
        last, durable, commit, applied = (
            int(moment.data.get(name) or 0)
            for name in ("last_index", "durable_index", "commit_index", "applied_index")
        )
        self._story.logs.append(Log(moment.node, moment.at, last, durable, commit, applied))
        if commit > self._commit:
            self._commit = commit
            self._story.commits.append((commit, moment.at))

    def on_write(self, moment: Moment) -> None:
        self._story.disks.append(DiskWork(moment.node, moment.at, 0, details(moment.data), False))

    def on_sync(self, moment: Moment) -> None:
        took = int(moment.data.get("took") or 0)
        text = details(moment.data, ("took",))
        self._story.disks.append(DiskWork(moment.node, moment.at, took, text, True))

    def on_boot(self, moment: Moment) -> None:
        self._end_role(moment)
        span = self._downs.pop(moment.node, None)
        if span is not None:
            span.end = moment.at
        life = moment.data.get("life")
        self._point(moment, "boot" if life is None else f"boot, life {life}", details(moment.data, ("life",)))

    def on_down(self, moment: Moment) -> None:
        self._end_role(moment)
        if moment.node in self._downs:
            # Down already: what happens to it now (its power goes as well) is told, but opens no second span.
            self._point(moment, clean(moment.data.get("why", "down")), details(moment.data, ("why",)))
            return
        why, text = clean(moment.data.get("why", "down")), details(moment.data, ("why",))
        span = Span(moment.node, moment.at, moment.at, why, 0, text)
        self._downs[moment.node] = span
        self._story.downs.append(span)

    def on_pause(self, moment: Moment) -> None:
        until = min(int(moment.data.get("until") or self._story.end), self._story.end)
        self._story.pauses.append(Span(moment.node, moment.at, max(until, moment.at), "paused"))

    def on_fault(self, moment: Moment) -> None:
        data = moment.data
        number = int(data.get("number") or 0)
        name, text = clean(data.get("name", "fault")), clean(data.get("text") or "")
        self._faults[number] = FaultBand(number, name, text, moment.at, moment.at - 1, 0, True)

    def on_calm(self, moment: Moment) -> None:
        band = self._faults.get(int(moment.data.get("number") or 0))
        if band is not None:
            band.end = moment.at

    def on_bite(self, moment: Moment) -> None:
        number = int(moment.data.get("number") or 0)
        self._bites[number] = self._bites.get(number, 0) + 1
        text = details(moment.data, ("number",))
        self._point(moment, f"fault #{number} bites", text, number)

    def on_phase(self, moment: Moment) -> None:
        if self._story.phases:
            self._story.phases[-1].end = moment.at
        name, text = clean(moment.data.get("name", "")), clean(moment.data.get("text") or "")
        self._story.phases.append(Span("", moment.at, moment.at, name, 0, text))

    def on_violation(self, moment: Moment) -> None:
        if not self._accused:
            self._accused = tuple(moment.data.get("nodes") or ([moment.node] if moment.node else ()))
        self._point(moment, moment.data.get("oracle", "violation"), clean(moment.data.get("text", "")))


def _dark(downs: Sequence[Span], domains: Mapping[str, str]) -> list[tuple[str, int, int, bool]]:
    """Per domain, the times in which at least one of its nodes was without power, cut where all becomes some."""
    dark: list[tuple[str, int, int, bool]] = []
    for domain in dict.fromkeys(domains.values()):
        members = sum(1 for other in domains.values() if other == domain)
        changes: list[tuple[int, int]] = []
        for span in downs:
            if span.name == "power" and domains.get(span.node) == domain and span.end > span.begin:
                changes += [(span.begin, 1), (span.end, -1)]
        count, since = 0, 0
        for at, change in sorted(changes):
            if count and at > since:
                whole = count == members
                if dark and dark[-1][0] == domain and dark[-1][2] == since and dark[-1][3] == whole:
                    dark[-1] = (domain, dark[-1][1], at, whole)
                else:
                    dark.append((domain, since, at, whole))
            count, since = count + change, at
    return dark
