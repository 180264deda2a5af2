"""Scripted nodes of a cluster in which some may lie: any of them takes signed requests, all of them say what came of those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from client_peer import CHAIN, CLUSTER, Peer, World

from consensus import wire
from node.io import keys
from node.protocol import (
    Answer,
    Code,
    Hello,
    Introduce,
    Leader,
    Outcome,
    Query,
    Refused,
    SessionOpened,
    SignedOpen,
    SignedSubmit,
)
from node.requests import RequestCheck
from node.sessions import SIGNED_COMMANDS, SIGNED_OPEN


class SignedWorld(World):
    """What the honest nodes agree on. `bad`: commands that no machine takes."""

    def __init__(self, *domains: str) -> None:
        super().__init__(*domains)
        self.peers = {name: SignedPeer(self, name, peer.domain) for name, peer in self.peers.items()}
        self.owner: dict[int, bytes] = {}
        self.by_nonce: dict[tuple[bytes, int], int] = {}
        self.bad: set[bytes] = set()
        self.lowest_nonce = 0
        self.check = RequestCheck(
            CLUSTER, keys.verify, lambda command: "it is bad" if command in self.bad else None
        )

    def tell(self, key: bytes, message: Any) -> None:
        """Every node says to whoever has introduced himself under that key what the log has brought about."""
        for peer in self.peers.values():
            assert isinstance(peer, SignedPeer)
            if key in peer.introduced:
                for said in peer.lie(message) if peer.lie else [message]:
                    peer.push(said)

    def order(self, message: SignedOpen | SignedSubmit) -> None:
        """The log takes a request, which some node has brought."""
        if type(message) is SignedOpen:
            if message.nonce < self.lowest_nonce:
                self.tell(message.key, Refused(message.nonce, 0, [], int(Code.FORGOTTEN), "too low", None))
                return
            session = self.by_nonce.get((message.key, message.nonce))
            if session is None:
                session = self.by_nonce[message.key, message.nonce] = self.open_session()
                self.owner[session] = message.key
            self.tell(message.key, SessionOpened(message.nonce, session, 1, CHAIN))
            return
        assert type(message) is SignedSubmit
        session, seqs = message.session, message.seqs
        if self.owner.get(session) != message.key:
            self.tell(message.key, Refused(0, session, seqs, int(Code.UNKNOWN_SESSION), "gone", None))
            return
        for seq, command in zip(seqs, message.commands, strict=True):
            index, result = self.apply(session, seq, command)
            self.tell(message.key, Outcome(session, index, CHAIN, [seq], [0], [result]))


class SignedPeer(Peer):
    """One of the nodes. `keeps`: takes requests and brings none of them into the log. `lie`: what it says instead of what is so
    (a list, for a message about a session)."""

    def __init__(self, world: World, name: str, domain: str) -> None:
        super().__init__(world, name, domain)
        self.introduced: set[bytes] = set()
        self.keeps = False
        self.lie: Callable[[Any], list[Any]] | None = None

    def usual(self, message: Any) -> list[Any]:
        world = self.world
        assert isinstance(world, SignedWorld)
        match message:
            case Hello():
                return [Hello(wire.VERSION, CLUSTER, "peer"), Leader(self.name, 1)]
            case Introduce():
                self.introduced.add(message.key)
                return []
            case SignedOpen():
                group: tuple[Any, ...] = (SIGNED_OPEN, message.key, message.nonce, message.signature)
            case SignedSubmit():
                group = (
                    SIGNED_COMMANDS, message.session, message.low, message.seqs, message.commands, message.key,
                    message.signature,
                )  # fmt: skip
            case Query():
                return [Answer(message.request, 7, CHAIN, 1000, "fresh", b"the state")]
            case _:
                return super().usual(message)
        problem = world.check.group(list(group))
        if problem is not None:
            if type(message) is SignedOpen:
                return [Refused(message.nonce, 0, [], int(Code.BAD_COMMAND), problem, None)]
            return [Refused(0, message.session, message.seqs, int(Code.BAD_COMMAND), problem, None)]
        if not self.keeps:
            world.order(message)
        return []
