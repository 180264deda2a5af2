"""One Raft server on its own: a test plays its peers, its disk and its clock."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from consensus.core import EntryKind, Out, Record, Refusal, Role, SnapshotMeta, encode_entry
from consensus.raft import RaftCore, Timing
from consensus.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    PreVote,
    PreVoteReply,
    RequestVote,
    RequestVoteReply,
)

T = TypeVar("T")
THREE = ("n1", "n2", "n3")
FIVE = ("n1", "n2", "n3", "n4", "n5")


def entries(*terms: int, first: int = 1) -> list[bytes]:
    """Entries `first`, `first + 1`, ... of these terms."""
    return [
        encode_entry(index, term, EntryKind.BLOCK, b"%d.%d" % (term, index))
        for index, term in enumerate(terms, first)
    ]


def snapshot(index: int, term: int, members: Sequence[str] = THREE) -> SnapshotMeta:
    return SnapshotMeta(index, term, bytes(32), tuple(members), bytes(32), 0)


class Solo:
    """Server n1. `now` and `wait` hold what it wants to send, `records` what it wants written; `sync` writes it."""

    def __init__(
        self,
        members: Sequence[str] = THREE,
        journal: Sequence[Record] = (),
        snap: SnapshotMeta | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.members = members
        self.core = RaftCore("n1", members, random.Random(1), timing)
        self.clock = 1_000_000
        self.out = Out()
        self.now: list[tuple[str, Any]] = []
        self.wait: list[tuple[str, Any]] = []
        self.records: list[Record] = []
        self.journal: list[Record] = list(journal)
        self.committed: list[bytes] = []
        self.reads: list[tuple[int, int]] = []
        self.refused: list[tuple[int, Refusal]] = []
        self.install: tuple[str, SnapshotMeta] | None = None
        self.core.recover(journal, snap)
        self.core.start(self.clock, self.out)
        self.take()

    def take(self) -> None:
        out = self.out
        self.now += out.now
        self.wait += out.wait
        self.records += out.records
        self.committed += out.committed
        self.reads += out.reads
        self.refused += out.refused_reads
        self.install = out.install or self.install
        out.clear()
        self.core.check_invariants()

    def give(self, sender: str, message: Any) -> None:
        self.core.receive(sender, message, self.clock, self.out)
        self.take()

    def sync(self) -> None:
        """Everything written so far becomes durable."""
        self.journal += self.records
        self.records = []
        self.core.persisted(self.out.ticket, self.clock, self.out)
        self.take()

    def later(self, duration: int) -> None:
        """Let time pass, timing out whenever the server wants to."""
        end = self.clock + duration
        while self.core.deadline <= end:
            self.clock = max(self.clock, self.core.deadline)
            self.core.timeout(self.clock, self.out)
            self.take()
            assert self.core.deadline > self.clock, "a time-out that was handled is due again at once"
        self.clock = end

    def expire(self) -> None:
        """Let the next deadline pass."""
        self.later(max(0, self.core.deadline - self.clock))

    def propose(self, *payloads: bytes) -> Refusal | None:
        refusal = self.core.propose([(EntryKind.BLOCK, data) for data in payloads], self.clock, self.out)
        self.take()
        return refusal

    def read(self, token: int, lazy: bool = False) -> None:
        self.core.read(token, self.clock, self.out, lazy)
        self.take()

    def said(self, kind: type[T], lists: str = "now wait") -> list[tuple[str, T]]:
        """What it wants to send of one kind, and forget that."""
        found: list[tuple[str, T]] = []
        for name in lists.split():
            box = getattr(self, name)
            found += [item for item in box if isinstance(item[1], kind)]
            box[:] = [item for item in box if not isinstance(item[1], kind)]
        return found

    def quiet(self) -> None:
        """Forget what it wanted to send."""
        self.now, self.wait = [], []

    # -- ways into a role

    def follow(self, term: int, log: Sequence[bytes] = (), leader: str = "n2", commit: int = 0) -> None:
        """Follow a leader with this log, all of it durable."""
        self.append(leader, term, 0, 0, log, commit)
        self.sync()
        self.quiet()
        assert self.core.role == Role.FOLLOWER

    def append(
        self,
        sender: str,
        term: int,
        prev_index: int,
        prev_term: int,
        log: Sequence[bytes] = (),
        commit: int = 0,
        read_round: int = 0,
    ) -> AppendEntriesReply | None:
        """Give it AppendEntries; its answer."""
        self.said(AppendEntriesReply)
        self.give(sender, AppendEntries(term, prev_index, prev_term, commit, read_round, list(log)))
        answers = self.said(AppendEntriesReply)
        assert all(dest == sender for dest, _ in answers)
        return answers[0][1] if answers else None

    def campaign(self) -> None:
        """Become a candidate whose request has left."""
        if self.core.role == Role.FOLLOWER:
            self.expire()
        asked = self.said(PreVote, "now")
        assert asked
        for peer in self.members[1:]:
            if self.core.role == Role.PRECANDIDATE:
                self.give(peer, PreVoteReply(self.core.term + 1, True))
        assert self.core.role == Role.CANDIDATE
        self.sync()

    def lead(self, commit: bool = True) -> None:
        """Become a leader, with its first entry committed or not yet."""
        self.campaign()
        self.said(RequestVote)
        for peer in self.members[1 : len(self.members) // 2 + 1]:
            self.give(peer, RequestVoteReply(self.core.term, True))
        assert self.core.role == Role.LEADER
        self.sync()
        if commit:
            for peer in self.members[1:]:
                self.ack(peer, self.core.state.log.last_index)
            assert self.core.state.commit_index == self.core.state.log.last_index
        self.quiet()

    def ack(self, peer: str, index: int, read_round: int = 0) -> None:
        self.give(peer, AppendEntriesReply(self.core.term, True, index, 0, 0, read_round))

    def restart(self) -> Solo:
        """The same server after a power cut: what was not synced is gone."""
        return Solo(self.members, self.journal, self.core.state.snapshot)
