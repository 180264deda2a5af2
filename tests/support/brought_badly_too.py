"""An oracle that cannot be made."""

from __future__ import annotations

from typing import Any

from sim.oracles.oracle import Oracle


class Unmade(Oracle):
    """Raises while it is made."""

    def __init__(self, world: Any) -> None:
        raise ZeroDivisionError
