"""Messages may be handed over by reference: nobody changes one that was received, or was handed out, nor a list in it.

A simulator that carries objects instead of bytes rests on this. The world here checks each message when it is delivered and
once more when all is over, and plays the same story as the world that encodes and decodes everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from replica_world import World

from consensus import wire
from consensus.raft.messages import AppendEntries, InstallSnapshot
from node.protocol import Chunk, Outcome, Submit


class ByReference(World):
    """Draws the same losses and delays, and delivers the sender's own object."""

    def carry(
        self, way: str, message: Any, arrive: Callable[[Any], None], open_: Callable[[], bool] = lambda: True
    ) -> None:
        rng = self.rng_of("link/" + way)
        data = wire.encode(message)
        self.handed_out().append((message, data))
        copies = 0 if rng.random() < self.loss else 2 if rng.random() < self.repeat else 1
        for _ in range(copies):
            delay = rng.randint(150, 1500) if rng.random() < 0.9 else rng.randint(1500, 25_000)

            def deliver() -> None:
                if open_():
                    assert wire.encode(message) == data, f"{message} has changed on the way {way}"
                    self._hash.update(b"%d %s " % (self.now, way.encode()) + data)
                    arrive(message)

            self.at(delay, deliver)

    def handed_out(self) -> list[tuple[Any, bytes]]:
        """(message, its bytes when it was sent) of everything so far."""
        found: list[tuple[Any, bytes]] = self.__dict__.setdefault("_handed_out", [])
        return found


def test_a_story_told_with_objects_is_the_story_told_with_bytes() -> None:
    kinds: Counter[type] = Counter()
    for seed in (3, 4, 8, 11):
        size = 3 if seed % 4 else 5
        objects, plain = ByReference(seed, size), World(seed, size)
        objects.run_story()
        plain.run_story()
        assert objects.trace == plain.trace
        for message, data in objects.handed_out():
            assert wire.encode(message) == data, f"{message} was changed after it had been sent"
            kinds[type(message)] += 1
    assert min(kinds[kind] for kind in (AppendEntries, InstallSnapshot, Chunk, Submit, Outcome)) > 5, kinds
