"""Raft as a pure state machine: the rules of `consensus.core`, figure 2 of the paper, pre-vote and
check-quorum (thesis 9.6 and 6.2), read barriers (thesis 6.4). This module is its face; the parts are

persistent   term, vote, log, snapshot, and what of it is durable
electing     role, leader, time-outs, votes
leading      what exists only while it leads
following    a follower's side of replication
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any, Final

from consensus.core import (
    NEVER,
    CoreView,
    NodeId,
    Out,
    Record,
    Refusal,
    RefusalCode,
    Role,
    SnapshotMeta,
    Token,
)
from consensus.marks import sometimes
from consensus.raft import following
from consensus.raft.electing import CANDIDATE, FOLLOWER, LEADER, Electing
from consensus.raft.leading import Leading
from consensus.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    PreVote,
    PreVoteReply,
    ReadReply,
    ReadRequest,
    RequestVote,
    RequestVoteReply,
)
from consensus.raft.persistent import PersistentState
from consensus.raft.reads import AskedBarriers
from consensus.raft.timing import SafetyViolation, Timing

_NAMES: Final = tuple(role.name.lower() for role in Role)


class RaftCore:
    """A Raft server. See `consensus.core.Core` for the methods.

    `leading` is there exactly while the role is LEADER. Invariants: I1, I2 and I4 in `persistent`, I3 in `progress`;
    `check_invariants` looks at them, and so do the tests after every step.
    """

    def __init__(
        self, node: NodeId, members: Sequence[NodeId], rng: random.Random, timing: Timing | None = None
    ) -> None:
        if node not in members:
            raise ValueError(f"node {node!r} is not among the members {list(members)!r}")
        if len(set(members)) != len(members):
            raise ValueError(f"a member is named twice: {list(members)!r}")
        self.node = node
        self.members = tuple(members)
        self.timing = timing or Timing()
        self.deadline = NEVER
        self.state = PersistentState(node)
        self.electing = Electing(node, self.members, self.state, self.timing, rng)
        self.leading: Leading | None = None
        self._asked = AskedBarriers()
        self._peers = frozenset(self.members) - {node}
        self._now = 0
        self._handlers = {
            AppendEntries: self._on_append_entries,
            AppendEntriesReply: self._on_append_entries_reply,
            PreVote: self._on_pre_vote,
            PreVoteReply: self._on_pre_vote_reply,
            RequestVote: self._on_request_vote,
            RequestVoteReply: self._on_request_vote_reply,
            InstallSnapshot: self._on_install_snapshot,
            ReadRequest: self._on_read_request,
            ReadReply: self._on_read_reply,
        }

    @property
    def role(self) -> Role:
        """The role in the current term."""
        return self.electing.role

    @property
    def term(self) -> int:
        """The current term."""
        return self.state.term

    # ------------------------------------------------------------------------------------------ life cycle

    def recover(self, journal: Iterable[Record], snapshot: SnapshotMeta | None) -> None:
        """Rebuild from the journal and the newest snapshot. Raises ValueError if they do not fit."""
        self.state.recover(journal, snapshot)

    def start(self, now: int, out: Out) -> None:
        self.state.start(now, out)
        self.electing.reset(now)
        out.changed = True
        self._set_deadline(now)

    def resign(self, now: int, out: Out) -> None:
        if self.role != FOLLOWER:
            self._become_follower(self.state.term, None, now, out)
        self.state.record_commit(now, out)
        self.electing.resign()
        self._set_deadline(now)

    # ----------------------------------------------------------------------------------------------- inputs

    def receive(self, sender: NodeId, message: Any, now: int, out: Out) -> None:
        handler = self._handlers.get(type(message))
        if handler is None or sender not in self._peers:
            return
        handler(sender, message, now, out)  # type: ignore[operator]
        self._set_deadline(now)

    def timeout(self, now: int, out: Out) -> None:
        if self.leading is not None:
            if now >= self.leading.deadline and not self.leading.tick(now, out):
                self._become_follower(self.state.term, None, now, out)
        elif now >= self.electing.deadline:
            followed = self.electing.leader
            self.electing.campaign(now, out)
            if followed is not None and self.electing.leader is None:
                self._refuse_reads(out)
        for token in self._asked.late(now):
            sometimes("a barrier is given up: the leader does not answer")
            reason = "the leader did not answer a read barrier"
            out.refused_reads.append((token, Refusal(RefusalCode.NO_QUORUM, reason, self.electing.leader)))
        self._set_deadline(now)

    def propose(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> Refusal | None:
        if self.leading is None:
            return self._not_leader()
        refusal = self.leading.propose(payloads, now, out)
        self._set_deadline(now)
        return refusal

    def read(self, token: Token, now: int, out: Out, lazy: bool = False) -> None:
        leader = self.electing.leader
        if self.leading is not None:
            self.leading.read(None, token, lazy, now, out)
        elif leader is None:
            out.refused_reads.append((token, self._not_leader()))
        else:
            # A lazy one may wait over there for the next heartbeat first.
            patience = self.timing.election + (self.timing.heartbeat if lazy else 0)
            self._asked.ask(token, now + patience)
            out.now.append((leader, ReadRequest(self.state.term, token, lazy)))
        self._set_deadline(now)

    def persisted(self, ticket: int, now: int, out: Out) -> None:
        if not self.state.persisted(ticket, out):
            return
        if self.electing.persisted(now):
            self._become_leader(now, out)
        elif self.leading is not None:
            self.leading.persisted(now, out)
        self._set_deadline(now)

    def applied(self, index: int, digest: bytes, now: int, out: Out) -> None:
        """Raft does not certify states; nothing to do."""

    def snapshot_taken(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        previous = self.state.snapshot
        if previous is not None and meta.index <= previous.index:
            return
        keep = self.state.log.first_with_tail(meta.index, self.timing.retain_bytes)
        if self.leading is not None:
            keep = self.leading.keep_for_fetchers(keep, meta, previous)
        self.state.snapshot_taken(meta, keep)

    def snapshot_installed(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        if not self.state.snapshot_installed(meta, self.leading is not None, now, out):
            return
        leader = self.electing.leader
        if self.role == FOLLOWER and leader is not None:
            out.wait.append((leader, AppendEntriesReply(self.state.term, True, meta.index, 0, 0, 0)))

    def state_records(self) -> list[Record]:
        """Hard state, base, every entry behind the snapshot, commit hint."""
        return self.state.state_records()

    def observe(self) -> CoreView:
        state, leading = self.state, self.leading
        return CoreView(
            node=self.node,
            role=_NAMES[self.role],
            term=state.term,
            voted_for=state.voted_for,
            leader=self.electing.leader,
            commit_index=state.commit_index,
            durable_index=state.durable_index,
            first_index=state.log.base_index + 1,
            last_index=state.log.last_index,
            members=self.members,
            match_index={peer: p.match_index for peer, p in leading.progress.items()} if leading else {},
            storage_stalled=state.stalled(self._now, self.timing.stall),
        )

    def check_invariants(self) -> None:
        """Raise SafetyViolation unless the invariants hold that can be seen at one moment."""
        self.state.check()
        if (self.leading is not None) != (self.role == LEADER):
            raise SafetyViolation(
                f"{self.node}: a {self.role.name} {'with' if self.leading else 'without'} followers"
            )
        if self.leading is not None:
            self.leading.check()

    # ------------------------------------------------------------------------------------------------ roles

    def _become_follower(self, term: int, leader: NodeId | None, now: int, out: Out) -> None:
        self.electing.become_follower(term, leader, now, out)
        self._refuse_reads(out)
        self.leading = None

    def _become_leader(self, now: int, out: Out) -> None:
        self.electing.become_leader(out)
        self.leading = Leading(self.node, self.members, self.state, self.timing, now)
        self.leading.begin(now, out)

    def _follow(self, sender: NodeId, term: int, now: int, out: Out) -> bool:
        """Accept `sender` as leader of `term`. False: it is not, and has been told so."""
        electing, known = self.electing, self.state.term
        if term != known or electing.leader != sender or electing.role is not FOLLOWER:
            if term < known:
                sometimes("a leader of an earlier term is told of a later one")
                out.wait.append((sender, AppendEntriesReply(known, False, 0, 0, 0, 0)))
                return False
            if term == known:
                if electing.role is LEADER:
                    raise SafetyViolation(f"{self.node} and {sender} both lead term {term}")
                if electing.role is CANDIDATE:
                    sometimes("a candidate yields to who has won its term")
            elif electing.role is LEADER:
                sometimes("a leader steps down: another one leads a later term")
            self._become_follower(term, sender, now, out)
        electing.heard_leader(now)
        return True

    # -------------------------------------------------------------------------------------------- elections

    def _on_pre_vote(self, sender: NodeId, message: PreVote, now: int, out: Out) -> None:
        self.electing.on_pre_vote(sender, message, now, out)

    def _on_pre_vote_reply(self, sender: NodeId, message: PreVoteReply, now: int, out: Out) -> None:
        if message.granted:
            self.electing.on_pre_vote_granted(sender, message, now, out)
        elif message.term > self.state.term:
            sometimes("a refused pre-vote tells of a later term")
            self._become_follower(message.term, None, now, out)

    def _on_request_vote(self, sender: NodeId, message: RequestVote, now: int, out: Out) -> None:
        if message.term > self.state.term:
            if self.electing.hears_leader(now):
                sometimes("a request for votes is ignored: a leader is heard")
                return  # not even the term is taken over (thesis 4.2.3)
            self._become_follower(message.term, None, now, out)
        self.electing.on_request_vote(sender, message, now, out)

    def _on_request_vote_reply(self, sender: NodeId, message: RequestVoteReply, now: int, out: Out) -> None:
        if message.term > self.state.term:
            sometimes("a refused vote tells of a later term")
            self._become_follower(message.term, None, now, out)
        elif self.electing.on_request_vote_reply(sender, message, now):
            self._become_leader(now, out)

    # ------------------------------------------------------------------------------------------ replication

    def _on_append_entries(self, sender: NodeId, message: AppendEntries, now: int, out: Out) -> None:
        if self._follow(sender, message.term, now, out):
            reply = following.append_entries(self.state, message, now, out)
            if reply is not None:
                out.wait.append((sender, reply))

    def _on_append_entries_reply(
        self, sender: NodeId, message: AppendEntriesReply, now: int, out: Out
    ) -> None:
        term = self.state.term
        if message.term == term and self.leading is not None:
            self.leading.on_reply(sender, message, now, out)
        elif message.term > term:
            sometimes("a leader steps down: a peer knows a later term")
            self._become_follower(message.term, None, now, out)
        else:
            sometimes("an answer to an earlier leadership counts for nothing")

    def _on_install_snapshot(self, sender: NodeId, message: InstallSnapshot, now: int, out: Out) -> None:
        if self._follow(sender, message.term, now, out):
            out.wait.append((sender, following.install_snapshot(self.state, sender, message, out)))

    # ------------------------------------------------------------------------------------------------ reads

    def _on_read_request(self, sender: NodeId, message: ReadRequest, now: int, out: Out) -> None:
        if self.leading is None or message.term > self.state.term:
            sometimes("a barrier is asked of who does not lead")
            out.now.append((sender, ReadReply(self.state.term, message.token, False, 0)))
        else:
            self.leading.read(sender, message.token, message.lazy, now, out)

    def _on_read_reply(self, sender: NodeId, message: ReadReply, now: int, out: Out) -> None:
        if not self._asked.answered(message.token):
            sometimes("a barrier comes when nobody waits for it any more")
            return
        if message.granted:
            out.reads.append((message.token, message.index))
        else:
            out.refused_reads.append((message.token, self._not_leader()))

    def _refuse_reads(self, out: Out) -> None:
        refusal = self._not_leader()
        if self.leading is not None:
            self.leading.refuse_reads(refusal, out)
        out.refused_reads.extend((token, refusal) for token in self._asked.drain())

    # ---------------------------------------------------------------------------------------------- helpers

    def _not_leader(self) -> Refusal:
        leader, term = self.electing.leader, self.state.term
        if leader is None or leader == self.node:
            return Refusal(RefusalCode.NO_QUORUM, f"{self.node} knows of no leader in term {term}")
        return Refusal(RefusalCode.NOT_LEADER, f"{leader} leads term {term}", leader)

    def _set_deadline(self, now: int) -> None:
        self._now = now
        due = self.electing.deadline if self.leading is None else self.leading.deadline
        asked = self._asked.deadline
        self.deadline = due if due < asked else asked
