"""Benchmarks. Each prints the machine, the versions and the settings beside its figures; `--json` for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from node.io.config import PROTOCOLS
from sim.bench import apply as apply_bench
from sim.bench import check as check_bench
from sim.bench.cluster import BenchError, check_bytes, measure_cluster
from sim.finite import Finite
from sim.local.layout import ClusterError

console = Console()

WIDTH = 110
"""Least width of tables, in characters: a heading cut short says nothing."""


def fail(code: int, text: str, as_json: bool) -> NoReturn:
    """Say what is wrong, in the form asked for, and exit."""
    if as_json:
        click.echo(json.dumps({"error": text}))
    click.echo(f"bench: {text}", err=True)
    sys.exit(code)


def show_environment(environment: dict[str, Any]) -> None:
    """One line about where this was measured."""
    words = ", ".join(f"{name} {value}" for name, value in environment.items())
    console.print(words, style="dim", soft_wrap=True)


def show_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table of figures."""
    table = Table(box=None)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=max(console.width, WIDTH)).print(table)


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("apply")
@click.option("--interactions", default=100_000, type=click.IntRange(1000, 10_000_000), show_default=True)
@click.option(
    "--batch",
    "batches",
    multiple=True,
    type=click.IntRange(1, 256),
    help="interactions in a command; repeatable",
)
@click.option("--seed", default=1, type=click.IntRange(0, 2**31 - 2), show_default=True)
@click.option("--json", "as_json", is_flag=True)
def apply_(interactions: int, batches: tuple[int, ...], seed: int, as_json: bool) -> None:
    """Interactions applied a second by the ranking machine on one core."""
    result = apply_bench.run(interactions, batches or (1, 4, 16, 64, 256), seed)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    show_environment(result["environment"])
    columns = (
        "batch", "interactions/s", "commands/s", "bytes/interaction", "rank all us", "digest ms", "snapshot ms", "restore ms",
    )  # fmt: skip
    rows = [
        (
            str(row["batch"]), f"{row['interactions_per_second']:,.0f}", f"{row['commands_per_second']:,.0f}",
            f"{row['bytes_per_interaction']:.1f}", f"{row['rank_all_us']:.0f}", f"{row['digest_ms']:.1f}",
            f"{row['snapshot_ms']:.1f}", f"{row['restore_ms']:.1f}",
        )
        for row in result["apply"]
    ]  # fmt: skip
    show_table(columns, rows)


@main.command()
@click.option("--protocol", default="raft", type=click.Choice(PROTOCOLS), show_default=True)
@click.option("--nodes", type=click.IntRange(1, 10), help="default: 3 with raft, 4 with bft")
@click.option(
    "--size",
    default=256,
    type=click.IntRange(1, 60_000),
    show_default=True,
    help="bytes of an update's value",
)
@click.option("--seconds", default=8.0, type=Finite(0.5, 120), show_default=True, help="of each load")
@click.option(
    "--in-flight",
    "in_flight",
    multiple=True,
    type=click.IntRange(1, 4096),
    help="repeatable; default 1 and 1000",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False, writable=True),
    help="where the nodes' disks are (default: the temp folder)",
)
@click.option("--json", "as_json", is_flag=True)
def cluster(
    protocol: str,
    nodes: int | None,
    size: int,
    seconds: float,
    in_flight: tuple[int, ...],
    folder: Path | None,
    as_json: bool,
) -> None:
    """Acknowledged updates a second and their latency: real processes, TLS, fsync, one session."""
    nodes = nodes or (4 if protocol == "bft" else 3)
    in_flight = in_flight or (1, 1000)
    try:
        check_bytes(max(in_flight), size)
    except BenchError as error:
        fail(2, str(error), as_json)
    say = Console(stderr=True).print
    try:
        result = measure_cluster(
            nodes=nodes,
            protocol=protocol,
            size=size,
            seconds=seconds,
            in_flight=in_flight,
            folder=folder,
            say=say,
        )
    except (BenchError, ClusterError, OSError) as error:
        fail(1, str(error), as_json)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        show_cluster(result)
    for problem in result["problems"]:
        click.echo(f"bench: {problem}", err=True)
    sys.exit(1 if result["problems"] else 0)


def show_cluster(result: dict[str, Any]) -> None:
    """The figures of `cluster` for people."""
    show_environment(result["environment"])
    settings = result["settings"]
    beside = dict.fromkeys(f"{load['nodes']} nodes ({load['protocol']})" for load in result["loads"])
    console.print(
        f"{' beside '.join(beside)} on loopback, mutual TLS, fsync before every acknowledgement, "
        f"{settings['sessions']} session, values of {settings['value_bytes']} bytes; applying one costs "
        f"{result['apply_us_per_update']} us",
        soft_wrap=True,
    )
    if "verify_us" in result:
        console.print(
            f"verifying a client's signature costs {result['verify_us']} us, at each of the {settings['nodes']} nodes: with a "
            f"signature for every update {settings['nodes']} nodes on {result['environment']['cores']} cores cannot pass "
            f"{result['limit_at_one_signature_per_s']:,} updates/s",
            soft_wrap=True,
        )
    columns = (
        "protocol", "in flight", "dark", "updates/signature", "updates/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms",
        "journal bytes/update", "updates/entry", "failed",
    )  # fmt: skip
    rows = [
        (
            load["protocol"], str(load["in_flight"]), load["dark"] or "-",
            f"{load['updates_per_signature']:.1f}" if load["bundle"] else "-",
            f"{load['updates_per_s']:,.0f}", f"{load['p50_ms']:.2f}", f"{load['p99_ms']:.2f}",
            f"{load['p999_ms']:.2f}", f"{load['max_ms']:.1f}", f"{load['journal_bytes_per_update']:.0f}",
            f"{load['updates_per_entry']:.1f}", str(load["failed"]),
        )
        for load in result["loads"]
    ]  # fmt: skip
    show_table(columns, rows)


@main.command()
@click.option("--operations", default=1_000_000, type=click.IntRange(10_000, 4_000_000), show_default=True)
@click.option("--seed", default=1, type=click.IntRange(0), show_default=True)
@click.option(
    "--budget",
    default=10.0,
    type=Finite(0.1, 600),
    show_default=True,
    help="seconds for each history of the general checker",
)
@click.option("--json", "as_json", is_flag=True)
def check(operations: int, seed: int, budget: float, as_json: bool) -> None:
    """Seconds to check a long history by log index, to find corruptions in it, and to check small ones by search."""
    try:
        result = check_bench.run(operations, seed, budget, Console(stderr=True).print)
    except KeyboardInterrupt:
        click.echo("bench: interrupted", err=True)
        sys.exit(130)
    problems = check_bench.failures(result)
    if as_json:
        click.echo(json.dumps({**result, "problems": problems}, indent=2))
    else:
        show_check(result)
        for problem in problems:
            console.print(problem, style="bold red")
    sys.exit(1 if problems else 0)


def show_check(result: dict[str, Any]) -> None:
    """The figures of `check` for people."""
    show_environment(result["environment"])
    long = result["by_index"]
    console.print(
        f"by log index: {long['operations']:,} operations in {long['entries']:,} entries checked in {long['check_s']:.2f} s "
        f"({long['check_cpu_s']:.2f} s of them on a processor; {long['operations_per_second']:,.0f} a second), "
        f"peak memory {long['peak_rss_bytes'] / 1e6:,.0f} MB; "
        f"made in {long['generate_s']:.2f} s",
        soft_wrap=True,
    )
    show_table(
        ("corruption", "found", "by"),
        [
            (row["corruption"].replace("_", " "), "yes" if row["found"] else "NO", ", ".join(row["by"]))
            for row in long["corruptions"]
        ],
    )
    console.print("by the general checker:")
    columns = ("history", "clients", "operations", "cells", "verdict", "seconds", "configurations", "method")
    rows = [
        (
            row["history"], str(row["clients"]), f"{row['operations']:,}", str(row["cells"]), row["verdict"],
            f"{row['seconds']:.3f}", f"{row['configurations']:,}", ", ".join(row["methods"]),
        )
        for row in result["general"]
    ]  # fmt: skip
    show_table(columns, rows)
    both = result["agreement"]
    console.print(
        f"the same {both['operations']:,} operations by index in {both['by_index_s']:.3f} s, by search in "
        f"{both['general_s']:.3f} s: {'the same answer' if both['agree'] else 'DIFFERENT ANSWERS'}",
        soft_wrap=True,
    )
