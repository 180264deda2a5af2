"""The log is read out of BFT journals: what certificates commit, entry by entry, and nothing that they do not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bft_chain import Growing, committee_of, seal

from consensus.bft import records as bft
from consensus.bft.block import Block, batch_digest
from consensus.bft.rules import Safety
from consensus.bft.timing import Timing
from consensus.core import EntryKind, Record, encode_entry
from consensus.raft import records as raft
from node.state import GENESIS, extend_chain
from sim.check.audit import ArchivedLog, audit_folders
from sim.check.bft_log import translate
from sim.check.folders import Damage, Item

COMMITTEE = committee_of(4)
TIMING = Timing(snapshot_bytes=8_000, mark_heights=3)


class Chain:
    """A chain and the records with which a node holds it."""

    def __init__(self) -> None:
        self.growing = Growing(COMMITTEE, TIMING)
        self.records: list[Record] = []
        self.entries: list[bytes] = []
        self.ends: list[int] = [0]
        """By height: entries up to that block."""

    def grow(self, *payloads: bytes, mute: tuple[str, ...] = ()) -> Block:
        rows = [(batch_digest(EntryKind.BLOCK, payload), len(payload)) for payload in payloads]
        block = self.growing.grow(rows, mute=mute)
        self.records += [bft.batch("a", EntryKind.BLOCK, payload) for payload in payloads]
        self.records.append((bft.BLOCK, block.encoded))
        for payload in payloads:
            self._entry(block, EntryKind.BLOCK, payload)
        if block.mark:
            self._entry(block, block.mark, b"")
        assert len(self.entries) == block.index
        self.ends.append(block.index)
        return block

    def _entry(self, block: Block, kind: int, payload: bytes) -> None:
        self.entries.append(encode_entry(len(self.entries) + 1, block.round, kind, payload))

    def says(self, block: Block) -> None:
        """The node stands by a certificate of `block`."""
        qc = seal(COMMITTEE, block, "abc").encode()
        self.records.append(bft.Spoken(1, Safety(), high_qc=qc).record())


def items(records: list[Record]) -> Iterator[Item]:
    return iter([("segment", record) for record in records])


def read(records: list[Record]) -> tuple[list[bytes], int, list[Damage]]:
    """(entries, committed up to, damage)."""
    entries: list[bytes] = []
    committed = 0
    damage = []
    for item in translate(items(records)):
        if isinstance(item, Damage):
            damage.append(item)
        elif item[1][0] == raft.ENTRY:
            entries.append(item[1][1])
        else:
            committed = raft.replay([item[1]]).commit
            assert damage or committed == len(entries)
    return entries, committed, damage


def test_a_certified_child_in_the_next_round_commits_a_block_with_its_ancestors() -> None:
    chain = Chain()
    for number in range(6):
        chain.grow(b"%d" % number, b"and %d" % number)
    entries, committed, damage = read(chain.records)
    # The block at height 6 certifies height 5, which commits height 4.
    assert committed == chain.ends[4]
    assert entries == chain.entries[: chain.ends[5]], "what is certified comes along, without a note"
    assert not damage
    chain.says(chain.growing.top)
    entries, committed, _ = read(chain.records)
    assert (entries, committed) == (chain.entries, chain.ends[5])
    assert {entry[16] for entry in entries} == {EntryKind.BLOCK, EntryKind.DIGEST}


def test_nothing_is_committed_across_a_round_that_brought_no_block() -> None:
    chain = Chain()
    chain.grow(b"1")
    chain.grow(b"2")
    due = chain.growing.top.schedule
    leader = COMMITTEE.members[due[(chain.growing.top.round + 1) % len(due)]]
    chain.grow(b"3", mute=(leader,))
    chain.says(chain.growing.top)
    assert read(chain.records)[1] == chain.ends[1], (
        "height 3 is certified, but not in the round behind height 2"
    )
    chain.grow(b"4")
    chain.says(chain.growing.top)
    assert read(chain.records)[1] == chain.ends[3]


def test_a_nodes_own_note_commits_too() -> None:
    chain = Chain()
    first = chain.grow(b"1")
    chain.grow(b"2")
    assert read(chain.records)[1] == 0
    chain.records.append((bft.COMMIT, first.digest))
    assert read(chain.records)[1] == 1


def test_a_block_beside_the_chain_leaves_no_entry() -> None:
    chain = Chain()
    chain.grow(b"1")
    fork = Growing(COMMITTEE, TIMING)
    beside = fork.grow([(batch_digest(EntryKind.BLOCK, b"no"), 2)], mute=("b",))
    chain.records += [bft.batch("c", EntryKind.BLOCK, b"no"), (bft.BLOCK, beside.encoded)]
    for number in range(3):
        chain.grow(b"%d" % (2 + number))
    chain.says(chain.growing.top)
    assert read(chain.records) == (chain.entries, chain.ends[3], [])


def test_checkpoint_marks_are_entries_and_a_new_segment_repeats_nothing() -> None:
    chain = Chain()
    for number in range(3):
        chain.grow(bytes([number]) * 4_800)
    base = chain.growing.blocks[2]
    assert base.mark == EntryKind.CHECKPOINT
    again = [(bft.BASE, base.encoded), *chain.records[-2:]]
    chain.records += again
    chain.grow(b"4")
    chain.grow(b"5")
    entries, committed, damage = read(chain.records)
    assert entries == chain.entries[: chain.ends[4]]
    assert committed == chain.ends[3]
    assert not damage
    assert EntryKind.CHECKPOINT in {entry[16] for entry in entries}


def test_what_a_fetched_snapshot_covers_is_a_gap_that_the_others_fill() -> None:
    chain = Chain()
    for number in range(8):
        chain.grow(b"%d" % number)
    chain.says(chain.growing.top)
    base = chain.growing.blocks[5]
    place = chain.records.index((bft.BLOCK, base.encoded)) + 1
    behind = [*chain.records[:4], (bft.BASE, base.encoded), *chain.records[place:]]
    held = {"a": chain.records, "b": chain.records, "c": behind}
    folders = {name: Path(name) for name in held}

    def source(folder: Path) -> Iterator[Item]:
        return translate(items(held[folder.name]))

    report = audit_folders(folders, source, members=4)
    assert report.passed
    assert report.agreed_index == chain.ends[8], "the certified tip is held by a majority"
    assert report.nodes["c"].gaps
    log = ArchivedLog(folders, source, members=4)
    assert list(log) == chain.entries
    value = GENESIS
    for entry in chain.entries:
        value = extend_chain(value, entry)
    assert report.chain == value.hex()


def test_two_nodes_with_different_committed_blocks_are_a_fork() -> None:
    one, other = Chain(), Chain()
    for number in range(4):
        one.grow(b"%d" % number)
        other.grow(b"%d" % (number if number < 1 else number + 5))
    for chain in (one, other):
        chain.says(chain.growing.top)
    held = {"a": one.records, "b": other.records}
    report = audit_folders(
        {name: Path(name) for name in held}, lambda folder: translate(items(held[folder.name])), members=4
    )
    assert [fork.index for fork in report.forks] == [2]


def test_a_batch_ordered_a_second_time_gives_its_entry_a_second_time() -> None:
    chain = Chain()
    chain.grow(b"same")
    chain.grow(b"same")
    chain.grow()
    chain.says(chain.growing.top)
    entries, _, damage = read(chain.records)
    assert entries == chain.entries
    assert [entry[17:] for entry in entries[:2]] == [b"same", b"same"]
    assert not damage


def test_what_is_missing_or_makes_no_sense_is_damage_and_not_passed_over() -> None:
    chain = Chain()
    chain.grow(b"1", b"2")
    chain.grow(b"3")
    chain.says(chain.growing.top)
    without = [record for record in chain.records if record != bft.batch("a", EntryKind.BLOCK, b"2")]
    (damage,) = read(without)[2]
    assert (damage.kind, "entry 2" in damage.detail) == ("corrupt", True)
    for record in ((bft.BLOCK, b"junk"), (bft.SAFETY, b"junk"), (bft.BATCH, b""), (99, b"")):
        (damage,) = read([record, *chain.records])[2]
        assert damage.kind == "corrupt"
