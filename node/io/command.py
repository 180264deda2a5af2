"""The command line of a node: starts it, and turns its end into an exit code (docs/reference/node-command.md).

Exit codes: 0 after an orderly exit; 1 when the node had to stop (a failed disk, a violated invariant); 2 when it could
not start (bad configuration or certificates, a port in use, a foreign, damaged or missing journal).
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

# First of what imports structlog; see there.
from node.io.logs import set_up_logging, structlog  # isort: skip

import trio

from consensus.raft import SafetyViolation
from node.disk import DiskError
from node.io.certificates import CertificateError
from node.io.config import ConfigError, NodeConfig, load
from node.io.server import Node, NodeFailed
from node.journal import JournalError
from node.snapshot import SnapshotError


def fail(code: int, error: BaseException | str) -> NoReturn:
    """Say what is wrong, and exit."""
    click.echo(f"ridethrough: {error}", err=True)
    sys.exit(code)


def settle() -> None:
    """All is loaded. What has been loaded stays: the collector need never walk through it again, which would take as long as
    an election time-out, with everything else waiting."""
    gc.freeze()
    gc.enable()


async def serve(node: Node) -> None:
    """Run a node until SIGTERM or SIGINT."""
    async with trio.open_nursery() as nursery:

        async def wait_for_signal() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                async for _ in signals:
                    node.leave()

        nursery.start_soon(wait_for_signal)
        await node.run()
        nursery.cancel_scope.cancel()


@click.command(help="Run one node of a cluster until SIGTERM or SIGINT.")
@click.option(
    "--config", "path", required=True, type=click.Path(path_type=Path), help="the node's config.toml"
)
@click.option("--check", is_flag=True, help="check the configuration and exit")
def main(path: Path, check: bool) -> None:
    run(path, check)


MakeNode = Callable[[NodeConfig, Callable[[], None]], Node]


def run(path: Path, check: bool = False, make: MakeNode = Node) -> None:
    """Run the node that `make` makes of a configuration; see there for what it is called with. Ends the process if the node does
    not end well."""
    try:
        config, warnings = load(path)
    except ConfigError as error:
        fail(2, error)
    if check:
        for warning in warnings:
            click.echo(f"warning: {warning}")
        click.echo(f"{path}: good, {len(warnings)} warnings")
        return
    try:
        set_up_logging(config.log)
    except OSError as error:
        fail(
            2, f"{config.log.file}: cannot open the log ({(error.strerror or str(error)).lower()}); see [log]"
        )
    log = structlog.get_logger()
    for warning in warnings:
        log.warning("config", warning=warning)
    # A thread that renders HTTP or scores items must give the interpreter back to the one that sends
    # heartbeats within half a millisecond.
    sys.setswitchinterval(0.0005)
    try:
        node = make(config, settle)
    except (DiskError, JournalError, SnapshotError, CertificateError, NodeFailed) as error:
        log.error("cannot_start", reason=str(error))
        fail(2, error)
    # For the moments before `serve` listens for signals, and after: the first turn of the loop sees it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(node, "leaving", True))
    try:
        trio.run(serve, node)
    except BaseException as error:
        end_badly(log, error)


def end_badly(log: Any, error: BaseException) -> NoReturn:
    """Say why the node stops, and exit."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, NodeFailed):
        log.error("cannot_start" if error.code == 2 else "stopped", reason=str(error))
        fail(error.code, error)
    if isinstance(error, SafetyViolation | AssertionError):
        log.critical("safety_violation", reason=str(error), exc_info=error)
        fail(1, f"a safety invariant is violated: {error}. The node stops; keep its folder")
    log.critical("crashed", reason=repr(error), exc_info=error)
    fail(1, f"unexpected: {error!r}. The node stops; the log has the details")
