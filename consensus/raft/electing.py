"""Who leads, and how a server comes to lead: time-outs, pre-votes, votes (paper 5.2, 5.4.1; thesis 9.6, 4.2.3)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from consensus import quorum
from consensus.core import NEVER, NodeId, Out, Role
from consensus.marks import sometimes
from consensus.raft.messages import PreVote, PreVoteReply, RequestVote, RequestVoteReply
from consensus.raft.persistent import PersistentState
from consensus.raft.timing import Timing

FOLLOWER: Final = Role.FOLLOWER
PRECANDIDATE: Final = Role.PRECANDIDATE
CANDIDATE: Final = Role.CANDIDATE
LEADER: Final = Role.LEADER


class Electing:
    """Role, leader and election time-out of a server, and both sides of pre-votes and votes.

    The caller has brought the term up to date before it hands a vote over; where a method returns True, this
    server has just won and the caller makes it lead."""

    __slots__ = (
        "_heard_leader",
        "_members",
        "_node",
        "_peers",
        "_resigned",
        "_rng",
        "_state",
        "_timing",
        "_votes",
        "deadline",
        "leader",
        "role",
    )

    def __init__(
        self,
        node: NodeId,
        members: Sequence[NodeId],
        state: PersistentState,
        timing: Timing,
        rng: random.Random,
    ) -> None:
        self._node = node
        self._members = members
        self._peers = tuple(member for member in members if member != node)
        self._state = state
        self._timing = timing
        self._rng = rng
        self._votes: dict[NodeId, bool] = {}  # answers in this pre-vote or election; one a voter
        self._heard_leader = -NEVER
        self._resigned = False
        self.role = FOLLOWER
        self.leader: NodeId | None = None
        self.deadline = NEVER

    # ------------------------------------------------------------------------------------------------ roles

    def become_follower(self, term: int, leader: NodeId | None, now: int, out: Out) -> None:
        """Follow `leader`, or nobody yet, in `term`, which is not below the current one."""
        was_leader = self.role == LEADER
        if term > self._state.term:
            self._state.enter_term(term, None, now, out)
        # In the same term the vote stands: a step-down never clears it (CCF #8094).
        self.role = FOLLOWER
        self.leader = leader
        self._votes = {}
        if was_leader or leader is not None:
            self.reset(now)
        out.changed = True

    def become_leader(self, out: Out) -> None:
        """This server has won."""
        self.role = LEADER
        self.leader = self._node
        self._votes = {}
        out.changed = True

    def heard_leader(self, now: int) -> None:
        """The leader of this term has spoken."""
        self._heard_leader = now
        self.reset(now)

    def resign(self) -> None:
        """Never campaign again."""
        self._resigned = True
        self.deadline = NEVER

    def reset(self, now: int) -> None:
        """Wait a whole election time-out, drawn anew."""
        if not self._resigned:
            election = self._timing.election
            # With every heartbeat: so not `randrange`, which costs five times as much.
            self.deadline = now + election + int(self._rng.random() * election)

    def _retry_soon(self, now: int) -> None:
        """Try again sooner than an election time-out: there is no leader to wait for, only rivals to get out of step
        with, and pre-votes cost nobody anything."""
        if not self._resigned:
            self.deadline = now + self._timing.heartbeat + self._rng.randrange(self._timing.election)

    # -------------------------------------------------------------------------------------------- campaigns

    def campaign(self, now: int, out: Out) -> None:
        """The time-out has passed: ask whether votes could be had (pre-vote)."""
        self._retry_soon(now)
        state = self._state
        # Without a disk it could make no vote durable, let alone an entry. And while its last vote is on the way to the
        # disk, nobody has heard of that yet: a new term now would throw the old candidacy away before it was asked for.
        if state.stalled(now, self._timing.stall):
            sometimes("no campaign: the disk stands still")
            return
        if not state.vote_durable:
            sometimes("no campaign: the last vote is not durable yet")
            return
        self.role = PRECANDIDATE
        self.leader = None
        self._votes = {self._node: True}
        out.changed = True
        message = PreVote(state.term + 1, state.log.last_index, state.log.last_term)
        out.now.extend((peer, message) for peer in self._peers)
        self._pre_votes_counted(now, out)

    def _pre_votes_counted(self, now: int, out: Out) -> None:
        if not self._has_majority():
            return
        state = self._state
        self.role = CANDIDATE
        self.leader = None
        self._votes = {}  # its own counts when it is durable
        state.enter_term(state.term + 1, self._node, now, out)
        self.reset(now)
        out.changed = True
        message = RequestVote(state.term, state.log.last_index, state.log.last_term)
        out.wait.extend((peer, message) for peer in self._peers)  # rule 1: see consensus.core

    def persisted(self, now: int) -> bool:
        """More is durable: a candidate's own vote counts once it is (rule 3)."""
        if self.role != CANDIDATE or self._node in self._votes or not self._state.vote_durable:
            return False
        self._votes[self._node] = True
        # Its request leaves only now, and a voter's answer waits for a disk too: a time-out that counted the one write
        # and was too short for the other would start term after term and never see an answer.
        self.reset(now)
        return self._has_majority()

    def _has_majority(self) -> bool:
        granted = [voter for voter, yes in self._votes.items() if yes]
        return quorum.has_majority(self._members, granted)

    # ------------------------------------------------------------------------------------------------ votes

    def hears_leader(self, now: int) -> bool:
        """Whether a leader is alive as far as this server knows: votes are then not given (thesis 4.2.3)."""
        if self.role == LEADER:
            return True  # as long as check-quorum lets it lead
        # A heartbeat less than the lowest time-out, so that the first to time out is not turned down by a
        # peer that happened to hear the last heartbeat a moment later.
        patience = self._timing.election - self._timing.heartbeat
        return self.leader is not None and now - self._heard_leader < patience

    def _log_is_current(self, last_index: int, last_term: int) -> bool:
        log = self._state.log
        return (last_term, last_index) >= (log.last_term, log.last_index)

    def on_pre_vote(self, sender: NodeId, message: PreVote, now: int, out: Out) -> None:
        """Would it vote for the sender?"""
        term = self._state.term
        granted = False
        if message.term <= term:
            sometimes("a pre-vote is refused: its term is not a new one")
        elif self.hears_leader(now):
            sometimes("a pre-vote is refused: a leader is heard")
        elif not self._log_is_current(message.last_index, message.last_term):
            sometimes("a pre-vote is refused: the log is behind")
        else:
            granted = True
        # Not a promise: nothing rests on it but whether the asker goes on to ask for votes, and a term is only ever
        # raised by it. So it waits for no disk.
        out.now.append((sender, PreVoteReply(message.term if granted else term, granted)))

    def on_pre_vote_granted(self, sender: NodeId, message: PreVoteReply, now: int, out: Out) -> None:
        """A peer would vote for this server."""
        if self.role != PRECANDIDATE or message.term != self._state.term + 1:
            sometimes("a pre-vote comes too late to count")
            return
        self._votes[sender] = True
        self._pre_votes_counted(now, out)

    def on_request_vote(self, sender: NodeId, message: RequestVote, now: int, out: Out) -> None:
        """Vote, once a term and only for a log that is as good as its own."""
        state = self._state
        granted = False
        if message.term != state.term:
            sometimes("a vote is refused: its term is over")
        elif self.leader is not None:
            sometimes("a vote is refused: the term has a leader")
        elif state.voted_for is not None and state.voted_for != sender:
            # A candidate is among these: its vote is its own.
            sometimes("a vote is refused: it went to another")
        elif not self._log_is_current(message.last_index, message.last_term):
            sometimes("a vote is refused: the log is behind")
        else:
            granted = True
        if granted:
            if state.voted_for == sender:
                sometimes("a vote is asked for twice and given once")
            state.vote(sender, now, out)
            self.role = FOLLOWER
            self._votes = {}
            self.reset(now)
            out.changed = True
        out.wait.append((sender, RequestVoteReply(state.term, granted)))

    def on_request_vote_reply(self, sender: NodeId, message: RequestVoteReply, now: int) -> bool:
        """A vote, or a refusal, in this term or an earlier one."""
        if self.role != CANDIDATE or message.term != self._state.term:
            sometimes("a vote comes too late to count")
            return False
        if message.granted:
            self._votes[sender] = True
            return self._has_majority()
        # The vote went to a rival: if neither gets a majority, waiting does not help.
        if False not in self._votes.values():
            sometimes("a candidate is turned down and tries again sooner")
            self._retry_soon(now)
        self._votes.setdefault(sender, False)
        return False
