"""Oracles that hold for every replicated log, whatever its protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from consensus.core import CoreView
from node.protocol import Answer, DigestReport, Outcome
from sim.check.history import Operation
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World


class ElectionSafety(Oracle):
    """At most one leader a term (Raft paper, figure 3)."""

    name = "election safety"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._leaders: dict[int, str] = {}

    def changed(self, host: Host, view: CoreView) -> None:
        if view.role != "leader":
            return
        other = self._leaders.setdefault(view.term, host.name)
        if other != host.name:
            self.violated(f"{other} and {host.name} both lead term {view.term}", other, host.name)


class Monotonic(Oracle):
    """Term and applied index of a node never fall, its commit index not within a life, and a vote of a term never changes."""

    name = "monotonic state"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._terms: dict[str, int] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self._commits: dict[tuple[str, int], int] = {}
        self._applied: dict[tuple[str, int], int] = {}

    def changed(self, host: Host, view: CoreView) -> None:
        life = (host.name, host.life)
        known = self._commits.get(life, 0)
        if view.commit_index < known:
            self.violated(f"{host.name}'s commit index fell from {known} to {view.commit_index}", host.name)
        self._commits[life] = view.commit_index
        # Between lives an unsynced term may be lost: nobody has heard of it then, which the protocol's own oracle checks.
        term = self._terms.get(f"{host.name}/{host.life}", 0)
        if view.term < term:
            self.violated(f"{host.name}'s term fell from {term} to {view.term}", host.name)
        self._terms[f"{host.name}/{host.life}"] = view.term
        # Once given, a vote is neither changed nor taken back in its term (paper 5.2).
        place = (f"{host.name}/{host.life}", view.term)
        vote = self._votes.get(place)
        if vote is not None and vote != view.voted_for:
            self.violated(
                f"{host.name} voted for {vote} in term {view.term}, now for {view.voted_for or 'nobody'}",
                host.name,
            )
        if view.voted_for is not None:
            self._votes[place] = view.voted_for

    def applied(self, host: Host, index: int, chain: bytes) -> None:
        life = (host.name, host.life)
        if index < self._applied.get(life, 0):
            self.violated(f"{host.name} went back from index {self._applied[life]} to {index}", host.name)
        self._applied[life] = index


class OneHistory(Oracle):
    """State-machine safety: whoever applies an index has the same chain value there, and the same digest."""

    name = "state-machine safety"
    listens: ClassVar[tuple[type, ...]] = (DigestReport,)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._chains: dict[int, tuple[bytes, str]] = {}
        self._digests: dict[int, tuple[bytes, str]] = {}

    def applied(self, host: Host, index: int, chain: bytes) -> None:
        known, other = self._chains.setdefault(index, (chain, host.name))
        if known != chain:
            self.violated(
                f"{host.name} has another history at index {index} than {other}: "
                f"{chain.hex()[:12]}, {known.hex()[:12]}",
                host.name,
                other,
            )

    def said(self, host: Host, dest: str, message: Any) -> None:
        if host.name in self.world.diverged:
            return
        index = message.index
        known, other = self._digests.setdefault(index, (message.digest, host.name))
        if known != message.digest:
            self.violated(
                f"{host.name} has another state at index {index} than {other}, though the history is the same",
                host.name,
                other,
            )
        chain, other = self._chains.setdefault(index, (message.chain, host.name))
        if chain != message.chain:
            self.violated(
                f"{host.name} reports another chain value at {index} than {other} has", host.name, other
            )


class Replies(Oracle):
    """Exactly once: whoever answers for a command, and however often, the place, the chain value and the result are the same; a
    place is one command's; and a reply's chain value is the one that was applied there."""

    name = "exactly-once replies"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._said: dict[tuple[int, int], tuple[int, int, bytes, bytes]] = {}
        self._places: dict[tuple[int, int], tuple[int, int]] = {}

    def replied(self, host: Host, message: Any) -> None:
        if type(message) is not Outcome or host.name in self.world.diverged:
            return
        for seq, place, result in zip(message.seqs, message.places, message.results, strict=True):
            command = (message.session, seq)
            said = (message.index, place, message.chain, result)
            known = self._said.setdefault(command, said)
            if known != said:
                self.violated(
                    f"command {message.session}:{seq} was answered with index {known[0]} place {known[1]} result "
                    f"{known[3]!r}; now {host.name} says index {said[0]} place {said[1]} result {said[3]!r}",
                    host.name,
                )
            owner = self._places.setdefault((message.index, place), command)
            if owner != command:
                self.violated(
                    f"commands {owner} and {command} were both told index {message.index} place {place}",
                    host.name,
                )


class FreshReads(Oracle):
    """A linearizable read shows at least what had been acknowledged, or shown to anybody by a linearizable read,
    before it was asked
    for; so does a write stand behind it. A bounded read is at most as old as it was allowed to be."""

    name = "fresh reads"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._highest = 0
        self._floors: dict[int, int] = {}

    def invoked(self, operation: Operation) -> None:
        if self._highest and (operation.op != "query" or operation.consistency == "linearizable"):
            self._floors[id(operation)] = self._highest

    def returned(self, operation: Operation) -> None:
        floor = self._floors.pop(id(operation), 0)
        index = operation.index
        if operation.outcome != "ok" or index is None:
            return
        strong = operation.op != "query" or operation.consistency == "linearizable"
        if strong and index < floor:
            what = "read" if operation.op == "query" else operation.op
            self.violated(
                f"a {what} of {operation.client}, asked at {operation.invoke} us, answered from index {index}; "
                f"index {floor} had been shown before",
                operation.node or "",
            )
        if operation.op == "query" and operation.consistency == "bounded":
            age, most = operation.age_us, operation.max_age_us
            if age is None or (most is not None and age > most):
                self.violated(
                    f"a bounded read was given an age of {age} us, allowed {most}", operation.node or ""
                )
        if strong and index > self._highest:
            self._highest = index


class AnswersSayTheirIndex(Oracle):
    """An answer names an index that its node had applied, with that index's chain value."""

    name = "answers name their state"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._chains: dict[int, bytes] = {}

    def applied(self, host: Host, index: int, chain: bytes) -> None:
        self._chains.setdefault(index, chain)

    def replied(self, host: Host, message: Any) -> None:
        if type(message) is Answer and message.index:
            known = self._chains.get(message.index)
            if known is not None and known != message.chain:
                self.violated(f"{host.name} answers from another history at index {message.index}", host.name)
            if message.index > host.applied:
                self.violated(
                    f"{host.name} answers from index {message.index}, it has applied {host.applied}",
                    host.name,
                )


class UndamagedStart(Oracle):
    """A node whose disk nobody damaged starts."""

    name = "recovery"

    def lost(self, host: Host, why: str) -> None:
        if host.name not in self.world.excused:
            self.violated(f"{host.name} refuses to start, though its disk was not damaged: {why}", host.name)


STANDARD: Final[tuple[type[Oracle], ...]] = (
    ElectionSafety,
    Monotonic,
    OneHistory,
    Replies,
    FreshReads,
    AnswersSayTheirIndex,
    UndamagedStart,
)
