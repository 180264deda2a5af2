"""The committed log, as the nodes' states take it: for protocols whose records no oracle here can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.core import entry_position
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World


class CommittedLog(Oracle):
    """Whoever hands out an entry of an index hands out the same one, in order. It does not look into journals, and cannot say who
    holds an entry durably: what is lost shows when another one takes its place, or when a reply's entry is missing in the end."""

    name = "committed log"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._entries: list[bytes] = []
        self._first: list[str] = []

    def entered(self, host: Host, entry: bytes) -> None:
        index = entry_position(entry)[0]
        known = len(self._entries)
        if index == known + 1:
            self._entries.append(entry)
            self._first.append(host.name)
        elif index > known:
            self.violated(f"{host.name} takes entry {index}; nobody ever had entry {known + 1}", host.name)
        elif self._entries[index - 1] != entry:
            other = self._first[index - 1]
            self.violated(
                f"{host.name} takes another entry at index {index} than {other} did", host.name, other
            )

    def log(self) -> list[bytes]:
        """The committed entries, from index 1 on."""
        return list(self._entries)
