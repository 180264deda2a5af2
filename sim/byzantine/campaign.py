"""Many lockstep runs, in one process or in several: what was played, what was found, how fast."""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sim.byzantine.lockstep import CRASH, TERMINATION, Played
from sim.explore.summary import (
    EXIT_CRASH,
    EXIT_INTERRUPTED,
    EXIT_LIVENESS,
    EXIT_OK,
    EXIT_VIOLATION,
    EXIT_VOID,
)

BATCH: Final = 50
"""Runs between two words from a process."""
KEPT: Final = 50
"""Findings of which everything is kept."""
FOR_EVER: Final = 1 << 200


class Plays(Protocol):
    """Plays a run by its number."""

    def play(self, number: int, said: Callable[[str], None] | None = None) -> Played:
        """One run; `said`: told what happens."""


class Task(Protocol):
    """What to play; hashable, and can be sent to another process."""

    def player(self) -> Plays:
        """Made once in each process."""

    def number(self, place: int) -> int:
        """The number of the run in that place."""


@dataclass(slots=True)
class Tally:
    """What a campaign came to. `dealt`, `blamed`: runs in which somebody lied, and in which honest nodes hold evidence of it;
    `early`: runs in which something was committed before the links were healed; `rounds`: how many rounds after that everything
    was committed everywhere -> runs. `core_s`: seconds of processor time."""

    played: int = 0
    dealt: int = 0
    blamed: int = 0
    early: int = 0
    messages: int = 0
    cut: int = 0
    rounds: Counter[int] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    findings: list[Played] = field(default_factory=list)
    core_s: float = 0.0
    wall_s: float = 0.0
    interrupted: bool = False
    died: str = ""
    """Why the processes did not come to the end, if they did not."""

    def add(self, run: Played) -> None:
        """One run more."""
        self.played += 1
        self.dealt += run.dealt
        self.blamed += run.evidence > 0
        self.early += run.counts.early > 0
        self.messages += run.counts.messages
        self.cut += run.counts.cut
        if run.oracle:
            self.found[run.oracle] += 1
            if len(self.findings) < KEPT:
                self.findings.append(run)
        else:
            self.rounds[run.counts.rounds] += 1

    def take(self, other: Tally) -> None:
        """All of another's."""
        for name in ("played", "dealt", "blamed", "early", "messages", "cut", "core_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.rounds += other.rounds
        self.found += other.found
        self.findings += other.findings[: KEPT - len(self.findings)]

    def void(self, liars: bool) -> list[str]:
        """Why this proves nothing, if it does not. `liars`: whether there were to be any."""
        if not self.played:
            return ["nothing was played"]
        reasons = []
        if liars and not self.dealt:
            reasons.append("nobody ever lied")
        if not self.early:
            reasons.append("nothing was ever committed before the links were healed")
        return reasons

    def exit_code(self, liars: bool) -> int:
        """As of `partition.py explore`."""
        if set(self.found) - {CRASH, TERMINATION}:
            return EXIT_VIOLATION
        if self.found:
            return EXIT_CRASH if self.found[CRASH] else EXIT_LIVENESS
        if self.died:
            return EXIT_CRASH
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_VOID if self.void(liars) else EXIT_OK

    def as_json(self) -> dict[str, Any]:
        """Figures for programs."""
        return {
            "played": self.played,
            "dealt_doubly": self.dealt,
            "with_evidence": self.blamed,
            "committed_before_healing": self.early,
            "messages": self.messages,
            "messages_cut": self.cut,
            "rounds_to_commit": {str(rounds): self.rounds[rounds] for rounds in sorted(self.rounds)},
            "found": dict(sorted(self.found.items())),
            "seconds": round(self.wall_s, 3),
            "core_seconds": round(self.core_s, 3),
            "per_second": round(self.played / max(self.wall_s, 1e-9), 1),
            "per_core_second": round(self.played / max(self.core_s, 1e-9), 1),
            "interrupted": self.interrupted,
            "died": self.died,
        }


_players: dict[Task, Plays] = {}


def _player(task: Task) -> Plays:
    known = _players.get(task)
    if known is None:
        known = _players[task] = task.player()
    return known


def play_batch(task: Task, places: range) -> Tally:
    """The runs in these places, in their order."""
    player = _player(task)
    tally = Tally()
    began = time.process_time()
    # What a run leaves dies as a whole: collecting by count costs a tenth of the time for nothing.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for place in places:
            tally.add(player.play(task.number(place)))
    finally:
        if collecting:
            gc.enable()
        gc.collect()
    tally.core_s = time.process_time() - began
    return tally


def _begin() -> None:
    # A Ctrl-C reaches the whole process group; the process that asked decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()


@contextlib.contextmanager
def _executor(jobs: int) -> Iterator[Executor]:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    executor = ProcessPoolExecutor(jobs, context, _begin)
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def run(
    task: Task,
    most: int,
    seconds: float,
    jobs: int,
    stop_after: int = 0,
    first: int = 0,
    watch: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Play the places from `first` on, at most so many, and begin none after so many seconds (0: no limit). `stop_after`:
    findings after which it ends (0: never). An interrupted campaign says what it had found by then."""
    tally = Tally()
    began = time.perf_counter()
    jobs = max(1, min(jobs, -(-most // BATCH)))  # more would have nothing to do
    starts = itertools.takewhile(lambda at: at < first + most, itertools.count(first, BATCH))
    batches = (range(at, min(at + BATCH, first + most)) for at in starts)

    def over() -> bool:
        late = bool(seconds) and time.perf_counter() - began >= seconds
        return late or bool(stop_after and sum(tally.found.values()) >= stop_after)

    def take(batch: Tally) -> None:
        tally.take(batch)
        tally.wall_s = time.perf_counter() - began
        watch(tally)

    try:
        if jobs == 1:
            gc.freeze()
            for places in batches:
                take(play_batch(task, places))
                if over():
                    break
        else:
            with _executor(jobs) as executor:
                _several(executor, task, batches, 2 * jobs, take, over)
    except KeyboardInterrupt:
        tally.interrupted = True
    except BrokenProcessPool:
        tally.died = "a worker process died (out of memory?); fewer --jobs need less memory"
    finally:
        gc.unfreeze()
    tally.wall_s = time.perf_counter() - began
    return tally


def _several(
    executor: Executor,
    task: Task,
    batches: Iterator[range],
    ahead: int,
    take: Callable[[Tally], None],
    over: Callable[[], bool],
) -> None:
    waiting: list[Future[Tally]] = [
        executor.submit(play_batch, task, places) for places in itertools.islice(batches, ahead)
    ]
    while waiting:
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in [future for future in waiting if future in done]:
            waiting.remove(future)
            take(future.result())
            more = None if over() else next(batches, None)
            if more is not None:
                waiting.append(executor.submit(play_batch, task, more))
        if over():
            for future in waiting:
                future.cancel()
            waiting = [future for future in waiting if not future.cancelled()]
