"""Shrinking: the smallest plan found that fails as a given one does, and where it parts from its nearest passing neighbour.

A candidate is kept when the same kind of verdict comes from the same oracle. Taking something away also moves everything
that comes after it, and a race that needs luck may then be lost by chance: so larger cuts are tried with the streams of
other seeds, too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from sim.explore import simplify, worker
from sim.explore.request import HARNESS, Request, play, with_seed
from sim.explore.time_limit import Hung, limited
from sim.report.divergence import Divergence, divergence
from sim.virtual.plan import Plan
from sim.virtual.trace import Trace
from sim.virtual.world import CRASH, OK, Result

LUCK: Final = (4, 25, 150)
"""Other seeds tried with a larger cut: few at first, more once nothing else helps and the plan is still large."""
SMALL: Final = (2, 2_000_000)
"""Faults and microseconds up to which a plan is small enough for a person."""
SLACK: Final = 500_000
"""Microseconds that a candidate may take longer to fail than the plan that it comes from."""
NEIGHBOURS: Final = 60
"""Most neighbours that are tried for the nearest passing run."""
LIMIT_S: Final = 30
"""Seconds of real time after which a candidate is given up."""

Signature = tuple[str, str]
"""(outcome, who objected)"""


class NotFailing(ValueError):
    """There is nothing to shrink: the plan passes."""


class HarnessFailed(Exception):
    """The run came to no verdict, and that is no failure of what was watched; the text tells."""


def signature(result: Result) -> Signature:
    """What makes two failures the same: outcome and oracle; of a crash the exception and its place."""
    if result.outcome == CRASH:
        kind = re.search(r"\b\w*(?:Error|Exception|Interrupt|Iteration|Exit)\b", result.text)
        place = re.search(r"\((\w+\.py):\d+\)\s*$", result.text)
        named = f"{kind.group() if kind else result.text[:40]} {place.group(1) if place else ''}"
        return CRASH, f"{result.oracle}: {named.strip()}"
    return result.outcome, result.oracle


@dataclass(slots=True)
class Step:
    """A simplification that was kept. `tried`: candidates run until then."""

    words: str
    plan: Plan
    tried: int


@dataclass(slots=True)
class Neighbour:
    """A plan that passes and differs from the shrunk one in one thing."""

    words: str
    plan: Plan
    divergence: Divergence


@dataclass(slots=True)
class Shrunk:
    """What shrinking came to."""

    original: Result
    result: Result
    steps: list[Step] = field(default_factory=list)
    tried: int = 0
    exhausted: bool = False
    """Whether the budget ended before the candidates did: then a larger one may find less."""
    neighbour: Neighbour | None = None


class Shrinker:
    """`budget_s`: seconds of real time; `watch` is told every step."""

    def __init__(
        self, request: Request, budget_s: float, watch: Callable[[Step], None] = lambda step: None
    ) -> None:
        self._request = request
        self._budget = budget_s
        self._end = 0.0
        self._watch = watch
        self._known: dict[str, bool] = {}
        self._luck = LUCK[0]

    def shrink(self, plan: Plan) -> Shrunk:
        """Minimise. Raises NotFailing, HarnessFailed; SubjectError, FaultError for a plan that cannot be carried out."""
        self._end = time.perf_counter() + self._budget
        try:
            with limited(worker.LIMIT_S):
                result, _ = play(self._request, plan)
        except Hung:
            raise HarnessFailed(f"the run was given up after {worker.LIMIT_S} s of real time") from None
        if result.outcome == OK:
            raise NotFailing(
                f"seed {plan.seed} passes: {result.operations} operations, every oracle content; nothing to shrink"
            )
        if result.outcome == CRASH and result.oracle == HARNESS:
            raise HarnessFailed(f"the harness itself raised: {result.text}")
        self._wanted = signature(result)
        self._found = Shrunk(result, result, tried=1)
        try:
            self._end_at(SLACK)
            for luck in LUCK:
                self._luck = luck
                while self._round():
                    self._end_at(SLACK)
                if len(self._plan.schedule) <= SMALL[0] and self._found.result.at <= SMALL[1]:
                    break
        except _BudgetSpent:
            self._found.exhausted = True
            self._end = float("inf")  # for the last cut: one run
        self._end_at(1)
        return self._found

    @property
    def _plan(self) -> Plan:
        return self._found.result.plan

    def _end_at(self, slack: int) -> None:
        """Leave out what comes later than `slack` behind the failure, if it comes amid the faults."""
        at = self._found.result.at
        if at < self._plan.duration:
            plan = simplify.ended(self._plan, at + slack)
            if plan != self._plan:
                self._keep(f"nothing after {plan.duration / 1e6:.3f} s", plan, 0)

    def _round(self) -> bool:
        """Every pass once; whether any of them got anywhere."""
        before = self._plan
        self._again(simplify.tails, max(self._luck, LUCK[1]))
        self._fewer_faults()
        self._again(simplify.shorter, self._luck)
        self._again(simplify.fewer, self._luck)
        self._again(simplify.plainer, 1)
        self._again(simplify.briefer, 0)
        self._again(simplify.simpler_faults, 0)
        return self._plan != before

    def _fewer_faults(self) -> None:
        """Delta debugging over the schedule: halves first, then ever smaller parts."""
        parts = 1
        while self._plan.schedule:
            count = len(self._plan.schedule)
            parts = min(parts, count)
            if any(
                self._keep(words, plan, self._luck)
                for words, plan in simplify.without_chunks(self._plan, parts)
            ):
                parts = max(parts - 1, 1)
            elif parts >= count:
                return
            else:
                parts = 2 * parts

    def _again(self, candidates: Callable[[Plan], Iterator[tuple[str, Plan]]], luck: int) -> None:
        """Take the first candidate that still fails, and begin anew from there, until none does."""
        while any(self._keep(words, plan, luck) for words, plan in candidates(self._plan)):
            pass

    def _keep(self, words: str, plan: Plan, luck: int) -> bool:
        seeds = [plan.seed, *(seed for seed in range(luck + 1) if seed != plan.seed)][: luck + 1]
        for seed in seeds:
            result = self._try(with_seed(plan, seed))
            if result is not None:
                if seed != plan.seed:
                    words = f"{words}, with the streams of seed {seed}"
                self._found.result = result
                step = Step(words, result.plan, self._found.tried)
                self._found.steps.append(step)
                self._watch(step)
                return True
        return False

    def _try(self, plan: Plan) -> Result | None:
        """The run of a candidate, if it fails in the same way."""
        key = repr(plan)
        if self._known.get(key) is False:
            return None
        if time.perf_counter() >= self._end:
            raise _BudgetSpent
        self._found.tried += 1
        result = _run(self._request, plan)
        same = result is not None and signature(result) == self._wanted
        self._known[key] = same
        return result if same else None


class _BudgetSpent(Exception):
    pass


def _run(request: Request, plan: Plan, trace: Trace | None = None) -> Result | None:
    """None: the plan cannot be carried out, or does not end."""
    try:
        with limited(LIMIT_S):
            return play(request, plan, trace)[0]
    except (ValueError, Hung):
        return None


def nearest_passing(request: Request, failing: Result) -> Neighbour | None:
    """Of the plans that differ from the failing one in one thing and pass, the one whose run goes along with it for
    longest; None if all of them fail, too."""
    trace = Trace()
    plan = failing.plan
    if _run(request, plan, trace) is None:
        return None
    best: Neighbour | None = None
    for words, other in _neighbours(plan):
        theirs = Trace()
        result = _run(request, other, theirs)
        if result is None or result.outcome != OK:
            continue
        found = divergence(trace, theirs)
        if found is not None and (best is None or found.common > best.divergence.common):
            best = Neighbour(words, other, found)
    return best


def _neighbours(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """At most `NEIGHBOURS`, with room behind the failure: a passing run needs time to pass."""
    roomy = replace(plan, duration=max(plan.duration, 1_000_000))
    found: dict[str, tuple[str, Plan]] = {}
    for candidates in (
        simplify.without_chunks(roomy, max(len(plan.schedule), 1)),
        simplify.simpler_faults(roomy),
        simplify.briefer(roomy),
        simplify.fewer(roomy),
        simplify.plainer(roomy),
    ):
        for words, other in candidates:
            found.setdefault(repr(other), (words, other))
    yield from list(found.values())[:NEIGHBOURS]
