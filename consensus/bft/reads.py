"""Read barriers. A quorum says which certificate is the highest that each of them knows; what was acknowledged before the
question is in the chain below the highest of these.

Why: an acknowledged entry stands in a block B0 (round k) that the certificate of its child B1 has committed. The quorum that
voted for B1 shares an honest member with the one that answers; it held the certificate of B0 durably before it voted, so it names
one of round k or higher; and every certified block of such a round is B0 or extends it (`rules`). Whoever has come as far as that
block has the entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from consensus.bft.committee import Committee
from consensus.core import NEVER, NodeId, Token
from consensus.marks import sometimes

Reached = Callable[[int, bytes], bool]
"""Whether this node has come as far as the block of that round, with that digest."""


@dataclass(slots=True)
class _Asked:
    tokens: list[Token]
    until: int


@dataclass(slots=True)
class _Target:
    """What has to be reached: the block that a certificate names."""

    round: int
    block: bytes
    asked: _Asked


@dataclass(slots=True)
class Reads:
    """Barriers asked for while an exchange is under way wait for the next: any number of reads costs one. Microseconds."""

    committee: Committee
    node: NodeId
    resend: int
    patience: int
    nonce: int = 0
    """That of the exchange under way, or of the last one. A nonce of an earlier life is below every one of this."""
    deadline: int = NEVER
    _waiting: list[_Asked] = field(default_factory=list)
    _running: _Asked | None = None
    _answers: dict[NodeId, None] = field(default_factory=dict)
    _targets: list[_Target] = field(default_factory=list)
    _again: int = NEVER

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return self._running is None and not self._targets

    def ask(self, token: Token, now: int) -> bool:
        """A barrier is asked for. True: everybody is to be asked now, with `nonce`."""
        self._waiting.append(_Asked([token], now + self.patience))
        self._see()
        return self._begin(now)

    def _begin(self, now: int) -> bool:
        if self._running is not None or not self._waiting:
            return False
        tokens = [token for asked in self._waiting for token in asked.tokens]
        self._running = _Asked(tokens, self._waiting[0].until)
        self._waiting = []
        self._answers = {self.node: None}
        self.nonce += 1
        self._again = now + self.resend
        self._see()
        return True

    def wants(self, sender: NodeId, nonce: int) -> bool:
        """Whether that answer is still of use."""
        return self._running is not None and nonce == self.nonce and sender not in self._answers

    def answered(self, sender: NodeId) -> None:
        """A member has answered, and its certificate has been taken over if it is higher than this node's."""
        self._answers[sender] = None

    def settle(self, round: int, block: bytes, now: int) -> bool:
        """If a quorum has answered: what its tokens wait for is this node's highest certificate, of that block. True: the next
        question is to be asked."""
        if self._running is None or not self.committee.is_quorum(self._answers):
            return False
        self._targets.append(_Target(round, block, self._running))
        self._running = None
        self._again = NEVER
        self._see()
        return self._begin(now)

    def reached(self, safe: Reached) -> list[Token]:
        """Take out the barriers whose block has been reached."""
        if not self._targets:
            return []
        done: list[Token] = []
        left = []
        for target in self._targets:
            if safe(target.round, target.block):
                done += target.asked.tokens
            else:
                left.append(target)
        if done:
            self._targets = left
            self._see()
        return done

    def timeout(self, now: int) -> tuple[list[Token], bool]:
        """(barriers to be refused, whether to ask again those who have not answered)."""
        if now < self.deadline:
            return [], False
        late: list[Token] = []
        if self._running is not None and self._running.until <= now:
            sometimes("a read barrier is refused: no quorum answers")
            late += self._running.tokens
            self._running, self._again = None, NEVER
        for target in [target for target in self._targets if target.asked.until <= now]:
            sometimes("a read barrier is refused: the log does not come as far in time")
            late += target.asked.tokens
            self._targets.remove(target)
        again = now >= self._again
        if again:
            self._again = now + self.resend
        if self._begin(now):
            again = True
        self._see()
        return late, again

    def silent(self) -> list[NodeId]:
        """The members that have not answered the question under way."""
        return [member for member in self.committee.members if member not in self._answers]

    def _see(self) -> None:
        due = self._again
        for asked in (self._running, *self._waiting, *(target.asked for target in self._targets)):
            if asked is not None and asked.until < due:
                due = asked.until
        self.deadline = due
