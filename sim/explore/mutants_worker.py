"""The process in which a mutant lives: it is told what to run, and says a line of JSON about every seed.

Nothing of the project is imported before the mutants are made. A line in: `{protocol, mutants, focus, first, count, stop,
purpose, patience}`; `stop`: after so many seeds that count as caught, 0 for never. Lines out: `{seed, outcome, oracle, text,
crash, details}`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sim.explore.mutants import EXPLORE, LIVENESS, MutantError, instrument_of
from sim.explore.mutants_import import activate
from sim.explore.time_limit import Hung, limited

if TYPE_CHECKING:
    from sim.faults.fault import Fault
    from sim.virtual.plan import Plan


def plan_of(focus: dict[str, Any], seed: int, protocol: str = "raft") -> Plan:
    """The plan of a seed, narrowed by a focus (a table of `focus.toml`; empty: the general campaign).

    `kinds`, `without` and `nodes` are those of a campaign. `faults` replaces the schedule: each has a `kind`, comes `every` so
    many microseconds for `lasts` (both drawn around that), and has `params`, of which a list means: draw one of these. The
    other tables override fields of the plan. Raises FaultError."""
    import dataclasses

    from sim.faults.swarm import Options, draw

    options = Options(
        protocol=protocol,
        nodes=focus.get("nodes", Options().nodes if protocol == "raft" else 0),
        kinds=tuple(focus.get("kinds", ())),
        without=tuple(focus.get("without", ())),
    )
    plan = draw(seed, options)
    plan = dataclasses.replace(
        plan,
        settings={**plan.settings, **focus.get("settings", {})},
        timing={**plan.timing, **focus.get("timing", {})},
        weather=dataclasses.replace(plan.weather, **_tuples(focus.get("weather", {}))),
        load=dataclasses.replace(plan.load, **_tuples(focus.get("load", {}))),
        **_tuples(focus.get("plan", {})),
    )
    if "faults" in focus:
        schedule = _schedule(focus["faults"], plan)
    else:  # a shorter run has room for the earlier ones only
        schedule = tuple(fault for fault in plan.schedule if fault.until <= plan.duration)
    return dataclasses.replace(plan, schedule=schedule)


def _schedule(templates: list[dict[str, Any]], plan: Plan) -> tuple[Fault, ...]:
    from sim.faults.fault import Fault
    from sim.virtual.streams import Streams

    rng = Streams(plan.seed).fresh("focus")
    faults: list[Fault] = []
    for template in templates:
        every, lasts = template["every"], template["lasts"]
        at = 300_000 + rng.randrange(every)
        while at < plan.duration:
            params = {
                key: rng.choice(value) if isinstance(value, list) else value
                for key, value in template.get("params", {}).items()
            }
            until = min(at + lasts // 2 + rng.randrange(lasts), plan.duration)
            faults.append(Fault(len(faults), template["kind"], at, until, params))
            at += every // 2 + rng.randrange(every)
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def counts(row: dict[str, Any], purpose: str) -> bool:
    """Whether what became of a seed counts as caught.

    It does if an oracle or a checker objected from outside, or, for a safeguard of liveness, if nothing went on. A crash of the
    core never counts, nor does a run that stood still because of one."""
    return row["outcome"] == "violation" or (
        row["outcome"] == "liveness" and purpose == LIVENESS and not row["crash"]
    )


def _row(outcome: str, oracle: str, text: str, crash: str = "") -> dict[str, Any]:
    return {"outcome": outcome, "oracle": oracle, "text": text[:400], "crash": crash, "details": {}}


def run_seed(protocol: str, focus: dict[str, Any], seed: int, patience: int) -> dict[str, Any]:
    """Run one seed, for at most `patience` seconds."""
    try:
        with limited(patience):
            explored = instrument_of(focus) == EXPLORE
            row = _explored(protocol, focus, seed) if explored else _played(focus, seed)
    except Hung:
        row = _row("too long", "", f"more than {patience} s")
    except Exception as error:
        # The world itself tripped: nobody has objected, so nothing was caught.
        row = _row("error", type(error).__name__, str(error))
    return {"seed": seed, **row}


def _explored(protocol: str, focus: dict[str, Any], seed: int) -> dict[str, Any]:
    from sim.virtual.world import World

    world = World(plan_of(focus, seed, protocol), on_crash="go_on")
    result = world.run()
    writes = sum(done.op == "write" and done.outcome == "ok" for done in world.history)
    row = _row(result.outcome, result.oracle, result.text, world.core_error)
    row["details"] = {**result.details, "run: acknowledged writes": writes}
    return row


def _played(focus: dict[str, Any], seed: int) -> dict[str, Any]:
    from sim.explore import mutants_lockstep

    outcome, oracle, text, details = mutants_lockstep.play(focus, seed)
    row = _row(outcome, oracle, text, text if outcome == "crash" else "")
    row["details"] = details
    return row


def run(order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Carry an order out, in this process. Raises MutantError."""
    activate(*order["mutants"])
    caught = 0
    for seed in range(order["first"], order["first"] + order["count"]):
        row = run_seed(order["protocol"], order["focus"], seed, order["patience"])
        yield row
        caught += counts(row, order["purpose"])
        if order["stop"] and caught >= order["stop"]:
            return


def main() -> None:
    """Read one order, carry it out."""
    try:
        for row in run(json.loads(sys.stdin.readline())):
            print(json.dumps(row), flush=True)
    except MutantError as error:
        print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
