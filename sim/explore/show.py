"""A campaign in the terminal: what was asked, how far it is, and what it came to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from sim.explore.campaign import FOR_EVER, Campaign, Progress
from sim.explore.summary import Summary
from sim.explore.words import seconds

EVERY_S: Final = 5
"""Seconds between two lines of progress where there is no terminal."""
SHOWN: Final = 10
"""Failing seeds of which everything is told."""
LISTED: Final = 50
"""Failing seeds that are told at all."""


def beginning(campaign: Campaign, engine: str, code: str, modules: str) -> list[str]:
    """Seeds and every option, before anything runs."""
    options, request = campaign.request.options, campaign.request
    if campaign.seeds >= FOR_EVER:
        seeds = f"seeds from {campaign.first} on"
    else:
        seeds = f"seeds {campaign.first} to {campaign.first + campaign.seeds - 1}"
    if campaign.minutes:
        seeds += f", for {campaign.minutes:g} minutes" + ("" if campaign.seeds >= FOR_EVER else " at most")
    rows = {
        "protocol": options.protocol,
        "machine": options.machine,
        "nodes": options.nodes,
        "clients": options.clients,
        "faults": ", ".join(options.kinds) or "all",
        "without": ", ".join(options.without) or "none",
        "over budget": "yes" if options.over_budget else "no",
        "oracles besides": ", ".join(options.oracles) or "none",
        "brought along": ", ".join((*request.plugins, *request.faults)) or "nothing",
        "on a crash": request.on_crash.replace("_", " "),
        "stop after": f"{campaign.stop_after} failures" if campaign.stop_after else "all seeds",
        "complete": "every fault must bite, every mark be reached" if campaign.complete else "not demanded",
        "engine": engine,
        "sources": code,
        "modules": modules,
    }
    return [seeds, *(f"  {name:16} {value}" for name, value in rows.items())]


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Something to call with every `Progress`: a bar on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        last = time.perf_counter()

        def line(now: Progress) -> None:
            nonlocal last
            if time.perf_counter() - last >= EVERY_S:
                last = time.perf_counter()
                console.print(_words(now), highlight=False, soft_wrap=True)

        yield line
        return
    # No thread of its own: processes are forked while it runs.
    bar = Bar(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, auto_refresh=False, transient=True,
    )  # fmt: skip
    task = bar.add_task("seeds")

    def show(now: Progress) -> None:
        bar.update(task, completed=now.seeds, total=now.total, description=_rate(now))
        bar.refresh()

    with bar:
        yield show


def _rate(now: Progress) -> str:
    failed = f", {now.failures} failed" if now.failures else ""
    return f"{now.seeds / max(now.seconds, 1e-9):.1f} seeds/s{failed}"


def _words(now: Progress) -> str:
    of = f" of {now.total:,}" if now.total is not None else ""
    return f"{now.seconds:6.0f} s: {now.seeds:,}{of} seeds, {_rate(now)}"


def ending(summary: Summary, replays: Mapping[int, str]) -> list[str]:
    """What a campaign came to."""
    return [
        *_faults(summary),
        *_marks(summary),
        *_figures(summary),
        *_failures(summary, replays),
        *_verdict(summary),
    ]


def _faults(summary: Summary) -> list[str]:
    lines = ["faults that bit: how often they did something, how often they were scheduled"]
    lines += [f"  {name:32} {n:>12,} {summary.drawn[name]:>9,}" for name, n in summary.faults().items() if n]
    never = summary.never_bit()
    lines.append(f"faults that never bit: {', '.join(never) if never else 'none'}")
    return lines


def _marks(summary: Summary) -> list[str]:
    places = summary.places()
    lines = ["marks reached: how often, and where they stand"]
    lines += [
        f"  {summary.marks[name]:>12,}  {name}  [{place}]"
        for name, place in places.items()
        if summary.marks[name]
    ]
    unreached = summary.unreached()
    if unreached:
        lines.append(f"marks never reached: {len(unreached)} of {len(places)}")
        lines += [f"{'':14}  {name}  [{places[name]}]" for name in unreached]
    else:
        lines.append(f"marks never reached: none of {len(places)}")
    return lines


def _figures(summary: Summary) -> list[str]:
    rates, operations, recovery = summary.rates(), summary.operations or [0], summary.recovery()
    notes = ", ".join(f"{name} {count:,}" for name, count in sorted(summary.notes.items()))
    lines = [
        f"{summary.seeds:,} seeds in {summary.wall_s:.1f} s: {rates['seeds_per_second']:.1f} a second; of one core's time "
        f"{rates['seeds_per_core_second']:.1f} a second",
        f"virtual over real time: {rates['virtual_over_real']:,.0f} on one core ({summary.virtual_us / 1e6:,.0f} s in "
        f"{summary.core_s:.1f} s)",
        f"messages: {summary.messages:,}, {rates['messages_per_second']:,.0f} a second; dropped {summary.dropped:,}",
        f"client operations a seed: least {min(operations):,}, mean {sum(operations) / len(operations):,.1f}; acknowledged "
        f"{summary.acknowledged:,}",
        f"happened: {notes or 'nothing'}; nodes that refused to start {summary.lost:,}",
    ]
    if recovery:
        words = ", ".join(f"{name} {seconds(us)}" for name, us in recovery.items())
        lines.append(f"healed quorum to progress of every client: {words}")
    lines.append(f"trace hashes of all seeds: {summary.digest()}")
    return lines


def _failures(summary: Summary, replays: Mapping[int, str]) -> list[str]:
    lines: list[str] = []
    told: dict[str, int] = {}
    for place, result in enumerate(summary.failures[:LISTED]):
        seed = result.plan.seed
        lines.append(f"seed {seed}: {result.outcome} at {result.at / 1e6:.6f} s, {result.oracle}")
        if result.text in told:
            lines.append(f"    the same as seed {told[result.text]}")
        elif place < SHOWN:
            told[result.text] = seed
            lines += [f"    {line}" for line in result.text.splitlines()]
        lines.append(f"    {replays[seed]}")
    if len(summary.failures) > LISTED:
        lines.append(
            f"and {len(summary.failures) - LISTED:,} seeds more that failed; summary.json has all of them"
        )
    return lines


def _verdict(summary: Summary) -> list[str]:
    lines = []
    if summary.died:
        lines.append(summary.died)
        if not summary.failures:
            return [*lines, f"FAILED: a worker process died; nothing else failed in {summary.seeds:,} seeds"]
    if summary.interrupted:
        lines.append("interrupted: not every seed of the range was run")
        if not summary.failures:
            return [*lines, f"INTERRUPTED: nothing failed in {summary.seeds:,} seeds"]
    if summary.failures:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(summary.outcomes.items()))
        return [*lines, f"FAILED: {len(summary.failures)} of {summary.seeds:,} seeds ({counts})"]
    void = summary.void()
    if void:
        return [*lines, "VOID: it proves nothing, for", *(f"  {reason}" for reason in void)]
    return [*lines, f"GREEN: {summary.seeds:,} seeds, every oracle content"]
