"""Raft's messages (kinds 1-19). The sender is never a field: the connection's certificate says who speaks.

Those of which a cluster at rest sends dozens a second spell their `__init__` out: that of a dataclass is interpreted where all
else is compiled, and takes ten times as long.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.wire import register


@dataclass(slots=True)
class PreVote:
    """Would you vote for me in `term`, which I have not entered? (thesis 9.6)"""

    term: int
    last_index: int
    last_term: int


@dataclass(slots=True)
class PreVoteReply:
    """`term` is the term asked about when granted, the voter's own term when not."""

    term: int
    granted: bool


@dataclass(slots=True)
class RequestVote:
    """A candidate asks for a vote (paper, figure 2)."""

    term: int
    last_index: int
    last_term: int


@dataclass(slots=True)
class RequestVoteReply:
    """The voter's term, and whether its vote in that term is the asker's."""

    term: int
    granted: bool


@dataclass(slots=True, init=False)
class AppendEntries:
    """Entries behind `prev_index`; empty as a heartbeat. `round` numbers read rounds (thesis 6.4)."""

    term: int
    prev_index: int
    prev_term: int
    commit: int
    round: int
    entries: list[bytes]

    def __init__(
        self, term: int, prev_index: int, prev_term: int, commit: int, round: int, entries: list[bytes]
    ) -> None:
        self.term = term
        self.prev_index = prev_index
        self.prev_term = prev_term
        self.commit = commit
        self.round = round
        self.entries = entries


@dataclass(slots=True, init=False)
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

    def __init__(
        self, term: int, success: bool, index: int, hint_index: int, hint_term: int, round: int
    ) -> None:
        self.term = term
        self.success = success
        self.index = index
        self.hint_index = hint_index
        self.hint_term = hint_term
        self.round = round


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


@dataclass(slots=True, init=False)
class ReadRequest:
    """A follower asks its leader for a read barrier. `lazy`: nobody waits for it, so it need not begin a read round of its own;
    the next message that goes to all peers is soon enough."""

    term: int
    token: int
    lazy: bool = False

    def __init__(self, term: int, token: int, lazy: bool = False) -> None:
        self.term = term
        self.token = token
        self.lazy = lazy


@dataclass(slots=True, init=False)
class ReadReply:
    """The barrier: whoever has applied `index` may answer. `granted` False: ask again, elsewhere."""

    term: int
    token: int
    granted: bool
    index: int

    def __init__(self, term: int, token: int, granted: bool, index: int) -> None:
        self.term = term
        self.token = token
        self.granted = granted
        self.index = index


register(1)(PreVote)
register(2)(PreVoteReply)
register(3)(RequestVote)
register(4)(RequestVoteReply)
register(5, entries=list[bytes])(AppendEntries)
register(6)(AppendEntriesReply)
register(7, members=list[str])(InstallSnapshot)
register(8)(ReadRequest)
register(9)(ReadReply)
