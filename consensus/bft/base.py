"""What all parts of the BFT core share: its state, and how it records and tells."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from consensus.bft import chain, records, rules
from consensus.bft.block import (
    Block,
    genesis,
    genesis_qc,
)
from consensus.bft.certificates import TimeoutCertificate
from consensus.bft.committee import Committee
from consensus.bft.messages import (
    Timeout,
    Vote,
)
from consensus.bft.pacemaker import Pacemaker
from consensus.bft.payload import Payloads
from consensus.bft.reads import Reads
from consensus.bft.signing import Keyring
from consensus.bft.states import States
from consensus.bft.sync import Sync
from consensus.bft.timing import Timing
from consensus.bft.tree import Placed, Tree
from consensus.bft.votes import Evidence, Judge, Remembering, Timeouts, Votes
from consensus.core import (
    NEVER,
    NodeId,
    Out,
    Record,
)

Check = Callable[[int, bytes], str | None]
"""Why a batch (kind, payload) must not be ordered; None if it may be."""


def accept_all(kind: int, payload: bytes) -> str | None:
    """The check that finds nothing wrong."""
    return None


class Rejected(ValueError):
    """A message that is not used; the text, one of few, says why and is counted."""


class Base:
    """State of a core; see `consensus.bft.core`."""

    def __init__(
        self,
        node: NodeId,
        committee: Committee,
        keyring: Keyring,
        rng: random.Random,
        timing: Timing | None = None,
        check: Check = accept_all,
    ) -> None:
        if node not in committee.members:
            raise ValueError(f"node {node!r} is not among the members {list(committee.members)!r}")
        self.node = node
        self.committee = committee
        self.timing = timing = timing or Timing()
        self.deadline = NEVER
        self._check = check
        self._keyring = Remembering(keyring)
        self._peers = tuple(member for member in committee.members if member != node)
        self.genesis = genesis(committee)
        self.judge = Judge(committee, self._keyring, self.genesis.digest)
        self.evidence = Evidence()
        self.tree = Tree(self.genesis)
        self.votes = Votes(committee, self._keyring, self.evidence)
        self.timeouts = Timeouts(committee, self._keyring, self.evidence)
        self.pacemaker = Pacemaker(timing)
        self.payloads = Payloads(committee, node, timing.author_bytes)
        self.sync = Sync(node, committee.members, timing.resend, timing.served_bytes)
        self.states = States(node, committee, self._keyring, timing.resend)
        self.reads = Reads(committee, node, timing.resend, 4 * timing.resend + timing.round)
        self.reads.nonce = rng.getrandbits(60)
        self.safety = rules.Safety()
        self.spoken = records.Spoken(committee.epoch, self.safety)
        self.high_qc = genesis_qc(committee)
        self.spoken.high_qc = self.high_qc.encode()
        self.high_tc: TimeoutCertificate | None = None
        self.rejected: Counter[str] = Counter()
        self._shunned: dict[NodeId, int] = {}
        """Until when no batch of a member is taken that nobody asked for."""
        self.view_changes = 0
        self.delivered_index = 0
        self._proposals: dict[int, dict[NodeId, tuple[bytes, bytes]]] = {}
        """Round -> author -> (digest, signature) of the first proposal seen."""
        self._resigned = False
        self._now = 0
        self._ticket = 0
        self._durable = 0
        self._pending: deque[tuple[int, int]] = deque()
        """(ticket, when) of what is being written."""
        self._own: deque[tuple[int, Vote | Timeout]] = deque()
        """Own words that count once their ticket is durable."""
        self.to_deliver: deque[Placed] = deque()
        self._recorded_commit = b""
        self._propose_at = NEVER
        self._stale_at = NEVER
        self._clean_at = 0
        self._recovered: list[Record] = []

    @property
    def round(self) -> int:
        """The current round."""
        return self.pacemaker.round

    def leader(self, parent: Block, round: int) -> NodeId:
        """Who proposes a child of `parent` in `round`."""
        return chain.leader_of(parent, round, self.committee)

    def _tell(self, box: list[tuple[NodeId, Any]], message: Any) -> None:
        for peer in self._peers:
            box.append((peer, message))

    def _record(self, out: Out, now: int, *made: Record) -> None:
        out.records += made
        out.records += self._hint()
        out.ticket += 1
        self._ticket = out.ticket
        self._pending.append((out.ticket, now))

    def _hint(self) -> list[Record]:
        """A commit hint, in the company of records that go to the disk anyway."""
        digest = self.tree.committed.block.digest
        if digest == self._recorded_commit:
            return []
        self._recorded_commit = digest
        return [(records.COMMIT, digest)]
