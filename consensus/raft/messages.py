"""Raft's messages (kinds 1-19). The sender is never a field: the connection's certificate says who speaks."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.wire import register


@register(1)
@dataclass(slots=True)
class PreVote:
    """Would you vote for me in `term`, which I have not entered? (thesis 9.6)"""

    term: int
    last_index: int
    last_term: int


@register(2)
@dataclass(slots=True)
class PreVoteReply:
    """`term` is the term asked about when granted, the voter's own term when not."""

    term: int
    granted: bool


@register(3)
@dataclass(slots=True)
class RequestVote:
    """A candidate asks for a vote (paper, figure 2)."""

    term: int
    last_index: int
    last_term: int


@register(4)
@dataclass(slots=True)
class RequestVoteReply:
    """The voter's term, and whether its vote in that term is the asker's."""

    term: int
    granted: bool


@register(5)
@dataclass(slots=True)
class AppendEntries:
    """Entries behind `prev_index`; empty as a heartbeat. `round` numbers read rounds (thesis 6.4)."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    round: int
    entries: list[bytes]


@register(6)
@dataclass(slots=True)
class AppendEntriesReply:
    """On success the sender's log agrees with the leader's up to `index`, durably. On failure `index` is the
    `prev_index` that did not match, and (hint_index, hint_term) the highest place at which the logs may still
    agree."""

    term: int
    success: bool
    index: int
    hint_index: int
    hint_term: int
    round: int


@register(7)
@dataclass(slots=True)
class InstallSnapshot:
    """The entries that you need are gone: fetch this snapshot from me (paper, section 7). A heartbeat as well."""

    term: int
    round: int
    index: int
    index_term: int
    chain: bytes
    members: list[str]
    root: bytes
    size: int


@register(8)
@dataclass(slots=True)
class ReadRequest:
    """A follower asks its leader for a read barrier. `lazy`: nobody waits for it, so it need not begin a read round of its own;
    the next message that goes to all peers is soon enough."""

    term: int
    token: int
    lazy: bool = False


@register(9)
@dataclass(slots=True)
class ReadReply:
    """The barrier: whoever has applied `index` may answer. `granted` False: ask again, elsewhere."""

    term: int
    token: int
    granted: bool
    index: int
