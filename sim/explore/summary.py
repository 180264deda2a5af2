"""What a campaign has come to: counts over all its seeds, the failures, and the verdict with its exit code."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sim.explore.menu import counted_as, folded, mark_places, menu
from sim.explore.request import Request
from sim.explore.worker import Batch
from sim.virtual.world import CRASH, LIVENESS, OK, VIOLATION, Result

EXIT_OK, EXIT_VIOLATION, EXIT_BAD_INPUT, EXIT_LIVENESS, EXIT_VOID, EXIT_CRASH = 0, 1, 2, 3, 4, 5
EXIT_INTERRUPTED, EXIT_CLOSED = 130, 141
EXITS: Final[Mapping[str, int]] = {
    OK: EXIT_OK,
    VIOLATION: EXIT_VIOLATION,
    LIVENESS: EXIT_LIVENESS,
    CRASH: EXIT_CRASH,
}
"""Exit code of one run's outcome."""
GRAVEST_FIRST: Final = (VIOLATION, CRASH, LIVENESS)


@dataclass(slots=True)
class Summary:
    """`take` adds a batch. Everything but the times is a function of the request and of which seeds were run."""

    request: Request
    seeds: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Result] = field(default_factory=list)
    drawn: Counter[str] = field(default_factory=Counter)
    """Label of a fault -> how often it stood in a schedule."""
    bites: Counter[str] = field(default_factory=Counter)
    """Label of a fault -> how often it truly did something."""
    details: Counter[str] = field(default_factory=Counter)
    marks: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """Nodes that refused to start."""
    operations: list[int] = field(default_factory=list)
    """Of clients, a seed."""
    acknowledged: int = 0
    recovery_us: list[int] = field(default_factory=list)
    messages: int = 0
    dropped: int = 0
    virtual_us: int = 0
    core_s: float = 0.0
    wall_s: float = 0.0
    hashes: list[tuple[int, str]] = field(default_factory=list)
    interrupted: bool = False
    died: str = ""
    """Why the processes that ran the seeds did not come to the end, if they did not."""
    complete: bool = False
    """Whether every fault must have bitten and every mark been reached."""

    def take(self, batch: Batch, stop_after: int = 0) -> bool:
        """Add a batch, up to and including the failure that makes `stop_after` of them; whether that one was in it."""
        self.core_s += batch.core_s
        for result in batch.results:
            self._add(result)
            if stop_after and len(self.failures) >= stop_after:
                return True
        return False

    def _add(self, result: Result) -> None:
        self.seeds += 1
        self.outcomes[result.outcome] += 1
        if result.outcome != OK:
            self.failures.append(result)
        self.drawn.update(map(counted_as, result.plan.schedule))
        for name, count in result.bites.items():
            self.bites[folded(name)] += count
        self.details.update(result.details)
        self.marks.update(result.marks)
        self.notes.update(result.notes)
        self.lost += len(result.lost)
        self.operations.append(result.operations)
        self.acknowledged += result.acknowledged
        if result.recovery_us:
            self.recovery_us.append(result.recovery_us)
        self.messages += result.messages
        self.dropped += result.dropped
        self.virtual_us += result.virtual_us
        self.hashes.append((result.plan.seed, result.trace_hash))

    # ------------------------------------------------------------------------------------------- what did not happen

    def faults(self) -> dict[str, int]:
        """Every fault that could be drawn -> how often it truly did something."""
        known = {name: self.bites[name] for name in menu(self.request.options)}
        return {**known, **{name: count for name, count in sorted(self.bites.items()) if name not in known}}

    def never_bit(self) -> list[str]:
        """Faults of the menu that never did anything."""
        return [name for name, count in self.faults().items() if not count]

    def places(self) -> dict[str, str]:
        """Every mark with its place in the code; those of code brought along have none that is known."""
        known = mark_places(self.request.options.protocol)
        return {**known, **{name: "" for name in sorted(self.marks) if name not in known}}

    def unreached(self) -> list[str]:
        """Marks that no seed reached."""
        return [name for name in self.places() if not self.marks[name]]

    def void(self) -> list[str]:
        """Why this campaign proves nothing, if it does not."""
        if not self.seeds:
            return ["no seed was run"]
        reasons = []
        if not self.notes["leaders"]:
            reasons.append("nobody was ever elected")
        if not self.acknowledged:
            reasons.append("no operation was ever acknowledged")
        if self.drawn and not any(self.bites.values()):
            reasons.append("no fault ever did anything")
        if not self.drawn and menu(self.request.options):
            reasons.append("no fault was ever drawn")
        totals: Counter[str] = Counter()
        for name, count in self.faults().items():
            for kind in self.request.options.kinds:
                if name == kind or name.startswith(f"{kind} "):
                    totals[kind] += count
        reasons += [
            f"{kind!r} was asked for and never did anything"
            for kind in self.request.options.kinds
            if not totals[kind]
        ]
        if self.complete:
            reasons += [f"fault {name!r} never did anything" for name in self.never_bit()]
            reasons += [f"mark {name!r} was never reached" for name in self.unreached()]
        return reasons

    def exit_code(self) -> int:
        """Failures before interruption before void: what was found stays found."""
        for outcome in GRAVEST_FIRST:
            if self.outcomes[outcome]:
                return EXITS[outcome]
        if self.died:
            return EXIT_CRASH
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_VOID if self.void() else EXIT_OK

    # ------------------------------------------------------------------------------------------------------- figures

    def digest(self) -> str:
        """One value over the trace hashes of all seeds, in their order."""
        digest = hashlib.sha256()
        for seed, trace_hash in self.hashes:
            digest.update(f"{seed} {trace_hash}\n".encode())
        return digest.hexdigest()[:32]

    def rates(self) -> dict[str, float]:
        """Figures a second: as a whole by the clock, and of one core by the processor time of its runs."""
        wall, core = max(self.wall_s, 1e-9), max(self.core_s, 1e-9)
        return {
            "seeds_per_second": round(self.seeds / wall, 3),
            "seeds_per_core_second": round(self.seeds / core, 3),
            "virtual_over_real": round(self.virtual_us / 1e6 / core, 1),
            "messages_per_second": round(self.messages / wall, 1),
            "messages_per_core_second": round(self.messages / core, 1),
        }

    def recovery(self) -> dict[str, int]:
        """Percentiles, in microseconds, of how long a healed quorum took until every client had made progress."""
        times = sorted(self.recovery_us)
        if not times:
            return {}
        chosen = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        return {name: times[min(len(times) - 1, int(share * len(times)))] for name, share in chosen.items()}

    def as_json(self, replays: Mapping[int, str], folders: Mapping[int, str]) -> dict[str, Any]:
        """One object for programs. `replays`, `folders`: of failing seeds."""
        rows: dict[str, list[dict[str, Any]]] = {outcome: [] for outcome in GRAVEST_FIRST}
        for result in self.failures:
            seed = result.plan.seed
            row = {"seed": seed, "oracle": result.oracle, "text": result.text, "nodes": result.nodes}
            row |= {"at": result.at, "replay": replays[seed], "folder": folders.get(seed)}
            rows[result.outcome].append(row)
        operations = self.operations or [0]
        return {
            "seeds": self.seeds,
            **self.rates(),
            "seconds": round(self.wall_s, 3),
            "core_seconds": round(self.core_s, 3),
            "virtual_seconds": round(self.virtual_us / 1e6, 3),
            "messages": self.messages,
            "dropped": self.dropped,
            "operations": {
                "total": sum(operations),
                "least": min(operations),
                "acknowledged": self.acknowledged,
            },
            "recovery_us": self.recovery(),
            "faults": self.faults(),
            "fault_details": dict(sorted(self.details.items())),
            "faults_drawn": dict(sorted(self.drawn.items())),
            "faults_never_bit": self.never_bit(),
            "marks": {name: self.marks[name] for name in self.places()},
            "mark_places": self.places(),
            "marks_never_reached": self.unreached(),
            "notes": dict(sorted(self.notes.items())),
            "nodes_lost": self.lost,
            "violations": rows[VIOLATION],
            "liveness": rows[LIVENESS],
            "crashes": rows[CRASH],
            "void": self.void(),
            "interrupted": self.interrupted,
            "died": self.died,
            "hashes_digest": self.digest(),
            "exit_code": self.exit_code(),
        }
