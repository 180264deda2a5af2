"""Command-line options that every command over seeds shares, and the `Request` that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sim.explore.natively import SWITCH
from sim.explore.request import Request
from sim.faults.swarm import Options

USUAL = Options()

Command = Callable[..., Any]

_BRINGING = (
    click.option("--plugin", "plugins", multiple=True, metavar="MODULE", help="import this first; may be repeated"),
    click.option("--plugin-fault", "plugin_faults", multiple=True, metavar="MODULE:NAME", help="a kind of fault of your own"),
    click.option(
        "--on-crash", type=click.Choice(["stop", "go-on"]), default="stop", show_default=True,
        help="when a core raises: end the run there, or only that node's process",
    ),
    # Read by `sim.explore.natively` before anything else is imported; nothing is left to do with it here.
    click.option(SWITCH, is_flag=True, expose_value=False, help="leave the native build aside, if there is one"),
)  # fmt: skip

_DRAWING = (
    click.option("--protocol", default=USUAL.protocol, show_default=True, metavar="raft|bft|MODULE:CLASS"),
    click.option("--machine", default=USUAL.machine, show_default=True, metavar="kv|MODULE:CLASS"),
    click.option("--nodes", type=click.IntRange(1, 31), help="default: 5; of bft 4, sometimes 6 or 7"),
    click.option("--clients", default=USUAL.clients, show_default=True, type=click.IntRange(1, 64)),
    click.option("--fault", "kinds", multiple=True, metavar="KIND", help="draw from these only; may be repeated"),
    click.option("--without", multiple=True, metavar="KIND", help="never draw these; may be repeated"),
    click.option("--over-budget", is_flag=True, help="damage more than the protocol promises to survive"),
    click.option("--oracle", "oracles", multiple=True, metavar="MODULE:CLASS", help="an oracle of your own, besides all others"),
)  # fmt: skip


def drawing(command: Command) -> Command:
    """Add the options that decide what is drawn from a seed."""
    for option in reversed((*_DRAWING, *_BRINGING)):
        command = option(command)
    return command


def request(
    protocol: str,
    machine: str,
    nodes: int | None,
    clients: int,
    kinds: tuple[str, ...],
    without: tuple[str, ...],
    over_budget: bool,
    oracles: tuple[str, ...],
    plugins: tuple[str, ...],
    plugin_faults: tuple[str, ...],
    on_crash: str,
) -> Request:
    """What the options of `drawing` ask for."""
    usual = 0 if protocol == "bft" else USUAL.nodes
    options = Options(protocol, machine, nodes or usual, clients, kinds, without, over_budget, oracles)
    return Request(options, plugins, plugin_faults, on_crash.replace("-", "_"))
