"""Laws of the journal under power loss: at every operation, in between, during recovery, with any tear."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.disk import Op
from node.journal import Identity, Journal, Recovered, merge, read_segments
from sim.virtual.disk import MemoryDisk

ME = Identity("feed", "n1")


class PowerOff(Exception):
    """The power went."""


class Fused:
    """A disk whose power goes after so many operations."""

    def __init__(self, disk: MemoryDisk, fuse: int) -> None:
        self.disk, self.fuse = disk, fuse
        self.names, self.read, self.close = disk.names, disk.read, disk.close

    def perform(self, ops: Sequence[Op]) -> None:
        for op in ops:
            if self.fuse == 0:
                raise PowerOff
            self.fuse -= 1
            self.disk.perform([op])


class Node:
    """A node that journals numbered records. Its state is the list of all of them."""

    def __init__(self, archive: bool) -> None:
        self.archive = archive
        self.disk = MemoryDisk()
        self.disk.perform(Journal.create_ops(ME, 600))
        self.truth: list[bytes] = []
        """Everything appended that has not been dropped by a recovery."""
        self.promised = 0
        """How many of them were reported durable."""
        self.next = 0
        self.incarnation = 0
        self.jobs: list[tuple[list[Op], int, int]] = []
        """(operations left, mark, how many records are durable once it is done), oldest first."""
        self.open()

    def open(self, fuse: int = -1) -> None:
        self.jobs.clear()
        self.journal, recovered = Journal.open(Fused(self.disk, fuse), ME, self.archive, 600)
        self.check(recovered)

    def check(self, recovered: Recovered) -> None:
        found = [data for _, data in recovered.records]
        assert found == self.truth[: len(found)], "reordered, made up, or risen from the dead"
        assert len(found) >= self.promised, "a promised record was lost"
        assert recovered.incarnation > self.incarnation
        self.incarnation = recovered.incarnation
        self.truth = found
        self.promised = len(found)

    def append(self, size: int, count: int) -> None:
        new = []
        for _ in range(count):
            new.append(b"%d:" % self.next + b"#" * size)
            self.next += 1
        ops, mark = self.journal.append([(3, data) for data in new])
        self.truth += new
        self.jobs.append((ops, mark, len(self.truth)))

    def rotate(self) -> None:
        ops, mark = self.journal.rotate([(3, data) for data in self.truth])
        self.jobs.append((ops, mark, len(self.truth)))

    def merge(self) -> None:
        if self.jobs:
            self.jobs = [(merge(ops for ops, _, _ in self.jobs), *self.jobs[-1][1:])]

    def perform(self, count: int, tell: bool) -> None:
        while self.jobs:
            ops, mark, durable = self.jobs[0]
            while ops:
                if count == 0:
                    return
                self.disk.perform([ops[0]])
                ops = ops[1:]
                self.jobs[0] = (ops, mark, durable)
                count -= 1
            self.jobs.pop(0)
            self.promised = durable
            if tell:
                self.journal.mark_synced(mark)

    def cut(self, seed: int) -> None:
        self.disk.cut(Random(seed))

    def check_audit(self) -> None:
        views = list(read_segments(self.disk))
        assert [view.end for view in views if view.end == "corrupt"] == []


SEED = st.integers(0, 1 << 20)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([0, 3, 200, 600, 5000]), st.integers(1, 3)),
        st.tuples(st.just("append"), st.sampled_from([0, 3, 200]), st.just(1)),
        st.tuples(st.just("perform"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("perform"), st.just(99), st.just(True)),
        st.tuples(st.just("rotate")),
        st.tuples(st.just("merge")),
        st.tuples(st.just("cut"), SEED),
        st.tuples(st.just("cut in open"), st.integers(0, 9), SEED),
        st.tuples(st.just("kill")),
    ),
    max_size=30,
)


def act(node: Node, step: tuple) -> None:  # type: ignore[type-arg]
    kind, *rest = step
    if kind == "cut":
        node.cut(*rest)
        node.check_audit()
        node.open()
    elif kind == "cut in open":
        fuse, seed = rest
        node.disk.restart()
        try:
            node.open(fuse)
        except PowerOff:
            node.cut(seed)
            node.open()
    elif kind == "kill":
        node.disk.restart()
        node.open()
    else:
        getattr(node, kind)(*rest)


@settings(max_examples=300, deadline=None)
@given(archive=st.booleans(), steps=STEPS)
def test_nothing_promised_is_lost_reordered_or_raised_from_the_dead(
    archive: bool, steps: list[tuple]
) -> None:  # type: ignore[type-arg]
    node = Node(archive)
    for step in steps:
        act(node, step)
    act(node, ("cut", 1))
    act(node, ("kill",))
    node.check_audit()


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize("in_flight", [False, True])
def test_every_crash_point_of_a_rotation_keeps_every_promise(archive: bool, in_flight: bool) -> None:
    outcomes = set()
    for fuse in range(12):
        for seed in range(25):
            node = Node(archive)
            node.append(3, 2)
            node.perform(99, True)
            if in_flight:
                node.append(700, 1)
            node.rotate()
            node.merge()
            node.perform(fuse, False)
            node.cut(seed)
            node.check_audit()
            node.open()
            outcomes.add(node.disk.names()[-1])
            node.append(3, 1)
            node.perform(99, True)
            node.rotate()
            node.perform(99, True)
            node.cut(seed)
            node.open()
            assert node.promised == len(node.truth) >= 3
    assert len(outcomes) == 2, "both the old and the new segment were the newest at times"


def test_every_crash_point_of_a_recovery_keeps_every_promise() -> None:
    for fuse in range(14):
        for seed in range(30):
            node = Node(archive=seed % 2 == 0)
            node.append(3, 2)
            node.perform(99, True)
            node.append(900, 2)
            if seed % 3 == 0:
                node.rotate()
            node.perform(seed % 7, False)
            node.cut(seed)
            for again in range(3):
                try:
                    node.open(fuse)
                except PowerOff:
                    node.cut(seed + 100 * again)
            node.open()
            node.append(3, 1)
            node.perform(99, True)
            node.cut(seed + 1)
            node.open()


def test_cuts_do_tear_journals_and_do_undo_rotations() -> None:
    """The laws above would prove nothing on disks that lose nothing."""
    torn = dropped = notes = 0
    for seed in range(60):
        node = Node(archive=False)
        node.append(3000, 1)
        node.perform(1, False)
        loss = node.disk.cut(Random(seed))
        torn += loss.torn_bytes
        dropped += loss.dropped_bytes
        recovered = Journal.open(node.disk, ME, reserve=600)[1]
        notes += bool(recovered.notes)
        assert (recovered.torn_bytes > 0) == bool(recovered.notes)
    assert torn
    assert dropped
    assert 5 < notes < 55


@pytest.mark.parametrize("archive", [False, True])
def test_a_recovery_after_a_kill_may_itself_lose_power_at_any_point(archive: bool) -> None:
    """After a kill the kernel still has what no sync covered, unfinished names included; only the second blow takes it."""
    for done in range(8):
        for fuse in range(10):
            for seed in range(12):
                node = Node(archive)
                node.append(3, 2)
                node.perform(99, True)
                node.rotate()
                node.perform(done, True)
                node.disk.restart()
                with suppress(PowerOff):
                    node.open(fuse)
                node.cut(seed)
                node.open()


def test_an_unfinished_rotation_is_gone_for_good_before_the_older_segment_is_touched() -> None:
    torn_openings = 0
    for seed in range(400):
        node = Node(archive=False)
        node.append(3, 2)
        node.perform(99, True)
        node.rotate()
        node.perform(2, False)  # the new file is there, and empty
        node.disk.restart()
        try:
            node.open(fuse=3 + seed % 3)  # up to the opening batch, written and not synced
        except PowerOff:
            torn_openings += node.disk.cut(Random(seed)).torn_bytes > 0
        node.open()
    assert torn_openings > 20
