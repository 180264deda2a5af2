"""A campaign: a range of seeds, in batches, on an engine. What it comes to does not depend on how many run at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Final

from sim.explore.engine import Engine
from sim.explore.request import Request
from sim.explore.summary import Summary
from sim.explore.worker import Batch, run_batch

BATCH: Final = 25
FOR_EVER: Final = 1 << 62
"""Seeds of a campaign that only its time ends."""
TICK_S: Final = 0.2


@dataclass(slots=True, frozen=True)
class Campaign:
    """`seeds` from `first` on, or as many as begin within `minutes` (0: no limit); it ends with the failure that makes
    `stop_after` of them (0: never for that reason)."""

    request: Request
    seeds: int
    first: int = 0
    minutes: float = 0.0
    stop_after: int = 0
    complete: bool = False


@dataclass(slots=True, frozen=True)
class Progress:
    """How far a campaign is. `total` is None if only time ends it."""

    seeds: int
    total: int | None
    failures: int
    seconds: float


def run(campaign: Campaign, engine: Engine, watch: Callable[[Progress], None]) -> Summary:
    """Run it. A KeyboardInterrupt, and the death of a process, end it early, and the summary is of what there is by then. Raises
    OtherSources, SubjectError, FaultError."""
    course = _Course(campaign, engine, watch)
    try:
        course.run()
    except KeyboardInterrupt:
        course.gather()
    except BrokenProcessPool:
        low = campaign.first + course.summary.seeds
        course.summary.died = (
            f"a worker process died (out of memory?); everything below seed {low} was run. "
            "Fewer --jobs need less memory"
        )
        course.take_finished()
    course.summary.wall_s = time.perf_counter() - course.began
    return course.summary


class _Course:
    def __init__(self, campaign: Campaign, engine: Engine, watch: Callable[[Progress], None]) -> None:
        self.campaign, self.engine, self.watch = campaign, engine, watch
        self.summary = Summary(campaign.request, complete=campaign.complete)
        self.began = time.perf_counter()
        self.end = campaign.first + campaign.seeds
        # A campaign of a few seeds still uses every process, and tells how far it is.
        self.size = max(1, min(BATCH, campaign.seeds // (8 * engine.slots)))
        self.next = campaign.first
        self.merged = campaign.first
        self.under_way: dict[Future[Batch], int] = {}
        self.done: dict[int, Batch] = {}

    def run(self) -> None:
        limit = self.began + self.campaign.minutes * 60 if self.campaign.minutes else float("inf")
        while True:
            if time.perf_counter() >= limit:
                # Whoever has begun finishes: they are the lowest seeds, so that what was run is a range.
                self._drop_waiting()
            else:
                self._submit()
            if not self.under_way:
                return
            finished, _ = wait(self.under_way, timeout=TICK_S, return_when=FIRST_COMPLETED)
            for future in finished:
                self.done[self.under_way.pop(future)] = future.result()
            if self._merge():
                self.engine.stop()
                self._drop_waiting()
                return
            self._tell()

    def _submit(self) -> None:
        while self.next < self.end and len(self.under_way) < 2 * self.engine.slots:
            seeds = range(self.next, min(self.next + self.size, self.end))
            future = self.engine.executor.submit(run_batch, self.campaign.request, seeds, self.engine.code)
            self.under_way[future] = seeds.start
            self.next = seeds.stop

    def _drop_waiting(self) -> None:
        self.end = self.next
        for future in [future for future in self.under_way if future.cancel()]:
            del self.under_way[future]

    def _merge(self) -> bool:
        """Take batches in the order of their seeds, whichever was ready first; whether enough has failed."""
        while self.merged in self.done:
            batch = self.done.pop(self.merged)
            self.merged += self.size
            if self.summary.take(batch, self.campaign.stop_after):
                return True
        return False

    def gather(self) -> None:
        """Interrupted: end the batches at the next seed, and take what there is, in the order of the seeds."""
        self.summary.interrupted = True
        self.engine.stop()
        self._drop_waiting()
        if self.under_way:
            wait(self.under_way, timeout=5 if self.engine.code else 30)
        self.take_finished()

    def take_finished(self) -> None:
        """Take whatever is ready, in the order of the seeds, with gaps where something is not."""
        for future, first in self.under_way.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                self.done[first] = future.result()
        for first in sorted(self.done):
            if self.summary.take(self.done[first], self.campaign.stop_after):
                return

    def _tell(self) -> None:
        ready = sum(len(batch.results) for batch in self.done.values())
        failures = sum(result.outcome != "ok" for batch in self.done.values() for result in batch.results)
        total = None if self.campaign.seeds >= FOR_EVER else self.campaign.seeds
        self.watch(
            Progress(
                self.summary.seeds + ready,
                total,
                len(self.summary.failures) + failures,
                time.perf_counter() - self.began,
            )
        )
