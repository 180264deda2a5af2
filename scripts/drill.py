"""Drills: cut the power of a running cluster's domains and break its network under load, and check that nothing was lost.

Exit codes: 0 every check holds, 1 a check failed, 2 bad input, 3 the run could not be made, 4 void (nothing bit).
"""

from __future__ import annotations

import json
import secrets
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.live import Live as RichLive

from sim import command_line
from sim import scenario as scenarios
from sim.check.history import HistoryError
from sim.check.verdict import exit_code, sentence
from sim.local import namespaces
from sim.local.drill import Drill, Live
from sim.local.judge import judge
from sim.local.layout import NAMESPACES, NETWORKS, RELAY, ClusterError
from sim.local.links import LinksError
from sim.local.progress import panel, verdict_table
from sim.report.html import render
from sim.virtual import drill as virtual
from sim.workload import movielens
from sim.workload.stream import DataError, Stream
from sim.workload.synthetic import synthetic

console = Console(stderr=True)


def fail(code: int, text: str, as_json: bool) -> NoReturn:
    """Say what is wrong, in the form asked for, and exit."""
    if as_json:
        click.echo(json.dumps({"error": text}))
    click.echo(f"drill: {text}", err=True)
    sys.exit(code)


def load_stream(ratings: Path | None, use_synthetic: bool, seed: int) -> Stream:
    """The interactions to learn from. Raises DataError."""
    if use_synthetic:
        return synthetic(seed=seed)
    return movielens.load(ratings)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("list")
@click.option("--json", "as_json", is_flag=True)
def list_(as_json: bool) -> None:
    """The scenarios that ship with the project."""
    known = {name: scenarios.load(name).title for name in scenarios.names()}
    click.echo(
        json.dumps(known) if as_json else "\n".join(f"{name:12} {title}" for name, title in known.items())
    )


@main.command()
@click.argument("scenario", required=False)
@click.option(
    "--protocol",
    type=click.Choice(scenarios.PROTOCOLS),
    help="what orders the log, whatever the scenario says; without SCENARIO: `default` for raft, `bft` for bft",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    help="decides who is asked what, what unsynced bytes become, and which links a shape cuts",
)
@click.option(
    "--world",
    type=click.Choice(["local", "virtual"]),
    default="local",
    show_default=True,
    help="real processes over TLS, or the same nodes on virtual time, networks and disks",
)
@click.option(
    "--links",
    type=click.Choice(NETWORKS),
    default=RELAY,
    show_default=True,
    help="of the local world: a relay, or network namespaces with packet filters (root on Linux)",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="folder for the run (default: runs/<time>-<scenario>-<seed>)",
)
@click.option("--ratings", type=click.Path(path_type=Path), help="a ratings file in a MovieLens format")
@click.option(
    "--synthetic", "use_synthetic", is_flag=True, help="a seeded synthetic stream instead of MovieLens"
)
@click.option("--json", "as_json", is_flag=True, help="print the verdict as JSON on standard output")
def run(
    scenario: str | None,
    protocol: str | None,
    seed: int | None,
    world: str,
    links: str,
    out: Path | None,
    ratings: Path | None,
    use_synthetic: bool,
    as_json: bool,
) -> None:
    """Run SCENARIO (a name from `list`, or a TOML file; `default` without one) and judge it."""
    seed = secrets.randbits(32) if seed is None else seed
    if scenario is None:
        scenario = "bft" if protocol == "bft" else "default"
    try:
        text = scenarios.source(scenario)
        plan = scenarios.load(scenario)
        if protocol is not None:
            plan = scenarios.with_protocol(plan, protocol)
        check_world(plan, world, links)
        if ratings is not None and use_synthetic:
            raise scenarios.ScenarioError("--ratings and --synthetic exclude each other")
        given = ratings is not None or use_synthetic
        if given and plan.workload.machine != "ranking":
            raise scenarios.ScenarioError(
                f"{scenario} has a key-value load: --ratings and --synthetic say what a ranking machine learns from"
            )
        learns = plan.workload.machine == "ranking"
        stream = load_stream(ratings, use_synthetic, seed) if learns else None
    except (scenarios.ScenarioError, DataError, LinksError) as error:
        fail(2, str(error), as_json)
    if given:
        # The published figures are MovieLens's.
        plan = scenarios.without_reference(plan)
    arguments = ["run", scenario, "--seed", str(seed)]
    arguments += ["--protocol", protocol] if protocol is not None else []
    arguments += ["--world", world] if world != "local" else []
    arguments += ["--links", links] if links != RELAY else []
    arguments += ["--ratings", str(ratings)] if ratings else []
    arguments += ["--synthetic"] if use_synthetic else []
    command = shlex.join(["python", "scripts/drill.py", *arguments])
    folder = out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{plan.name}-{seed}"
    try:
        if folder.exists() and any(folder.iterdir()):
            fail(2, f"{folder} is not empty; give another --out", as_json)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "scenario.toml").write_text(text, encoding="utf-8")
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        fail(2, f"{folder} cannot be the run's folder: {words}; give another --out", as_json)
    about = f"links: {links if world == 'local' else 'virtual'}" + (f"; {stream.report}" if stream else "")
    console.print(
        f"[bold]{command}[/bold]\n{plan.title}; {about}; everything goes to {folder}", soft_wrap=True
    )
    if impossible := scenarios.beyond(plan):
        console.print(f"[yellow]this cannot pass[/yellow]: {impossible}", soft_wrap=True)
    try:
        verdict = (
            run_virtual(plan, stream, folder, seed, command)
            if world == "virtual"
            else run_local(plan, stream, folder, seed, command, links)
        )
    except scenarios.ScenarioError as error:
        fail(2, str(error), as_json)
    except (ClusterError, LinksError) as error:
        fail(3, str(error), as_json)
    except KeyboardInterrupt:
        fail(3, "interrupted; the cluster was taken down", as_json)
    except HistoryError as error:
        fail(1, str(error), as_json)
    report, lanes = render(folder), folder / virtual.LANES
    if as_json:
        paths = {
            "folder": str(folder),
            "report": str(report),
            **({"lanes": str(lanes)} if lanes.exists() else {}),
        }
        click.echo(json.dumps({**verdict, **paths}))
    else:
        console.print(verdict_table(verdict))
    console.print(f"{sentence(verdict)}\nreport: {report}", soft_wrap=True)
    if lanes.exists():
        console.print(f"message by message: {lanes}", soft_wrap=True)
    sys.exit(exit_code(verdict))


def check_world(plan: scenarios.Scenario, world: str, links: str) -> None:
    """Refuse a scenario that a world cannot run. Raises ScenarioError, LinksError."""
    if world == "virtual":
        if links != RELAY:
            raise scenarios.ScenarioError(
                "--links belongs to --world local; a virtual network has links of its own"
            )
        return
    if links == NAMESPACES:
        delays = [str(place) for place, fault in enumerate(plan.faults, 1) if fault.kind == "delay"]
        if delays:
            raise scenarios.ScenarioError(
                f"[[faults]] number {', '.join(delays)}: delay needs the kernel's netem, which links through namespaces do "
                "without; take --links relay"
            )
        namespaces.check()


def run_virtual(
    plan: scenarios.Scenario, stream: Stream | None, folder: Path, seed: int, command: str
) -> dict[str, Any]:
    """The scenario on virtual time. Raises ScenarioError for one that this world cannot run, HistoryError."""
    with console.status("on virtual time"):
        return virtual.run(plan, seed, folder, command, stream)


def run_local(
    plan: scenarios.Scenario, stream: Stream | None, folder: Path, seed: int, command: str, links: str
) -> dict[str, Any]:
    """The scenario on real processes. Raises ClusterError, HistoryError."""
    with RichLive(console=console, refresh_per_second=4, transient=True) as live:
        told: list[str] = []

        def watch(state: Live) -> None:
            for note in state.notes[len(told) :]:
                told.append(note)
                live.console.print(f"  {state.seconds:6.1f} s  {note}")
            live.update(panel(state))

        Drill(plan, stream, folder, seed, command, watch, links).run()
    with console.status("judging") as status:
        return judge(folder, plan, stream, status.update)


@main.command()
@click.option("--json", "as_json", is_flag=True)
def clean(as_json: bool) -> None:
    """Remove network namespaces that dead runs left behind; those of runs that are alive stay."""
    try:
        names = namespaces.clean()
    except LinksError as error:
        fail(2, str(error), as_json)
    words = "\n".join(names) if names else "nothing was left behind"
    click.echo(json.dumps({"removed": names}) if as_json else words)


if __name__ == "__main__":
    command_line.start(main, "drill.py")
