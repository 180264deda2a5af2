"""The log, run again: what every client was told is held against what the log says.

A fresh state is given the archived log entry by entry. Acknowledged writes must stand where their replies said, with
their bytes and their results; every query must have been answered with exactly the bytes that the state behind its
index gives; every chain value must be the log's; nothing may take effect twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, Protocol

from sim.check.history import Operation
from sim.check.linear import Collector, Finding, Positions, describe


@dataclass(slots=True)
class Effect:
    """A command that took effect, once, when its entry was applied."""

    session: int
    seq: int
    place: int
    command: bytes
    result: bytes


class ReplayState(Protocol):
    """What the replay asks of a replicated state; `sim.check.replicated` adapts the nodes' own."""

    @property
    def chain(self) -> bytes:
        """Chain value at the last applied entry."""

    def apply(self, entry: bytes) -> Sequence[Effect]:
        """Apply the next encoded entry; the commands of it that took effect, in order."""

    def query(self, query: bytes) -> bytes:
        """Answer from the state as it is. Raises ValueError if there is no answer."""

    def digest(self) -> bytes:
        """Digest of the state as it is."""


@dataclass(slots=True)
class Replay:
    """What a replay found. `findings` are checks; the rest is for other checks to use."""

    last_index: int
    """Entries 1..last_index were run."""
    findings: list[Finding]
    acked_updates: int
    """Acknowledged writes in the history."""
    acked_updates_lost: int
    """Acknowledged writes that took no effect in the log, more than one, or not the one their reply named."""
    positions: Positions
    """Where every command took effect."""
    digests: dict[int, bytes] = field(default_factory=dict)
    """State digests at the indexes that were asked for."""
    chains: dict[int, bytes] = field(default_factory=dict)
    """Chain values at the indexes that were asked for."""


_INDEX: Final = attrgetter("index")


def replay_history(
    entries: Iterable[bytes],
    state: ReplayState,
    operations: Sequence[Operation],
    digests_at: Iterable[int] = (),
) -> Replay:
    """Run the log (encoded entries from index 1 on) through a fresh state and hold the history against it.

    `digests_at`: indexes at which digest and chain value are wanted. Findings, one each: `writes_in_log`,
    `results_match`, `exactly_once`, `refused_stay_out`, `answers_match`, `chain_values_match`.
    """
    run = _Run(state, operations, sorted(set(digests_at)))
    last = 0
    for last, entry in enumerate(entries, 1):
        run.step(last, entry)
    return run.finish(last)


class _Run:
    def __init__(self, state: ReplayState, operations: Sequence[Operation], wanted: list[int]) -> None:
        self.state = state
        self.wanted = wanted[::-1]
        self.digests: dict[int, bytes] = {}
        self.chain_values: dict[int, bytes] = {}
        self.positions: Positions = {}
        self.repeated: dict[tuple[int, int], int] = {}
        self.writes: dict[tuple[int, int], list[Operation]] = {}
        self.opens = 0
        answered = []
        chained = []
        for operation in operations:
            if operation.op == "write":
                if operation.session is not None and operation.seq is not None:
                    self.writes.setdefault((operation.session, operation.seq), []).append(operation)
            elif operation.op == "query" and operation.outcome == "ok" and operation.source == "model":
                answered.append(operation)
            if operation.outcome == "ok" and operation.chain is not None and operation.index is not None:
                chained.append(operation)
        # Stacks, the lowest index on top: each entry of the log takes off what belongs to it.
        self.answered = sorted(answered, key=_INDEX, reverse=True)
        self.chained = sorted(chained, key=_INDEX, reverse=True)
        self.present = Collector("writes_in_log")
        self.results = Collector("results_match")
        self.once = Collector("exactly_once")
        self.refused = Collector("refused_stay_out")
        self.answers = Collector("answers_match")
        self.chains = Collector("chain_values_match")
        self.matched: set[tuple[int, int]] = set()
        self._at_start()

    def _at_start(self) -> None:
        """Replies that claim index 0: answers from the empty state."""
        self._claims(0)

    def step(self, index: int, entry: bytes) -> None:
        for effect in self.state.apply(entry):
            name = (effect.session, effect.seq)
            self.once.counted += 1
            first = self.positions.get(name)
            if first is not None:
                times = self.repeated[name] = self.repeated.get(name, 1) + 1
                self.once.problem(
                    f"command {effect.session}:{effect.seq} took effect {times} times: at entry {first[0]} place "
                    f"{first[1]}, and again at entry {index} place {effect.place}"
                )
                continue
            self.positions[name] = (index, effect.place)
            for operation in self.writes.get(name, ()):
                self._compare(operation, index, effect)
        self._claims(index)

    def _compare(self, operation: Operation, index: int, effect: Effect) -> None:
        if operation.outcome == "refused":
            self.refused.problem(
                f"{describe(operation)} was refused, yet took effect at entry {index} place {effect.place}"
            )
            return
        if effect.command != operation.command:
            self.present.problem(
                f"{describe(operation)}: another command stands in the log under its number, at entry {index} place "
                f"{effect.place} ({len(effect.command)} bytes, not its {len(operation.command or b'')})"
            )
            return
        if operation.outcome != "ok":
            return
        if (operation.index, operation.place) != (index, effect.place):
            self.present.problem(f"{describe(operation)} took effect at entry {index} place {effect.place}")
            return
        self.matched.add((effect.session, effect.seq))
        self.results.counted += 1
        if effect.result != operation.result:
            self.results.problem(
                f"{describe(operation)} was told {_short(operation.result)}, the log gives {_short(effect.result)}"
            )

    def _claims(self, index: int) -> None:
        while self.answered and self.answered[-1].index == index:
            operation = self.answered.pop()
            self.answers.counted += 1
            assert operation.query is not None
            try:
                expected: bytes | None = self.state.query(operation.query)
                reason = ""
            except ValueError as error:
                expected, reason = None, str(error)
            if expected != operation.result:
                gives = f"no answer ({reason})" if expected is None else _short(expected)
                self.answers.problem(
                    f"{describe(operation)} was told {_short(operation.result)}, the log gives {gives}"
                )
        while self.chained and self.chained[-1].index == index:
            operation = self.chained.pop()
            self.chains.counted += 1
            if operation.chain != self.state.chain:
                assert operation.chain is not None
                self.chains.problem(
                    f"{describe(operation)} was told chain value {operation.chain.hex()[:16]}..., the log gives "
                    f"{self.state.chain.hex()[:16]}..."
                )
        while self.wanted and self.wanted[-1] == index:
            self.wanted.pop()
            self.digests[index] = self.state.digest()
            self.chain_values[index] = self.state.chain

    def finish(self, last: int) -> Replay:
        acked = lost = 0
        for name, attempts in self.writes.items():
            for operation in attempts:
                if operation.outcome == "refused":
                    self.refused.counted += 1
                if operation.outcome != "ok":
                    continue
                acked += 1
                self.present.counted += 1
                if name not in self.positions:
                    self.present.problem(
                        f"{describe(operation)} was acknowledged, but is not in the log (entries 1..{last})"
                    )
                if name in self.repeated or name not in self.matched:
                    lost += 1
        for collector, left in ((self.answers, self.answered), (self.chains, self.chained)):
            for operation in reversed(left):
                collector.counted += 1
                collector.problem(
                    f"{describe(operation)} claims an entry behind the end of the log at {last}"
                )
        findings = [self.present, self.results, self.once, self.refused, self.answers, self.chains]
        return Replay(
            last_index=last,
            findings=[collector.finding() for collector in findings],
            acked_updates=acked,
            acked_updates_lost=lost,
            positions=self.positions,
            digests=self.digests,
            chains=self.chain_values,
        )


def _short(data: bytes | None) -> str:
    if data is None:
        return "nothing"
    text = data[:16].hex()
    return f"{text}{'...' if len(data) > 16 else ''} ({len(data)} bytes)"


def lost_on_replica(operations: Sequence[Operation], held: int) -> int:
    """Acknowledged writes that a replica lacks whose log agrees with the cluster's up to entry `held`."""
    return sum(
        1
        for operation in operations
        if operation.op == "write" and operation.outcome == "ok" and (operation.index or 0) > held
    )
