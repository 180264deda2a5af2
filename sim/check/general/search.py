"""The search for a linearization: just in time, breadth first, one layer a return, with what is equivalent merged.

The graph is that of Wing and Gong (1993) with Lowe's just-in-time linearization and memory of configurations (2017): a
configuration says which of the operations under way have been linearized, and the cell's state. When an operation
returns, each configuration must linearize it, if it has not already, perhaps behind others that are under way; whatever
else is under way can wait, because it stays possible. A layer holds every configuration once. If a layer ends up
empty, the history up to this return has no linearization, and the one before it has: this is the point of failure.

What keeps layers small. Each rule names the reason why no answer changes; "better" means that every continuation of the
worse configuration is one of the better.

- *Reads at once*: a read under way whose value the cell holds is linearized; it changes nothing, so having done it is better.
- *Hidden*: a write W makes every plain write and append under way *optional*: it may have happened just before W, where
  nobody could see it, and it may still happen. Optional is better than done, and better than still to do. A cas whose
  expected value W found may be hidden likewise, one for each W, because behind one the value is another.
- *No blind steps*: a change that no operation under way can observe, directly followed by a write, need not be made: the write
  hides it (see *hidden*), which is better.
- *Dead values* (`cells.States`): values that nothing later looks at are one state. Into it the search steps only with
  the operation that returns, or with a cas that must be done where its value is: writes and appends can follow later, when
  they must, because they are legal everywhere.
- *Never returned*: an operation without an answer is optional from the start, and forgotten once its value is dead.
- *Twins*: of two operations under way that do the same, the one that returns first goes first: they can be exchanged.
- *Dominated*: a configuration for which a better one stands in the same layer is dropped.

The number of configurations can still grow exponentially with concurrency (deciding linearizability is NP-complete:
Gibbons and Korach 1997). So the search is run with a bound on the width of layers, first a narrow one: if it gets through,
the history is linearizable; if it fails and nothing was cut off, it is not; else the bound is raised.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sim.check.general.cells import (
    DEAD,
    FOREVER,
    IS_APPEND,
    IS_CAS,
    IS_MISMATCH,
    IS_READ,
    IS_WRITE,
    Cell,
    Step,
)

WIDTHS: Final = (400, 8_000, 120_000, 600_000)
"""Bounds on the width of layers, tried in this order."""
PATHS: Final = 4_000_000
"""Links of partial linearizations kept at most, in one run; behind that a verdict comes without its order."""
PAIRWISE: Final = 32
"""Configurations of one state that are compared each with each."""

Config = tuple[int, int, int]
"""(linearized, optional, state): two bit masks over the operations under way."""
Link = tuple[Any, int, int, int]
"""(link before, operation, position of the return for which it was linearized, cas hidden before it or -1)."""


@dataclass(slots=True)
class Found:
    """What a search found."""

    linearizable: bool | None
    """None: undecided."""
    configurations: int
    reason: str = ""
    failed: Step | None = None
    position: int = 0
    """Of the return at which it failed."""
    links: list[Link | None] = field(default_factory=list)
    """Of the last layer: the ends of its partial linearizations; empty if paths were given up."""


@dataclass(slots=True)
class Budget:
    """When to give up. `deadline`: on `time.monotonic`, seconds. `memory`: bytes that this process may have resident."""

    deadline: float
    memory: int = 1_600_000_000

    def spent(self) -> str:
        """Why it is time to give up; empty if it is not."""
        if time.monotonic() > self.deadline:
            return "the time given was used up"
        resident = resident_bytes()
        if resident > self.memory:
            return f"memory: {resident / 1e9:.1f} GB are in use, and {self.memory / 1e9:.1f} GB are allowed"
        return ""


def resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * 4096
    except (OSError, IndexError, ValueError):
        return 0


def search(cell: Cell, budget: Budget) -> Found:
    """Search with wider and wider layers until the answer is certain or the budget is spent."""
    looked = 0
    for width in WIDTHS:
        run = _Run(cell, budget, width)
        found = run.go()
        looked += found.configurations
        found.configurations = looked
        if found.linearizable is not False or not run.cut:
            return found
    return Found(None, looked, f"more than {WIDTHS[-1]:,} configurations at once")


class _Spent(Exception):
    pass


class _Run:
    """One pass over a cell with one width."""

    def __init__(self, cell: Cell, budget: Budget, width: int) -> None:
        self.cell, self.budget, self.width = cell, budget, width
        self.cut = False
        self.looked = 0
        self.next_look = 2_000
        self.paths = PATHS
        self.bits: dict[int, int] = {}
        """Operation under way -> its bit."""
        self.spare: list[int] = []
        self.top = 0
        self.readers: dict[int, int] = {}
        """State -> bits of the reads under way that want it; `setters` likewise, cas; `excluders`, mismatches."""
        self.setters: dict[int, int] = {}
        self.excluders: dict[int, int] = {}
        self.mismatches = 0
        self.coverable = 0
        """Plain writes and appends without a known length."""
        self.appends = 0
        self.open_ended = 0
        """Those that never return."""
        self.changes: dict[int, Step] = {}
        """Bit -> step, of everything under way that can change the cell."""
        self.ending: list[tuple[int, int, Step]] = []
        self.table: list[tuple[int, int, int, int, Step, int]] | None = None

    def go(self) -> Found:
        frontier: dict[Config, Link | None] = {(0, 0, self.cell.start): None}
        try:
            for step in self.cell.events:
                if step.number not in self.bits:
                    self._invoke(step)
                    continue
                before = frontier
                frontier = self._return(step, step.returned, frontier)
                if not frontier:
                    links = list(before.values()) if self.paths else []
                    return Found(False, self.looked, failed=step, position=step.returned, links=links)
        except _Spent as spent:
            return Found(None, self.looked, str(spent))
        return Found(True, self.looked, links=list(frontier.values())[:1] if self.paths else [])

    # Operations come and go.

    def _invoke(self, step: Step) -> None:
        bit = self.spare.pop() if self.spare else 1 << self.top
        if bit == 1 << self.top:
            self.top += 1
        self.bits[step.number] = bit
        kind = step.kind
        if kind == IS_READ:
            self.readers[step.state] = self.readers.get(step.state, 0) | bit
            return
        if kind == IS_MISMATCH:
            self.excluders[step.state] = self.excluders.get(step.state, 0) | bit
            self.mismatches |= bit
            return
        if kind == IS_CAS:
            self.setters[step.state] = self.setters.get(step.state, 0) | bit
        elif step.length < 0:
            self.coverable |= bit
        if kind == IS_APPEND:
            self.appends |= bit
        self.changes[bit] = step
        self.table = None
        if step.returned == FOREVER:
            self.open_ended |= bit
            if step.useful != FOREVER:
                self.ending.append((step.useful, bit, step))
                self.ending.sort(key=lambda item: -item[0])

    def _remove(self, step: Step) -> None:
        bit = self.bits[step.number]
        self.spare.append(bit)
        for masks in (self.readers, self.setters, self.excluders):
            if masks.get(step.state, 0) & bit:
                masks[step.state] &= ~bit
                if not masks[step.state]:
                    del masks[step.state]
        self.mismatches &= ~bit
        self.coverable &= ~bit
        self.appends &= ~bit
        self.open_ended &= ~bit
        if self.changes.pop(bit, None) is not None:
            self.table = None

    def _steps(self) -> list[tuple[int, int, int, int, Step, int]]:
        """(bit, kind, state found, state left, step, bits of twins that return earlier) of the changes under way."""
        if self.table is None:
            twins: dict[tuple[int, ...], int] = {}
            self.table = []
            for bit, step in sorted(
                self.changes.items(), key=lambda item: (item[1].returned, item[1].number)
            ):
                what = (step.kind, step.state, step.result, step.text, step.length)
                self.table.append((bit, step.kind, step.state, step.result, step, twins.get(what, 0)))
                twins[what] = twins.get(what, 0) | bit
        return self.table

    # One layer.

    def _return(
        self, target: Step, position: int, frontier: dict[Config, Link | None]
    ) -> dict[Config, Link | None]:
        forgotten = 0
        while self.ending and self.ending[-1][0] < position:
            _, bit, step = self.ending.pop()
            forgotten |= bit
            self._remove(step)
        bit = self.bits[target.number]
        keep = ~(bit | forgotten)
        until, inert = self.cell.states.until, self.cell.inert
        # The others are optional anyway, and must not be marked so: their bits are given on when they are forgotten.
        answered_appends = self.appends & ~self.open_ended
        readers, excluders, mismatches = self.readers, self.excluders, self.mismatches
        after: dict[Config, Link | None] = {}
        waiting: list[tuple[Config, bool, Link | None]] = []
        for (done, optional, state), link in frontier.items():
            done &= ~forgotten
            if until[state] < position:
                state = self._die(state)
            done |= readers.get(state, 0)
            if mismatches:
                done |= mismatches & ~excluders.get(state, 0)
            if inert and state == DEAD:
                optional |= answered_appends & ~done
            if done & bit:
                after.setdefault((done & keep, optional & keep, state), link)
                continue
            if optional & bit:
                after.setdefault((done & keep, optional & keep, state), link)
            waiting.append(((done, optional, state), False, link))
        if waiting:
            self._expand(target, position, waiting, after)
        self._remove(target)
        if len(after) > 1:
            after = self._undominated(after)
            if len(after) > self.width:
                self.cut = True
                after = self._best(after)
        return after

    def _die(self, state: int) -> int:
        states = self.cell.states
        return states.dead(states.length[state])

    def _expand(
        self,
        target: Step,
        position: int,
        waiting: list[tuple[Config, bool, Link | None]],
        after: dict[Config, Link | None],
    ) -> None:
        """Linearize `target` in every way that is not worse than another, and put what comes of it into `after`."""
        cell = self.cell
        states, texts, inert = cell.states, cell.texts, cell.inert
        until, lengths, grow = states.until, states.length, states.grow
        readers, setters, excluders = self.readers, self.setters, self.excluders
        mismatches, coverable, appends, open_ended = (
            self.mismatches,
            self.coverable,
            self.appends,
            self.open_ended,
        )
        bit = self.bits[target.number]
        keep = ~bit
        table = self._steps()
        seen: set[tuple[Config, bool]] = set()
        while waiting:
            config, blind, link = waiting.pop()
            if (config, blind) in seen:
                continue
            seen.add((config, blind))
            self.looked += 1
            if self.looked >= self.next_look:
                self._look()
            done, optional, state = config
            undone = ~done
            for own, kind, found, result, step, twins in table:
                if done & own:
                    continue
                if twins & undone and ((optional | open_ended) & own or twins & undone & ~optional):
                    continue
                hidden = 0
                still = optional
                if kind == IS_WRITE:
                    if blind:
                        continue
                    left = result
                    still = (optional | coverable) & undone & ~open_ended
                    hidden = setters.get(state, 0) & undone & ~optional & ~open_ended
                elif kind == IS_CAS:
                    if found != state:
                        continue
                    left = result
                else:
                    if step.length >= 0 and lengths[state] + len(texts[step.text]) != step.length:
                        continue
                    left = grow(state, step.text, texts)
                if until[left] < position:
                    left = states.dead(lengths[left])
                now = done | own | readers.get(left, 0)
                if mismatches:
                    now |= mismatches & ~excluders.get(left, 0)
                still &= ~now
                if inert and left == DEAD:
                    still |= appends & ~now & ~open_ended
                if now & bit:
                    unseen = False
                elif inert and left == DEAD and (kind != IS_CAS or (optional | open_ended) & own):
                    continue
                else:
                    # An append with a known length is not coverable, so that writes may follow it.
                    unseen = now == done | own and not setters.get(left, 0) & ~now and step.length < 0
                    if unseen and not appends & ~now:
                        continue
                ways = [(still, -1)]
                if hidden:
                    ways = []
                    while hidden:
                        one = hidden & -hidden
                        hidden ^= one
                        ways.append((still | one, self.changes[one].number))
                for still, covered in ways:
                    if self.paths:
                        self.paths -= 1
                        path: Link | None = (link, step.number, position, covered)
                    else:
                        path = None
                    if now & bit:
                        after.setdefault((now & keep, still & keep, left), path)
                    else:
                        waiting.append(((now, still, left), unseen, path))

    def _look(self) -> None:
        self.next_look = self.looked + 4_000
        reason = self.budget.spent()
        if reason:
            raise _Spent(reason)

    def _undominated(self, layer: dict[Config, Link | None]) -> dict[Config, Link | None]:
        """Drop configurations for which a better one is there. Where one state has many, only better ones that differ in one
        operation are looked for: it may keep too many, never too few."""
        open_ended = self.open_ended
        groups: dict[int, list[Config]] = {}
        for config in layer:
            groups.setdefault(config[2], []).append(config)
        worse: set[Config] = set()
        flips = list(self.changes) if any(len(group) > PAIRWISE for group in groups.values()) else []
        for group in groups.values():
            if len(group) > PAIRWISE:
                for config in group:
                    done, optional, state = config
                    for bit in flips:
                        if bit & optional or (bit & open_ended and not bit & done):
                            continue
                        other = (done & ~bit, optional if bit & open_ended else optional | bit, state)
                        if other in layer:
                            worse.add(config)
                            break
                continue
            for config in group:
                done, optional, _ = config
                free = optional | (open_ended & ~done)
                for other in group:
                    if (
                        other is not config
                        and not ((done ^ other[0]) | (optional ^ other[1])) & ~free
                        and config not in worse
                    ):
                        worse.add(other)
        if self.cell.inert and DEAD in groups and len(layer) <= 4 * PAIRWISE:
            # From a dead value every continuation starts with a write, and a write is legal everywhere.
            for config in layer:
                if config[2] == DEAD:
                    continue
                free = config[1] | (open_ended & ~config[0])
                for other in groups[DEAD]:
                    if not ((config[0] ^ other[0]) | (config[1] ^ other[1])) & ~free:
                        worse.add(other)
        return {config: link for config, link in layer.items() if config not in worse} if worse else layer

    def _best(self, layer: dict[Config, Link | None]) -> dict[Config, Link | None]:
        """The most promising ones: few operations without an answer used up, many optional, a value that is looked at."""
        open_ended = self.open_ended

        def promise(item: tuple[Config, Link | None]) -> int:
            done, optional, state = item[0]
            return (done & open_ended).bit_count() - optional.bit_count() + (state == DEAD)

        return dict(sorted(layer.items(), key=promise)[: self.width])
