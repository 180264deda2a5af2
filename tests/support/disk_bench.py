"""A disk under the contract, and what happens to it from outside: its process restarts, its power is cut."""

from __future__ import annotations

import inspect
from pathlib import Path
from random import Random
from typing import Any

from node.disk import Disk
from node.io.disk import FileDisk
from sim.local.platter import cut_power
from sim.virtual.disk import MemoryDisk
from sim.virtual.loss import PowerLoss

BUILT_IN = {"memory": MemoryDisk, "files": FileDisk, "platter": FileDisk}
"""`platter`: real files with the marks from which a power cut can be made."""


class Bench:
    """One disk. A class of the built-in kinds, or one of somebody else's:

    - It is called with the path of a folder of its own, or without arguments if it takes none.
    - A new process: `disk.close()`, then `disk.restart()` if there is such a method, else the class is called again.
    - `disk.cut(rng)`, if there is such a method, cuts the power by the choices of a `random.Random`, and returns a
      `sim.virtual.loss.PowerLoss`. A disk without it is not asked what it survives."""

    def __init__(self, kind: str, home: Path, made_by: Any = None) -> None:
        self.kind, self.home = kind, home
        self.made_by = made_by or BUILT_IN[kind]
        self.platter = home / "platter" if kind == "platter" else None
        self.disk: Any = self.open()

    def open(self) -> Disk:
        if self.platter is not None:
            return FileDisk(self.home / "data", self.platter)
        takes = inspect.signature(self.made_by).parameters.values()
        wants = any(parameter.default is parameter.empty for parameter in takes)
        made: Disk = self.made_by(self.home / "data") if wants else self.made_by()
        return made

    @property
    def has_power(self) -> bool:
        """Whether its power can be cut."""
        return self.platter is not None or hasattr(self.disk, "cut")

    def restart(self) -> Disk:
        self.disk.close()
        if hasattr(self.disk, "restart"):
            self.disk.restart()
        else:
            self.disk = self.open()
        return self.disk

    def cut(self, rng: Random) -> PowerLoss:
        if self.platter is None:
            loss: PowerLoss = self.disk.cut(rng)
            return loss
        self.disk.close()
        loss = cut_power(self.home / "data", self.platter, rng)
        self.disk = self.open()
        return loss
