"""Check whether a history of a register or of a key-value store is linearizable.

FILE holds it, as Jepsen logs it, as EDN (Jepsen, Knossos, Porcupine), as JSON lines, or as this project's history.jsonl;
`-` reads standard input.

Exit codes: 0 linearizable, 1 not, 2 unreadable input or nothing in it to check, 3 undecided within the budget, 4 a fault of
the checker itself.
"""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from sim.check.formats import FORMATS, MODELS, FormatError, Loaded, load
from sim.check.general import CellVerdict, Op, Outcome, Verdict, check_history, describe
from sim.check.general.operations import printable, show
from sim.check.general.picture import page, timeline, words
from sim.finite import Finite

CODES = {Outcome.LINEARIZABLE: 0, Outcome.NOT: 1, Outcome.UNDECIDED: 3}
UNREADABLE = 2
FAULT = 4
INTERRUPTED = 130


def read_input(name: str) -> bytes:
    """The bytes of a file or of standard input. Raises FormatError."""
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise FormatError(f"{name}: {error.strerror or error}") from None


def operation_json(ops: list[Op], number: int) -> dict[str, Any]:
    """An operation for programs."""
    op = ops[number]
    row = {
        "number": number,
        "line": op.line,
        "process": op.process,
        "f": op.name or op.kind,
        "key": op.key,
        "value": op.value,
        "invoke": op.invoke,
        "return": op.returned,
        "text": describe(op),
    }
    if op.kind == "cas":
        row["expected"] = op.expected
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers
    if isinstance(value, (str, int, float)) or value is None:
        return value
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else show(value)


def cell_json(ops: list[Op], cell: CellVerdict) -> dict[str, Any]:
    """What was found for a cell, for programs."""
    row: dict[str, Any] = {
        "key": _plain(cell.key),
        "verdict": cell.outcome.value,
        "method": cell.method,
        "operations": cell.operations,
        "configurations": cell.configurations,
        "seconds": round(cell.seconds, 6),
    }
    if cell.reason:
        row["reason"] = cell.reason
    if cell.failed is not None:
        row["failed"] = operation_json(ops, cell.failed)
        row["possible_values"] = [_plain(value) for value in cell.values]
        row["longest_partial_linearizations"] = cell.partials
    if cell.linearization is not None:
        row["linearization"] = cell.linearization
    return row


def verdict_json(loaded: Loaded, verdict: Verdict) -> dict[str, Any]:
    """The whole answer for programs. Numbers of operations count them by invocation, from 0."""
    failure = verdict.failure
    return {
        "verdict": verdict.outcome.value,
        "linearizable": {Outcome.LINEARIZABLE: True, Outcome.NOT: False}.get(verdict.outcome),
        "file": loaded.source,
        "format": loaded.format,
        "model": loaded.model,
        "operations": verdict.operations,
        "failed_operations": loaded.failed,
        "unanswered_operations": loaded.unanswered,
        "empty_appends": loaded.empty_appends,
        "passed_over_events": loaded.passed_over,
        "passed_over_lines": loaded.other_lines,
        "seconds": round(verdict.seconds, 6),
        "failed": operation_json(loaded.ops, failure.failed)
        if failure and failure.failed is not None
        else None,
        "cells": [cell_json(loaded.ops, cell) for cell in verdict.cells],
    }


def passed_over(loaded: Loaded) -> str:
    """What of the file took no part in the check, in words; empty if everything did."""
    counted = (
        (loaded.passed_over, "event of the nemesis", "events of the nemesis"),
        (loaded.other_lines, "line of the log that is no event", "lines of the log that are no event"),
        (loaded.empty_appends, "append of nothing", "appends of nothing"),
    )
    return ", ".join(f"{count:,} {one if count == 1 else many}" for count, one, many in counted if count)


def checked(loaded: Loaded, budget: float) -> Verdict:
    """The verdict. Raises FormatError if no client did anything, and for values that make no sense together."""
    if not (loaded.ops or loaded.failed or loaded.empty_appends):
        left_out = passed_over(loaded)
        raise FormatError(
            f"{loaded.source}: nothing to check: no client did anything{f' (passed over: {left_out})' if left_out else ''}; "
            f"is it the file you meant, and its format {loaded.format}?"
        )
    try:
        return check_history(loaded.ops, budget)
    except ValueError as error:
        raise FormatError(f"{loaded.source}: {error}") from None


def tell(loaded: Loaded, verdict: Verdict) -> None:
    """The answer for people."""
    console = Console(highlight=False)
    colour = {Outcome.LINEARIZABLE: "green", Outcome.NOT: "red", Outcome.UNDECIDED: "yellow"}[verdict.outcome]
    heading = f"{printable(loaded.source)}: {verdict.outcome.value}"
    console.print(Text(heading, style=f"bold {colour}"), soft_wrap=True)
    counted = len(verdict.cells)
    console.print(
        f"{verdict.operations:,} operations on {counted:,} cell{'s' if counted != 1 else ''} ({loaded.unanswered:,} without an "
        f"answer; {loaded.failed:,} more failed and are left out), model {loaded.model}, format {loaded.format}; "
        f"{verdict.seconds:.3f} s",
        soft_wrap=True,
    )
    if left_out := passed_over(loaded):
        console.print(f"passed over: {left_out}", soft_wrap=True)
    if not loaded.answered:
        console.print("Nothing was checked: no operation has an answer of :ok.", style="yellow")
    if verdict.failure is not None:
        cells = [verdict.failure]
    else:
        cells = [cell for cell in verdict.cells if cell.outcome is verdict.outcome][:1]
    for cell in cells:
        name = "the register" if cell.key is None else f"key {show(cell.key)}"
        for line in words(loaded.ops, cell):
            console.print(
                Text(f"{name}: {line}" if verdict.outcome is not Outcome.LINEARIZABLE else line),
                soft_wrap=True,
            )
            name = " " * len(name)
        lines = (
            timeline(loaded.ops, cell, max(console.width, 80))
            if cell.outcome is not Outcome.UNDECIDED
            else []
        )
        if lines:
            about = "up to the point of failure" if cell.failed is not None else "the first operations"
            console.print(
                f"\n{about}; ● takes effect here, ▸ never returned, the number is the place in the order",
                style="dim",
            )
        for text, illegal in lines:
            console.print(Text(text, style="bold red" if illegal else ""), soft_wrap=True)


@click.command(help=__doc__)
@click.argument("file")
@click.option(
    "--model", type=click.Choice(list(MODELS)), required=True, help="what the history is a history of"
)
@click.option("--format", "form", type=click.Choice(FORMATS), help="default: found out from the file")
@click.option(
    "--budget",
    default=60.0,
    type=Finite(0, min_open=True),
    show_default=True,
    help="seconds, then undecided",
)
@click.option("--json", "as_json", is_flag=True, help="one object on standard output")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="also write a page with a drawing (HTML)",
)
def main(file: str, model: str, form: str | None, budget: float, as_json: bool, picture: Path | None) -> None:
    name = "<stdin>" if file == "-" else file
    try:
        loaded = load(read_input(file), model, name, form)
        verdict = checked(loaded, budget)
        if picture is not None:
            try:
                title = f"{printable(name)}: {verdict.outcome.value}"
                picture.write_text(page(loaded.ops, verdict, title), encoding="utf-8")
            except OSError as error:
                raise FormatError(f"cannot write the picture {picture}: {error.strerror or error}") from None
    except FormatError as error:
        if as_json:
            click.echo(json.dumps({"error": str(error)}))
        click.echo(f"check_history: {printable(str(error))}", err=True)
        sys.exit(UNREADABLE)
    if as_json:
        click.echo(json.dumps(verdict_json(loaded, verdict), allow_nan=False))
    else:
        tell(loaded, verdict)
        if picture is not None:
            click.echo(f"picture: {printable(str(picture))}")
    sys.exit(CODES[verdict.outcome])


def run() -> None:
    """`main`, with exit codes that nobody can take for a verdict: click's own for an interrupt, and Python's for a
    traceback, are 1."""
    try:
        main(standalone_mode=False)
    except click.ClickException as error:
        if "--json" in sys.argv[1:]:
            click.echo(json.dumps({"error": error.format_message()}))
        error.show()
        sys.exit(UNREADABLE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("check_history: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Who read our output has gone; let the interpreter not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAULT)
    except Exception:
        traceback.print_exc()
        click.echo("check_history: this is a fault of the checker, not a verdict", err=True)
        sys.exit(FAULT)


if __name__ == "__main__":
    run()
