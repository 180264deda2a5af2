"""`python -m node.io --config FILE`: run one node.

Exit codes: 0 after an orderly exit, 1 when the node had to stop (a failed disk, a violated invariant), 2 for bad
configuration, ports in use, a foreign, damaged or missing journal.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import NoReturn

import click
import structlog
import trio

from consensus.raft import SafetyViolation
from node.disk import DiskError
from node.io.certificates import CertificateError
from node.io.config import ConfigError, Log, load
from node.journal import JournalError
from node.snapshot import SnapshotError


def set_up_logging(settings: Log) -> None:
    """One JSON object a line, to standard error or to a file."""
    stream = settings.file.open("a", buffering=1) if settings.file else sys.stderr
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


def fail(code: int, error: BaseException | str) -> NoReturn:
    """Say what is wrong, and exit."""
    click.echo(f"ridethrough: {error}", err=True)
    sys.exit(code)


@click.command(help=__doc__.split("\n")[0])
@click.option(
    "--config", "path", required=True, type=click.Path(path_type=Path), help="the node's config.toml"
)
@click.option("--check", is_flag=True, help="check the configuration and exit")
def main(path: Path, check: bool) -> None:
    try:
        config, warnings = load(path)
    except ConfigError as error:
        fail(2, error)
    set_up_logging(config.log)
    log = structlog.get_logger()
    for warning in warnings:
        log.warning("config", warning=warning)
    if check:
        click.echo(f"{path}: good, {len(warnings)} warnings")
        return
    # A thread that renders HTTP or scores items must give the interpreter back to the one that sends
    # heartbeats within half a millisecond.
    sys.setswitchinterval(0.0005)
    from node.io.server import Node, NodeFailed

    try:
        node = Node(config)
    except (DiskError, JournalError, SnapshotError, CertificateError, NodeFailed) as error:
        log.error("cannot_start", reason=str(error))
        fail(2, error)
    try:
        trio.run(node.run)
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, NodeFailed | OSError):
            refused_port = "cannot listen" in str(error)
            log.error("stopped", reason=str(error))
            fail(2 if refused_port else 1, error)
        if isinstance(error, SafetyViolation | AssertionError):
            log.critical("safety_violation", reason=str(error), exc_info=error)
            fail(1, f"a safety invariant is violated: {error}. The node stops; keep its folder")
        raise


if __name__ == "__main__":
    main()
