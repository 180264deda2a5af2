"""`partition.py twins` and `partition.py byzzfuzz`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Final, NoReturn

import click

from consensus.bft.committee import Committee, CommitteeError
from sim.byzantine import byzzfuzz as fuzzing
from sim.byzantine import campaign as campaigns
from sim.byzantine import twins as twinning
from sim.byzantine.campaign import FOR_EVER, Plays, Tally, Task
from sim.byzantine.fuzz import SCOPES
from sim.byzantine.lockstep import Played
from sim.byzantine.scenarios import Order, ScenarioError, Space
from sim.explore.engine import cores
from sim.explore.request import SCRIPT
from sim.explore.summary import EXIT_BAD_INPUT
from sim.finite import Finite

USUAL: Final = 1_000
"""Runs, where neither a number of them nor a time is given."""
EVERY_S: Final = 5.0
"""Seconds between two lines of progress."""
SHOWN: Final = 10
"""Findings that are told."""

Command = Callable[..., Any]


@lru_cache(maxsize=4)
def _space(shape: twinning.Shape) -> Space:
    return shape.space()


@lru_cache(maxsize=4)
def _order(shape: twinning.Shape, seed: int) -> Order:
    return Order(_space(shape).total, seed)


@dataclass(slots=True, frozen=True)
class TwinsTask:
    """Scenarios of a shape, in the order that a seed gives them."""

    shape: twinning.Shape
    seed: int

    def player(self) -> twinning.Player:
        """See `campaign.Task`."""
        return twinning.Player(self.shape)

    def number(self, place: int) -> int:
        """See `campaign.Task`."""
        return _order(self.shape, self.seed)[place]


@dataclass(slots=True, frozen=True)
class FuzzTask:
    """Seeds, one after the other."""

    shape: fuzzing.Shape

    def player(self) -> fuzzing.Player:
        """See `campaign.Task`."""
        return fuzzing.Player(self.shape)

    def number(self, place: int) -> int:
        """See `campaign.Task`."""
        return place


@dataclass(slots=True, frozen=True)
class Asked:
    """What a command was asked for. `liars`: whether anybody is to lie. `line`: that which plays one run again, up to its number.
    `one`: what a run is called."""

    task: Task
    beginning: Sequence[str]
    facts: dict[str, Any]
    line: str
    one: str
    liars: bool


def running(command: Command) -> Command:
    """Add the options that say how much is run, and how it is told."""
    for option in reversed(
        (
            click.option("--minutes", type=Finite(min=0, min_open=True), help="begin no more after so long"),
            click.option("--jobs", type=click.IntRange(1, 1024), help="processes (default: one a core)"),
            click.option(
                "--stop-after", type=click.IntRange(min=0), default=0, show_default=True, help="findings; 0: go on"
            ),
            click.option("--stop", type=click.IntRange(min=0), help="how many may stop (default: a third of the others)"),
            click.option("--lie", type=click.IntRange(min=0), help="how many of them may lie (default: all of those)"),
            click.option("--json", "as_json", is_flag=True, help="print one object on standard output, and nothing else there"),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("twins")
@click.option("--nodes", type=click.IntRange(2, 31), default=4, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 64), default=6, show_default=True)
@click.option(
    "--twins", "twins_", type=click.IntRange(min=0), help="nodes that run twice (default: as many as may lie)"
)
@click.option(
    "--sides", type=click.IntRange(1, 8), default=2, show_default=True, help="most sides of a round"
)
@click.option("--plain", is_flag=True, help="everybody hears the votes of its side")
@click.option(
    "--scenarios", "--seeds", "count", type=click.IntRange(min=1), metavar="N", help="how many, none twice"
)
@click.option("--seed", type=int, default=0, show_default=True, help="shuffles the order of the scenarios")
@click.option(
    "--first", type=click.IntRange(min=0), default=0, show_default=True, help="the first place in that order"
)
@click.option(
    "--scenario",
    "number",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="play this one, and tell all about it",
)
@click.option("--over-budget", is_flag=True, help="more twins than may lie")
@running
def twins(
    nodes: int, rounds: int, twins_: int | None, sides: int, plain: bool, count: int | None, seed: int, first: int,
    number: int | None, over_budget: bool, minutes: float | None, jobs: int | None, stop_after: int, stop: int | None,
    lie: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Run some nodes twice under one key, and cut the network differently in every round.

    Scenarios are numbered; those that differ only in which of several equal nodes is which count once. Exit codes are those of
    `explore`."""
    try:
        stop, lie = _budget(nodes, stop, lie)
        doubled = lie if twins_ is None else twins_
        if doubled > lie and not over_budget:
            raise ScenarioError(
                f"{doubled} nodes run twice and {lie} may lie: that is more than {nodes} nodes promise to survive; say "
                f"--over-budget to see it"
            )
        if doubled >= nodes:
            raise ScenarioError(
                f"{doubled} of {nodes} nodes run twice: --twins must leave at least one honest node, to hold the others against"
            )
        shape = twinning.Shape(nodes, rounds, doubled, stop, lie, sides, not plain)
        committee, space = shape.committee(), _space(shape)
        if number is not None:
            space.scenario(number)
    except (ScenarioError, CommitteeError) as error:
        fail(str(error), as_json)
    words = [
        "--nodes",
        nodes,
        "--rounds",
        rounds,
        "--twins",
        doubled,
        "--sides",
        sides,
        "--stop",
        stop,
        "--lie",
        lie,
    ]
    words += [*["--plain"] * plain, *["--over-budget"] * over_budget, "--scenario"]
    left = max(0, space.total - first)
    most = min(left, count or (FOR_EVER if minutes else USUAL))
    alike = f"{space.alike} honest nodes" if space.alike > 1 else "no honest nodes"
    beginning = [
        f"twins: {_members(committee)}; {doubled} run twice; {rounds} rounds, at most {sides} sides, "
        + ("everybody hears the votes of its side" if plain else "in each round some hear no votes"),
        f"  {space.total:,} canonical scenarios (twins and {alike} interchangeable; told apart, {space.plain_total:,})",
        f"  in the order of seed {seed}, from place {first:,}: "
        + (f"for {minutes:g} minutes" if minutes and not count else f"{most:,} of them, none twice"),
    ]
    facts = {
        **asdict(shape),
        "seed": seed,
        "first": first,
        "total": space.total,
        "total_told_apart": space.plain_total,
    }
    line = " ".join([SCRIPT, "twins", *map(str, words)])
    asked = Asked(TwinsTask(shape, seed), beginning, facts, line, "scenario", doubled > 0)
    if number is not None:
        told(asked, number, as_json)
    campaign(asked, most, first, minutes, jobs, stop_after, as_json)


@click.command("byzzfuzz")
@click.option("--nodes", type=click.IntRange(2, 31), default=4, show_default=True)
@click.option(
    "--rounds", type=click.IntRange(1, 64), default=8, show_default=True, help="in which things go wrong"
)
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default=SCOPES[0],
    show_default=True,
    help="of what a message is changed into",
)
@click.option("--seeds", "count", type=click.IntRange(min=1), metavar="N", help="how many")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="the first of them")
@click.option(
    "--seed",
    "number",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="play this one, and tell all about it",
)
@running
def byzzfuzz(
    nodes: int, rounds: int, scope: str, count: int | None, first: int, number: int | None, minutes: float | None,
    jobs: int | None, stop_after: int, stop: int | None, lie: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Let one node change what it says in a few rounds, to some of the others, signed with its own key.

    Exit codes are those of `explore`."""
    try:
        stop, lie = _budget(nodes, stop, lie)
        if not lie:
            raise ScenarioError(
                f"of these {nodes} nodes none may lie, and one is going to; it takes more nodes"
            )
        shape = fuzzing.Shape(nodes, rounds, stop, lie, scope)
        committee = shape.committee()
        shape.case(0)
    except (ScenarioError, CommitteeError) as error:
        fail(str(error), as_json)
    most = count or (FOR_EVER if minutes else USUAL)
    beginning = [
        f"byzzfuzz: {_members(committee)}; one lies, changes of {scope} scope; {rounds} rounds",
        f"  seeds from {first:,}: "
        + (f"for {minutes:g} minutes" if minutes and not count else f"{most:,} of them"),
    ]
    words = ["--nodes", nodes, "--rounds", rounds, "--scope", scope, "--stop", stop, "--lie", lie, "--seed"]
    line = " ".join([SCRIPT, "byzzfuzz", *map(str, words)])
    asked = Asked(FuzzTask(shape), beginning, {**asdict(shape), "first": first}, line, "seed", True)
    if number is not None:
        told(asked, number, as_json)
    campaign(asked, most, first, minutes, jobs, stop_after, as_json)


def _budget(nodes: int, stop: int | None, lie: int | None) -> tuple[int, int]:
    """Where nothing is said, as many as n = 3f + 1 nodes survive. Raises CommitteeError."""
    usual = Committee.usual("usual", 1, twinning.node_names(nodes))
    chosen = usual.stop if stop is None else stop
    return chosen, min(chosen, usual.lie) if lie is None else lie


def _members(committee: Committee) -> str:
    return (
        f"{len(committee.members)} nodes, of which {committee.stop} may stop and {committee.lie} of those lie (quorum "
        f"{committee.quorum})"
    )


# ------------------------------------------------------------------------------------------------------------- telling


def fail(text: str, as_json: bool) -> NoReturn:
    """Say what is wrong, in the form asked for, and exit."""
    if as_json:
        click.echo(json.dumps({"error": text, "exit_code": EXIT_BAD_INPUT}))
    click.echo(f"partition: {text}", err=True)
    sys.exit(EXIT_BAD_INPUT)


def campaign(
    asked: Asked,
    most: int,
    first: int,
    minutes: float | None,
    jobs: int | None,
    stop_after: int,
    as_json: bool,
) -> NoReturn:
    """Run many, tell what came of them, and exit."""
    _say(asked.beginning, as_json)
    last = time.perf_counter()

    def watch(tally: Tally) -> None:
        nonlocal last
        if time.perf_counter() - last >= EVERY_S:
            last = time.perf_counter()
            click.echo(f"{tally.wall_s:6.0f} s: {_figures(tally, asked.one)}", err=True)

    tally = campaigns.run(asked.task, most, (minutes or 0.0) * 60, jobs or cores(), stop_after, first, watch)
    code = tally.exit_code(asked.liars)
    _say(_ending(tally, asked), as_json)
    if as_json:
        rows = [_row(asked, found) for found in tally.findings]
        facts = {
            **asked.facts,
            **tally.as_json(),
            "findings": rows,
            "void": tally.void(asked.liars),
            "exit_code": code,
        }
        click.echo(json.dumps(facts))
    sys.exit(code)


def _row(asked: Asked, found: Played) -> dict[str, Any]:
    row = {asked.one: found.number, "oracle": found.oracle, "text": found.text}
    return {**row, "replay": f"{asked.line} {found.number}"}


def _figures(tally: Tally, one: str) -> str:
    speed = tally.played / max(tally.wall_s, 1e-9)
    core = tally.played / max(tally.core_s, 1e-9)
    return (
        f"{tally.played:,} {one}s, {speed:,.0f} a second ({core:,.0f} of one core's time), "
        f"{sum(tally.found.values()):,} findings"
    )


def _ending(tally: Tally, asked: Asked) -> Iterable[str]:
    total = asked.facts.get("total")
    of = f" of {total:,} ({tally.played / total:.3g} of them)" if total else ""
    yield _figures(tally, asked.one)
    yield f"played {tally.played:,}{of}; messages {tally.messages:,}, cut {tally.cut:,}"
    yield (
        f"somebody lied in {tally.dealt:,}, honest nodes hold evidence in {tally.blamed:,}; something was committed before the "
        f"links were healed in {tally.early:,}"
    )
    if tally.rounds:
        most = max(tally.rounds)
        mean = sum(rounds * runs for rounds, runs in tally.rounds.items()) / sum(tally.rounds.values())
        yield f"rounds from there until everything was committed everywhere: mean {mean:.1f}, most {most}"
    seen: dict[str, int] = {}
    for found in tally.findings[:SHOWN]:
        first = seen.setdefault(found.text, found.number)
        yield f"{asked.one} {found.number}: {found.oracle}"
        yield f"    {found.text}" if first == found.number else f"    the same as {asked.one} {first}"
        yield f"    {asked.line} {found.number}"
    if tally.interrupted:
        yield "INTERRUPTED"
    if tally.died:
        yield tally.died
    if tally.found:
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(tally.found.items()))
        yield f"FAILED: {counts}"
    elif tally.died:
        yield f"FAILED: a worker process died; nothing else failed in {tally.played:,} {asked.one}s"
    elif tally.void(asked.liars):
        yield f"VOID: it proves nothing, for {'; '.join(tally.void(asked.liars))}"
    elif not tally.interrupted:
        yield f"GREEN: {tally.played:,} {asked.one}s, no conflict, nobody blamed who did not lie, all came to an end"


def told(asked: Asked, number: int, as_json: bool) -> NoReturn:
    """Play one run, say all that happens in it, and exit."""
    player: Plays = asked.task.player()
    _say([*asked.beginning[:2], f"{asked.one} {number}"], as_json)
    played = player.play(number, lambda line: click.echo(line, err=as_json))
    tally = Tally()
    tally.add(played)
    # One run alone may well be one in which little happens.
    code = replace(tally, dealt=1, early=1).exit_code(asked.liars)
    if as_json:
        counts = asdict(played.counts)
        row = {**_row(asked, played), "lied": played.dealt, "evidence": played.evidence, **counts}
        click.echo(json.dumps({**asked.facts, **row, "exit_code": code}))
    elif played.oracle:
        click.echo(f"FAILED: {played.oracle}: {played.text}")
    else:
        click.echo(
            f"GREEN: everything committed everywhere {played.counts.rounds} rounds after the links were healed; "
            f"{played.evidence} pieces of evidence"
        )
    sys.exit(code)


def _say(lines: Iterable[str], as_json: bool) -> None:
    for line in lines:
        click.echo(line, err=as_json)
