"""A core's own words: votes, proposals, timeouts. Each is recorded before it is said, and counts here when it is durable."""

from __future__ import annotations

from consensus.bft import chain, rules
from consensus.bft.block import (
    MOST_BATCHES,
    Block,
)
from consensus.bft.certificates import QuorumCertificate, TimeoutCertificate
from consensus.bft.messages import (
    Proposal,
    Timeout,
    Vote,
)
from consensus.bft.ordering import Ordering
from consensus.bft.signing import proposal_statement, timeout_statement, vote_statement
from consensus.bft.tree import Placed
from consensus.bft.votes import WINDOW
from consensus.core import (
    NEVER,
    NodeId,
    Out,
)
from consensus.marks import sometimes


class Voting(Ordering):
    """See the module."""

    def _consider(self, placed: Placed, tc: TimeoutCertificate | None, now: int, out: Out) -> None:
        """Vote for a placed block if the rules allow it."""
        block = placed.block
        parent = placed.parent
        if block.round != self.round or parent is None:
            return
        if rules.why_no_vote(self.safety, block.round, parent.block.round, tc):
            return
        self._vote(block, parent.block.round, tc)
        self._record(out, now, self.spoken.record())
        self._speak(self.spoken.vote, out)

    def _vote(self, block: Block, parent_round: int, tc: TimeoutCertificate | None) -> None:
        rules.vote(self.safety, block.round, parent_round, tc)
        self.pacemaker.voted()
        signature = self._keyring.sign(vote_statement(self.committee, block.round, block.digest))
        self.spoken.vote = Vote(self.committee.epoch, block.round, block.digest, signature)

    def _speak(self, words: Vote | Timeout | None, out: Out) -> None:
        """Say what has just been recorded; it counts here when it is durable."""
        if words is not None:
            self._tell(out.wait, words)
            self._own.append((self._ticket, words))

    def _made(self, qc: QuorumCertificate, sender: NodeId, now: int, out: Out) -> None:
        encoded = qc.encode()
        self.judge.know(encoded, qc)
        self._see_qc(qc, encoded, sender, now, out)

    def _count_own(self, now: int, out: Out) -> None:
        """Count this node's own words that are durable now (rule 3)."""
        while self._own and self._own[0][0] <= self._durable:
            _, words = self._own.popleft()
            if type(words) is Vote:
                if words.round < self.round - WINDOW:
                    continue
                qc = self.votes.add(self.node, words.round, words.block, words.signature, verified=True)
                if qc is not None:
                    self._made(qc, self.node, now, out)
            elif type(words) is Timeout and words.round == self.round:
                high = self.judge.qc(words.high_qc)
                if self.timeouts.add(self.node, high.round, words.signature, words.high_qc):
                    self._count_timeouts(self.node, now, out)

    # ------------------------------------------------------------------------------------------- proposals

    def _try_propose(self, now: int, out: Out) -> None:
        self._propose_at = NEVER
        # Asked after every input: most of the time it has voted in this round already, and that is the end of it.
        round, safety = self.pacemaker.round, self.safety
        if round <= safety.voted_round or self._resigned or not rules.may_propose(safety, round):
            return
        high = self.high_qc
        parent = self.tree.get(high.block)
        if parent is None or self.leader(parent.block, round) != self.node:
            return
        if parent.block.round < self.tree.committed.block.round:
            return  # a state was fetched and installed, and no certificate above it has come yet
        tc = None
        if high.round + 1 != round:
            tc = self.high_tc
            if tc is None or tc.round + 1 != round:
                return
        if not self.payloads.waiting and parent.block.index <= self.tree.committed.block.index:
            rested = self.pacemaker.entered + self.timing.idle
            if now < rested:
                self._propose_at = rested
                return
        self._make_proposal(parent, tc, now, out)

    def _make_proposal(self, parent: Placed, tc: TimeoutCertificate | None, now: int, out: Out) -> None:
        used = {batch for placed in self.tree.uncommitted(parent) for batch in placed.block.payload}
        batches = self.payloads.pick(self.timing.block_bytes, MOST_BATCHES, used)
        qc = self.votes.richest(self.high_qc)
        justify = self.spoken.high_qc if qc is self.high_qc else qc.encode()
        self.judge.know(justify, qc)
        round = self.round
        block = chain.extend(parent.block, justify, round, self.node, batches, self.committee, self.timing)
        rules.propose(self.safety, round)
        signature = self._keyring.sign(proposal_statement(self.committee, round, block.digest))
        encoded_tc = self.spoken.high_tc if tc is not None else b""
        self.spoken.proposal = (round, block.digest, encoded_tc, signature)
        self._add(block, parent, now, out)
        self._vote(block, parent.block.round, tc)
        # One record for proposal and vote.
        self._record(out, now, self.spoken.record())
        self._tell(out.wait, Proposal(block.encoded, encoded_tc, signature))
        self._speak(self.spoken.vote, out)

    # -------------------------------------------------------------------------------------------- timeouts

    def _give_up(self, now: int, out: Out) -> None:
        """Give the current round up."""
        round, high = self.round, self.high_qc
        self.pacemaker.gave_up()
        if round <= self.safety.timeout_round:
            return
        rules.give_up(self.safety, round, high.round)
        signature = self._keyring.sign(timeout_statement(self.committee, round, high.round))
        tc = self.spoken.high_tc if high.round + 1 != round else b""
        self.spoken.timeout = Timeout(self.committee.epoch, round, self.spoken.high_qc, tc, signature)
        self._record(out, now, self.spoken.record())
        self._speak(self.spoken.timeout, out)

    def _count_timeouts(self, sender: NodeId, now: int, out: Out) -> None:
        timeouts = self.timeouts
        if len(timeouts.given) >= self.committee.honest and self.round > self.safety.timeout_round:
            sometimes("a round is given up because an honest member has done so")
            self._give_up(now, out)
        tc = timeouts.certificate()
        if tc is not None:
            encoded = tc.encode()
            self.judge.know_tc(encoded, tc)
            self._see_tc(tc, encoded, sender, now, out)

    def _say_again(self, out: Out) -> None:
        """Say again what was said in this round, word for word."""
        spoken, round = self.spoken, self.round
        if spoken.proposal is not None and spoken.proposal[0] == round:
            placed = self.tree.get(spoken.proposal[1])
            if placed is not None:
                again = Proposal(placed.block.encoded, spoken.proposal[2], spoken.proposal[3])
                self._tell(out.wait, again)
        # One vote too few in the round before can keep others there, too.
        if spoken.vote is not None and spoken.vote.round + 1 >= round:
            self._tell(out.wait, spoken.vote)
        if spoken.timeout is not None and spoken.timeout.round == round:
            sometimes("a timeout is said again")
            self._tell(out.wait, spoken.timeout)
