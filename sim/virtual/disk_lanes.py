"""The lanes of a virtual disk: jobs wait their turn, a sync takes time, and anything may happen meanwhile."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from node.disk import JOURNAL, SNAPSHOT, Append, DiskError, Job, Op, Sync, SyncDirectory
from node.journal import merge

if TYPE_CHECKING:
    from sim.virtual.host import Host

Step = tuple[int, int, list[Op], int, int]
"""(life, lane, operations, place of the next one, number of the job)"""

QUICK: Final = (120, 500)
"""A journal's sync takes from the first up to the sum of both, in microseconds..."""
SLOW: Final = 6_000
"""...and one of a hundred so long."""
BIG: Final = (500, 8_000)
"""The same for a snapshot's."""


class DiskLanes:
    """Performs a node's disk jobs, lane by lane in order, on its virtual disk."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._draw = host.world.streams.of(f"disk/{host.name}").random
        self._queues: dict[int, deque[Job]] = {}
        self._working: dict[int, bool] = {}
        self._hanging: list[Step] = []
        self.restart()

    def restart(self) -> None:
        """A new life begins: what the last one had asked for is nobody's any more."""
        self._queues = {JOURNAL: deque(), SNAPSHOT: deque()}
        self._working = {JOURNAL: False, SNAPSHOT: False}

    def take(self, jobs: list[Job]) -> None:
        """Queue jobs up; what can begin begins."""
        host = self._host
        for job in jobs:
            if job.lane == JOURNAL:
                for hook in host.world.on_written:
                    hook(host, job.number)
            self._queues[job.lane].append(job)
            if not self._working[job.lane]:
                self._work(job.lane)
                if host.replica is None:  # a trap was sprung
                    return

    def unstall(self) -> None:
        """Syncs that hang return."""
        hanging, self._hanging = self._hanging, []
        for step in hanging:
            self._host.world.timeline.after(self._sync_time(step[1]), self._go_on, step)

    def _work(self, lane: int) -> None:
        """Perform what has queued up in a lane, as one write and one sync."""
        queue = self._queues[lane]
        self._working[lane] = True
        if lane == JOURNAL and len(queue) > 1:
            ops = merge([job.ops for job in queue])
            number = queue[-1].number
            queue.clear()
        else:
            job = queue.popleft()
            ops, number = job.ops, job.number
        self._go_on((self._host.life, lane, ops, 0, number))

    def _go_on(self, step: Step) -> None:
        life, lane, ops, place, number = step
        host = self._host
        if life != host.life:
            return
        world, disk = host.world, host.disk
        try:
            if place:
                disk.perform(ops[place - 1 : place])  # the sync for which the time has passed
                if world.trace is not None:
                    file = getattr(ops[place - 1], "name", "")
                    world.trace.tell(world.timeline.now, "sync", host.name, file=file)
            end = len(ops)
            while place < end:
                op = ops[place]
                place += 1
                if type(op) is Sync or type(op) is SyncDirectory:
                    if host.trap is not None and lane == JOURNAL and host.sprung("before the sync"):
                        return
                    after = (life, lane, ops, place, number)
                    if host.stall is not None and (lane == JOURNAL or not host.stall_journal_only):
                        host.stall.bite("stalled syncs")
                        self._hanging.append(after)
                    else:
                        world.timeline.after(self._sync_time(lane), self._go_on, after)
                    return
                disk.perform([op])
                if world.trace is not None and type(op) is Append:
                    world.trace.tell(world.timeline.now, "write", host.name, bytes=len(op.data), file=op.name)
        except DiskError as error:
            world.disk_failed(host, error)
            return
        self._working[lane] = False
        if lane == JOURNAL:
            world.synced(host, number)
            if host.trap is not None and host.sprung("after the sync"):
                return
        host.disk_done(lane, number)
        if host.life == life and self._queues[lane] and not self._working[lane]:
            self._work(lane)

    def _sync_time(self, lane: int) -> int:
        draw, slowness = self._draw(), self._host.slowness
        if lane != JOURNAL:
            return (BIG[0] + int(BIG[1] * draw)) * slowness
        return (QUICK[0] + int(QUICK[1] * draw) if draw < 0.99 else SLOW) * slowness
