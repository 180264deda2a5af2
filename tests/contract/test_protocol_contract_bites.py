"""Protocols that break one rule of the contract each: the suite's bench must say so, and say which."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from protocol_bench import Bench, storm

from consensus.bft import records as bft_records
from consensus.bft.core import BftCore
from consensus.bft.timing import Timing as BftTiming
from consensus.core import CoreView, Out, Record, Refusal, encode_entry
from consensus.raft import RaftCore, Timing, records
from docs.examples.fixed_leader import FixedLeader, Part
from sim.virtual.bft_committee import committee, notary


class HandsOutUnsynced(FixedLeader):
    def _hand_out(self, out: Out) -> None:
        self.durable = len(self.log)
        super()._hand_out(out)


class TicketWithoutRecords(FixedLeader):
    def _append(self, entries: list[bytes], out: Out) -> None:
        super()._append(entries, out)
        out.ticket = len(self.log)


class HandsOutTwice(FixedLeader):
    def persisted(self, ticket: int, now: int, out: Out) -> None:
        super().persisted(ticket, now, out)
        out.committed += out.committed[-1:]


class AnswersFromWhatItHas(FixedLeader):
    def read(self, token: int, now: int, out: Out, lazy: bool = False) -> None:
        out.reads.append((token, self.handed_out))


class ActsEarly(FixedLeader):
    def timeout(self, now: int, out: Out) -> None:
        super().timeout(max(now, self.deadline), out)


class RefusesAndAppends(FixedLeader):
    def propose(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> Refusal | None:
        refusal = super().propose(payloads, now, out)
        if refusal is not None:
            self._append([encode_entry(len(self.log) + 1, 1, *payloads[0])], out)
        return refusal


class AsksTheWorld(FixedLeader):
    def timeout(self, now: int, out: Out) -> None:
        due = now >= self.deadline
        super().timeout(now, out)
        if due:
            self.deadline += random.randrange(1000)


class SaysWhatItMayLose(RaftCore):
    def receive(self, sender: str, message: Any, now: int, out: Out) -> None:
        super().receive(sender, message, now, out)
        self._hurry(out)

    def timeout(self, now: int, out: Out) -> None:
        super().timeout(now, out)
        self._hurry(out)

    def _hurry(self, out: Out) -> None:
        out.now += out.wait
        out.wait.clear()


class ForgetsItsVote(RaftCore):
    def state_records(self) -> list[Record]:
        return [record for record in super().state_records() if record[0] != records.HARD_STATE]


class RecordsNoVote(RaftCore):
    def receive(self, sender: str, message: Any, now: int, out: Out) -> None:
        super().receive(sender, message, now, out)
        kept = [record for record in out.records if record[0] != records.HARD_STATE]
        out.records[:] = kept or out.records[:0]
        out.ticket -= not kept and out.ticket > 0


class VotesBeforeItIsWritten(BftCore):
    def receive(self, sender: str, message: Any, now: int, out: Out) -> None:
        super().receive(sender, message, now, out)
        kept = [record for record in out.records if record[0] != bft_records.SAFETY]
        out.records[:] = kept
        out.ticket -= not kept and out.ticket > 0


class ForgetsWhatItSaid(BftCore):
    def state_records(self) -> list[Record]:
        return [record for record in super().state_records() if record[0] != bft_records.SAFETY]


class HandsOutWhatIsNotWritten(BftCore):
    def _deliver(self, out: Out) -> None:
        self._durable, durable = 1 << 60, self._durable
        super()._deliver(out)
        self._durable = durable


class LeadsOn(FixedLeader):
    def resign(self, now: int, out: Out) -> None:
        out.changed = True


class WritesOnLooking(FixedLeader):
    def observe(self) -> CoreView:
        self.chosen += 1
        view = super().observe()
        view.term = self.chosen
        return view


class TalksToItself(FixedLeader):
    def timeout(self, now: int, out: Out) -> None:
        if now >= self.deadline:
            out.now.append((self.node, Part(0, 0, [])))
        super().timeout(now, out)


def trouble(kind: Any) -> None:
    """What the suite does, in short."""

    def make(node: str, members: Sequence[str], rng: random.Random) -> Any:
        if issubclass(kind, RaftCore):
            return kind(node, members, rng, Timing(retain_bytes=300))
        if issubclass(kind, BftCore):
            timing = BftTiming(
                round=100_000, idle=50_000, resend=80_000, mark_heights=4, snapshot_bytes=3_000
            )
            return kind(node, committee(members), notary(tuple(members), 0).keyring(node), rng, timing)
        return kind(node, members, rng)

    for seed in range(3 if issubclass(kind, BftCore) else 8):
        bench = Bench(make, 3, seed)
        bench.settle()
        for token, node in enumerate(bench.nodes.values()):
            bench.propose(node, b"%d" % token)
            bench.read(node, token)
            bench.run(300_000)
        storm(bench, 60)
        bench.settle(60_000_000)
        bench.replay()
        for node in bench.nodes.values():
            bench.resign(node)
        bench.run(1_000_000)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (HandsOutUnsynced, r"rule 3|durable|out of nowhere|another entry"),
        (TicketWithoutRecords, "a ticket names records"),
        (HandsOutTwice, "is handed out behind"),
        (AnswersFromWhatItHas, "had been handed out before it was asked for"),
        (ActsEarly, "before its deadline"),
        (RefusesAndAppends, "refuses and appends"),
        (AsksTheWorld, "another answer the second time"),
        (SaysWhatItMayLose, "both lead term|another entry|rule 3|out of nowhere|no progress"),
        (ForgetsItsVote, "do not rebuild"),
        (RecordsNoVote, "will leave, though a restart"),
        (VotesBeforeItIsWritten, "will leave, though a restart|a ticket names records"),
        (ForgetsWhatItSaid, "do not rebuild"),
        (HandsOutWhatIsNotWritten, "rule 3"),
        (LeadsOn, "has resigned, and leads"),
        (WritesOnLooking, "observe"),
        (TalksToItself, "a message to itself"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_protocol_that_breaks_a_rule_is_caught_by_the_law_of_that_rule(kind: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        trouble(kind)


@pytest.mark.parametrize("kind", [FixedLeader, RaftCore, BftCore])
def test_the_unbroken_ones_are_not(kind: Any) -> None:
    trouble(kind)
