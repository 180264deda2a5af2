"""The contract that every protocol core meets, its ordering rules, and the types that cores share.

A core is a state machine. It is told what happened (a message came, a deadline passed, a write became
durable) and answers by filling an `Out`. It never looks at a clock, draws only from the `random.Random`
handed to it, and does no I/O. The same object runs in the simulator and on a real node.

Ordering rules. The numbers are used in comments, tests and documents.

1. A message that asserts the sender's own term, vote, log or certificate goes to `Out.wait`: it may leave
   only when everything it asserts is durable. In Raft only a leader's appends and heartbeats, read rounds
   and pre-votes go to `Out.now`. A candidate's request waits too: a node that asks for votes with an
   entry it has not synced, loses power, and is then elected by the delayed grant in the same term has
   lost a committed entry.
2. A waiting message with nothing of its own to persist waits for the latest outstanding ticket.
3. A leader counts itself only after `persisted`. What a core hands out as committed never passes what is
   durable on this node.
4. The gate stands in the pure `node.replica.Replica`; the shell only writes, syncs and sends. What the
   simulator tests is what runs.
5. Entries since the last compaction stay in memory; whoever needs older ones gets a snapshot. Queues
   below a core are bounded and may drop, duplicate or reorder: protocols resend.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final, Protocol

NodeId = str
"""A member's name, as its certificate says."""

Record = tuple[int, bytes]
"""What a core wants durable: (kind, data). Only the core that wrote a record can read it."""

Token = int
"""Names one read barrier; chosen by the caller of `Core.read`."""

NEVER: Final = 1 << 61
"""A deadline that does not come (microseconds). Of the numbers that compiled code still keeps in a machine word."""


class EntryKind(IntEnum):
    """What the payload of a log entry is."""

    NOOP = 0
    """Nothing: a leader's first entry of its term."""
    BLOCK = 1
    """Client commands, grouped by session (`node.sessions`)."""
    DIGEST = 2
    """A mark at which every replica compares its state digest with the others."""
    CHECKPOINT = 3
    """The same, and every replica takes a snapshot of exactly the state behind it."""


_ENTRY: Final = struct.Struct("<QQB")
ENTRY_HEADER_SIZE: Final = _ENTRY.size


def encode_entry(index: int, term: int, kind: int, payload: bytes) -> bytes:
    """Encode a log entry. Done once, by the node that accepts it: the same bytes travel to the peers,
    stand in every journal and memory, and are what the chain value covers."""
    return _ENTRY.pack(index, term, kind) + payload


def entry_position(entry: bytes) -> tuple[int, int, int]:
    """(index, term, kind) of an encoded entry. Raises ValueError if the bytes are too short."""
    if len(entry) < ENTRY_HEADER_SIZE:
        raise ValueError(f"an entry has a header of {ENTRY_HEADER_SIZE} bytes; these are {len(entry)}")
    return _ENTRY.unpack_from(entry)


def entry_kind(entry: bytes) -> int:
    """The kind of an encoded entry that is whole."""
    return entry[ENTRY_HEADER_SIZE - 1]


def entry_payload(entry: bytes) -> bytes:
    """The payload of an encoded entry."""
    return entry[ENTRY_HEADER_SIZE:]


@dataclass(slots=True, frozen=True)
class SnapshotMeta:
    """Names a snapshot of the replicated state: everything up to and including entry `index`."""

    index: int
    term: int
    """Term (in a BFT log: round) of the entry at `index`."""
    chain: bytes
    """Chain value at `index` (32 bytes)."""
    members: tuple[NodeId, ...]
    """The configuration in force at `index`."""
    root: bytes
    """Hash of the snapshot's manifest (32 bytes); every chunk is checked against the manifest."""
    size: int
    """Bytes of all chunks together."""


class RefusalCode(IntEnum):
    """Why a core refused a proposal or a read."""

    NOT_LEADER = 1
    """Another node should be asked; `Refusal.leader` names it where known."""
    NO_QUORUM = 2
    """This node cannot confirm that it speaks for a quorum."""
    BUSY = 3
    """A bound on work in progress is reached; try again later."""


@dataclass(slots=True, frozen=True)
class Refusal:
    """A refusal: nothing was appended, nothing will come of it."""

    code: RefusalCode
    reason: str
    leader: NodeId | None = None


class Role(IntEnum):
    """Roles of Raft (paper section 5.1; PRECANDIDATE from thesis section 9.6)."""

    FOLLOWER = 0
    PRECANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


@dataclass(slots=True)
class CoreView:
    """What a core shows of itself, for oracles and for status; reading it changes nothing."""

    node: NodeId
    role: str
    term: int
    voted_for: NodeId | None
    leader: NodeId | None
    commit_index: int
    durable_index: int
    first_index: int
    """First entry still in memory; `first_index - 1` is covered by a snapshot or is 0."""
    last_index: int
    members: tuple[NodeId, ...]
    match_index: dict[NodeId, int]
    """On a leader: what each peer is known to hold durably."""
    storage_stalled: bool
    facts: dict[str, Any] = field(default_factory=dict)
    """What only this protocol has to tell, by name, for status pages."""
    vouched_snapshot: int = 0
    """Index of the snapshot that peers are told to fetch for as long as newer ones are only this node's own word: it must be
    kept beside them. 0: the newest one is as good as any."""


class Out:
    """What a core asks for. Reused: the replica drains it and calls `clear`.

    records, ticket  records to persist, in order; `ticket` is the number the core gave the latest of them.
                     The replica calls `Core.persisted(ticket)` once they, and all before them, are durable.
    now              (destination, message) that may leave at once.
    wait             (destination, message) that wait for the latest ticket (rules 1 and 2).
    committed        encoded entries, consecutive by index, never handed out twice.
    reads            (token, index): the read is safe once this replica has applied `index`.
    refused_reads    (token, refusal).
    install          (peer, meta): fetch this snapshot from the peer, install it, call `snapshot_installed`.
    changed          the role, term or leader changed (the replica reads `observe()`).
    """

    __slots__ = (
        "changed",
        "committed",
        "install",
        "now",
        "reads",
        "records",
        "refused_reads",
        "ticket",
        "wait",
    )

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.ticket = 0
        self.now: list[tuple[NodeId, Any]] = []
        self.wait: list[tuple[NodeId, Any]] = []
        self.committed: list[bytes] = []
        self.reads: list[tuple[Token, int]] = []
        self.refused_reads: list[tuple[Token, Refusal]] = []
        self.install: tuple[NodeId, SnapshotMeta] | None = None
        self.changed = False

    def clear(self) -> None:
        """Forget everything but the ticket counter, which only grows."""
        self.records.clear()
        self.now.clear()
        self.wait.clear()
        self.committed.clear()
        self.reads.clear()
        self.refused_reads.clear()
        self.install = None
        self.changed = False


class Core(Protocol):
    """A protocol core. `now` is in integer microseconds of a clock that never goes back."""

    deadline: int
    """When `timeout` wants to be called; `NEVER` if it does not. It changes only while a method of the core runs."""

    def recover(self, records: Iterable[Record], snapshot: SnapshotMeta | None) -> None:
        """Rebuild from this node's own journal records and its newest snapshot. Before `start`, once.
        Raises ValueError if the records contradict themselves."""

    def start(self, now: int, out: Out) -> None:
        """Begin to take part."""

    def receive(self, sender: NodeId, message: Any, now: int, out: Out) -> None:
        """Handle a message. `sender` is what the certificate of the connection says, nothing else."""

    def timeout(self, now: int, out: Out) -> None:
        """Handle the passing of `deadline`. Calling it early does nothing."""

    def propose(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> Refusal | None:
        """Ask for entries (kind, payload) to be appended, in order. None: they are on their way, though a
        later change of leader may still drop them. A refusal: none of them will ever be committed."""

    def read(self, token: Token, now: int, out: Out, lazy: bool = False) -> None:
        """Ask for a linearizable read barrier; the answer comes in `Out.reads` or `Out.refused_reads`. `lazy`: nobody waits for
        it, so it may come with what the protocol sends anyway; it says as much as any other."""

    def persisted(self, ticket: int, now: int, out: Out) -> None:
        """All records up to `ticket` are durable."""

    def applied(self, index: int, digest: bytes, now: int, out: Out) -> None:
        """The machine has applied `index` and its state digest there is `digest` (checkpoints)."""

    def snapshot_taken(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        """A local snapshot is durable: entries it covers may be forgotten. This one and the one before can be fetched
        by peers until the next is taken; older ones cannot."""

    def snapshot_installed(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        """The snapshot asked for in `Out.install` is durable and restored."""

    def resign(self, now: int, out: Out) -> None:
        """Lead no more and never campaign again; go on voting and following. Safe at any time."""

    def state_records(self) -> list[Record]:
        """The state from which, with the newest snapshot, `recover` rebuilds everything: the records with
        which a new journal segment starts."""

    def observe(self) -> CoreView:
        """A read-only view of the state."""
