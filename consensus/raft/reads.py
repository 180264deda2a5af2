"""Read barriers: a leader's, batched into rounds (thesis 6.4: ReadIndex), and those a follower has asked for."""

from __future__ import annotations

from consensus.core import NEVER, NodeId, Token

Asker = NodeId | None


class ReadRounds:
    """Barriers asked for while a round is under way wait for the next one: any number of reads costs one exchange.

    A round takes the commit index when it begins and is over when a quorum has answered a message that was
    sent after it began: no other leader can have committed anything before that moment. A round whose messages are
    lost is answered with a later heartbeat, which carries the number of the running round. Fresh for every
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

    @property
    def running(self) -> bool:
        """Whether a round is under way."""
        return bool(self._running)

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


class AskedBarriers:
    """The barriers that a follower has asked its leader for, each with the time at which it is given up. Tokens are never
    used twice, so an answer counts only for the question that it answers, however late it comes."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until: dict[Token, int] = {}

    @property
    def deadline(self) -> int:
        """When the first one is to be given up."""
        return min(self._until.values(), default=NEVER)

    def ask(self, token: Token, until: int) -> None:
        """A question has been sent."""
        self._until[token] = until

    def answered(self, token: Token) -> bool:
        """An answer came in. False: nobody waits for it."""
        return self._until.pop(token, None) is not None

    def late(self, now: int) -> list[Token]:
        """Take out those to be given up by now."""
        tokens = [token for token, until in self._until.items() if until <= now]
        for token in tokens:
            del self._until[token]
        return tokens

    def drain(self) -> list[Token]:
        """Take out all."""
        tokens = list(self._until)
        self._until = {}
        return tokens
