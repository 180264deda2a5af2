"""Where batches run: processes of this machine, or a dask.distributed cluster. Both are a `concurrent.futures.Executor`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from sim import native
from sim.explore import spawned
from sim.explore.request import Request
from sim.explore.sources import fingerprint

PATIENCE: Final = "10s"
"""With a scheduler that does not answer."""


class EngineError(Exception):
    """There is no such engine, or it cannot be used; the text says what to do."""


@dataclass(slots=True)
class Engine:
    """`slots`: how many batches run at once. `code`: what a worker's sources must be, empty where they cannot differ. `stop`
    ends batches at the next seed, as far as the engine can."""

    executor: Executor
    slots: int
    code: str
    stop: Callable[[], None]
    words: str


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """A process forked in this block is never interrupted, not even before it has set itself up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def cores() -> int:
    """How many processes this one may use at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def processes(jobs: int, request: Request, method: str = "") -> Iterator[Engine]:
    """Processes of this machine. They end with the block, within a seed's time. `method`: how they are started, `fork` or
    `spawn`."""
    # Forked, so that they have what was brought along already; nothing here has started a thread yet.
    usual = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method or usual)
    stop = context.Event()
    executor = ProcessPoolExecutor(
        jobs, context, spawned.begin, (stop, native.active(), pickle.dumps(request))
    )
    try:
        with _deaf_to_interrupts():
            executor.submit(os.getpid).result()
        yield Engine(executor, jobs, "", stop.set, f"{jobs} {'process' if jobs == 1 else 'processes'}")
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def cluster(address: str, request: Request) -> Iterator[Engine]:
    """A dask.distributed cluster, by the address of its scheduler. Raises EngineError."""
    try:
        from distributed import Client
    except ImportError:
        raise EngineError(
            "--engine needs dask.distributed, the optional extra `cluster`: pip install -c constraints.txt -e '.[cluster]'"
        ) from None
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError, TimeoutError) as error:
        raise EngineError(f"--engine {address}: no scheduler answers there: {error}") from None
    try:
        threads = sum(
            worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()
        )
        if not threads:
            raise EngineError(
                f"--engine {address}: the scheduler has no workers; from a checkout of this commit: dask worker {address}"
            )
        executor = client.get_executor(pure=False, retries=2)
        try:
            words = f"{threads} workers at {address}"
            yield Engine(executor, threads, fingerprint(request.modules()), lambda: None, words)
        finally:
            executor.shutdown(wait=False)
    finally:
        client.close()
