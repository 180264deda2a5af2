"""What a server must not forget: term, vote, log, snapshot; and how much of it its disk holds already."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from consensus.core import NodeId, Out, Record, SnapshotMeta, encode_entry
from consensus.marks import sometimes
from consensus.raft import records
from consensus.raft.log import Log
from consensus.raft.timing import SafetyViolation


class PersistentState:
    """A server's persistent state (paper, figure 2) with its commit index, in memory ahead of the disk.

    Every change leaves records in an `Out` and takes a ticket; `persisted` says up to which ticket the disk has come.
    Records are written in the order of the changes, so that what is durable is always a state that this server
    was once in. Invariants:

    I1  delivered index <= commit index and durable index <= last index; delivered index <= durable index (rule 3).
    I2  The term never falls; the vote of a term never changes once given.
    I4  Entries at or below the commit index are never truncated.
    """

    __slots__ = (
        "_durable_ticket",
        "_pending",
        "_recorded_commit",
        "_unwritten",
        "_vote_ticket",
        "commit_index",
        "delivered_index",
        "durable_index",
        "log",
        "node",
        "snapshot",
        "term",
        "voted_for",
    )

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.term = 0
        self.voted_for: NodeId | None = None
        self.log = Log()
        self.snapshot: SnapshotMeta | None = None
        self.commit_index = 0
        self.durable_index = 0
        self.delivered_index = 0
        """Up to here entries have been handed out to be applied."""
        self._pending: deque[list[int]] = (
            deque()
        )  # [ticket, last index that it makes durable, when it was given]
        self._durable_ticket = 0
        self._vote_ticket = 0
        self._recorded_commit = 0
        self._unwritten: list[Record] = []  # found to be missing in the journal when it was read

    # ---------------------------------------------------------------------------------------------- recovery

    def recover(self, journal: Iterable[Record], snapshot: SnapshotMeta | None) -> None:
        """Rebuild from the journal and the newest snapshot. Raises ValueError if they do not fit."""
        replayed = records.replay(journal)
        if replayed.last_term > replayed.term:
            raise ValueError(
                f"the log ends in term {replayed.last_term}, but the journal knows no term above {replayed.term}"
            )
        self.term, self.voted_for = replayed.term, replayed.voted_for
        if snapshot is None:
            if replayed.base_index:
                raise ValueError(
                    f"the journal starts behind entry {replayed.base_index}, and no snapshot covers that"
                )
        else:
            if snapshot.index < replayed.base_index:
                raise ValueError(
                    f"the journal starts behind entry {replayed.base_index}, "
                    f"the newest snapshot ends at {snapshot.index}"
                )
            # A snapshot and the journal are written side by side. The power may have gone when the one was
            # durable, and the record of it, or even of the term it was fetched in, was not.
            if snapshot.term > self.term:
                sometimes("recovery: the snapshot is of a later term than the journal knows")
                self.term, self.voted_for = snapshot.term, None
                self._unwritten.append(records.hard_state(self.term, None))
            if snapshot.index > replayed.base_index:
                sometimes("recovery: the snapshot is ahead of the journal's base")
                self._unwritten.append(records.base(snapshot.index, snapshot.term))
            replayed.rebase(snapshot.index, snapshot.term)
            self.snapshot = snapshot
        self.log.restart(replayed.base_index, replayed.base_term)
        for entry, term in zip(replayed.entries, replayed.terms, strict=True):
            self.log.append(entry, term)
        self.durable_index = self.log.last_index
        # A hint beyond the log would wait for ever for entries that nobody owes us.
        self.commit_index = max(min(replayed.commit, self.log.last_index), self.log.base_index)
        self._recorded_commit = self.commit_index
        self.delivered_index = self.log.base_index

    def start(self, now: int, out: Out) -> None:
        """Write down what recovery found missing, hand out what is known to be committed."""
        if self._unwritten:
            out.records += self._unwritten
            self._unwritten = []
            self._vote_ticket = self._ticket(now, out)
        self.deliver(out)

    def state_records(self) -> list[Record]:
        """Hard state, base, every entry behind the snapshot, commit hint."""
        meta = self.snapshot
        index, term = (meta.index, meta.term) if meta else (0, 0)
        kept = self.log.slice(max(index, self.log.base_index) + 1, self.log.last_index)
        return [
            records.hard_state(self.term, self.voted_for),
            records.base(index, term),
            *((records.ENTRY, entry) for entry in kept),
            records.commit(self.commit_index),
        ]

    # ----------------------------------------------------------------------------------------- term and vote

    def enter_term(self, term: int, vote: NodeId | None, now: int, out: Out) -> None:
        """Enter a later term, with or without a vote. One record: in two they could be torn apart."""
        if term <= self.term:
            raise SafetyViolation(f"{self.node}: term {term} does not come after {self.term}")
        self.term, self.voted_for = term, vote
        self._record_vote(now, out)

    def vote(self, candidate: NodeId, now: int, out: Out) -> None:
        """Vote in the current term. Voting again for the same candidate changes nothing."""
        if self.voted_for == candidate:
            return
        if self.voted_for is not None:
            raise SafetyViolation(
                f"{self.node}: voted for {self.voted_for} in term {self.term}, not {candidate}"
            )
        self.voted_for = candidate
        self._record_vote(now, out)

    @property
    def vote_durable(self) -> bool:
        """Whether the current term and vote are on the disk."""
        return self._vote_ticket <= self._durable_ticket

    def _record_vote(self, now: int, out: Out) -> None:
        out.records.append(records.hard_state(self.term, self.voted_for))
        self._vote_ticket = self._ticket(now, out)

    # ---------------------------------------------------------------------------------------------- entries

    def append(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> None:
        """A leader's own entries (kind, payload), in its term."""
        for kind, payload in payloads:
            entry = encode_entry(self.log.last_index + 1, self.term, kind, payload)
            self.log.append(entry, self.term)
            out.records.append((records.ENTRY, entry))
        self._hint(out)
        self._ticket(now, out)

    def accept(
        self, previous: int, entries: Sequence[bytes], terms: Sequence[int], now: int, out: Out
    ) -> None:
        """A leader's entries behind `previous`, where the logs agree. Only a real conflict truncates: a
        duplicate or reordered message must not (raftos #26)."""
        if not entries:
            return
        log = self.log
        held = 0
        while held < len(entries) and log.agrees(previous + 1 + held, terms[held]):
            held += 1
        if held == len(entries):
            sometimes("entries that are held already come again")
            return
        if held:
            sometimes("of an append's entries the first are held already")
        if previous + held < log.last_index:
            sometimes("a conflicting tail is cut off")
            self._truncate(previous + held)
        for place in range(held, len(entries)):
            log.append(entries[place], terms[place])
            out.records.append((records.ENTRY, entries[place]))
        self._hint(out)
        self._ticket(now, out)

    def _truncate(self, last: int) -> None:
        if last < self.commit_index:  # I4
            raise SafetyViolation(
                f"{self.node}: truncation behind {last}, but {self.commit_index} is committed"
            )
        self.log.truncate(last)
        self._forget_durable(last)

    def _forget_durable(self, last: int) -> None:
        # What is being written behind `last` is no longer what stands there: its tickets must not count for it.
        if self.durable_index > last:
            sometimes("entries that were durable are no longer what stands there")
            self.durable_index = last
        for pending in self._pending:
            if pending[1] > last:
                sometimes("a write under way counts no longer for the entries that it wrote")
                pending[1] = last

    def commit_to(self, index: int, out: Out) -> None:
        """Everything up to `index` is committed (it may have been before)."""
        if index > self.commit_index:
            self.commit_index = index
            self.deliver(out)

    def deliver(self, out: Out) -> None:
        """Hand out what is committed *and* durable here (rule 3)."""
        last = self.commit_index
        if last > self.durable_index:
            sometimes("what is committed waits for this node's own disk")
            last = self.durable_index
        if last > self.delivered_index:
            out.committed += self.log.slice(self.delivered_index + 1, last)
            self.delivered_index = last

    # ------------------------------------------------------------------------------------------------- disk

    def persisted(self, ticket: int, out: Out) -> bool:
        """Everything up to `ticket` is durable. False: that was known."""
        if ticket <= self._durable_ticket:
            return False
        self._durable_ticket = ticket
        pending = self._pending
        while pending and pending[0][0] <= ticket:
            self.durable_index = max(self.durable_index, pending.popleft()[1])
        self.deliver(out)
        return True

    def stalled(self, now: int, limit: int) -> bool:
        """Whether the oldest write has been under way for more than `limit` microseconds."""
        return bool(self._pending) and now - self._pending[0][2] > limit

    def record_commit(self, now: int, out: Out) -> None:
        """Leave a commit hint even if nothing else is to be written."""
        if self._hint(out):
            self._ticket(now, out)

    def _hint(self, out: Out) -> bool:
        """A commit hint, in the company of records that go to the disk anyway."""
        if self.commit_index == self._recorded_commit:
            return False
        self._recorded_commit = self.commit_index
        out.records.append(records.commit(self.commit_index))
        return True

    def _ticket(self, now: int, out: Out) -> int:
        out.ticket += 1
        self._pending.append([out.ticket, self.log.last_index, now])
        return out.ticket

    # -------------------------------------------------------------------------------------------- snapshots

    def snapshot_taken(self, meta: SnapshotMeta, keep_behind: int) -> None:
        """A local snapshot is durable: forget the entries up to `keep_behind`, which it covers."""
        self.snapshot = meta
        self.log.compact(min(keep_behind, meta.index))

    def snapshot_installed(self, meta: SnapshotMeta, leads: bool, now: int, out: Out) -> bool:
        """A leader's snapshot is durable and restored. False: the log had come as far in the meantime."""
        if meta.index <= self.delivered_index:
            return False
        if self.log.agrees(meta.index, meta.term):
            sometimes("a snapshot is installed, and what follows it in the log stays")
            self.log.compact(meta.index)
        elif leads:
            raise SafetyViolation(f"{self.node} leads term {self.term} without committed entry {meta.index}")
        else:
            if meta.index < self.log.last_index:
                sometimes("a snapshot is installed, and a conflicting tail goes")
            self.log.restart(meta.index, meta.term)  # a conflicting tail goes too (hashicorp/raft #697)
            self._forget_durable(meta.index)
        self.snapshot = meta
        self.durable_index = max(self.durable_index, meta.index)
        self.commit_index = max(self.commit_index, meta.index)
        self.delivered_index = meta.index
        out.records.append(records.base(meta.index, meta.term))
        self._ticket(now, out)
        self.deliver(out)
        return True

    def check(self) -> None:
        """Raise SafetyViolation unless I1 holds (I2 and I4 are checked where they could break)."""
        if not self.delivered_index <= min(self.commit_index, self.durable_index) or not (
            max(self.commit_index, self.durable_index) <= self.log.last_index
        ):
            raise SafetyViolation(
                f"{self.node}: delivered {self.delivered_index}, commit {self.commit_index}, "
                f"durable {self.durable_index}, last {self.log.last_index}"
            )
