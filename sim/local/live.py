"""What is going on in a drill, for whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Counting(Protocol):
    """A load, as a watcher sees it."""

    def words(self) -> str:
        """What was asked and answered so far, in a line."""


@dataclass(slots=True)
class Live:
    """The state of a run."""

    phase: str = "starting"
    seconds: float = 0.0
    load_s: float = 0.0
    leader: str | None = None
    dark: dict[str, str] = field(default_factory=dict)
    """Dark domains, and the nodes in them."""
    faults: dict[str, str] = field(default_factory=dict)
    """Faults in force: label, and what they are."""
    cuts: int = 0
    load: Counting | None = None
    notes: list[str] = field(default_factory=list)


Watcher = Callable[[Live], None]
