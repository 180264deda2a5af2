"""Running mutants: each in a fresh process, on the same seeds as the unmutated control, until it was caught often enough.

A mutant's seeds run one after the other in one process, so that a table does not depend on how many run side by side. The control
runs every plan that any mutant ran (a plan is a seed with a focus) and must be green on all of them.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any, Final

from sim.explore.mutants import CORE, ROOT, SAFETY, Mutant, MutantError, focus_of, load, pick
from sim.explore.mutants_worker import counts
from sim.explore.statistics import wilson

PATIENCE: Final = 90
"""Seconds that one seed may take."""
Row = dict[str, Any]


@dataclass(slots=True, frozen=True)
class Terms:
    """How much is run. `stop`: a mutant is not run on after so many detections, 0 for never."""

    first: int = 0
    seeds: int = 200
    stop: int = 10
    budget: float = 120.0
    """Seconds for each mutant."""

    def most(self, mutant: Mutant) -> int:
        """Most seeds for a mutant: more where its focus says that seeds are cheap."""
        return self.seeds * times(focus_of(mutant.protocol, mutant.focus))


def times(focus: dict[str, Any]) -> int:
    """How many times as many seeds a focus is given."""
    return int(focus.get("times", 1))


@dataclass(slots=True)
class Finding:
    """A line of the table."""

    mutant: Mutant
    caught: bool = False
    by: Counter[str] = field(default_factory=Counter)
    """Oracle or check -> how often it was the first to object."""
    seeds: int = 0
    detections: int = 0
    first: int | None = None
    """The first seed that caught it."""
    first_after: int | None = None
    """How many seeds that took."""
    example: str = ""
    crashes: int = 0
    """Seeds that ended with an exception inside the core and without any objection from outside."""
    stuck: int = 0
    """Seeds in which nothing went on, though the safeguard is one of safety: not counted."""
    odd: Counter[str] = field(default_factory=Counter)
    """Seeds that the harness itself could not finish, by why."""
    truncated: bool = False
    """The time was up before the seeds were."""
    words: str = ""
    """Of a harness mutant: what went red."""

    @property
    def replay(self) -> str:
        """The command that shows the first detection again."""
        if self.first is None:
            return ""
        names = f"--mutant {self.mutant.name}"
        if self.mutant.witness:
            names += f" --mutant {self.mutant.witness}"
        return f"scripts/partition.py replay {self.first} {names}"

    @property
    def per_1000(self) -> float:
        """Detections per 1,000 seeds."""
        return 1000 * self.detections / self.seeds if self.seeds else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of that (Wilson)."""
        low, high = wilson(self.detections, self.seeds)
        return 1000 * low, 1000 * high

    def as_json(self) -> Row:
        """As plain data. `seeds`: how many it took to the first detection; `seeds_run`: those that `per_1000` is of."""
        low, high = self.interval
        return {
            "name": self.mutant.name,
            "family": self.mutant.family,
            "removes": self.mutant.removes,
            "caught": self.caught,
            "by": self.by.most_common(1)[0][0] if self.by else "",
            "objections": dict(self.by.most_common()),
            "seeds": self.first_after,
            "seeds_run": self.seeds,
            "detections": self.detections,
            "per_1000": round(self.per_1000, 1),
            "interval": [round(low, 1), round(high, 1)],
            "crashes": self.crashes,
            "stuck": self.stuck,
            "odd": dict(self.odd),
            "focus": self.mutant.focus,
            "words": self.words,
            "example": self.example,
            "replay": self.replay,
        }

    def take(self, row: Row) -> None:
        """Count a seed."""
        self.seeds += 1
        outcome = row["outcome"]
        if counts(row, self.mutant.purpose):
            self.caught = True
            self.detections += 1
            self.by[row["oracle"]] += 1
            if self.first is None:
                self.first, self.first_after, self.example = row["seed"], self.seeds, row["text"]
        elif row["crash"]:
            self.crashes += 1
        elif outcome == "liveness":
            self.stuck += 1
        elif outcome != "ok":
            self.odd[row["oracle"] or outcome] += 1


@dataclass(slots=True)
class Control:
    """The unmutated tree on one focus."""

    focus: str
    seeds: int = 0
    red: list[str] = field(default_factory=list)
    """Seeds that were not green, with what was said."""
    details: Counter[str] = field(default_factory=Counter)


def seeds(
    protocol: str,
    names: Sequence[str],
    focus: str,
    first: int,
    count: int,
    stop: int = 0,
    purpose: str = SAFETY,
    budget: float = 1e9,
) -> Iterator[Row]:
    """Run seeds in a fresh process as these mutants (none: the control). Ends early when `budget` seconds are over. Raises
    MutantError."""
    order = {
        "protocol": protocol, "mutants": list(names), "focus": focus_of(protocol, focus), "first": first, "count": count,
        "stop": stop, "purpose": purpose, "patience": PATIENCE,
    }  # fmt: skip
    command = [sys.executable, "-m", "sim.explore.mutants_worker"]
    worker = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stderr is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_pump, args=(worker.stdout, lines), daemon=True)
    until = time.monotonic() + budget
    try:
        worker.stdin.write(json.dumps(order) + "\n")
        worker.stdin.close()
        reader.start()
        while True:
            try:
                line = lines.get(timeout=max(0.01, until - time.monotonic()))
            except queue.Empty:
                return
            if not line:
                break
            row = json.loads(line)
            if "error" in row:
                raise MutantError(row["error"])
            yield row
            if time.monotonic() > until:
                return
        if worker.wait() != 0:
            raise MutantError(
                f"{', '.join(names) or 'the control'}: the worker failed:\n{worker.stderr.read()[-2000:]}"
            )
    finally:
        worker.kill()
        worker.wait()
        if reader.ident is not None:
            reader.join()
        worker.stdout.close()
        worker.stderr.close()


def _pump(stream: Any, lines: queue.SimpleQueue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def run_mutant(mutant: Mutant, terms: Terms) -> Finding:
    """Run a mutant of the core until it was caught `stop` times."""
    finding = Finding(mutant)
    most = terms.most(mutant)
    for row in seeds(
        mutant.protocol,
        [mutant.name],
        mutant.focus,
        terms.first,
        most,
        terms.stop,
        mutant.purpose,
        terms.budget,
    ):
        finding.take(row)
    enough = finding.seeds >= most or (terms.stop and finding.detections >= terms.stop)
    finding.truncated = not enough
    return finding


def run_control(focus: str, first: int, count: int, protocol: str = "raft") -> Control:
    """Run the unmutated tree on the seeds that a focus was run on."""
    control = Control(focus)
    for row in seeds(protocol, [], focus, first, count):
        control.seeds += 1
        control.details.update(row["details"])
        if row["outcome"] != "ok":
            control.red.append(f"seed {row['seed']}: {row['outcome']} {row['oracle']}: {row['text'][:200]}")
    return control


@dataclass(slots=True)
class Table:
    """What a campaign came to."""

    terms: Terms
    findings: list[Finding]
    controls: list[Control]
    seconds: float
    protocol: str = "raft"

    @property
    def green(self) -> bool:
        """Every mutant was caught, and the control is green."""
        return all(finding.caught for finding in self.findings) and not any(
            control.red for control in self.controls
        )


def campaign(
    names: Sequence[str],
    protocol: str,
    terms: Terms,
    jobs: int,
    told: Callable[[Finding | Control], None] = lambda _: None,
    with_harness: bool = True,
) -> Table:
    """Run mutants (no names: all) and the control on the same seeds. Raises MutantError."""
    from sim.explore.mutants_check import run_harness_mutant

    chosen = pick(names, protocol) if names else list(load(protocol).values())
    if not with_harness and not names:
        chosen = [mutant for mutant in chosen if mutant.family == CORE]
    began = time.monotonic()
    findings: dict[str, Finding] = {}
    controls: list[Control] = []
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        work: list[Future[Finding]] = [
            pool.submit(run_mutant if mutant.family == CORE else run_harness_mutant, mutant, terms)
            for mutant in chosen
        ]
        for done in as_completed(work):
            finding = done.result()
            findings[finding.mutant.name] = finding
            told(finding)
        for control in _controls(pool, list(findings.values()), terms, protocol):
            controls.append(control)
            told(control)
    ordered = [findings[mutant.name] for mutant in chosen]
    return Table(terms, ordered, controls, time.monotonic() - began, protocol)


def _controls(pool: Executor, findings: Sequence[Finding], terms: Terms, protocol: str) -> Iterator[Control]:
    """Run the control on every plan that a mutant ran, the longest first."""
    most: dict[str, int] = {}
    for finding in findings:
        mutant = finding.mutant
        focus = (
            pick([mutant.witness])[0].focus if mutant.witness else mutant.focus
        )  # the plans of its witness
        most[focus] = max(most.get(focus, 0), finding.seeds)
    work = [
        pool.submit(run_control, focus, terms.first, count, protocol)
        for focus, count in sorted(most.items(), key=lambda item: -item[1])
        if count
    ]
    for done in as_completed(work):
        yield done.result()
