"""Read barriers of a leader, batched into rounds (thesis 6.4: ReadIndex)."""

from __future__ import annotations

from consensus.core import NodeId, Token

Asker = NodeId | None


class ReadRounds:
    """Barriers asked for while a round is under way wait for the next one: any number of reads costs one exchange.

    A round takes the commit index when it begins and is over when a quorum has answered a message that was
    sent after it began: no other leader can have committed anything before that moment. Fresh for every
    term: rounds of an earlier leadership prove nothing (ra #340).
    """

    __slots__ = ("_index", "_running", "round", "waiting")

    def __init__(self) -> None:
        self.round = 0
        self.waiting: list[tuple[Asker, Token]] = []
        self._running: list[tuple[Asker, Token]] = []
        self._index = 0

    def ask(self, peer: Asker, token: Token) -> None:
        """Add a barrier; `peer` None means this node itself."""
        self.waiting.append((peer, token))

    def begin(self, commit_index: int) -> bool:
        """Begin a round if barriers wait and none is under way. True: tell every peer the new round."""
        if self._running or not self.waiting:
            return False
        self._running, self.waiting = self.waiting, []
        self._index = commit_index
        self.round += 1
        return True

    def finish(self, agreed_round: int) -> list[tuple[Asker, Token, int]]:
        """The barriers of the running round with their index, if a quorum has answered it."""
        if not self._running or agreed_round < self.round:
            return []
        done = [(peer, token, self._index) for peer, token in self._running]
        self._running = []
        return done

    def drain(self) -> list[tuple[Asker, Token]]:
        """Give up all barriers."""
        given_up = self._running + self.waiting
        self._running, self.waiting = [], []
        return given_up
