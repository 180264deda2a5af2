"""The log in a BFT node's journal, as the audit reads logs: blocks and batches become entries, certificates become commit notes.

A block is committed by a certificate of its child where both stand in consecutive rounds, its ancestors with it. Such a
certificate is found in the journal as the `justify` of a later block or among what the node stood by; the node verified it before
it recorded it, and whether a node lied is for others to find. Of what is certified but not committed yet the entries are
given without a note, like the tail of a Raft log: they count where a majority of the folders holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from consensus.bft import records as bft
from consensus.bft.block import Block, batch_digest, decode_block, genesis
from consensus.bft.certificates import QuorumCertificate, decode_qc
from consensus.bft.committee import Committee
from consensus.core import Record, encode_entry
from consensus.raft import records as raft
from sim.check.folders import Damage, Item, read_folder

KEPT_BYTES: Final = 64 << 20
"""Payload of ordered batches kept, because a liar may have had one ordered twice."""

_ANY: Final = genesis(Committee("", 0, ("any",), 0, 0))
"""Reading what a node has said needs some genesis block, whichever."""


def read_bft_folder(folder: Path) -> Iterator[Item]:
    """A `sim.check.folders.Source` for BFT nodes. Raises as `read_folder`."""
    return translate(read_folder(folder))


def translate(items: Iterable[Item]) -> Iterator[Item]:
    """Records of a BFT journal, oldest first, as those of a Raft journal that holds the same log: `ENTRY`, `COMMIT`, `BASE`."""
    log = _Log()
    segment = ""
    for item in items:
        if isinstance(item, Damage):
            yield item
            continue
        segment, record = item
        log.segment = segment
        try:
            log.add(record)
        except (ValueError, IndexError, TypeError) as error:
            yield Damage(segment, "corrupt", f"a record of kind {record[0]} makes no sense: {error}")
        for made in log.made:
            yield made if isinstance(made, Damage) else (segment, made)
        log.made.clear()
    log.end()
    for made in log.made:
        yield made if isinstance(made, Damage) else (segment, made)


class _Log:
    def __init__(self) -> None:
        self.made: list[Record | Damage] = []
        self.segment = ""
        self._tip = b""  # newest block whose entries were given; empty: none yet, the genesis block
        self._height = 0
        self._index = 0
        self._blocks: dict[bytes, Block] = {}  # above the tip's height
        self._batches: dict[bytes, tuple[int, bytes]] = {}
        self._ordered: dict[bytes, None] = {}  # batches of entries given, the oldest first
        self._ordered_bytes = 0
        self._certified: Block | None = None  # the certified block of the highest round

    def add(self, record: Record) -> None:
        kind, data = record
        if kind == bft.BATCH:
            end = 2 + data[1]
            self._batches.setdefault(batch_digest(data[0], data[end:]), (data[0], data[end:]))
        elif kind == bft.BLOCK:
            block = decode_block(data)
            if block.height > self._height:
                self._blocks[block.digest] = block
                self._certify(block.parent)
        elif kind == bft.BASE:
            self._rebase(decode_block(data))
        elif kind in (bft.SAFETY, bft.COMMIT, bft.CHECKPOINT, bft.OWN_CHECKPOINT):
            if kind == bft.COMMIT:
                self._commit(self._blocks.get(data))
            elif kind == bft.SAFETY:
                spoken = bft.replay([record], _ANY).spoken
                if spoken is not None and spoken.high_qc:
                    self._certify(decode_qc(spoken.high_qc))
        else:
            raise ValueError("unknown; was this journal written by another protocol?")

    def _certify(self, qc: QuorumCertificate) -> None:
        block = self._blocks.get(qc.block)
        if block is None:
            return
        if self._certified is None or block.round > self._certified.round:
            self._certified = block
        parent = block.parent
        if parent.round + 1 == block.round:
            self._commit(self._blocks.get(parent.block))

    def _rebase(self, base: Block) -> None:
        if base.height <= self._height:
            return
        # What a snapshot covers is committed, whether or not anything else here says so.
        self._commit(self._blocks.get(base.digest))
        if base.digest != self._tip:
            self._given(base)
            if base.index:
                self.made.append(raft.base(base.index, base.round))

    def _commit(self, block: Block | None) -> None:
        path = self._path(block)
        if path:
            self._give(path)
            self.made.append(raft.commit(self._index))

    def _path(self, block: Block | None) -> list[Block]:
        """From behind the tip up to `block`; nothing where it does not lead there."""
        path: list[Block] = []
        while block is not None and block.height > self._height:
            path.append(block)
            below = block.parent.block
            if below == self._tip or block.height == 1:
                return path[::-1]
            block = self._blocks.get(below)
        return []

    def _give(self, path: list[Block]) -> None:
        for block in path:
            index = block.index - len(block.payload) - (1 if block.mark else 0)
            for digest in block.payload:
                index += 1
                batch = self._batches.get(digest)
                if batch is None:
                    words = f"entry {index}, a batch of the block of height {block.height}, is not here"
                    self.made.append(Damage(self.segment, "corrupt", words))
                    continue
                self.made.append((raft.ENTRY, encode_entry(index, block.round, *batch)))
                if digest not in self._ordered:
                    self._ordered[digest] = None
                    self._ordered_bytes += len(batch[1])
            if block.mark:
                self.made.append((raft.ENTRY, encode_entry(block.index, block.round, block.mark, b"")))
            self._given(block)

    def _given(self, block: Block) -> None:
        self._tip, self._height, self._index = block.digest, block.height, block.index
        self._blocks = {
            digest: other for digest, other in self._blocks.items() if other.height > self._height
        }
        while self._ordered_bytes > KEPT_BYTES:
            oldest = next(iter(self._ordered))
            del self._ordered[oldest]
            self._ordered_bytes -= len(self._batches.pop(oldest)[1])

    def end(self) -> None:
        """The journal ends here: what is certified above the tip."""
        self._give(self._path(self._certified))
