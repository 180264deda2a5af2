"""One plan, run with everything told, and the folder that it can leave."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.check.history import encode_operation
from sim.explore.request import SCRIPT, Request
from sim.explore.words import plan_in_words
from sim.explore.worker import run_plan
from sim.report import lanes, perfetto, terminal
from sim.report.facts import RunFacts, Violation
from sim.virtual import plan as plans
from sim.virtual.plan import Plan
from sim.virtual.trace import Trace
from sim.virtual.world import OK, Result, World


@dataclass(slots=True)
class Replayed:
    """A run with its trace. `world` is None if the harness could not even make one, or gave the run up."""

    request: Request
    result: Result
    trace: Trace
    world: World | None
    command: str
    """The line to type that replays it."""

    def facts(self) -> RunFacts:
        """What reports say of it besides its moments."""
        result, plan, world = self.result, self.result.plan, self.world
        violation = None
        if result.outcome != OK:
            violation = Violation(result.oracle, result.at, result.text, result.nodes)
        options: dict[str, Any] = {
            item.name: getattr(plan, item.name)
            for item in dataclasses.fields(plan)
            if item.name != "schedule"
        }
        options |= {name: dataclasses.asdict(options[name]) for name in ("weather", "load")}
        return RunFacts(
            plan.seed,
            self.command,
            world.names if world else [],
            dict(world.power.paths) if world else {},
            options,
            result.outcome,
            violation,
            result.marks,
            result.by_number,
            result.trace_hash,
        )

    def as_json(self) -> dict[str, Any]:
        """What came of it, for programs."""
        result = self.result
        row = {
            name: getattr(result, name) for name in ("outcome", "oracle", "text", "nodes", "at", "trace_hash")
        }
        names = ("virtual_us", "messages", "dropped", "turns", "operations", "acknowledged", "recovery_us")
        row |= {
            name: getattr(result, name) for name in (*names, "bites", "details", "marks", "notes", "lost")
        }
        return {"seed": result.plan.seed, **row, "moments": len(self.trace.moments), "replay": self.command}


def replay_line(request: Request, seed: int) -> str:
    """The line to type that replays a seed of a campaign."""
    return f"{SCRIPT} {shlex.join(['replay', str(seed), *request.drawing()])}"


def plan_line(request: Request, path: Path) -> str:
    """The line to type that replays a saved plan."""
    return f"{SCRIPT} {shlex.join(['replay', str(path), *request.bringing()])}"


def replay(request: Request, plan: Plan, command: str) -> Replayed:
    """Run a plan, traced, and give it up when it takes too long. Raises SubjectError, FaultError."""
    trace = Trace()
    result, world = run_plan(request, plan, trace)
    return Replayed(request, result, trace, world, command)


FILES = ("plan.json", "result.json", "plan.txt", "history.jsonl", "trace.txt", "trace.json.gz", "report.html")
"""What `write` leaves in a folder."""


def write(folder: Path, run: Replayed, more: Sequence[str] = ()) -> Path:
    """Leave everything about a run in a folder; the report's path (the plan's, if there was no world). `more`: lines for
    `plan.txt`. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = run.result.plan
    (folder / "plan.json").write_text(plans.dumps(plan) + "\n", encoding="utf-8")
    (folder / "result.json").write_text(json.dumps(run.as_json(), indent=1) + "\n", encoding="utf-8")
    text = [*more, *plan_in_words(plan), *verdict_lines(run.result), run.command]
    (folder / "plan.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    if run.world is None:
        return folder / "plan.json"
    facts, history = run.facts(), run.world.history
    with (folder / "history.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(encode_operation(operation) + "\n" for operation in history)
    with (folder / "trace.txt").open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in terminal.lines(run.trace, facts))
    perfetto.write(folder / "trace.json.gz", run.trace, history, facts, plan.schedule)
    return lanes.render(folder / "report.html", run.trace, history, plan.schedule, facts)


def verdict_lines(result: Result) -> list[str]:
    """What a run came to, in words."""
    if result.outcome == OK:
        return [
            f"ok after {result.virtual_us / 1e6:.3f} s: {result.operations} operations, {result.messages} messages"
        ]
    first, *rest = result.text.splitlines() or [""]
    return [
        f"{result.outcome} at {result.at / 1e6:.6f} s, {result.oracle}: {first}",
        *(f"  {line}" for line in rest),
    ]
