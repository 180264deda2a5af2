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
    """Performs the jobs of one lane in order. What has queued up meanwhile is merged into one write and one sync."""

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
        self._lane = lane
        self._disk = disk
        self._done = done
        self._failed = failed
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job."""
        self._queue.put(job)

    def stop(self) -> None:
        """Finish what is queued, then end the thread."""
        self._queue.put(None)

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                return
            jobs = [job]
            last = False
            try:
                while True:
                    more = self._queue.get_nowait()
                    if more is None:
                        last = True
                        break
                    jobs.append(more)
            except queue.Empty:
                pass
            began = time.perf_counter()
            try:
                self._disk.perform(job.ops if len(jobs) == 1 else merge([each.ops for each in jobs]))
            except Exception as error:  # a lane that died without a word would leave everybody waiting
                self._tell(self._failed, error)
                return
            took = time.perf_counter() - began
            for each in jobs if self._lane else jobs[-1:]:
                self._tell(self._done, self._lane, each.number, took)
            if last:
                return

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(function, *args)
