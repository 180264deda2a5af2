"""How fast histories are checked: a million operations by log index, and small ones by the general search.

The long history comes from a simulated log: sessions write to a key-value machine in entries of several commands, linearizable
queries are answered from its state, and times overlap as those of concurrent clients do. Entries, results and chain values
are the ones that the nodes' own code gives. Then the same history is corrupted in one place, several ways, and each must be
found.
"""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Final

from consensus.core import EntryKind, encode_entry
from node import kv
from node.kv import KvMachine
from node.sessions import commands_group, encode_block, open_group
from sim import native
from sim.bench.apply import environment
from sim.check.formats import convert
from sim.check.general import Outcome, check_history
from sim.check.general.simulate import KV, Shape, mutate, simulate
from sim.check.history import Operation
from sim.check.linear import Finding, check_chains_agree, check_real_time, check_unique_places
from sim.check.replay import collector_paused, replay_history
from sim.check.replicated import NodeState

COMMANDS: Final = 16
"""In an entry, of four sessions."""
GROUPS: Final = 4
MEAN_US: Final = 200
"""Virtual time between entries."""
SPREAD_US: Final = 4_000
"""Furthest that an invocation lies before, or a return behind, the moment at which an operation takes effect."""


@dataclass(slots=True)
class Made:
    """A history and the log that it came from."""

    entries: list[bytes]
    operations: list[Operation]


def make_history(operations: int, seed: int, *, sessions: int = 64, keys: int = 10_000) -> Made:
    """A linearizable history of so many operations: about half are queries, the others writes (six in ten put, two append,
    two compare and set). One write in a thousand has no answer."""
    random = Random(seed)
    uniform = random.random
    state = NodeState(KvMachine())
    entries: list[bytes] = []
    made: list[Operation] = []

    def append(kind: int, payload: bytes) -> list[Any]:
        entries.append(encode_entry(len(entries) + 1, 1, kind, payload))
        return list(state.apply(entries[-1]))

    append(EntryKind.NOOP, b"")
    names = [f"client-{number}" for number in range(sessions)]
    append(EntryKind.BLOCK, encode_block([open_group(name, 1) for name in names]))
    session_of = [(len(entries) << 20) + place for place in range(sessions)]
    seqs = [0] * sessions
    key_bytes = [b"key-%d" % number for number in range(keys)]
    value_bytes = [b"value-%d" % number for number in range(1000)]
    queries = [kv.get(key) for key in key_bytes]
    now = 1_000_000
    while len(made) < operations:
        now += MEAN_US
        groups = []
        taking_part = random.sample(range(sessions), GROUPS)
        who: list[int] = []
        for session in taking_part:
            commands = []
            for _ in range(COMMANDS // GROUPS):
                key, value = key_bytes[int(uniform() * keys)], value_bytes[int(uniform() * 1000)]
                draw = uniform()
                if draw < 0.6:
                    commands.append(kv.put(key, value))
                elif draw < 0.8:
                    commands.append(kv.append(key, b"+"))
                else:
                    commands.append(kv.cas(key, None, value))
                who.append(session)
            first = seqs[session] + 1
            seqs[session] += len(commands)
            groups.append(
                commands_group(session_of[session], first - 1, range(first, first + len(commands)), commands)
            )
        effects = append(EntryKind.BLOCK, encode_block(groups))
        index, chain = len(entries), state.chain
        for session, effect in zip(who, effects, strict=True):
            begin, end = now - int(uniform() * SPREAD_US), now + 1 + int(uniform() * SPREAD_US)
            if uniform() < 0.001:
                made.append(
                    Operation(
                        "write",
                        names[session],
                        begin,
                        None,
                        "unknown",
                        effect.session,
                        effect.seq,
                        command=effect.command,
                    )
                )
                continue
            made.append(
                Operation(
                    "write", names[session], begin, end, "ok", effect.session, effect.seq, index, effect.place, chain,
                    effect.command, None, effect.result,
                )
            )  # fmt: skip
        for _ in range(COMMANDS):
            session = int(uniform() * sessions)
            query = queries[int(uniform() * keys)]
            begin, end = now - int(uniform() * SPREAD_US), now + 1 + int(uniform() * SPREAD_US)
            made.append(
                Operation(
                    "query", names[session], begin, end, "ok", None, None, index, None, chain, None, query,
                    state.query(query), "linearizable", None, 0, "fresh", "model", "n1",
                )
            )  # fmt: skip
    del made[operations:]
    return Made(entries, made)


def check_by_index(made: Made) -> list[Finding]:
    """Everything that is checked of a history by log index: replayed results, real time, places, chain values."""
    with collector_paused():
        replay = replay_history(made.entries, NodeState(KvMachine()), made.operations)
        return [
            *replay.findings,
            check_real_time(made.operations, replay.positions),
            check_unique_places(made.operations),
            check_chains_agree(made.operations),
        ]


def _silent(text: str) -> None:
    pass


def _pick(made: Made, random: Random, wanted: Callable[[Operation], bool]) -> int:
    while True:
        number = random.randrange(len(made.operations))
        if wanted(made.operations[number]):
            return number


def _answered(op: str) -> Callable[[Operation], bool]:
    return lambda operation: operation.op == op and operation.outcome == "ok"


def stale_read(made: Made, random: Random) -> dict[int, Operation]:
    """A query is answered, truthfully, from an entry that was already old when it was asked."""
    number = _pick(
        made, random, lambda o: o.op == "query" and (o.index or 0) > 200 + 2 * SPREAD_US // MEAN_US
    )
    operation = made.operations[number]
    old = next(
        other
        for other in made.operations
        if other.op == "query"
        and (operation.index or 0) - 200 < (other.index or 0) < (operation.index or 0) - 100
    )
    return {number: replace(operation, index=old.index, chain=old.chain, query=old.query, result=old.result)}


def wrong_value(made: Made, random: Random) -> dict[int, Operation]:
    """A query is answered with a value that its key did not have then."""
    number = _pick(made, random, _answered("query"))
    return {number: replace(made.operations[number], result=b"\x91\xc4\x05bogus")}


def swapped_places(made: Made, random: Random) -> dict[int, Operation]:
    """Two writes claim each other's places."""
    one = _pick(made, random, _answered("write"))
    other = _pick(made, random, lambda o: _answered("write")(o) and o.index != made.operations[one].index)
    first, second = made.operations[one], made.operations[other]
    return {
        one: replace(first, index=second.index, place=second.place, chain=second.chain),
        other: replace(second, index=first.index, place=first.place, chain=first.chain),
    }


def lost_write(made: Made, random: Random) -> dict[int, Operation]:
    """A write is acknowledged that the log does not have."""
    number = _pick(made, random, _answered("write"))
    operation = made.operations[number]
    return {number: replace(operation, seq=(operation.seq or 0) + 10_000_000)}


def late_return(made: Made, random: Random) -> dict[int, Operation]:
    """A write is invoked only after a query that saw its entry had returned."""
    number = _pick(made, random, _answered("write"))
    operation = made.operations[number]
    invoke = operation.invoke + 10 * SPREAD_US
    return {number: replace(operation, invoke=invoke, returned=invoke + 1)}


def forked_chain(made: Made, random: Random) -> dict[int, Operation]:
    """A reply names another chain value for its entry than the rest."""
    number = _pick(made, random, _answered("write"))
    return {number: replace(made.operations[number], chain=bytes(31) + b"\x01")}


Corruption = Callable[[Made, Random], dict[int, Operation]]
"""Operations that take the place of others, by number."""

CORRUPTIONS: Final[tuple[Corruption, ...]] = (
    stale_read,
    wrong_value,
    swapped_places,
    lost_write,
    late_return,
    forked_chain,
)


def measure_by_index(operations: int, seed: int, say: Callable[[str], None] = _silent) -> dict[str, Any]:
    """Make a history, check it, corrupt it and check it again. Seconds of each; memory is this process's peak so far."""
    say(f"making a history of {operations:,} operations, seed {seed}")
    began = time.perf_counter()
    made = make_history(operations, seed)
    generated = time.perf_counter() - began
    say("checking it")
    began, began_cpu = time.perf_counter(), time.process_time()
    findings = check_by_index(made)
    checked, checked_cpu = time.perf_counter() - began, time.process_time() - began_cpu
    peak = peak_bytes()
    found = []
    for place, corrupt in enumerate(CORRUPTIONS):
        say(f"checking it with a corruption: {corrupt.__name__.replace('_', ' ')}")
        changed = corrupt(made, Random(seed + place))
        kept = {number: made.operations[number] for number in changed}
        for number, operation in changed.items():
            made.operations[number] = operation
        failing = [finding for finding in check_by_index(made) if not finding.passed]
        for number, operation in kept.items():
            made.operations[number] = operation
        found.append(
            {
                "corruption": corrupt.__name__,
                "found": bool(failing),
                "by": [finding.name for finding in failing],
                "example": failing[0].examples[0] if failing else "",
            }
        )
    return {
        "operations": len(made.operations),
        "entries": len(made.entries),
        "generate_s": round(generated, 3),
        "check_s": round(checked, 3),
        "check_cpu_s": round(checked_cpu, 3),
        "operations_per_second": round(len(made.operations) / checked),
        "peak_rss_bytes": peak,
        "passed": all(finding.passed for finding in findings),
        "checks": [asdict(finding) for finding in findings],
        "corruptions": found,
    }


def peak_bytes() -> int:
    """The most memory that this process ever had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@dataclass(slots=True)
class GeneralFigures:
    """What the general checker did with one history."""

    history: str
    clients: int
    operations: int
    cells: int
    verdict: str
    seconds: float
    configurations: int
    methods: list[str]


SHAPES: Final[tuple[tuple[str, Shape], ...]] = (
    ("register, cas, 5 values", Shape(2, 200)),
    ("register, cas, 5 values", Shape(5, 200)),
    ("register, cas, 5 values", Shape(10, 200)),
    ("register, cas, 5 values", Shape(20, 200)),
    ("register, cas, 5 values", Shape(30, 200)),
    ("register, unique writes", Shape(50, 20_000, values=0, mix={"read": 1, "write": 1})),
    ("kv, 10 keys", Shape(10, 2_000, keys=10, mix=KV)),
    ("kv, 10 keys", Shape(50, 2_000, keys=10, mix=KV)),
    ("kv, appends, 1 key", Shape(50, 2_000, mix={"read": 1, "append": 1})),
)


def measure_general(seed: int, budget_s: float) -> list[GeneralFigures]:
    """The general checker on simulated histories of rising concurrency, each as it was and with one answer changed."""
    rows = []
    for name, shape in SHAPES:
        ops = simulate(shape, seed)
        for suffix, history in (("", ops), (", mutated", mutate(ops, seed))):
            verdict = check_history(history, budget_s)
            rows.append(
                GeneralFigures(
                    name + suffix,
                    shape.clients,
                    verdict.operations,
                    len(verdict.cells),
                    verdict.outcome.value,
                    round(verdict.seconds, 4),
                    sum(cell.configurations for cell in verdict.cells),
                    sorted({cell.method for cell in verdict.cells}),
                )
            )
    return rows


def agreement(seed: int, operations: int = 2_000) -> dict[str, Any]:
    """The same small history by index and by the general search: seconds of each, and whether they agree."""
    made = make_history(operations, seed, sessions=16, keys=40)
    began = time.perf_counter()
    by_index = all(finding.passed for finding in check_by_index(made))
    middle = time.perf_counter()
    general = check_history(convert(made.operations), 60.0)
    end = time.perf_counter()
    return {
        "operations": operations,
        "by_index_s": round(middle - began, 4),
        "general_s": round(end - middle, 4),
        "agree": by_index == (general.outcome is Outcome.LINEARIZABLE),
    }


def run(
    operations: int = 1_000_000, seed: int = 1, budget_s: float = 10.0, say: Callable[[str], None] = _silent
) -> dict[str, Any]:
    """All figures, and where they were measured. `say` is told what is under way."""
    by_index = measure_by_index(operations, seed, say)
    gc.collect()
    say("checking small histories by search")
    return {
        "environment": {**environment(), "modules": "native" if native.active() else "interpreted"},
        "seed": seed,
        "by_index": by_index,
        "general": [asdict(row) for row in measure_general(seed, budget_s)],
        "agreement": agreement(seed),
    }


def failures(result: dict[str, Any]) -> Sequence[str]:
    """What should not be, in words: a sound history refused, a corrupted one accepted, checkers that disagree."""
    problems = []
    if not result["by_index"]["passed"]:
        problems.append("the history by index does not pass")
    problems += [
        f"the corruption {row['corruption']} was not found"
        for row in result["by_index"]["corruptions"]
        if not row["found"]
    ]
    if not result["agreement"]["agree"]:
        problems.append("the general checker and the one by index disagree")
    problems += [
        f"{row['history']} was found {row['verdict']}"
        for row in result["general"]
        if row["verdict"] == Outcome.NOT.value and not row["history"].endswith("mutated")
    ]
    return problems
