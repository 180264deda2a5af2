"""Messages between replicas that belong to no protocol core (kinds 40-59), and between clients and nodes (60-99)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from consensus.wire import register


class Code(IntEnum):
    """Why a node did not do what a client asked. Nothing was done unless it says otherwise."""

    NOT_LEADER = 1
    """Ask `leader`, where given."""
    NO_QUORUM = 2
    """This node cannot confirm that it speaks for a quorum; no majority may be reachable."""
    BUSY = 3
    """A bound on work in progress is reached; wait and try again."""
    UNKNOWN_SESSION = 4
    """Never opened, or expired: what became of requests still open in it cannot be learnt any more."""
    BAD_COMMAND = 5
    """The command is malformed; asking again will not help."""
    BAD_QUERY = 6
    """The query is malformed or names something unknown; asking again will not help."""
    TOO_OLD = 7
    """A `bounded` answer within the age asked for cannot be given."""
    QUARANTINED = 8
    """This node's state differs from the majority's; it does not serve."""
    STOPPING = 9
    """The node is leaving; ask another one."""
    FORGOTTEN = 10
    """A sequence number that the client itself declared settled, or one too far ahead of it."""
    LOST = 11
    """The node lost its leadership with the request in flight: the outcome is unknown; ask again with the same number."""


class Consistency(IntEnum):
    """What a query asks for."""

    ANY = 0
    """Whatever this node holds; at once."""
    BOUNDED = 1
    """No older than `max_age` microseconds, counted from when this node asked for its last successful barrier."""
    LINEARIZABLE = 2
    """Behind a read barrier asked for after the query arrived."""


# ------------------------------------------------------------------------------------------------ connections


@register(40)
@dataclass(slots=True)
class Hello:
    """First frame in both directions. The certificate says who speaks; this says what they speak."""

    version: int
    cluster: str
    role: str
    """`peer`, `bulk` (a peer's connection for snapshot chunks) or `client`."""


@register(41)
@dataclass(slots=True)
class Ping:
    """Application heartbeat; a closed connection is no evidence, and an open one neither."""

    stamp: int


@register(42)
@dataclass(slots=True)
class Pong:
    """Answer to `Ping`, with its stamp."""

    stamp: int


@register(43)
@dataclass(slots=True)
class Goodbye:
    """The sender closes the connection for this reason (a bad frame, a bad certificate, leaving)."""

    reason: str


# --------------------------------------------------------------------------------------------- replica to replica


@register(45)
@dataclass(slots=True)
class DigestReport:
    """The sender's state digest and chain value when it had applied exactly `index`."""

    index: int
    digest: bytes
    chain: bytes


@register(46)
@dataclass(slots=True)
class ChunkRequest:
    """Ask for one piece of a snapshot: piece 0 is the manifest, piece i the chunk i-1. Pulled by the receiver, so that an
    interrupted transfer resumes where it stopped."""

    index: int
    piece: int


@register(47)
@dataclass(slots=True)
class Chunk:
    """One piece of a snapshot; `pieces` counts the manifest. Empty `data` and `pieces` 0: the snapshot is gone, ask anew."""

    index: int
    piece: int
    pieces: int
    data: bytes


# ------------------------------------------------------------------------------------------------ client to node


@register(60)
@dataclass(slots=True)
class OpenSession:
    """Open a session through the log. `request` is echoed."""

    request: int


@register(61)
@dataclass(slots=True)
class Submit:
    """Commands of one session. `seqs[i]` numbers `commands[i]` (from 1, each number used once). The client has the outcome of
    every number <= `low` and will not ask for it again."""

    session: int
    low: int
    seqs: list[int]
    commands: list[bytes]


@register(62)
@dataclass(slots=True)
class Query:
    """A read-only query. `max_age` (microseconds) counts for `Consistency.BOUNDED` only. The node answers or refuses
    within `patience` microseconds. If `entry` is not 0, the query waits a moment to be answered from the state right after that
    entry of the log (`node.held`); a state that is past it, or does not get there in time, answers as it is."""

    request: int
    consistency: int
    max_age: int
    patience: int
    query: bytes
    entry: int = 0


@register(63)
@dataclass(slots=True)
class StatusRequest:
    """Ask a node about itself."""

    request: int


@register(64)
@dataclass(slots=True)
class Introduce:
    """Where requests are signed: this connection wants to hear what becomes of the requests of that public key (32 bytes),
    whichever node took them in. Outcomes are no secret to whoever may connect."""

    key: bytes


@register(65)
@dataclass(slots=True)
class SignedOpen:
    """Open a session that belongs to `key`, through the log. `signature` is the key's under `node.requests.open_statement`. Of
    one key only the highest `nonce` counts; asked again with it, the same session is answered (`SessionOpened.request` is the
    nonce)."""

    key: bytes
    nonce: int
    signature: bytes


@register(66)
@dataclass(slots=True)
class SignedSubmit:
    """Commands of a session of `key`, as in `Submit`, under one signature: the key's under `node.requests.submit_statement`."""

    session: int
    low: int
    seqs: list[int]
    commands: list[bytes]
    key: bytes
    signature: bytes


# ------------------------------------------------------------------------------------------------ node to client


@register(70)
@dataclass(slots=True)
class SessionOpened:
    """A session exists from (index, position) on; its name is `session`."""

    request: int
    session: int
    index: int
    chain: bytes


@register(71)
@dataclass(slots=True)
class Outcome:
    """Commands were committed and applied. `results[i]` answers `seqs[i]`, which stands at place `places[i]` of entry
    `index`; (index, place) orders all commands. `chain` is the chain value at `index`."""

    session: int
    index: int
    chain: bytes
    seqs: list[int]
    places: list[int]
    results: list[bytes]


@register(72)
@dataclass(slots=True)
class Refused:
    """Commands (or, with `seqs` empty, the opening `request`) were refused; `code` is a `Code`."""

    request: int
    session: int
    seqs: list[int]
    code: int
    reason: str
    leader: str | None


@register(73)
@dataclass(slots=True)
class Answer:
    """Answer to a query, from the state after entry `index` (chain value `chain`). `age`: microseconds since this node asked
    for its last successful read barrier, None if it has had none since it started; `tier` is `fresh` or `stale`."""

    request: int
    index: int
    chain: bytes
    age: int | None
    tier: str
    result: bytes


@register(74)
@dataclass(slots=True)
class QueryRefused:
    """A query was refused; `code` is a `Code`."""

    request: int
    code: int
    reason: str
    leader: str | None


@register(75)
@dataclass(slots=True)
class Leader:
    """Pushed to every client when this node learns of a leader, so that nobody has to poll for one."""

    leader: str | None
    term: int


@register(76)
@dataclass(slots=True)
class Status:
    """Answer to `StatusRequest`."""

    request: int
    status: dict[str, Any]
