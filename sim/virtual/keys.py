"""Signatures of a virtual world: keyed hashes, a hundred times cheaper than real ones, and as hard to forge for whoever holds
only a `Signer` of its own. The notary stands for the mathematics: it alone knows every secret, and verifies for everybody.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from consensus.core import NodeId

SIGNATURE_SIZE: Final = 64
KEY_SIZE: Final = 32


class Signer:
    """One party's key. `public`: 32 bytes that name it."""

    __slots__ = ("_secret", "public")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.public = _public(secret)

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return blake2b(data, key=self._secret, digest_size=SIGNATURE_SIZE).digest()


class VirtualKeyring:
    """A member's `consensus.bft.signing.Keyring`."""

    __slots__ = ("_notary", "_signer", "node")

    def __init__(self, notary: Notary, node: NodeId) -> None:
        self._notary = notary
        self.node = node
        self._signer = notary.signer(node)

    def sign(self, data: bytes) -> bytes:
        """As this node."""
        return self._signer.sign(data)

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """See `Keyring.verify`."""
        return self._notary.verify(node, data, signature)


class Notary:
    """Every key of a world. `names`: the members, who alone are known by name; anybody may have a key."""

    def __init__(self, names: tuple[str, ...], secret: bytes = b"virtual") -> None:
        self._seed = secret
        self._members = {name: self._make("member", name) for name in names}
        self._by_public: dict[bytes, bytes] = {}

    def _make(self, role: str, name: str) -> bytes:
        return blake2b(f"{role}/{name}".encode(), key=self._seed, digest_size=32).digest()

    def signer(self, node: NodeId) -> Signer:
        """A member's. Raises KeyError for a stranger."""
        return Signer(self._members[node])

    def keyring(self, node: NodeId) -> VirtualKeyring:
        """For a member's core. Raises KeyError for a stranger."""
        return VirtualKeyring(self, node)

    def client(self, name: str) -> Signer:
        """A client's; its signatures verify by its public key from then on."""
        secret = self._make("client", name)
        signer = Signer(secret)
        self._by_public[signer.public] = secret
        return signer

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """Whether `signature` is that member's under `data`."""
        secret = self._members.get(node)
        return secret is not None and _signed(secret, data) == signature

    def verify_key(self, key: bytes, data: bytes, signature: bytes) -> bool:
        """Whether `signature` under `data` is that of whoever has this public key."""
        secret = self._by_public.get(key)
        return secret is not None and _signed(secret, data) == signature


def _signed(secret: bytes, data: bytes) -> bytes:
    return blake2b(data, key=secret, digest_size=SIGNATURE_SIZE).digest()


def _public(secret: bytes) -> bytes:
    return blake2b(b"public", key=secret, digest_size=KEY_SIZE).digest()
