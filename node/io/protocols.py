"""The core that a configuration names, and what judges the requests that go into its log."""

from __future__ import annotations

import random

from consensus.core import Core
from consensus.raft import RaftCore
from consensus.raft import Timing as RaftTiming
from node.finality import NoProof, Proof, first_index, prove
from node.io import keys
from node.io.config import BFT, NodeConfig
from node.machine import Machine
from node.requests import RequestCheck


def make_core(config: NodeConfig, machine: Machine, rng: random.Random) -> tuple[Core, RequestCheck | None]:
    """(core, what its requests must pass, or None where nodes are believed). Raises SigningKeyError."""
    if config.protocol == BFT:
        return _bft(config, machine, rng)
    timing = RaftTiming(
        heartbeat=config.timing.heartbeat_ms * 1000,
        election=config.timing.election_ms * 1000,
        stall=max(4 * config.timing.election_ms * 1000, 500_000),
        uncommitted_bytes=config.limits.max_inflight_bytes,
    )
    return RaftCore(config.node, [member.id for member in config.members], rng, timing), None


def _bft(config: NodeConfig, machine: Machine, rng: random.Random) -> tuple[Core, RequestCheck]:
    from consensus.bft.core import BftCore
    from consensus.bft.timing import Timing

    assert config.committee is not None
    key = keys.load_key(config.committee.key)
    keyring = keys.MemberKeyring(key, {member.id: member.key for member in config.members})
    timing = Timing(
        round=config.timing.round_ms * 1000,
        idle=config.timing.idle_ms * 1000,
        resend=max(config.timing.round_ms * 2000 // 3, 20_000),
        stall=max(3 * config.timing.round_ms * 1000, 500_000),
        snapshot_bytes=config.storage.snapshot_bytes,
        author_bytes=config.limits.max_inflight_bytes,
    )
    requests = RequestCheck(config.cluster, keys.verify, machine.check, config.limits.max_command_bytes)
    core = BftCore(config.node, config.bft_committee(), keyring, rng, timing, requests.check)
    return core, requests


def proof_of(core: Core, index: int) -> Proof:
    """A finality proof of a log entry, from what a BFT core holds in memory. Raises NoProof."""
    from consensus.bft.core import BftCore

    if not isinstance(core, BftCore):
        raise NoProof("only the log of a BFT cluster proves itself; here nodes are believed")
    tree = core.tree
    if index > tree.committed.block.index:
        raise NoProof(f"entry {index} is not committed here yet; the newest is {tree.committed.block.index}")
    if not tree.root.block.index < index:
        raise NoProof(
            f"entry {index} is covered by a checkpoint, and its block is gone; the oldest here is {tree.root.block.index + 1}"
        )
    step = tree.get(core.high_qc.block)
    if step is None:  # the block of the newest certificate is still on its way
        step, seal = tree.committed, b""
    else:
        seal = core.high_qc.encode()
    path = []
    while step is not None and step.block.index >= index:
        path.append(step)
        if first_index(step.block) <= index:
            break
        step = step.parent
    blocks = [placed.block for placed in reversed(path)]
    batches = dict(zip(path[-1].block.payload, path[-1].batches, strict=False)) if path else {}

    def batch(digest: bytes) -> tuple[int, bytes] | None:
        held = batches.get(digest)
        return None if held is None else (held[1], held[2])

    return prove(core.committee, blocks, seal, batch, index)
