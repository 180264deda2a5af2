"""Read barriers: a leader's, batched into rounds (thesis 6.4: ReadIndex), and those a follower has asked for."""

from __future__ import annotations

from consensus.core import NEVER, NodeId, Token
from consensus.marks import sometimes

Asker = NodeId | None


class ReadRounds:
    """Barriers asked for while a round is under way wait for the next one: any number of reads costs one exchange. Barriers for
    which nobody waits (`lazy`) begin no round of their own, but are in the next one, whatever begins it.

    A round takes the commit index when it begins and is over when a quorum has answered a message that was
    sent after it began: no other leader can have committed anything before that moment. A round whose messages are
    lost is answered with a later heartbeat, which carries the number of the running round. Fresh for every
    term: rounds of an earlier leadership prove nothing (ra #340).
    """

    __slots__ = ("_index", "round", "running", "urgent", "waiting")

    def __init__(self) -> None:
        self.round = 0
        self.waiting: list[tuple[Asker, Token]] = []
        self.urgent = False
        """Whether some of those that wait cannot wait for the next message to all peers."""
        self.running: list[tuple[Asker, Token]] = []
        """The barriers of the round under way; none: no round is."""
        self._index = 0

    def ask(self, peer: Asker, token: Token, lazy: bool = False) -> None:
        """Add a barrier; `peer` None means this node itself."""
        self.waiting.append((peer, token))
        if not lazy:
            self.urgent = True
            if self.running:
                sometimes("a barrier waits for the next round")

    def begin(self, commit_index: int) -> bool:
        """Begin a round if barriers wait and none is under way. True: tell every peer the new round."""
        if self.running or not self.waiting:
            return False
        self.running, self.waiting = self.waiting, []
        self.urgent = False
        self._index = commit_index
        self.round += 1
        return True

    def finish(self, agreed_round: int) -> list[tuple[Asker, Token, int]]:
        """The barriers of the running round with their index, if a quorum has answered it."""
        if not self.running or agreed_round < self.round:
            return []
        done = [(peer, token, self._index) for peer, token in self.running]
        self.running = []
        return done

    def drain(self) -> list[tuple[Asker, Token]]:
        """Give up all barriers."""
        given_up = self.running + self.waiting
        self.running, self.waiting, self.urgent = [], [], False
        return given_up


class AskedBarriers:
    """The barriers that a follower has asked its leader for, each with the time at which it is given up. Tokens are never
    used twice, so an answer counts only for the question that it answers, however late it comes."""

    __slots__ = ("_until", "deadline")

    def __init__(self) -> None:
        self._until: dict[Token, int] = {}
        self.deadline = NEVER
        """When the first one is to be given up."""

    def ask(self, token: Token, until: int) -> None:
        """A question has been sent."""
        self._until[token] = until
        self._see_deadline()

    def answered(self, token: Token) -> bool:
        """An answer came in. False: nobody waits for it."""
        known = self._until.pop(token, None) is not None
        self._see_deadline()
        return known

    def late(self, now: int) -> list[Token]:
        """Take out those to be given up by now."""
        if now < self.deadline:
            return []
        tokens = [token for token, until in self._until.items() if until <= now]
        for token in tokens:
            del self._until[token]
        self._see_deadline()
        return tokens

    def drain(self) -> list[Token]:
        """Take out all."""
        tokens = list(self._until)
        self._until = {}
        self._see_deadline()
        return tokens

    def _see_deadline(self) -> None:
        self.deadline = min(self._until.values(), default=NEVER)
