"""Whole clusters on virtual time: explore, replay one, shrink a failing one, list what there is. See `sim.explore.command`."""

from __future__ import annotations

import sys

from sim.explore.natively import choose

# A worker that is spawned imports this file again under another name, and must choose for itself before anything else.
if __name__ != "__mp_main__":
    if __name__ == "__main__":
        choose(sys.argv[1:])
    from sim.explore.command import main

if __name__ == "__main__":
    main()
