"""`partition.py mutants`, and `--mutant` for its commands that run one seed."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from sim.explore import mutants_lockstep
from sim.explore import mutants_table as tables
from sim.explore.mutants import (
    EXPLORE,
    PROTOCOLS,
    ROOT,
    MutantError,
    focus_of,
    instrument_of,
    load,
    pick,
    show,
)
from sim.explore.mutants_run import Control, Finding, Terms, campaign
from sim.explore.mutants_worker import plan_of
from sim.finite import Finite

USUAL: Final = Terms()
EXIT_OK, EXIT_UNCAUGHT, EXIT_BAD_INPUT = 0, 1, 2


def _fail(text: str, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"error": text, "exit_code": EXIT_BAD_INPUT}))
    click.echo(f"partition: {text}", err=True)
    sys.exit(EXIT_BAD_INPUT)


@click.command("mutants")
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="raft", show_default=True, help="whose mutants"
)
@click.option("--only", "names", multiple=True, metavar="NAME", help="only this mutant; may be repeated")
@click.option(
    "--list", "list_only", is_flag=True, help="name the mutants with what each removes, and run nothing"
)
@click.option(
    "--show", "shown", multiple=True, metavar="NAME", help="print a mutant as a unified diff, and run nothing"
)
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="the first seed")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=Terms().seeds,
    show_default=True,
    help="most seeds for each mutant",
)
@click.option(
    "--stop",
    type=click.IntRange(min=0),
    default=Terms().stop,
    show_default=True,
    help="detections after which a mutant is done; 0: never",
)
@click.option(
    "--budget",
    type=Finite(min=1),
    default=Terms().budget,
    show_default=True,
    help="most seconds for each mutant",
)
@click.option("--jobs", type=click.IntRange(1, 256), help="mutants side by side (default: one a core)")
@click.option("--markdown", is_flag=True, help="print the table as it stands in the docs")
@click.option(
    "--json", "as_json", is_flag=True, help="print one object on standard output, and nothing else there"
)
def mutants(
    protocol: str, names: tuple[str, ...], list_only: bool, shown: tuple[str, ...], first: int, seeds: int, stop: int,
    budget: float, jobs: int | None, markdown: bool, as_json: bool,
) -> None:  # fmt: skip
    """Remove one safeguard at a time, and see what catches it.

    Each mutant is the project's own source with one safeguard less, in a process of its own. It counts as caught when an
    oracle or a checker objects from outside; an exception inside the core does not count, and a run in which nothing goes on
    counts for a safeguard of liveness only. The unmutated tree runs the same plans and must be green on all of them.

    Exit codes: 0 every mutant was caught and the control is green, 1 not so, 2 bad input."""
    terms = Terms(first, seeds, stop, budget)
    try:
        if shown:
            for mutant in pick(shown, protocol):
                click.echo(
                    f"# {mutant.name}: without {mutant.removes}\n# {mutant.bug}\n{show(mutant)}", nl=False
                )
            return
        if list_only:
            listed = load(protocol)
            if as_json:
                click.echo(json.dumps({name: mutant.removes for name, mutant in listed.items()}))
                return
            width = max(map(len, listed))
            for name, mutant in listed.items():
                click.echo(f"{name:{width}}  {mutant.removes}")
            return
        count = jobs or len(os.sched_getaffinity(0))
        asked = f"seeds {first} to {first + seeds - 1}, until {stop or 'no'} detections, {budget:g} s each, {count} jobs"
        click.echo(f"mutants of {protocol}: {asked}", err=True)
        table = campaign(names, protocol, terms, count, _progress)
    except MutantError as error:
        _fail(str(error), as_json)
        return
    if as_json:
        click.echo(json.dumps(tables.as_json(table)))
    else:
        for line in tables.markdown(table) if markdown else tables.text(table):
            click.echo(line)
    sys.exit(EXIT_OK if table.green else EXIT_UNCAUGHT)


def _progress(what: Finding | Control) -> None:
    click.echo(tables.line(what), err=True)


def mutable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command of `partition.py` with an argument `what` (a seed or a plan) the option `--mutant`: the same command
    then runs in a fresh process as these mutants, a seed meaning the plan that the mutation table ran."""

    @click.option(
        "--mutant",
        "as_mutants",
        multiple=True,
        metavar="NAME",
        help="as a mutant of the mutation table; a seed is then that table's",
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, as_mutants: tuple[str, ...], what: str, **asked: Any) -> Any:
        if not as_mutants:
            return command(*arguments, what=what, **asked)
        try:
            sys.exit(rerun(as_mutants, what, sys.argv))
        except MutantError as error:
            _fail(str(error), bool(asked.get("as_json")))

    return wrapped


def rerun(names: tuple[str, ...], what: str, argv: list[str]) -> int:
    """Run a command line (script first) as these mutants, without its `--mutant`s; the exit code. A seed that the table ran with
    twins or with ByzzFuzz is played again by their commands. Raises MutantError."""
    chosen = pick(names)
    known = next((mutant for mutant in chosen if mutant.family == "core"), chosen[0])
    focus = focus_of(known.protocol, known.focus)
    rest: list[str] = []
    skip = False
    for word in argv[1:]:
        if skip or word == "--mutant":
            skip = not skip
        elif not word.startswith("--mutant="):
            rest.append(word)
    with tempfile.TemporaryDirectory() as folder:
        if instrument_of(focus) != EXPLORE:
            if rest[:1] != ["replay"] or not what.isdecimal():
                raise MutantError(
                    f"{known.name} is run by {instrument_of(focus)}, which has no plans: only `replay SEED` can be asked for"
                )
            rest = mutants_lockstep.words(focus, int(what)) + ["--json"] * ("--json" in rest)
        else:
            if what.isdecimal():
                path = Path(folder) / f"seed-{what}.json"
                path.write_text(plan_text(known.protocol, focus, int(what)), encoding="utf-8")
                rest[rest.index(what)] = str(path)
            if not any(word.startswith("--on-crash") for word in rest):
                rest += ["--on-crash", "go-on"]
        command = [
            sys.executable,
            "-m",
            "sim.explore.mutants_import",
            ",".join(names),
            str(Path(argv[0]).resolve()),
            *rest,
        ]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        code = subprocess.run(command, env=env, check=False).returncode
    click.echo(f"as a mutant, without {'; without '.join(mutant.removes for mutant in chosen)}", err=True)
    return code


def plan_text(protocol: str, focus: dict[str, Any], seed: int) -> str:
    """The plan that the table runs for a seed, as JSON text."""
    from sim.virtual import plan as plans

    return plans.dumps(plan_of(focus, seed, protocol)) + "\n"
