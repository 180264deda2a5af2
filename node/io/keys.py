"""Ed25519 keys: those with which members of a BFT cluster sign what they say, and clients what they ask for.

A TLS key says who is at the other end of a connection; these say who stands behind words that others pass on. Why Ed25519 and
not the authority's P-256: signatures are 64 bytes and deterministic, so that the same words are the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consensus.core import NodeId

PUBLIC_BYTES: Final = 32


class SigningKeyError(Exception):
    """A signing key cannot be made, read or used; says which, why, and what to do."""


class SigningKey:
    """A private key, and the public one as its 32 bytes."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey | None = None) -> None:
        """Without `private`: a fresh key."""
        self._private = private or Ed25519PrivateKey.generate()
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(data)

    def save(self, path: Path) -> None:
        """Write a PEM file that only its owner can read. Raises SigningKeyError if there is one already."""
        text = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            # O_EXCL: a key that is replaced while its node runs would make a stranger of it.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
        except FileExistsError:
            raise SigningKeyError(f"{path} exists already and is not overwritten; remove it first") from None
        except OSError as error:
            raise SigningKeyError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None


def load_key(path: Path) -> SigningKey:
    """Read a private key file. Raises SigningKeyError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SigningKeyError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        raise SigningKeyError(f"{path}: not an unencrypted private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise SigningKeyError(f"{path}: not an Ed25519 key")
    return SigningKey(key)


def read_public(text: str) -> bytes:
    """A public key from 64 hexadecimal digits. Raises ValueError with what would be right."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != PUBLIC_BYTES or text != raw.hex():
        raise ValueError(
            f"{text!r:.80} is no public key; it must be {2 * PUBLIC_BYTES} hexadecimal digits in lower case"
        )
    return raw


def verify(key: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` under `data` is that of whoever has the public key `key`. False for bytes that are neither."""
    try:
        return _verify_with(Ed25519PublicKey.from_public_bytes(key), data, signature)
    except ValueError:
        return False


def _verify_with(public: Ed25519PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        public.verify(signature, data)
    except InvalidSignature:
        return False
    return True


class MemberKeyring:
    """`consensus.bft.signing.Keyring` of a real node."""

    def __init__(self, key: SigningKey, members: Mapping[NodeId, bytes]) -> None:
        """`members`: every member's public key. Raises ValueError for bytes that are none."""
        self._key = key
        self._publics = {name: Ed25519PublicKey.from_public_bytes(public) for name, public in members.items()}

    def sign(self, data: bytes) -> bytes:
        """See `Keyring`."""
        return self._key.sign(data)

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """See `Keyring`."""
        public = self._publics.get(node)
        return public is not None and _verify_with(public, data, signature)
