"""Benchmarks: apply, cluster, check. See `sim.bench.command`."""

from __future__ import annotations

import sys

from sim import native

if __name__ == "__main__" and sys.argv[1:2] == ["check"]:
    # Before anything that is compiled is imported. Only here: nodes run interpreted, and are measured as they run.
    modules = native.use()
    if modules != "native":
        print(f"bench: {modules}", file=sys.stderr)

from sim import command_line
from sim.bench.command import main

if __name__ == "__main__":
    command_line.start(main, "bench.py")
