"""Command-line options that every command over seeds shares, and the `Request` that they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

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
)  # fmt: skip

_DRAWING = (
    click.option("--protocol", default=USUAL.protocol, show_default=True, metavar="raft|MODULE:CLASS"),
    click.option("--machine", default=USUAL.machine, show_default=True, metavar="kv|MODULE:CLASS"),
    click.option("--nodes", default=USUAL.nodes, show_default=True, type=click.IntRange(1, 31)),
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
    nodes: int,
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
    options = Options(protocol, machine, nodes, clients, kinds, without, over_budget, oracles)
    return Request(options, plugins, plugin_faults, on_crash.replace("-", "_"))
