"""What a core leaves in its journal, and what it makes of it when it comes back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from consensus.bft import records, rules
from consensus.bft.certificates import (
    CertificateError,
    CheckpointCertificate,
    QuorumCertificate,
    decode_checkpoint,
    decode_qc,
    decode_tc,
    read_checkpoint,
)
from consensus.bft.checkpoints import read_header
from consensus.bft.records import Replayed
from consensus.bft.timing import SafetyViolation
from consensus.bft.tree import Placed
from consensus.core import Record, SnapshotMeta
from consensus.marks import sometimes

if TYPE_CHECKING:
    from consensus.bft.core import BftCore


def all_records(core: BftCore) -> list[Record]:
    """The state from which, with the newest snapshot, `recover` rebuilds everything."""
    tree, states = core.tree, core.states
    anchor = states.anchor_block(tree)
    found: list[Record] = [(records.BASE, anchor.block.encoded)]
    # The newest last. Of those before, a state may be on its way to this disk, and be what recovery finds there.
    for encoded in (*states.open_certificates(), states.checkpoints.encoded()):
        if encoded and (records.CHECKPOINT, encoded) not in found:
            found.append((records.CHECKPOINT, encoded))
    written: set[bytes] = set()
    for placed in tree.above(anchor.block.digest):
        for digest, batched in zip(placed.block.payload, placed.batches, strict=True):
            if digest not in written:
                found.append(records.batch(*batched))
                written.add(digest)
        found.append((records.BLOCK, placed.block.encoded))
    for digest, author, kind, payload in core.payloads.held():
        # What is ordered at or below the anchor is kept for others only. A block that names it again records it again.
        if digest not in written and not core.payloads.is_ordered(digest):
            found.append(records.batch(author, kind, payload))
    found.append((records.COMMIT, tree.committed.block.digest))
    found += [records.own_checkpoint(vote) for vote in states.checkpoints.own_votes()]
    found.append(core.spoken.record())
    return found


def recover(core: BftCore, journal: Iterable[Record], snapshot: SnapshotMeta | None) -> list[Record]:
    """Rebuild a fresh core; the records that are missing in its journal. Raises ValueError if journal and snapshot do not fit
    together."""
    replayed = records.replay(journal, core.genesis)
    try:
        _rebuild(core, replayed)
        missing = _meet(core, snapshot, replayed)
        _recommit(core, replayed)
    except (CertificateError, SafetyViolation) as error:
        raise ValueError(f"the journal contradicts itself: {error}") from None
    return missing


def _rebuild(core: BftCore, replayed: Replayed) -> None:
    """Tree, batches, own words, checkpoints."""
    tree, payloads = core.tree, core.payloads
    if replayed.base is not None and replayed.base.epoch != core.committee.epoch:
        raise ValueError(
            f"this journal is of epoch {replayed.base.epoch}; the committee's is {core.committee.epoch}"
        )
    tree.restart(replayed.base or core.genesis)
    core.states.move_anchor(tree, tree.root)
    for author, kind, payload in replayed.batches:
        payloads.restore(author, kind, payload, 0)
    for author, kind, payload in replayed.lent:
        payloads.add(author, kind, payload, 0, asked=True)
    for block in replayed.blocks.values():
        parent = tree.get(block.parent.block)
        batches = [batch for batch in map(payloads.get, block.payload) if batch is not None]
        if parent is None or len(batches) < len(block.payload):
            raise ValueError(
                f"of the block of round {block.round}, {len(block.payload) - len(batches)} batches are not in the journal"
            )
        tree.add(block, parent, batches, 0)
    for encoded in replayed.checkpoints:
        core.states.checkpoints.offer(encoded)
    for vote in replayed.own_checkpoints:
        known = tree.get(read_checkpoint(vote.checkpoint).block)
        if known is not None:
            core.states.checkpoints.resume(vote, known.block)
    spoken = replayed.spoken
    if spoken is not None:
        if spoken.epoch != core.committee.epoch:
            raise ValueError(
                f"this journal is of epoch {spoken.epoch}; the committee's is {core.committee.epoch}"
            )
        core.spoken, core.safety = spoken, spoken.safety
        core.high_qc = decode_qc(spoken.high_qc)
        core.high_tc = decode_tc(spoken.high_tc) if spoken.high_tc else None
    # A vote says that its block's certificate is known here: that certificate stands in the block.
    for block in (tree.root.block, *replayed.blocks.values()):
        justify = block.parent
        if justify.round > core.high_qc.round:
            sometimes("recovery: a block tells of a higher certificate than the last vote did")
            core.high_qc, core.spoken.high_qc = justify, block.justify
    if core.high_tc is not None and core.high_tc.round <= core.high_qc.round:
        core.high_tc, core.spoken.high_tc = None, b""
    rules.see(core.safety, core.high_qc.round)


def _meet(core: BftCore, snapshot: SnapshotMeta | None, replayed: Replayed) -> list[Record]:
    """Go to where the snapshot stands. It and the journal are written side by side, so either may be ahead."""
    tree = core.tree
    root = tree.root.block
    if snapshot is None:
        if root.index:
            raise ValueError(f"the journal starts behind entry {root.index}, and no snapshot covers that")
        return []
    if snapshot.index < root.index:
        raise ValueError(
            f"the journal starts behind entry {root.index}, the newest snapshot ends at {snapshot.index}"
        )
    core.delivered_index = snapshot.index
    core.states.snapshot_index = snapshot.index
    if (root.index, root.round) == (snapshot.index, snapshot.term):
        return []
    for placed in list(tree.open.values()):
        if placed.block.mark and (placed.block.index, placed.block.round) == (snapshot.index, snapshot.term):
            _mark(core, tree.commit(placed))
            return []
    certificate = _certificate_at(core, replayed, snapshot.index)
    if certificate is None:
        raise ValueError(
            f"the snapshot ends at entry {snapshot.index} of round {snapshot.term}, and the journal knows no block there"
        )
    sometimes("recovery: a fetched snapshot is ahead of the journal's base")
    header = read_header(certificate)
    tree.restart(header)
    core.states.move_anchor(tree, tree.root)
    core.payloads.stop_waiting()
    core.payloads.keep_lent(())
    replayed.blocks.clear()
    replayed.committed = b""
    return [(records.BASE, header.encoded)]


def _certificate_at(core: BftCore, replayed: Replayed, index: int) -> CheckpointCertificate | None:
    """The journal's certificate of that checkpoint. A newer one may have come while the state of this one was being fetched, and
    the power may have gone before the base was moved to it."""
    for encoded in reversed(replayed.checkpoints):
        certificate = decode_checkpoint(encoded)
        if certificate.checkpoint.index == index:
            core.states.checkpoints.verify(certificate)
            return certificate
    return None


def _recommit(core: BftCore, replayed: Replayed) -> None:
    """What the journal shows to be committed. It is committed at once, up to the last of it: block by block, each commit would
    walk through all blocks that are still open, and a journal of some thousands would take seconds to come back from."""
    tree = core.tree
    ends: list[Placed] = []
    for placed in tree.open.values():
        if placed.parent is not None:
            ends += _certify(placed.parent, placed.block.parent)
    tip = tree.get(core.high_qc.block)
    if tip is not None:
        ends += _certify(tip, core.high_qc)
    shown = max((end.block.round for end in ends), default=tree.committed.block.round)
    known = tree.get(replayed.committed)
    if known is not None:
        ends.append(known)
        if known.block.round > shown:
            sometimes("recovery: the journal says that more is committed than its certificates show")
    last = max(ends, key=lambda end: end.block.round, default=tree.committed)
    if last.block.round <= tree.committed.block.round:
        return
    path = tree.commit(last)
    for end in ends:
        if tree.get(end.block.digest) is None:
            raise SafetyViolation(f"the block of round {end.block.round} contradicts what is committed")
    _mark(core, path)
    core.to_deliver.extend(path)


def _certify(placed: Placed, qc: QuorumCertificate) -> list[Placed]:
    """That certificate names the block: what is committed by that."""
    placed.certified = True
    parent = placed.parent
    return [parent] if parent is not None and rules.commits(parent.block.round, qc.round) else []


def _mark(core: BftCore, path: list[Placed]) -> None:
    for placed in path:
        core.payloads.ordered(placed.block.payload, placed.block.index, 0)
