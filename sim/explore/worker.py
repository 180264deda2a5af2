"""The half of a campaign that runs where the processors are: a batch of seeds, one after the other."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sim.explore.request import HARNESS, Request, play, prepare
from sim.explore.sources import OtherSources, fingerprint
from sim.explore.time_limit import Hung, limited
from sim.virtual.plan import Plan
from sim.virtual.trace import Trace
from sim.virtual.world import CRASH, Result, World

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

LIMIT_S: Final = 120
"""Seconds of real time after which a run is given up: a loop that does nothing in virtual time ends no other way."""
COLLECT_EVERY: Final = 2
"""Runs between two collections of garbage, in a process of our own. With more, every run touches memory that is in no cache: at
ten, runs of the BFT log took 7 % longer."""


@dataclass(slots=True)
class Batch:
    """What became of some seeds, in their order. `core_s`: seconds of processor time that they took."""

    results: list[Result] = field(default_factory=list)
    core_s: float = 0.0


_stop: Event | None = None
_own_process = False
_one_at_a_time: Final = threading.Lock()


def begin(stop: Event, request: Request) -> None:
    """Set a process of our own up for batches. `stop` ends a batch between two seeds."""
    global _stop, _own_process
    # A Ctrl-C reaches the whole process group; the process that asked decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _stop, _own_process = stop, True
    prepare(request)
    # A run leaves few cycles and dies as a whole: collecting by count costs a tenth of the time for nothing.
    gc.collect()
    gc.freeze()
    gc.disable()


def run_batch(request: Request, seeds: range, code: str = "") -> Batch:
    """Run seeds in their order. `code`: what `fingerprint` must give here, empty: it is not asked. Raises OtherSources, and
    SubjectError, FaultError as `play` does."""
    if code and fingerprint(request.modules()) != code:
        raise OtherSources(
            f"the worker on {socket.gethostname()} runs other code than this checkout; bring it to the same commit (with the "
            f"same Python, and the modules that you bring along) and start it again"
        )
    prepare(request)
    parent = os.getppid()
    batch = Batch()
    # Sometimes-marks are counted in the process: two runs in two of its threads would share them.
    with _one_at_a_time:
        began = time.thread_time()
        for place, seed in enumerate(seeds):
            if _stop is not None and _stop.is_set():
                break
            if _own_process and os.getppid() != parent:
                os._exit(1)  # who asked is gone, and nobody reads the answer
            batch.results.append(run_seed(request, seed))
            if _own_process and place % COLLECT_EVERY == COLLECT_EVERY - 1:
                gc.collect()
        batch.core_s = time.thread_time() - began
    return batch


def run_seed(request: Request, seed: int) -> Result:
    """One seed, given up after `LIMIT_S` where that is possible: in the main thread of a process."""
    return run_plan(request, request.plan(seed))[0]


def run_plan(request: Request, plan: Plan, trace: Trace | None = None) -> tuple[Result, World | None]:
    """One plan, as `play` does, given up in the same way: then there is no world."""
    try:
        with limited(LIMIT_S):
            return play(request, plan, trace)
    except Hung:
        text = f"the run was given up after {LIMIT_S} s of real time"
        return Result(plan, CRASH, HARNESS, text, real_s=LIMIT_S), None
