"""What a drill shows while it runs, and its verdict as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sim.local.live import Live


def panel(live: Live) -> Group:
    """A few lines that are drawn again and again."""
    head = Text(f"{live.seconds:6.1f} s  {live.phase}", style="bold")
    if live.leader:
        head.append(f"   leader {live.leader}", style="")
    for domain, nodes in live.dark.items():
        head.append(f"   {domain} dark ({nodes})", style="bold red")
    for words in live.faults.values():
        head.append(f"   {words}", style="bold yellow")
    lines: list[Any] = [head]
    if live.load is not None:
        lines.append(Text(f"          {live.load.words()}   cuts {live.cuts}"))
    if live.load_s:
        lines.append(ProgressBar(total=live.load_s + 8, completed=live.seconds, width=60))
    return Group(*lines)


def verdict_table(verdict: Mapping[str, Any]) -> Table:
    """The checks, a row each."""
    table = Table(box=None, padding=(0, 1))
    table.add_column("")
    table.add_column("check")
    table.add_column("counted", justify="right")
    table.add_column("what was found", overflow="fold")
    for check in verdict["checks"]:
        mark = Text("holds", style="green") if check["passed"] else Text("FAILED", style="bold red")
        table.add_row(mark, check["name"], f"{check['counted']:,}", check["detail"])
    for reason in verdict["void_reasons"]:
        table.add_row(Text("VOID", style="bold yellow"), "", "", reason)
    return table
