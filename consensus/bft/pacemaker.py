"""Rounds: when one begins, and when it is given up."""

from __future__ import annotations

from typing import Final

from consensus.bft.timing import Timing
from consensus.core import NEVER
from consensus.marks import sometimes

_MOST_DOUBLINGS: Final = 20


class Pacemaker:
    """The round is one above the highest certificate, of votes or of timeouts. Each round given up since the last commit doubles
    the time of the next, up to a bound: fixed times livelock as soon as messages take longer than they allow."""

    __slots__ = ("_timing", "deadline", "entered", "given_up", "hasty", "resend_at", "round")

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self.round = 1
        self.entered = 0
        self.given_up = 0
        """Rounds given up since the last commit."""
        self.hasty = 0
        """Rounds that this node gave up and a quorum did not, since its last vote."""
        self.deadline = NEVER
        """When the round is to be given up; NEVER once it is."""
        self.resend_at = NEVER
        """When what was said in this round is said again."""

    @property
    def duration(self) -> int:
        """How long a leader may take in this round."""
        longer = self._timing.round << min(self.given_up + self.hasty, _MOST_DOUBLINGS)
        return min(longer, max(self._timing.backoff_most, self._timing.round))

    def enter(self, round: int, busy: bool, now: int) -> None:
        """`round` begins. With nothing to order (`not busy`) its leader may take a rest first."""
        self.round = round
        self.entered = now
        self.deadline = now + self.duration + (0 if busy else self._timing.idle)
        self.resend_at = now + self._timing.resend

    def hurry(self, now: int) -> None:
        """There is something to order now."""
        if self.deadline != NEVER:
            self.deadline = min(self.deadline, now + self.duration)

    def gave_up(self) -> None:
        """This node has given the round up: its timeout is said again until the round ends."""
        self.deadline = NEVER

    def resent(self, now: int) -> None:
        """What was said in this round has been said again."""
        self.resend_at = now + self._timing.resend

    def failed(self) -> None:
        """A quorum gave the round up."""
        self.given_up += 1

    def was_hasty(self) -> None:
        """The round that this node gave up has brought a certificate. Let it wait longer: one that gives every round up before
        its leader speaks never votes, although it is well; and what makes it hurry may be a batch that only a liar sent it."""
        sometimes("a node gives up a round in which the others agree")
        self.hasty += 1

    def voted(self) -> None:
        """This node keeps pace with the others."""
        self.hasty = 0

    def committed(self) -> None:
        """Something was committed."""
        self.given_up = 0
