"""A replicated state that tells oracles of every entry it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from node.machine import Machine
from node.state import Applied, ReplicatedState


class WatchedState(ReplicatedState):
    """`hooks` are called with each encoded entry before it is applied."""

    def __init__(self, machine: Machine, max_sessions: int, hooks: Sequence[Callable[[bytes], None]]) -> None:
        super().__init__(machine, max_sessions)
        self._hooks = hooks

    def apply(self, entry: bytes) -> list[Applied]:
        for hook in self._hooks:
            hook(entry)
        return super().apply(entry)
