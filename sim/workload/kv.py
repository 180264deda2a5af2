"""The load on a key-value machine: few keys, so that operations meet; unique values, so that a checker can tell which write a
read saw. Pure: whoever drives it asks for the next operation and tells it what came of it."""

from __future__ import annotations

import random
from dataclasses import dataclass

import msgpack

from node.kv import append, cas, get, put
from node.protocol import Consistency
from sim.scenario import Workload


@dataclass(slots=True)
class Ask:
    """One operation: a write of `value` if there is a `command`, else a read under `consistency`."""

    key: bytes
    command: bytes | None = None
    value: bytes = b""
    query: bytes = b""
    consistency: Consistency = Consistency.ANY


class KvMix:
    """What one client asks, in order: a function of plan, seed, its name, and of what it was told."""

    def __init__(self, plan: Workload, client: str, seed: int) -> None:
        self._plan = plan
        self._client = client
        self._rng = random.Random(f"{seed}/kv/{client}")
        self._keys = [f"k{number}".encode() for number in range(plan.keys)]
        self._registers = self._keys[: -(-len(self._keys) // 2)]
        self._seen: dict[bytes, bytes | None] = {}
        self._count = 0

    def next(self) -> Ask:
        """The next operation."""
        self._count += 1
        rng, plan = self._rng, self._plan
        key = rng.choice(self._keys)
        if rng.random() < plan.read:
            return Ask(key, query=get(key), consistency=self._consistency())
        value = f"{self._client}.{self._count}".encode()
        if key not in self._registers:
            return Ask(key, append(key, value + b";"), value)
        # Drawn from what was seen last, so that some succeed and some come too late.
        command = cas(key, self._seen.get(key), value) if rng.random() < plan.cas else put(key, value)
        return Ask(key, command, value)

    def _consistency(self) -> Consistency:
        draw = self._rng.random()
        if draw < self._plan.linearizable:
            return Consistency.LINEARIZABLE
        return Consistency.BOUNDED if draw < self._plan.linearizable + self._plan.bounded else Consistency.ANY

    def told(self, ask: Ask, result: bytes) -> None:
        """An operation had this result."""
        if ask.key not in self._registers:
            return
        found = msgpack.unpackb(result)
        if ask.command is None:
            self._seen[ask.key] = found[0]
        else:
            self._seen[ask.key] = ask.value if found[0] == 0 else found[1]
