"""A replicated log whose first member leads for ever: no elections, no compaction. Nothing is lost while the leader's disk is
there; the log goes on while the leader and a majority do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from consensus import core
from consensus.core import Out, Record, Refusal, RefusalCode, encode_entry
from consensus.wire import register


@register(120)
@dataclass(slots=True)
class Part:  # the leader's log behind its first `held` entries, `chosen` for ever; from a follower: I have `held` on my disk
    held: int
    chosen: int
    entries: list[bytes]


class FixedLeader(core.Core):  # what this protocol has no use for stays as `Core` has it: nothing happens
    vital = 1  # the first so many members must be there for progress

    def __init__(self, node: str, members: Sequence[str], rng: Random) -> None:
        self.node, self.members, self.leader = node, tuple(members), members[0]
        self.leads = False  # nobody does before `start`
        self.refusal = Refusal(RefusalCode.NOT_LEADER, f"{self.leader} leads", self.leader)
        self.deadline = core.NEVER
        self.held = dict.fromkeys(members[1:], 0) if node == self.leader else {}
        self.barriers: list[tuple[int, int]] = []  # (token, index)

    def recover(self, records: Iterable[Record], snapshot: core.SnapshotMeta | None) -> None:
        self.log = [entry for _, entry in records]
        self.durable = len(self.log)
        self.chosen = self.handed_out = snapshot.index if snapshot else 0

    def start(self, now: int, out: Out) -> None:
        self.leads, out.changed = self.node == self.leader, True
        self.deadline = now if self.leads else core.NEVER

    def timeout(self, now: int, out: Out) -> None:
        if now >= self.deadline:  # these wait (rule 1): nobody holds what the leader could lose
            self.deadline = now + 30_000  # microseconds to the next heartbeat
            out.wait += [(peer, Part(held, self.chosen, self.log[held:])) for peer, held in self.held.items()]

    def propose(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> Refusal | None:
        if not self.leads:
            return self.refusal
        behind = len(self.log) + 1
        self._append([encode_entry(behind + k, 1, *payload) for k, payload in enumerate(payloads)], out)
        self.deadline = now  # it is told to the followers at once
        return None

    def _append(self, entries: list[bytes], out: Out) -> None:
        if entries:
            self.log += entries
            out.records += [(1, entry) for entry in entries]
            out.ticket = len(self.log)  # it only grows, and says by itself what is durable with it

    def receive(self, sender: str, message: Any, now: int, out: Out) -> None:
        if type(message) is not Part or sender not in self.members:
            return
        if sender == self.leader != self.node and message.held <= len(self.log):
            self._append(message.entries[len(self.log) - message.held :], out)
            self.chosen = max(self.chosen, min(message.chosen, len(self.log)))
            out.wait.append((sender, Part(len(self.log), 0, [])))
        elif sender in self.held:
            self.held[sender] = max(self.held[sender], message.held)
        self._hand_out(out)

    def persisted(self, ticket: int, now: int, out: Out) -> None:
        self.durable = ticket
        self._hand_out(out)

    def _hand_out(self, out: Out) -> None:
        if self.node == self.leader:  # what the middle one of all has, a majority has
            self.chosen = max(self.chosen, sorted([self.durable, *self.held.values()])[len(self.held) // 2])
        end = max(self.handed_out, min(self.chosen, self.durable))  # rule 3
        out.committed += self.log[self.handed_out : end]
        out.reads += [barrier for barrier in self.barriers if barrier[1] <= end]
        self.barriers, self.handed_out = [waits for waits in self.barriers if waits[1] > end], end

    def read(self, token: int, now: int, out: Out, lazy: bool = False) -> None:
        if self.leads:  # nobody else extends the log: no more than it holds can have been acknowledged
            self.barriers.append((token, len(self.log)))
            self._hand_out(out)
        else:
            out.refused_reads.append((token, self.refusal))

    def resign(self, now: int, out: Out) -> None:
        self.leads, self.deadline, out.changed = False, core.NEVER, True

    def state_records(self) -> list[Record]:
        return [(1, entry) for entry in self.log]

    def observe(self) -> core.CoreView:
        who = (self.node, "leader" if self.leads else "follower", 1, None, self.leader)
        stand = (self.handed_out, self.durable, 1, len(self.log))
        return core.CoreView(*who, *stand, self.members, dict(self.held), False)
