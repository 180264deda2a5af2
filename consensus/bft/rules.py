"""The safety rules of Jolteon (Gelashvili et al., "Jolteon and Ditto", FC 2022, section 3), and nothing else. "Quorum" below is
the committee's, so that any two share an honest member.

S1  One vote a round, in rounds that only rise, and none in a round that was given up.
S2  A vote is for a block whose parent is certified in the round just before; or in an earlier one, if a quorum has given the
    round before up, and the parent's certificate is at least as high as the highest that anybody of that quorum has signed.
S3  Who gives a round up signs a certificate at least as high as every one that it has ever seen.
S4  One proposal a round.
S5  A block is committed, and its ancestors with it, when its child is certified and their rounds are consecutive.

Why that is safe: let B0 (round k) and its child B1 (k + 1) be certified. A quorum has voted for B1, so each honest one of it knew
B0's certificate and signs, by S3, no timeout with a lower one. Take the first certified block of a later round that does not
extend B0: by S2 its parent's round is below k, so a quorum has given a round of at least k + 1 up with certificates below k. The
two quorums share an honest member; by S1 it voted for B1 first, and by S3 could not have signed that. All of it rests on this
state being durable before anything that follows from it is said.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.bft.certificates import TimeoutCertificate
from consensus.bft.timing import SafetyViolation


@dataclass(slots=True)
class Safety:
    """What a replica must never forget. All four only rise."""

    voted_round: int = 0
    preferred_round: int = 0
    """Of the highest certificate that it has seen."""
    timeout_round: int = 0
    proposed_round: int = 0


def why_no_vote(safety: Safety, round: int, parent_round: int, tc: TimeoutCertificate | None) -> str:
    """Why not to vote in `round` for a block whose parent's certificate is of `parent_round`; "" if S1 and S2 allow it. `tc`, if
    there is one, has been verified, and so has the parent's certificate."""
    if round <= safety.voted_round:
        return "voted in that round, or in a later one"
    if round <= safety.timeout_round:
        return "the round was given up"
    if round == parent_round + 1:
        return ""
    if tc is None or round != tc.round + 1:
        return "neither its parent nor a timeout certificate is of the round before"
    if parent_round < tc.high_round:
        return "somebody who gave the round before up knows a higher certificate than its parent's"
    return ""


def vote(safety: Safety, round: int, parent_round: int, tc: TimeoutCertificate | None) -> None:
    """A vote is about to be signed. Raises SafetyViolation if S1 or S2 forbids it."""
    reason = why_no_vote(safety, round, parent_round, tc)
    if reason:
        raise SafetyViolation(f"a vote in round {round}: {reason}")
    safety.voted_round = round
    see(safety, parent_round)


def see(safety: Safety, certified_round: int) -> None:
    """A verified certificate of that round has been seen."""
    if certified_round > safety.preferred_round:
        safety.preferred_round = certified_round


def give_up(safety: Safety, round: int, high_round: int) -> None:
    """A timeout is about to be signed. Raises SafetyViolation if it is the second of its round, or S3 forbids it."""
    if round <= safety.timeout_round or round < safety.voted_round:
        raise SafetyViolation(f"round {round} is given up a second time, or after a vote in a later one")
    if high_round < safety.preferred_round:
        raise SafetyViolation(
            f"round {round} is given up with a certificate of round {high_round}; "
            f"one of {safety.preferred_round} has been seen"
        )
    safety.timeout_round = round


def may_propose(safety: Safety, round: int) -> bool:
    """S4; and who has voted in a round, or given it up, has nothing to propose in it any more."""
    return round > max(safety.proposed_round, safety.voted_round, safety.timeout_round)


def propose(safety: Safety, round: int) -> None:
    """A proposal is about to be signed. Raises SafetyViolation if S4 forbids it."""
    if not may_propose(safety, round):
        raise SafetyViolation(f"a second proposal in round {round}, or one behind a vote")
    safety.proposed_round = round


def commits(parent_round: int, child_round: int) -> bool:
    """S5: whether the certificate of a block of `child_round` commits its parent of `parent_round`."""
    return child_round == parent_round + 1
