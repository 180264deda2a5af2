"""`python -m sim.native build`: compile the simulator's hot modules. `status`: whether there is a build of the present sources.

Exit codes: 0 done (or there is one), 1 the sources cannot be compiled (or there is none), 2 bad input, 3 this machine lacks
something that compiling needs; with `--if-possible` that is 0, too.
"""

from __future__ import annotations

import sys
import time

import click

from sim.native.build import CannotCompile, CompileError, build
from sim.native.finder import NATIVE, use
from sim.native.modules import MODULES

EXIT_NO, EXIT_CANNOT = 1, 3


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("build")
@click.option("--if-possible", is_flag=True, help="where there is no compiler, say so and be content")
def build_(if_possible: bool) -> None:
    """Compile."""
    began = time.perf_counter()
    click.echo(f"compiling {len(MODULES)} modules of the simulator (once for these sources; a minute or two)")
    try:
        folder = build()
    except CannotCompile as error:
        click.echo(f"not compiled, partition.py will run interpreted, at half the speed: {error}", err=True)
        sys.exit(0 if if_possible else EXIT_CANNOT)
    except (CompileError, OSError) as error:
        click.echo(f"not compiled: {error}", err=True)
        sys.exit(EXIT_NO)
    click.echo(f"native build in {folder}, {time.perf_counter() - began:.0f} s")


@main.command()
def status() -> None:
    """Say what partition.py would run."""
    words = use()
    click.echo(words)
    sys.exit(0 if words == NATIVE else EXIT_NO)


if __name__ == "__main__":
    main()
