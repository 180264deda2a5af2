"""Whole clusters on virtual time, thousands of seeds: explore, replay one, shrink a failing one, list what there is.

Exit codes: 0 green, 1 an oracle or a checker objected, 2 bad input, 3 no progress, 4 void (nothing happened, or not all that
had to), 5 a crash, 130 interrupted, 141 standard output was closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console

from sim import native
from sim.byzantine.commands import byzzfuzz, twins
from sim.edited import read_text, shown
from sim.explore import campaign as campaigns
from sim.explore import engine as engines
from sim.explore import natively, show
from sim.explore import options as shared
from sim.explore.listing import TOPICS
from sim.explore.mutants_command import mutable, mutants
from sim.explore.replay import Replayed, plan_line, replay, replay_line, verdict_lines, write
from sim.explore.request import SCRIPT, Request, check, possible
from sim.explore.shrink import HarnessFailed, NotFailing, Shrinker, Step, nearest_passing, signature
from sim.explore.simplify import size
from sim.explore.sources import OtherSources, fingerprint
from sim.explore.summary import (
    EXIT_BAD_INPUT,
    EXIT_CLOSED,
    EXIT_CRASH,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXITS,
    Summary,
)
from sim.explore.words import plan_in_words
from sim.explore.worker import run_plan
from sim.faults.fault import ScheduleError
from sim.faults.kind import FaultError
from sim.finite import Finite
from sim.report import terminal
from sim.report.divergence import lines as divergence_lines
from sim.virtual import plan as plans
from sim.virtual.plan import Plan
from sim.virtual.plan_rules import MOST_SEED
from sim.virtual.subjects import SubjectError

COMPLETE_FROM = 5000
"""Seeds from which on a campaign with the whole menu must have met all of it."""
REPORTED = 3
"""Failing seeds of a campaign that leave a report."""
BAD_INPUT = (
    ScheduleError,
    FaultError,
    SubjectError,
    terminal.TerminalError,
    engines.EngineError,
    OtherSources,
    NotFailing,
)


def fail(code: int, text: str, as_json: bool) -> NoReturn:
    """Say what is wrong, in the form asked for, and exit."""
    if as_json:
        click.echo(json.dumps({"error": text, "exit_code": code}))
    click.echo(f"partition: {text}", err=True)
    sys.exit(code)


def say(lines: Sequence[str], as_json: bool) -> None:
    """Lines for people; with --json they leave standard output alone."""
    for line in lines:
        click.echo(line, err=as_json)


def interrupt(_number: int, _frame: Any) -> NoReturn:
    """A request to end is met like a Ctrl-C: workers end, and what there is is printed."""
    raise KeyboardInterrupt


def load(what: str, request: Request) -> tuple[Plan, str]:
    """(plan, the line that replays it) of a seed or of a file. Raises ScheduleError, FaultError."""
    if what.isdecimal():
        if len(what) > len(str(MOST_SEED)) or int(what) > MOST_SEED:
            raise ScheduleError(f"{shown(what)} is no seed: they go from 0 to {MOST_SEED}")
        return request.plan(int(what)), replay_line(request, int(what))
    path = Path(what)
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ScheduleError(f"{shown(what)} is neither a seed nor a file that can be read: {error}") from None
    plan = plans.loads(text, what)
    try:
        possible(request, plan)
    except (SubjectError, FaultError) as error:
        raise ScheduleError(f"{what}: {error}") from error
    return plan, plan_line(request, path)


class Interruptible(click.Group):
    """A group whose commands end with the exit code of an interruption, whenever it comes, and with others when what they say
    cannot be written."""

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _heard():
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _heard():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            fail(EXIT_INTERRUPTED, "interrupted", False)


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Where standard output is closed, end quietly; where it is full, say so."""
    try:
        yield
    except BrokenPipeError:
        _say_no_more()
        sys.exit(EXIT_CLOSED)
    except OSError as error:
        _say_no_more()
        fail(EXIT_BAD_INPUT, str(error) if error.filename else f"cannot write: {error}", False)


def _say_no_more() -> None:
    """Send what Python still holds for standard output to nowhere: it would try again at the end, and fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def made(folder: Path | None) -> None:
    """Make a folder before anything is run for it. Raises OSError."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)


@click.group(cls=Interruptible, help=__doc__)
def main() -> None:
    # As with `python -m`: what is brought along is looked for here, too.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    signal.signal(signal.SIGTERM, interrupt)


@main.command("list")
@click.argument("topic", type=click.Choice(list(TOPICS)), required=False)
@click.option("--json", "as_json", is_flag=True)
def list_(topic: str | None, as_json: bool) -> None:
    """What there is to ask for; of marks, where they stand."""
    found = {name: TOPICS[name]() for name in ([topic] if topic else TOPICS)}
    if as_json:
        click.echo(json.dumps(found[topic] if topic else found))
        return
    for name, rows in found.items():
        if topic is None:
            click.echo(f"{name} ({len(rows)})")
        width = min(max(map(len, rows), default=0), 66)
        for key, words in rows.items():
            click.echo(f"{'' if topic else '  '}{key:{width}}  {words}".rstrip())


@main.command()
@click.option(
    "--seeds", type=click.IntRange(min=1), help="how many (default: 100, or as many as --minutes allows)"
)
@click.option(
    "--first", type=click.IntRange(0, 1 << 63), default=0, show_default=True, help="the first of them"
)
@click.option("--jobs", type=click.IntRange(1, 1024), help="processes (default: one a core)")
@click.option("--minutes", type=Finite(min=0, min_open=True), help="begin no more seeds after so long")
@click.option(
    "--stop-after",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="failures; 0: run all seeds",
)
@click.option(
    "--complete/--no-complete",
    default=None,
    help=f"void unless every fault bit and every mark was reached (default: from {COMPLETE_FROM:,} seeds with all faults on)",
)
@click.option(
    "--engine", metavar="ADDRESS", help="the scheduler of a dask.distributed cluster, instead of processes"
)
@click.option("--out", type=click.Path(path_type=Path), help="folder for hashes, summary and reports")
@click.option(
    "--json", "as_json", is_flag=True, help="print one object on standard output, and nothing else there"
)
@shared.drawing
def explore(
    seeds: int | None, first: int, jobs: int | None, minutes: float | None, stop_after: int, complete: bool | None,
    engine: str | None, out: Path | None, as_json: bool, **asked: Any,
) -> None:  # fmt: skip
    """Run many seeds, with every oracle on."""
    request = shared.request(**asked)
    if seeds is None:
        seeds = campaigns.FOR_EVER if minutes else 100
    if complete is None:
        options = request.options
        whole = not (options.kinds or options.without or request.faults or options.over_budget)
        complete = whole and COMPLETE_FROM <= seeds < campaigns.FOR_EVER and options.protocol == "raft"
    campaign = campaigns.Campaign(request, seeds, first, minutes or 0.0, stop_after, complete)
    console = Console(stderr=True)
    try:
        if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
            fail(EXIT_BAD_INPUT, f"{out} is not an empty folder; give another --out", as_json)
        check(request)
        made(out)
    except BAD_INPUT as error:
        fail(EXIT_BAD_INPUT, str(error), as_json)
    except OSError as error:
        fail(EXIT_BAD_INPUT, f"--out {out}: {error}", as_json)
    try:
        chosen = (
            engines.cluster(engine, request)
            if engine
            else engines.processes(min(jobs or engines.cores(), seeds), request)
        )
        with chosen as running:
            lines = show.beginning(campaign, running.words, fingerprint(request.modules()), natively.chosen())
            say(lines, as_json)
            with show.progress(console) as watch:
                summary = campaigns.run(campaign, running, watch)
    except BAD_INPUT as error:
        fail(EXIT_BAD_INPUT, str(error), as_json)
    finish(summary, out, as_json)


def finish(summary: Summary, out: Path | None, as_json: bool) -> NoReturn:
    """Say what there is to say, leave the reports, and exit."""
    request = summary.request
    replays = {result.plan.seed: replay_line(request, result.plan.seed) for result in summary.failures}
    # First of all, for whatever becomes of the reports.
    say(show.ending(summary, replays), as_json)
    code = summary.exit_code()
    folders: dict[int, str] = {}
    try:
        found = leave(summary, replays, folders, out, as_json)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        click.echo(f"partition: cannot write what the campaign came to: {error}", err=True)
        found = {**summary.as_json(replays, folders), "native": native.active()}
        code = code or EXIT_BAD_INPUT
    if as_json:
        click.echo(json.dumps({**found, "exit_code": code}))
    sys.exit(code)


def leave(
    summary: Summary, replays: dict[int, str], folders: dict[int, str], out: Path | None, as_json: bool
) -> dict[str, Any]:
    """Leave hashes, summary and reports, whose places come to stand in `folders`; the summary for programs. Raises OSError."""
    request = summary.request
    folder = out
    if summary.failures and folder is None:
        folder = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-explore-{summary.failures[0].plan.seed}"
    for result in summary.failures[:REPORTED]:
        assert folder is not None
        seed = result.plan.seed
        report = write(folder / f"seed-{seed}", replay(request, result.plan, replays[seed]))
        folders[seed] = str(report)
        say([f"report of seed {seed}: {report}"], as_json)
    found = {**summary.as_json(replays, folders), "native": native.active()}
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = "".join(f"{seed} {trace_hash}\n" for seed, trace_hash in summary.hashes)
        (folder / "hashes.txt").write_text(rows, encoding="utf-8")
        (folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        say([f"everything is in {folder}"], as_json)
    return found


@main.command("replay")
@click.argument("what", metavar="SEED|PLAN.json")
@click.option("--trace", "show_trace", is_flag=True, help="print every moment, a column a node")
@click.option("--around", type=Finite(min=0), metavar="MS", help="with --trace: only so near to the failure")
@click.option("--at", type=Finite(min=0), metavar="S", help="with --around: near to this time instead")
@click.option(
    "--kind", "moments", multiple=True, help="with --trace: only moments of these kinds; may be repeated"
)
@click.option(
    "--node", "at_nodes", multiple=True, help="with --trace: only moments at these nodes; may be repeated"
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="leave plan, history, trace and report.html there",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="PLAN.json",
    help="write the plan, to be edited and replayed",
)
@click.option(
    "--hash-only", is_flag=True, help="print the trace hash and nothing else (the run is not traced)"
)
@click.option("--json", "as_json", is_flag=True, help="print one object on standard output")
@shared.drawing
@mutable
def replay_(
    what: str, show_trace: bool, around: float | None, at: float | None, moments: tuple[str, ...], at_nodes: tuple[str, ...],
    report: Path | None, save: Path | None, hash_only: bool, as_json: bool, **asked: Any,
) -> None:  # fmt: skip
    """Run one seed, or a saved plan, and tell all about it."""
    request = shared.request(**asked)
    try:
        check(request)
        plan, line = load(what, request)
        if save is not None:
            save.write_text(plans.dumps(plan) + "\n", encoding="utf-8")
        made(report)
        if hash_only:
            result, _ = run_plan(request, plan)
            found = {"seed": plan.seed, "outcome": result.outcome, "trace_hash": result.trace_hash}
            click.echo(json.dumps(found) if as_json else result.trace_hash)
            sys.exit(EXITS[result.outcome])
        run = replay(request, plan, line)
        if show_trace:
            rows = terminal.lines(
                run.trace, run.facts(), kinds=moments or None, nodes=at_nodes or None,
                around_us=None if around is None else int(around * 1000), at_us=None if at is None else int(at * 1e6),
            )  # fmt: skip
            say(list(rows), as_json)
        place = write(report, run) if report is not None else None
    except BAD_INPUT as error:
        fail(EXIT_BAD_INPUT, str(error), as_json)
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(EXIT_BAD_INPUT, f"cannot write: {error}", as_json)
    told(run, place, as_json)
    sys.exit(EXITS[run.result.outcome])


def told(run: Replayed, report: Path | None, as_json: bool) -> None:
    """What a replay came to."""
    result = run.result
    bites = ", ".join(f"{name} {count:,}" for name, count in result.bites.items() if count)
    lines = [
        *plan_in_words(result.plan),
        f"faults that did something: {bites or 'none'}",
        f"trace hash {result.trace_hash}; {len(run.trace.moments):,} moments; {result.operations} operations, "
        f"{result.acknowledged} acknowledged; {result.messages:,} messages, {result.dropped:,} dropped",
        *verdict_lines(result),
        run.command,
    ]
    if report is not None:
        lines.append(f"report: {report}")
    say(lines, as_json)
    if as_json:
        click.echo(json.dumps({**run.as_json(), "report": str(report) if report else None}))


@main.command()
@click.argument("what", metavar="SEED|PLAN.json")
@click.option("--out", type=click.Path(path_type=Path), help="folder (default: runs/<time>-shrunk-<seed>)")
@click.option("--budget", type=Finite(min=0), default=120.0, show_default=True, help="seconds to spend")
@click.option("--json", "as_json", is_flag=True, help="print one object on standard output")
@shared.drawing
@mutable
def shrink(what: str, out: Path | None, budget: float, as_json: bool, **asked: Any) -> None:
    """Find the smallest plan that still fails in the same way, and where it parts from its nearest passing neighbour."""
    request = shared.request(**asked)
    began = time.perf_counter()

    def watch(step: Step) -> None:
        faults, parties, us, odd = size(step.plan)
        click.echo(
            f"{time.perf_counter() - began:6.1f} s, {step.tried:4} runs: {faults:2} faults, {parties:2} nodes and clients, "
            f"{us / 1e6:6.3f} s, {odd:2} odd settings: {step.words}",
            err=True,
        )

    try:
        check(request)
        plan, line = load(what, request)
        say([line.replace(f"{SCRIPT} replay", f"{SCRIPT} shrink"), *plan_in_words(plan)], as_json)
        made(out)
        shrunk = Shrinker(request, budget, watch).shrink(plan)
        shrunk.neighbour = nearest_passing(request, shrunk.result)
        folder = out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-shrunk-{plan.seed}"
        command = plan_line(request, folder / "plan.json")
        run = replay(request, shrunk.result.plan, command)
        report = write(folder, run, [f"shrunk from: {line}"])
    except BAD_INPUT as error:
        fail(EXIT_BAD_INPUT, str(error), as_json)
    except HarnessFailed as error:
        fail(EXIT_CRASH, str(error), as_json)
    except BrokenPipeError:
        raise
    except OSError as error:
        fail(EXIT_BAD_INPUT, f"cannot write: {error}", as_json)
    near = shrunk.neighbour
    before, after = size(plan), size(shrunk.result.plan)
    lines = [
        f"shrunk in {shrunk.tried} runs, {time.perf_counter() - began:.1f} s"
        + ("; the budget was spent before everything was tried" if shrunk.exhausted else ""),
        f"faults {before[0]} -> {after[0]}; nodes and clients {before[1]} -> {after[1]}; virtual time "
        f"{shrunk.original.at / 1e6:.3f} s -> {run.result.at / 1e6:.3f} s; operations {shrunk.original.operations} -> "
        f"{run.result.operations}; odd settings {before[3]} -> {after[3]}",
        *plan_in_words(run.result.plan),
        *verdict_lines(run.result),
    ]
    if near is None:
        lines.append("no plan that differs in one thing passes")
    else:
        lines += [f"nearest passing run: {near.words}", *divergence_lines(near.divergence)]
        parting = [f"nearest passing run: {near.words}", *divergence_lines(near.divergence)]
        (folder / "divergence.txt").write_text("\n".join(parting) + "\n", encoding="utf-8")
        (folder / "passing-plan.json").write_text(plans.dumps(near.plan) + "\n", encoding="utf-8")
    lines += [f"trace hash {run.result.trace_hash}", f"report: {report}", command]
    say(lines, as_json)
    if as_json:
        found = {
            **run.as_json(), "signature": list(signature(run.result)), "tried": shrunk.tried, "exhausted": shrunk.exhausted,
            "faults": after[0], "faults_before": before[0], "steps": [step.words for step in shrunk.steps],
            "plan": json.loads(plans.dumps(run.result.plan)), "report": str(report),
            "nearest_passing": None if near is None else {
                "words": near.words, "at": near.divergence.at, "common": near.divergence.common,
                "differs": list(near.divergence.differs),
            },
        }  # fmt: skip
        click.echo(json.dumps(found))
    sys.exit(EXIT_OK)


main.add_command(mutants)
main.add_command(twins)
main.add_command(byzzfuzz)
