"""How fast one core applies interactions, ranks and digests: the ranking machine alone, without a log or a network."""

from __future__ import annotations

import platform
import statistics
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

from node.ranking import RankingMachine, RankingSettings, commands, queries
from sim.workload.stream import Stream
from sim.workload.synthetic import synthetic

_RANKS: Final = 300
_DIGEST_EVERY: Final = 1000


@dataclass(slots=True)
class ApplyFigures:
    """What `measure_apply` measured."""

    interactions: int
    batch: int
    """Interactions in one OBSERVE."""
    group: int
    """Commands in one call of `apply`."""
    users: int
    items: int
    seconds: float
    interactions_per_second: float
    commands_per_second: float
    bytes_per_interaction: float
    """Encoded command."""
    rank_all_us: float
    """Median time of a RANK of all items for the best ten, through `query`, microseconds."""
    rank_100_us: float
    """The same of 100 candidates."""
    digest_ms: float
    """Median time of `digest` with 1,000 interactions since the one before, milliseconds."""
    snapshot_ms: float
    restore_ms: float
    snapshot_bytes: int
    digest: str
    """Of the state in the end: the same for the same arguments, everywhere."""


def measure_apply(
    interactions: int = 100_000,
    batch: int = 4,
    seed: int = 1,
    *,
    group: int = 16,
    stream: Stream | None = None,
) -> ApplyFigures:
    """Apply `interactions` from a synthetic stream of the size of ml-latest-small (or from `stream`, if given) in OBSERVE
    commands of `batch`, `group` commands a call, catalogue loaded; then rank, digest, snapshot and restore.
    Raises ValueError on sizes that make no sense."""
    if interactions < 1 or not 1 <= batch <= commands.MAX_ROWS or group < 1:
        raise ValueError(f"need interactions >= 1, batch 1 to {commands.MAX_ROWS}, group >= 1")
    if stream is None:
        users = max(671, interactions // 500)
        stream = synthetic(users, 9066, interactions, seed=seed)
    stream = stream.head(interactions)
    machine = RankingMachine(RankingSettings(seed=seed))
    encoded = [commands.observe(pairs) for pairs in stream.batches(batch)]
    machine.apply(stream.catalogue_commands())
    machine.digest()

    began = perf_counter_ns()
    for start in range(0, len(encoded), group):
        machine.apply(encoded[start : start + group])
    seconds = (perf_counter_ns() - began) / 1e9

    takers = sorted(set(stream.users))
    catalogue = [item for item, _ in stream.catalogue]
    every = [_timed(machine, queries.rank(takers[i % len(takers)], 10)) for i in range(_RANKS)]
    some = [
        _timed(machine, queries.rank(takers[i % len(takers)], 10, catalogue[:100])) for i in range(_RANKS)
    ]
    snapshot_ms, chunks = _snapshot(machine)
    restored = RankingMachine(machine.settings)
    began = perf_counter_ns()
    restored.restore(chunks)
    restore_ms = (perf_counter_ns() - began) / 1e6
    final = machine.digest().hex()
    return ApplyFigures(
        interactions=len(stream),
        batch=batch,
        group=group,
        users=len(takers),
        items=len(catalogue),
        seconds=seconds,
        interactions_per_second=len(stream) / seconds,
        commands_per_second=len(encoded) / seconds,
        bytes_per_interaction=sum(map(len, encoded)) / len(stream),
        rank_all_us=statistics.median(every),
        rank_100_us=statistics.median(some),
        digest_ms=_digest_ms(machine, encoded, batch),
        snapshot_ms=snapshot_ms,
        restore_ms=restore_ms,
        snapshot_bytes=sum(map(len, chunks)),
        digest=final,
    )


def _timed(machine: RankingMachine, query: bytes) -> float:
    """Microseconds of a query."""
    began = perf_counter_ns()
    machine.query(query)
    return (perf_counter_ns() - began) / 1e3


def _snapshot(machine: RankingMachine) -> tuple[float, list[bytes]]:
    began = perf_counter_ns()
    chunks = machine.snapshot()
    return (perf_counter_ns() - began) / 1e6, chunks


def _digest_ms(machine: RankingMachine, encoded: list[bytes], batch: int) -> float:
    """Applies the last commands again, 1,000 interactions at a time: what they say does not matter here."""
    times = []
    size = max(1, _DIGEST_EVERY // batch)
    for _ in range(5):
        machine.apply(encoded[-size:])
        began = perf_counter_ns()
        machine.digest()
        times.append((perf_counter_ns() - began) / 1e6)
    return statistics.median(times)


def run(
    interactions: int = 100_000, batches: tuple[int, ...] = (4, 16, 64, 256), seed: int = 1
) -> dict[str, Any]:
    """Figures for each batch size, and where they were measured."""
    return {
        "environment": environment(),
        "apply": [asdict(measure_apply(interactions, batch, seed)) for batch in batches],
    }


def environment() -> dict[str, Any]:
    """The machine and the versions."""
    return {
        "cpu": _cpu(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("numpy", "numba", "llvmlite", "msgpack")},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
