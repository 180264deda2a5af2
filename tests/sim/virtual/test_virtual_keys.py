"""Keys of a virtual world: each party signs as itself only, and everybody verifies."""

from __future__ import annotations

import pytest

from sim.virtual.keys import KEY_SIZE, SIGNATURE_SIZE, Notary


def test_a_member_signs_as_itself_and_everybody_verifies_it() -> None:
    notary = Notary(("n1", "n2"))
    signature = notary.keyring("n1").sign(b"words")
    assert len(signature) == SIGNATURE_SIZE
    assert notary.keyring("n2").verify("n1", b"words", signature)
    assert not notary.keyring("n2").verify("n2", b"words", signature)
    assert not notary.keyring("n2").verify("n1", b"other words", signature)
    assert not notary.keyring("n2").verify("n1", b"words", bytes(SIGNATURE_SIZE))
    assert not notary.keyring("n2").verify("n1", b"words", b"")


def test_strangers_have_no_key_and_verify_as_nobody() -> None:
    notary = Notary(("n1",))
    with pytest.raises(KeyError):
        notary.signer("n9")
    assert not notary.verify("n9", b"words", notary.signer("n1").sign(b"words"))


def test_a_client_is_known_by_its_public_key_alone() -> None:
    notary = Notary(("n1",))
    one, other = notary.client("c1"), notary.client("c2")
    signature = one.sign(b"words")
    assert len(one.public) == KEY_SIZE
    assert notary.verify_key(one.public, b"words", signature)
    assert not notary.verify_key(other.public, b"words", signature)
    assert not notary.verify_key(b"", b"words", signature)
    # A member and a client of the same name are not the same.
    assert not notary.verify_key(one.public, b"words", Notary(("c1",)).signer("c1").sign(b"words"))


def test_two_worlds_have_the_same_keys_only_if_they_have_the_same_secret() -> None:
    first, again = Notary(("n1",)), Notary(("n1", "n2"))
    assert first.signer("n1").sign(b"x") == again.signer("n1").sign(b"x")
    assert Notary(("n1",), b"another").signer("n1").sign(b"x") != first.signer("n1").sign(b"x")
