"""Virtual clients of a log whose members may lie: they sign what they ask for, are introduced everywhere, and believe what so
many nodes say alike that one of them must be honest.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from node.held import Meeting
from node.protocol import (
    Answer,
    Introduce,
    OpenSession,
    Outcome,
    Query,
    QueryRefused,
    Refused,
    SessionOpened,
    SignedOpen,
    SignedSubmit,
    Submit,
)
from node.requests import open_statement, submit_statement
from node.signed import KEYS_A_CONNECTION
from sim.check.history import Operation
from sim.virtual.client import CONSISTENCIES, UNKNOWN_SESSION, Client, Connection, Load
from sim.virtual.host import CLUSTER
from sim.virtual.keys import Notary, Signer

if TYPE_CHECKING:
    from sim.virtual.world import World

ASKED_AGAIN: Final = 4
"""Times that a query is asked before its client gives it up: nodes that are not at the same index do not answer alike."""
ALIKE_WAIT: Final = 60_000
"""Microseconds from a query to the next attempt."""
_BUNDLES: Final = 64


class Asked:
    """A query under way. `said`: what each node has answered."""

    __slots__ = ("meeting", "message", "operation", "refused", "said", "tries")

    def __init__(self, operation: Operation, message: Query, meeting: Meeting) -> None:
        self.operation, self.message, self.meeting = operation, message, meeting
        self.said: dict[str, Answer] = {}
        self.refused: dict[str, None] = {}
        self.tries = 1


class BftClient(Client):
    """Asks one node, then several, and believes `enough` equal replies."""

    def __init__(self, world: World, name: str, load: Load, notary: Notary, enough: int) -> None:
        super().__init__(world, name, load)
        self._notary = notary
        self.signer = notary.client(name)
        self.enough = enough
        self._opened_says: dict[str, tuple[int, int, int, bytes]] = {}
        self._outcomes: dict[int, dict[str, tuple[int, int, bytes, bytes]]] = {}
        self._unknown: dict[str, None] = {}
        self._queries: dict[int, Asked] = {}
        self._bundles: list[SignedSubmit] = []

    # ---------------------------------------------------------------------------------------------------- asking

    def _introduced(self) -> None:
        """Be known everywhere, whoever has been started anew and whatever was lost."""
        for name in self.world.names:
            self._connection(name).to_node(Introduce(self.signer.public))

    def _nodes_to_ask(self, again: bool) -> list[str]:
        first = self._node_to_ask()
        if not again:
            return [first]
        # One of so many is honest, whoever lies.
        return self.rng.sample(self.world.names, min(self.enough, len(self.world.names)))

    def _send_open(self, nonce: int, again: bool) -> None:
        signature = self.signer.sign(open_statement(CLUSTER, self.signer.public, nonce))
        message = SignedOpen(self.signer.public, nonce, signature)
        self.world.signed[signature] = (self.signer.public, nonce)
        self._introduced()
        for name in self._nodes_to_ask(again):
            self._connection(name).to_node(message)

    def _try_open(self, request: int) -> None:
        if request == self.opening_request and self.opening is not None:
            self._opened_says.clear()
            self._send_open(request, False)
            self.world.timeline.after(self.rng.randint(*self.load.patience), self._open_again, request)

    def _open_again(self, request: int) -> None:
        if request == self.opening_request and self.opening is not None:
            self.leader = self.rng.choice(self.world.names)
            self._send_open(request, True)
            wait = self.rng.randint(*self.load.patience) + self.load.patience_most // 2
            self.world.timeline.after(wait, self._open_again, request)

    def _bundle(self, session: int, low: int, seqs: list[int], commands: list[bytes]) -> SignedSubmit:
        signature = self.signer.sign(submit_statement(CLUSTER, session, low, seqs, commands))
        self.world.signed[signature] = (self.signer.public, session, low, tuple(seqs), tuple(commands))
        made = SignedSubmit(session, low, seqs, commands, self.signer.public, signature)
        self._bundles.append(made)
        del self._bundles[:-_BUNDLES]
        return made

    def _send_bundle(self, seqs: list[int], again: bool) -> None:
        commands = [self.open[seq].command or b"" for seq in seqs]
        message = self._bundle(self.session or 0, self.low, seqs, commands)
        self._introduced()
        for name in self._nodes_to_ask(again):
            self._connection(name).to_node(message)

    def _submit(self, sent: tuple[int, list[int], int]) -> None:
        session, seqs, patience = sent
        seqs = [seq for seq in seqs if seq in self.open]
        if session != self.session or not seqs:
            return
        again = any(self.open[seq].attempts > 1 for seq in seqs)
        self._send_bundle(seqs, again)
        longer = min(2 * patience, self.load.patience_most)
        self.world.timeline.after(patience, self._submit_again, (session, seqs, longer))

    def _query(self) -> None:
        rng = self.rng
        consistency = rng.randrange(3)
        age = rng.choice((10_000, 100_000, 400_000))
        self._ask(consistency, age, rng.choice((50_000, 500_000)))

    def _ask(self, consistency: int, age: int, patience: int) -> None:
        self.request += 1
        query = self.workload.query()
        operation = self._record(
            "query",
            consistency=CONSISTENCIES[consistency],
            max_age_us=age if consistency == 1 else None,
            query=query,
        )
        message = Query(self.request, consistency, age, patience, query)
        self._put(self.request, Asked(operation, message, Meeting(self.enough)))

    def _put(self, request: int, asked: Asked) -> None:
        self._queries[request] = asked
        for name in self.world.names:
            self._connection(name).to_node(asked.message)
        self.world.timeline.after(ALIKE_WAIT, self._put_again, request)

    def _put_again(self, request: int) -> None:
        asked = self._queries.pop(request, None)
        if asked is None:
            return
        if asked.tries == ASKED_AGAIN:
            return  # of unknown outcome, which for a query means: no answer
        self.request += 1
        old, entry = asked.message, asked.meeting.entry()
        message = Query(self.request, old.consistency, old.max_age, old.patience, old.query, entry)
        fresh = Asked(asked.operation, message, asked.meeting)
        fresh.tries = asked.tries + 1
        asked.operation.attempts += 1
        self._put(self.request, fresh)

    def ask_much(self, rng: Random, count: int) -> None:
        for _ in range(count):
            self._ask(rng.randrange(3), rng.choice((1_000, 30_000)), 200_000)

    def ask_nonsense(self, rng: Random) -> None:
        """What no well-made client sends: unsigned, signed by another key, for another cluster, over other numbers; or old; or
        more keys than anybody has; or everybody wants to hear of one key; or sessions that nobody uses."""
        connection = self._connection(rng.choice(self.world.names))
        session, public, sign = self.session or 7, self.signer.public, self.signer.sign
        good = self.workload.command(0, 0)
        low = self.low
        forged = rng.randbytes(64)
        abroad = sign(submit_statement("elsewhere", session, low, [low + 300], [good]))
        other = sign(submit_statement(CLUSTER, session, low, [low + 301], [good]))
        choices: list[Any] = [
            Submit(session, low, [low + 1], [good]),
            OpenSession(10**9),
            SignedSubmit(session, low, [low + 300], [good], public, forged),
            SignedSubmit(session, low, [low + 300], [good], public, abroad),
            SignedSubmit(session, low, [low + 300], [good], public, other),
            SignedSubmit(session, low, [low + 300], [good], rng.randbytes(32), abroad),
            SignedSubmit(session, low, [low + 300], [good], b"", b""),
            SignedOpen(public, 1 << 40, forged),
            Introduce(b"short"),
            self._bundle(session, low, [low + 10**6], [good]),
            self._bundle(session, low, [low + 200], [b"\xc1" + rng.randbytes(9)]),
            self._bundle(session, low, [], []),
            Query(10**9, 3, 0, 10**9, b""),
            Query(10**9, 0, 0, 10**9, rng.randbytes(5)),
        ]
        if len(self._bundles) > 8:
            choices.append(self._bundles[0])
        # In the session of somebody else, under a number that is soon to come there.
        theirs = [
            client for client in self.world.clients if client is not self and client.session is not None
        ]
        if theirs:
            victim = rng.choice(theirs)
            seqs = [victim.low + rng.randint(1, 12)]
            choices += 3 * [self._bundle(victim.session or 0, victim.low, seqs, [good])]
        draw = rng.random()
        stranger = self._notary.client(f"stranger {rng.randrange(1_000)}")
        if draw < 0.03:
            for _ in range(KEYS_A_CONNECTION + 1):
                connection.to_node(Introduce(rng.randbytes(32)))
        elif draw < 0.1:
            for client in self.world.clients:
                client._connection(connection.host.name).to_node(Introduce(stranger.public))
        elif draw < 0.3:
            for _ in range(4):
                connection.to_node(
                    self._open_for(self._notary.client(f"stranger {rng.randrange(1_000)}"), rng)
                )
        else:
            connection.to_node(rng.choice(choices))

    def _open_for(self, stranger: Signer, rng: Random) -> SignedOpen:
        """A session for a key that does nothing with it: the table fills. Its nonce is none that a client takes."""
        nonce = rng.randrange(1 << 40, 1 << 41)
        signature = stranger.sign(open_statement(CLUSTER, stranger.public, nonce))
        self.world.signed[signature] = (stranger.public, nonce)
        return SignedOpen(stranger.public, nonce, signature)

    # ----------------------------------------------------------------------------------------------------- hearing

    def hear(self, carried: tuple[Connection, Any]) -> None:
        connection, message = carried
        if connection.closed:
            return
        name = connection.host.name
        kind = type(message)
        if name in self.world.diverged and (kind is Outcome or kind is Answer):
            return  # see `World.diverged`
        if kind is Outcome:
            self._outcome_from(name, message)
        elif kind is Answer:
            self._answer_from(name, message)
        elif kind is SessionOpened:
            self._opened_from(name, message)
        elif kind is Refused:
            self._refused_from(name, message)
        elif kind is QueryRefused:
            asked = self._queries.get(message.request)
            if asked is not None:
                asked.refused[name] = None
                # So many cannot all lie, and then it is of no use to wait for the others.
                if len(asked.refused) == len(self.world.names):
                    del self._queries[message.request]
                    self._return(asked.operation, "refused")

    def _alike(self, said: dict[str, Any], value: Any) -> bool:
        return sum(1 for other in said.values() if other == value) >= self.enough

    def _opened_from(self, name: str, message: SessionOpened) -> None:
        if self.opening is None or message.request != self.opening_request:
            return
        said = (message.request, message.session, message.index, message.chain)
        self._opened_says[name] = said
        if self._alike(self._opened_says, said):
            self._opened_says.clear()
            self._outcomes.clear()
            self._unknown.clear()
            self._opened(message)

    def _outcome_from(self, name: str, message: Outcome) -> None:
        if message.session != self.session:
            return
        for seq, place, result in zip(message.seqs, message.places, message.results, strict=False):
            if seq not in self.open:
                continue
            said = self._outcomes.setdefault(seq, {})
            said[name] = (message.index, place, message.chain, result)
            if self._alike(said, said[name]):
                del self._outcomes[seq]
                self._outcome(
                    Outcome(message.session, message.index, message.chain, [seq], [place], [result])
                )
                self._unknown.clear()

    def _refused_from(self, name: str, message: Refused) -> None:
        self.refusal = f"{name}: {message.reason}"
        if name == self.leader and message.code != UNKNOWN_SESSION:
            self.leader = self.rng.choice(self.world.names)
        if message.code == UNKNOWN_SESSION and message.session == self.session:
            self._unknown[name] = None
            if len(self._unknown) >= self.enough:
                self._unknown.clear()
                self._outcomes.clear()
                # What is open stays of unknown outcome for ever.
                self.session, self.open = None, {}

    def _answer_from(self, name: str, message: Answer) -> None:
        asked = self._queries.get(message.request)
        if asked is None or not self._plausible(asked, message):
            return
        asked.said[name] = message
        asked.meeting.heard(name, message.index)
        same = [
            other
            for other in asked.said.values()
            if (other.index, other.chain, other.result) == (message.index, message.chain, message.result)
        ]
        if len(same) < self.enough:
            return
        del self._queries[message.request]
        # One of them is honest, so the answer is at most as old as the oldest of them says.
        oldest = max(same, key=lambda other: (other.age is None, other.age or 0))
        operation = asked.operation
        operation.source = "model"
        operation.index, operation.chain, operation.result = message.index, message.chain, message.result
        operation.age_us, operation.tier = oldest.age, oldest.tier
        operation.node = name
        self._return(operation, "ok")

    def _plausible(self, asked: Asked, message: Answer) -> bool:
        """Whether what an answer says of itself agrees with itself and with what was asked."""
        age = message.age
        fresh = age is not None and age <= self.world.settings.fresh
        if message.tier != ("fresh" if fresh else "stale"):
            return False
        return asked.message.consistency != 1 or (age is not None and age <= asked.message.max_age)

    def explain(self) -> str:
        waiting = f"{len(self.open)} writes" if self.session is not None else "a session"
        heard = {seq: sorted(said) for seq, said in list(self._outcomes.items())[:3]}
        return (
            f"{self.name}: waits for {waiting}; believes {self.enough} equal replies; heard so far {heard or 'nothing'}; "
            f"last refusal: {self.refusal or 'none'}"
        )
