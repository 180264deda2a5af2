"""What a client returns and raises, its settings, and the budget that keeps its retries from feeding an outage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from node.io.keys import SigningKey
from node.protocol import Code, Consistency


class ClientError(Exception):
    """Anything a client raises."""


class NotDone(ClientError):
    """The command was certainly not applied, and will not be."""


class BadCommand(NotDone):
    """The command is malformed; asking again will not help."""


class Overloaded(NotDone):
    """Too many commands wait in this client already (`Settings.queue`)."""


class OutcomeUnknown(ClientError):
    """The command may have been applied, may not, or may be later."""


class SessionLost(OutcomeUnknown):
    """The session expired with the command open, so that its outcome cannot be learnt any more."""


class QueryFailed(ClientError):
    """No node answered in time. `reasons` has every node's last word."""

    def __init__(self, text: str, reasons: dict[str, str]) -> None:
        self.reasons = reasons
        listed = "; ".join(f"{node}: {reason}" for node, reason in reasons.items())
        super().__init__(f"{text} ({listed})" if listed else text)


class BadQuery(QueryFailed):
    """The query is malformed or names something unknown; asking again will not help."""


class NodeUnavailable(ClientError):
    """A node that was asked in person is not connected or did not answer."""


class ProtocolViolation(Exception):
    """A node said something that makes no sense; its connection is dropped."""


@dataclass(slots=True)
class Result:
    """A command was committed and applied: (`index`, `place`) orders it among all commands, `chain` is the chain value
    at `index`, `result` the machine's answer. `attempts`: how often it was sent."""

    index: int
    place: int
    chain: bytes
    result: bytes
    attempts: int


@dataclass(slots=True)
class QueryResult:
    """Answer to a query, from the state after entry `index`.

    `age_us`: microseconds since `node` asked for its last successful read barrier (None: never had one). `consistency`
    is what this answer was given under, `hedged` whether another node than the first one asked gave it."""

    index: int
    chain: bytes
    age_us: int | None
    tier: str
    result: bytes
    node: str
    hedged: bool
    consistency: Consistency


@dataclass(slots=True)
class Event:
    """Something a client noticed, for metrics and timelines. `at`: the client's clock (trio), seconds.

    Kinds: `connected`, `disconnected`, `dial_failed`, `leader` (`node` may be None), `session`, `session_lost`,
    `resend` (`count` commands), `hedge`, `fallback`."""

    at: float
    kind: str
    node: str | None
    detail: str
    count: int = 1


EventHook = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client behaves. Times in milliseconds."""

    ping_ms: int = 100
    """A heartbeat goes to every node this often."""
    silence_ms: int = 300
    """A connection on which nothing came for so long is dropped; a power cut sends no farewell."""
    dial_ms: int = 1000
    """Longest time for TCP and TLS."""
    reconnect_min_ms: int = 20
    reconnect_max_ms: int = 1000
    """Ceiling of the wait before the first and any later attempt to connect again; the wait is drawn from [0, ceiling)."""
    window: int = 4096
    """Most commands sent and not settled."""
    queue: int = 65_536
    """Most commands waiting to be sent; beyond it `Overloaded`."""
    resend_min_ms: int = 10
    resend_max_ms: int = 500
    """The same for sending a refused command again."""
    answer_ms: int = 1000
    """A command without any answer on a living connection is sent again after so long, then twice as long, and so on."""
    retry_ratio: float = 0.2
    retry_floor_per_s: float = 10.0
    """Commands sent again: at most this share of all commands over time, plus so many a second."""
    hedge_ratio: float = 0.1
    hedge_floor_per_s: float = 10.0
    """The same for hedged queries."""
    outbox_bytes: int = 32 << 20
    """Most bytes waiting to leave on one connection."""
    bundle: int = 4096
    """Where requests are signed: most commands under one signature."""


@dataclass(frozen=True, slots=True)
class Signing:
    """How a client speaks to a cluster some of whose nodes may lie: it signs what it asks for, and believes nothing that not one
    honest node must have said."""

    lie: int
    """How many nodes may lie; so many and one more must say the same."""
    key: SigningKey = field(default_factory=SigningKey)
    """What this client signs with; its sessions belong to it. Two clients at once must not share one."""


@dataclass(slots=True)
class Budget:
    """A token bucket: requests earn a share of a token each, time earns some, extra work spends them.

    Without it a client multiplies its load exactly when the cluster can bear it least, and keeps the outage alive
    after its cause is gone (Bronson et al., HotOS 2021; Huang et al., OSDI 2022)."""

    ratio: float
    floor_per_s: float
    cap: float
    tokens: float = field(default=0.0)
    _at: float = field(default=0.0)

    def start(self, now: float) -> None:
        """Full at the start."""
        self.tokens = self.cap
        self._at = now

    def earn(self, requests: int) -> None:
        """Requests were made (first attempts)."""
        self.tokens = min(self.cap, self.tokens + self.ratio * requests)

    def take(self, wanted: int, now: float) -> int:
        """How many of `wanted` extra requests may be made now; they are paid for."""
        self.tokens = min(self.cap, self.tokens + self.floor_per_s * max(0.0, now - self._at))
        self._at = now
        granted = min(wanted, int(self.tokens))
        self.tokens -= granted
        return granted


def code_name(code: int) -> str:
    """A refusal's code as a word."""
    try:
        return Code(code).name
    except ValueError:
        return f"code {code}"
