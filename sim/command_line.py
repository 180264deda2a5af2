"""A script's start: a mistake in its options is told on standard error, and with `--json` as an object on standard output."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

import click

INTERRUPTED = 130


def start(main: click.Command, program: str) -> NoReturn:
    """Run a script's `main` and exit. A program that asked for JSON gets an object for a wrong option, too."""
    try:
        code = main.main(prog_name=program, standalone_mode=False)
    except click.ClickException as error:
        if "--json" in sys.argv[1:]:
            click.echo(json.dumps({"error": " ".join(error.format_message().split())}))
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"{program}: interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
