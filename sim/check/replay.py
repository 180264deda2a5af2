"""The log, run again: what every client was told is held against what the log says.

A fresh state is given the archived log entry by entry. Acknowledged writes must stand where their replies said, with
their bytes and their results; every query must have been answered with exactly the bytes that the state behind its
index gives; every chain value must be the log's; nothing may take effect twice.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
    with collector_paused():
        run = _Run(state, operations, sorted(set(digests_at)))
        last = 0
        for last, entry in enumerate(entries, 1):
            run.step(last, entry)
        return run.finish(last)


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """For the time of `with`: checks make no reference cycles, and the collector would look through millions of operations
    again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Run:
    def __init__(self, state: ReplayState, operations: Sequence[Operation], wanted: list[int]) -> None:
        self.state = state
        self.wanted = wanted[::-1]
        self.digests: dict[int, bytes] = {}
        self.chain_values: dict[int, bytes] = {}
        self.positions: Positions = {}
        self.repeated: dict[tuple[int, int], int] = {}
        self.writes: dict[tuple[int, int], Operation] = {}
        self.namesakes: dict[tuple[int, int], list[Operation]] = {}
        """Further writes that claim a name already in `writes`: there should be none."""
        self.answered: dict[int, list[Operation]] = {}
        """By index, as `chained`: each entry of the log takes out what belongs to it."""
        self.chained: dict[int, list[Operation]] = {}
        writes, answered, chained = self.writes, self.answered, self.chained
        for operation in operations:
            outcome, index = operation.outcome, operation.index
            if operation.op == "write":
                session, seq = operation.session, operation.seq
                if session is not None and seq is not None:
                    name = (session, seq)
                    if writes.setdefault(name, operation) is not operation:
                        self.namesakes.setdefault(name, []).append(operation)
            elif operation.op == "query" and outcome == "ok" and operation.source == "model":
                assert index is not None
                if index in answered:
                    answered[index].append(operation)
                else:
                    answered[index] = [operation]
            if outcome == "ok" and index is not None and operation.chain is not None:
                if index in chained:
                    chained[index].append(operation)
                else:
                    chained[index] = [operation]
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
        writes, positions, matched, namesakes = self.writes, self.positions, self.matched, self.namesakes
        same = 0
        effects = self.state.apply(entry)
        self.once.counted += len(effects)
        for effect in effects:
            name = (effect.session, effect.seq)
            place = effect.place
            known = len(positions)
            first = positions.setdefault(name, (index, place))
            if len(positions) == known:
                times = self.repeated[name] = self.repeated.get(name, 1) + 1
                self.once.problem(
                    f"command {effect.session}:{effect.seq} took effect {times} times: at entry {first[0]} place "
                    f"{first[1]}, and again at entry {index} place {place}"
                )
                continue
            operation = writes.get(name)
            if operation is None:
                continue
            if (
                operation.result == effect.result
                and operation.index == index
                and operation.place == place
                and operation.outcome == "ok"
                and operation.command == effect.command
            ):
                # What `_compare` finds nothing wrong with, which is nearly all of a long history.
                matched.add(name)
                same += 1
            else:
                self._compare(operation, index, effect)
            if namesakes and name in namesakes:
                for other in namesakes[name]:
                    self._compare(other, index, effect)
        self.results.counted += same
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
        for operation in self.answered.pop(index, ()):
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
        claims = self.chained.pop(index, ())
        if claims:
            chain = self.state.chain
            self.chains.counted += len(claims)
            for operation in claims:
                if operation.chain != chain:
                    assert operation.chain is not None
                    self.chains.problem(
                        f"{describe(operation)} was told chain value {operation.chain.hex()[:16]}..., the log gives "
                        f"{chain.hex()[:16]}..."
                    )
        while self.wanted and self.wanted[-1] == index:
            self.wanted.pop()
            self.digests[index] = self.state.digest()
            self.chain_values[index] = self.state.chain

    def finish(self, last: int) -> Replay:
        acked = lost = 0
        matched, repeated, namesakes = self.matched, self.repeated, self.namesakes
        for name, write in self.writes.items():
            if name in matched and not repeated and not namesakes:
                acked += 1
                self.present.counted += 1
                continue
            for operation in (write, *namesakes.get(name, ())):
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
                if name in repeated or name not in matched:
                    lost += 1
        for collector, left in ((self.answers, self.answered), (self.chains, self.chained)):
            for index in sorted(left):
                for operation in left[index]:
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
