"""Cheap signatures for tests of signed requests: whoever has the seed signs, anybody verifies by the public key."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b, sha256

from node.protocol import SignedOpen, SignedSubmit
from node.requests import open_statement, submit_statement
from node.sessions import Group, signed_commands_group, signed_open_group


class Ring:
    """Knows every signer that a test has made. `verified` counts the signatures looked at."""

    def __init__(self) -> None:
        self.verified = 0
        self._seeds: dict[bytes, bytes] = {}

    def signer(self, name: str) -> Signer:
        signer = Signer(name)
        self._seeds[signer.key] = signer.seed
        return signer

    def verify(self, key: bytes, data: bytes, signature: bytes) -> bool:
        self.verified += 1
        seed = self._seeds.get(key)
        return seed is not None and blake2b(data, key=seed).digest() == signature


class Signer:
    def __init__(self, name: str, cluster: str = "bench") -> None:
        self.seed = sha256(b"seed of " + name.encode()).digest()
        self.key = sha256(b"public" + self.seed).digest()
        self.cluster = cluster

    def sign(self, data: bytes) -> bytes:
        return blake2b(data, key=self.seed).digest()

    def open(self, nonce: int) -> SignedOpen:
        return SignedOpen(self.key, nonce, self.sign(open_statement(self.cluster, self.key, nonce)))

    def submit(self, session: int, low: int, seqs: Sequence[int], commands: Sequence[bytes]) -> SignedSubmit:
        statement = submit_statement(self.cluster, session, low, seqs, commands)
        return SignedSubmit(session, low, list(seqs), list(commands), self.key, self.sign(statement))

    def open_group(self, nonce: int) -> Group:
        message = self.open(nonce)
        return signed_open_group(message.key, nonce, message.signature)

    def group(self, session: int, low: int, seqs: Sequence[int], commands: Sequence[bytes]) -> Group:
        message = self.submit(session, low, seqs, commands)
        return signed_commands_group(session, low, seqs, commands, self.key, message.signature)
