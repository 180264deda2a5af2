"""Histories of simulated cells, linearizable by construction, for tests and benchmarks of the checkers; and mutants of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any, Final

from sim.check.general.operations import APPEND, CAS, READ, WRITE, Op, same

REGISTER: Final = {READ: 5, WRITE: 4, CAS: 4}
KV: Final = {READ: 10, APPEND: 9, WRITE: 1}


@dataclass(slots=True)
class Shape:
    """What a simulated history looks like."""

    clients: int = 5
    operations: int = 150
    keys: int = 1
    values: int = 5
    """Written to registers: 0 to values - 1. 0: every write has a value of its own."""
    timeouts: float = 0.02
    """Share of the changes whose client never hears of them; half of those take effect, at any later time."""
    mix: dict[str, int] | None = None
    """Kind -> weight; default `REGISTER`. Where there are appends all values are texts of their own."""
    busy: float = 0.9
    """Share of the time that a client waits for an answer."""


def simulate(shape: Shape, seed: int) -> list[Op]:
    """A history with times in microseconds, by invocation. Each client does one thing at a time; after a timeout it goes on
    under a new name, as in Jepsen. Failed compare-and-sets are left out."""
    random = Random(seed)
    mix = shape.mix or REGISTER
    kinds, weights = list(mix), list(mix.values())
    texts = APPEND in mix
    cells: dict[Hashable, Any] = {}
    ops: list[Op] = []
    dropped: set[int] = set()
    heap: list[tuple[int, int, Callable[[], None]]] = []
    counter = 0

    def at(time: int, action: Callable[[], None]) -> None:
        nonlocal counter
        counter += 1
        heapq.heappush(heap, (time, counter, action))

    def fresh(client: int) -> Any:
        if texts:
            return f"<{client}.{len(ops)}>"
        return random.randrange(shape.values) if shape.values else len(ops)

    def invoke(now: int, client: int, process: int) -> None:
        if len(ops) >= shape.operations:
            return
        kind = random.choices(kinds, weights)[0]
        key = random.randrange(shape.keys)
        value = None if kind == READ else fresh(client)
        expected = None
        if kind == CAS:
            # Half of them know what is there; else most would fail.
            expected = cells.get(key) if random.random() < 0.5 else fresh(client)
        op = Op(kind, key, process, now, None, value, expected)
        number = len(ops)
        ops.append(op)
        service = max(2, round(random.expovariate(1 / 1000)))
        lost = kind != READ and random.random() < shape.timeouts
        effect = now + random.randrange(1, service)
        if lost:
            if random.random() < 0.5:
                at(now + random.randrange(1, 50_000), lambda: take_effect(number, False))
            done, successor = now + 5_000, process + shape.clients
        else:
            at(effect, lambda: take_effect(number, True))
            at(now + service, lambda: answer(number, now + service))
            done, successor = now + service, process
        pause = round(random.expovariate(shape.busy / 1000 / max(1 - shape.busy, 1e-3))) + 1
        at(done + pause, lambda: invoke(done + pause, client, successor))

    def take_effect(number: int, answered: bool) -> None:
        op = ops[number]
        held = cells.get(op.key)
        if op.kind == READ:
            op.value = held
        elif op.kind == APPEND:
            cells[op.key] = op.value if held is None else held + op.value
        elif op.kind == WRITE or same(held, op.expected):
            cells[op.key] = op.value
        elif answered:
            dropped.add(number)

    def answer(number: int, now: int) -> None:
        ops[number].returned = now

    for client in range(shape.clients):
        first = random.randrange(1000)
        at(first, partial(invoke, first, client, client))
    while heap:
        heapq.heappop(heap)[2]()
    return [op for number, op in enumerate(ops) if number not in dropped and (op.kind != READ or op.returned)]


def mutate(ops: Sequence[Op], seed: int) -> list[Op]:
    """The same history with one answer changed, late in it: a read gets what an earlier read of its key got, a text loses its
    last piece or is put together in another order. Mostly, but not always, no longer linearizable."""
    random = Random(seed)
    mutant = [replace(op) for op in ops]
    reads = [number for number, op in enumerate(mutant) if op.kind == READ and op.value is not None]
    random.shuffle(reads)
    for number in reads:
        op = mutant[number]
        others = [
            other.value
            for other in mutant
            if other.kind == READ
            and other.key == op.key
            and not same(other.value, op.value)
            and other.invoke < op.invoke
        ]
        if not others:
            continue
        op.value = random.choice(others)
        if type(op.value) is str and random.random() < 0.5:
            pieces = op.value.split(">")
            middle = len(pieces) // 2
            op.value = ">".join([*pieces[middle:-1], *pieces[:middle], ""])
        return mutant
    return mutant
