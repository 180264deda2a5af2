"""Small chains of blocks with true certificates, for tests of the BFT core's parts."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.bft.block import Block, batch_digest, genesis
from consensus.bft.certificates import Checkpoint, QuorumCertificate
from consensus.bft.chain import extend, leader_of
from consensus.bft.committee import Committee
from consensus.bft.messages import CheckpointVote
from consensus.bft.signing import checkpoint_statement, vote_statement
from consensus.bft.timing import Timing
from sim.virtual.keys import Notary

NAMES = tuple("abcdefghij")


def committee_of(size: int, cluster: str = "c", epoch: int = 1) -> Committee:
    """The usual committee of `size` members, a, b, c, ..."""
    return Committee.usual(cluster, epoch, NAMES[:size])


def seal(committee: Committee, block: Block, signers: Sequence[str]) -> QuorumCertificate:
    """A certificate of `block` by `signers`; the genesis block's has no votes."""
    if not block.round:
        return QuorumCertificate(0, block.digest, ())
    notary = Notary(committee.members)
    statement = vote_statement(committee, block.round, block.digest)
    votes = tuple((name, notary.signer(name).sign(statement)) for name in signers)
    return QuorumCertificate(block.round, block.digest, votes)


class Growing:
    """A chain that grows while some members are dark: rounds of dark leaders are passed over."""

    def __init__(self, committee: Committee, timing: Timing) -> None:
        self.committee, self.timing = committee, timing
        self.blocks = [genesis(committee)]
        self.passed: list[tuple[int, str]] = []
        """(height that was due, leader) of rounds that brought no block."""

    @property
    def top(self) -> Block:
        return self.blocks[-1]

    def grow(
        self, batches: Sequence[tuple[bytes, int]] = (), dark: Sequence[str] = (), mute: Sequence[str] = ()
    ) -> Block:
        """The next block. `dark` members neither lead nor sign; `mute` ones sign, but bring no block in their turn."""
        top, round = self.top, self.top.round + 1
        while (leader := leader_of(top, round, self.committee)) in dark or leader in mute:
            self.passed.append((top.height + 1, leader))
            round += 1
        signers = [name for name in self.committee.members if name not in dark]
        justify = seal(self.committee, top, signers).encode()
        block = extend(top, justify, round, leader, batches, self.committee, self.timing)
        self.blocks.append(block)
        return block

    def schedule(self) -> list[str]:
        """Who has turns behind the top."""
        return [self.committee.members[number] for number in self.top.schedule]


def batch(name: str, size: int = 10) -> tuple[bytes, int]:
    """(digest, size) of a batch that nobody holds."""
    return batch_digest(1, name.encode()), size


def checkpoint_at(block: Block, digest: bytes = b"s" * 32) -> Checkpoint:
    """The state behind `block`, whose digest that is."""
    return Checkpoint(
        block.height, block.round, block.digest, block.index, b"c" * 32, digest, b"r" * 32, 1000
    )


def checkpoint_vote(committee: Committee, name: str, checkpoint: Checkpoint) -> CheckpointVote:
    """A member's true vote for it."""
    body = checkpoint.body()
    signature = Notary(committee.members).signer(name).sign(checkpoint_statement(committee, body))
    return CheckpointVote(committee.epoch, body, signature)
