"""Disk lanes: one thread each, so that neither an fsync nor a long snapshot ever stands still the loop that sends heartbeats.

Measured against syncing on the loop: see docs/explanation/node-process.md.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

import trio

from node.disk import Disk, Job
from node.journal import merge


class Lane:
    """Performs the jobs of one lane in order. What has queued up meanwhile is merged into one write and one sync.

    After a failure nothing more is performed, and nothing is reported done that was not."""

    def __init__(
        self,
        name: str,
        lane: int,
        disk: Disk,
        done: Callable[[int, int, float], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`done(lane, number of the last finished job, seconds it took)` and `failed(error)` are called in trio's thread.
        Call within trio."""
        self.ended = trio.Event()
        """The thread touches the disk no more."""
        self.idle = True
        """Everything that was put has been done."""
        self._lane = lane
        self._disk = disk
        self._done = done
        self._failed = failed
        self._last = 0
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job."""
        self.idle = False
        self._last = job.number
        self._queue.put(job)

    def stop(self) -> None:
        """Finish what is queued, then end the thread; `ended` says when. Does not wait."""
        self._queue.put(None)

    def _work(self) -> None:
        try:
            while self._work_once():
                pass
        finally:
            self._tell(self.ended.set)

    def _work_once(self) -> bool:
        """Perform what has come together. False: the lane has ended."""
        jobs, stop = self._collect()
        if not jobs:
            return not stop
        began = time.perf_counter()
        try:
            self._disk.perform(jobs[0].ops if len(jobs) == 1 else merge([job.ops for job in jobs]))
        except Exception as error:  # a lane that died without a word would leave everybody waiting
            self._tell(self._failed, error)
            return False
        took = time.perf_counter() - began
        # The replica asks after each snapshot job by its number; of journal jobs the last one speaks for all.
        for job in jobs if self._lane else jobs[-1:]:
            self._tell(self._report, job.number, took)
        return not stop

    def _collect(self) -> tuple[list[Job], bool]:
        jobs: list[Job] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _report(self, number: int, took: float) -> None:
        self.idle = number == self._last
        self._done(self._lane, number, took)

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *args)
