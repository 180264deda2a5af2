"""Finality proofs: that an entry of a BFT log is final, for whoever knows the committee's public keys and nothing else.

A proof holds the entry, the block that it is in, the blocks from there up to one that is directly committed and to its child,
and the certificate of that child. Jolteon's commit rule does the rest: two certified blocks in consecutive rounds, one the
parent of the other, make the lower one final, and with it everything below (Gelashvili et al., "Jolteon and Ditto", section 3).

All functions are pure. A proof travels as JSON (`to_json`, `from_json`), bytes in hexadecimal.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consensus.bft.block import Block, batch_digest, decode_block, genesis
from consensus.bft.certificates import decode_qc
from consensus.bft.committee import Committee
from consensus.bft.signing import Keyring

VERSION: Final = 1
MOST_BLOCKS: Final = 1024
"""Longest chain in a proof. In a log that works it is two or three blocks long."""


class NoProof(Exception):
    """A proof cannot be given, or does not hold; the text says why."""


@dataclass(slots=True, frozen=True)
class Proof:
    """That entry `index` of the log is of this kind and has this payload, for ever."""

    cluster: str
    epoch: int
    index: int
    kind: int
    payload: bytes
    blocks: tuple[bytes, ...]
    """Encoded: the one with the entry first, then each one's child; the last but one is directly committed."""
    certificate: bytes
    """The quorum certificate of the last block."""


@dataclass(slots=True, frozen=True)
class Proven:
    """What a proof that holds has shown."""

    index: int
    round: int
    """Of the block with the entry."""
    kind: int
    payload: bytes
    block: bytes
    """Digest of that block."""
    committed_round: int
    """Of the block whose commit made it final."""
    signers: tuple[str, ...]
    """Of the last certificate."""


def first_index(block: Block) -> int:
    """Index of the block's first log entry, if it has any."""
    return block.index - len(block.payload) - bool(block.mark) + 1


def entry_of(block: Block, index: int) -> tuple[int, bytes | None]:
    """(kind, digest of the batch) of the entry at `index`, which is in the block; no digest: it is the block's mark, whose
    payload is empty, and `kind` says which. With a digest `kind` is 0 and stands with the batch. Raises ValueError for another
    index."""
    place = index - first_index(block)
    if not 0 <= place < len(block.payload) + bool(block.mark):
        raise ValueError(f"entry {index} is not in the block of round {block.round}")
    return (block.mark, None) if place == len(block.payload) else (0, block.payload[place])


def prove(
    committee: Committee,
    path: Sequence[Block],
    certificate: bytes,
    batch: Callable[[bytes], tuple[int, bytes] | None],
    index: int,
) -> Proof:
    """The proof for entry `index`. `path`: blocks, each one's child next, the last of them certified by `certificate`; `batch`:
    (kind, payload) by digest. Raises NoProof if the path does not hold it or does not commit it."""
    place = next(
        (place for place, block in enumerate(path) if first_index(block) <= index <= block.index), None
    )
    if place is None:
        raise NoProof(f"entry {index} is in no block of this chain")
    for at in range(place, len(path) - 1):
        if path[at + 1].round == path[at].round + 1:
            break
    else:
        raise NoProof(f"entry {index} is not committed yet")
    seal = path[at + 2].justify if at + 2 < len(path) else certificate
    kind, digest = entry_of(path[place], index)
    payload = b""
    if digest is not None:
        found = batch(digest)
        if found is None:
            raise NoProof(f"the batch of entry {index} is not here any more")
        kind, payload = found
    blocks = tuple(block.encoded for block in path[place : at + 2])
    if len(blocks) > MOST_BLOCKS:
        raise NoProof(
            f"entry {index} became final only {len(blocks)} blocks later; a proof holds {MOST_BLOCKS}"
        )
    return Proof(committee.cluster, committee.epoch, index, kind, payload, blocks, seal)


def verify(proof: Proof, committee: Committee, keyring: Keyring) -> Proven:
    """What the proof shows. `committee` and the keys that `keyring` verifies with must be had from somewhere else than from
    whoever gave the proof. Raises NoProof if anything does not hold."""
    if (proof.cluster, proof.epoch) != (committee.cluster, committee.epoch):
        raise NoProof(
            f"a proof for epoch {proof.epoch} of cluster {proof.cluster}, not for epoch {committee.epoch} of {committee.cluster}"
        )
    if not 2 <= len(proof.blocks) <= MOST_BLOCKS:
        raise NoProof(f"a chain of {len(proof.blocks)} blocks; it takes 2, and may have {MOST_BLOCKS}")
    origin = genesis(committee).digest
    try:
        blocks = [decode_block(data) for data in proof.blocks]
        for parent, child in itertools.pairwise(blocks):
            if child.parent.block != parent.digest or child.parent.round != parent.round:
                raise NoProof(f"the block of round {child.round} is no child of that of round {parent.round}")
        committed, last = blocks[-2], blocks[-1]
        if any(block.epoch != committee.epoch for block in blocks):
            raise NoProof("a block is of another epoch")
        if last.round != committed.round + 1:
            raise NoProof(
                f"rounds {committed.round} and {last.round} are not consecutive: they commit nothing"
            )
        # The certificate of the last block covers all of them by their digests; that of its parent is what the rule asks for.
        seal = decode_qc(proof.certificate)
        if (seal.round, seal.block) != (last.round, last.digest):
            raise NoProof(f"the certificate is not that of the last block, of round {last.round}")
        seal.verify(committee, keyring, origin)
        last.parent.verify(committee, keyring, origin)
        kind, digest = entry_of(blocks[0], proof.index)
    except ValueError as error:  # of blocks and certificates too
        raise NoProof(str(error)) from None
    stated = (proof.kind, b"") if digest is None else (proof.kind, proof.payload)
    if digest is None and (kind, proof.payload) != stated:
        raise NoProof(
            f"entry {proof.index} is a mark of kind {kind} without payload, not what the proof says"
        )
    if digest is not None and (not 0 <= proof.kind <= 255 or batch_digest(*stated) != digest):
        raise NoProof(f"entry {proof.index} has another payload than the proof says")
    signers = tuple(signer for signer, _ in seal.votes)
    block = blocks[0]
    return Proven(proof.index, block.round, proof.kind, proof.payload, block.digest, committed.round, signers)


def to_json(proof: Proof) -> dict[str, Any]:
    """As plain values."""
    return {
        "version": VERSION,
        "cluster": proof.cluster,
        "epoch": proof.epoch,
        "index": proof.index,
        "kind": proof.kind,
        "payload": proof.payload.hex(),
        "blocks": [block.hex() for block in proof.blocks],
        "certificate": proof.certificate.hex(),
    }


def from_json(text: str | bytes) -> Proof:
    """Read a proof; keys that are not its own are passed over. Raises NoProof for what is none."""
    try:
        value = json.loads(text)
        if value["version"] != VERSION:
            raise NoProof(
                f"a proof of version {value['version']!r:.20}; this program reads version {VERSION}"
            )
        epoch, index, kind = value["epoch"], value["index"], value["kind"]
        if (
            any(type(number) is not int for number in (epoch, index, kind))
            or type(value["cluster"]) is not str
        ):
            raise TypeError
        blocks = tuple(bytes.fromhex(block) for block in value["blocks"])
        payload, certificate = bytes.fromhex(value["payload"]), bytes.fromhex(value["certificate"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise NoProof(
            "not a proof: JSON with version, cluster, epoch, index, kind, payload, blocks and certificate"
        ) from None
    return Proof(value["cluster"], epoch, index, kind, payload, blocks, certificate)
