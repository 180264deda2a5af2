"""Disk lanes: order, merging, failure, an end that does not wait for a dead disk."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import trio

from node.disk import JOURNAL, SNAPSHOT, Append, DiskError, Job, Op, Sync
from node.io.lanes import Lane


class TrickDisk:
    """Holds every job until `let_go`, and fails where told to."""

    def __init__(self) -> None:
        self.performed: list[list[Op]] = []
        self.let_go = threading.Event()
        self.fail = False

    def names(self) -> list[str]:
        return []

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        raise FileNotFoundError(name)

    def perform(self, ops: Sequence[Op]) -> None:
        assert self.let_go.wait(10)
        if self.fail:
            raise DiskError("fdatasync failed: EIO")
        self.performed.append(list(ops))

    def close(self) -> None:
        pass


class Heard:
    """What a lane reported."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.failed: list[str] = []

    def lane(self, lane: int, disk: TrickDisk) -> Lane:
        return Lane(
            "test", lane, disk, lambda _, n, took: self.done.append(n), lambda e: self.failed.append(str(e))
        )


def job(lane: int, number: int) -> Job:
    return Job(lane, number, [Append("a", bytes([number])), Sync("a")])


async def ended(lane: Lane) -> None:
    lane.stop()
    with trio.fail_after(5):
        await lane.ended.wait()


async def test_what_queues_up_behind_a_sync_shares_the_next_one() -> None:
    disk, heard = TrickDisk(), Heard()
    lane = heard.lane(JOURNAL, disk)
    for number in range(1, 6):
        lane.put(job(JOURNAL, number))
    assert not lane.idle
    disk.let_go.set()
    await ended(lane)
    assert lane.idle
    assert heard.done[-1] == 5  # the last speaks for all
    assert heard.done == sorted(heard.done)
    assert len(disk.performed) <= 2
    written = b"".join(op.data for ops in disk.performed for op in ops if isinstance(op, Append))
    assert written == bytes([1, 2, 3, 4, 5])
    assert all(sum(isinstance(op, Sync) for op in ops) == 1 for ops in disk.performed)


async def test_every_snapshot_job_is_reported_by_its_own_number() -> None:
    disk, heard = TrickDisk(), Heard()
    lane = heard.lane(SNAPSHOT, disk)
    for number in (3, 7, 8):
        lane.put(job(SNAPSHOT, number))
    disk.let_go.set()
    await ended(lane)
    assert heard.done == [3, 7, 8]


async def test_a_failed_lane_says_so_once_and_performs_and_reports_nothing_more() -> None:
    disk, heard = TrickDisk(), Heard()
    lane = heard.lane(JOURNAL, disk)
    disk.fail = True
    disk.let_go.set()
    lane.put(job(JOURNAL, 1))
    with trio.fail_after(5):
        await lane.ended.wait()
    disk.fail = False
    lane.put(job(JOURNAL, 2))
    await ended(lane)
    assert heard.failed == ["fdatasync failed: EIO"]
    assert heard.done == []
    assert disk.performed == []
    assert not lane.idle


async def test_stopping_does_not_wait_for_a_disk_that_hangs() -> None:
    disk, heard = TrickDisk(), Heard()
    lane = heard.lane(JOURNAL, disk)
    lane.put(job(JOURNAL, 1))
    with trio.fail_after(0.5):
        lane.stop()
    with trio.move_on_after(0.05):
        await lane.ended.wait()
    assert not lane.ended.is_set()
    disk.let_go.set()
    with trio.fail_after(5):
        await lane.ended.wait()
    assert heard.done == [1]
