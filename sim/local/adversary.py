"""A node that lies, as a process: the real one, and a strategy of `sim.byzantine` between it and everybody else.

    python -m sim.local.adversary --config FILE --strategy NAME [--seed N]

What the node would say to peers and clients, and what it would hear of peers, passes through the strategy, which has the node's
own key and no other. The node itself is honest and knows nothing of it. `lies.json` beside the configuration counts what was
said otherwise, over all lives of the node.
"""

from __future__ import annotations

import functools
import gc
import random
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import click

# First of what imports structlog; see there.
from node.io.command import fail, run  # isort: skip

import structlog
import trio

from consensus.bft.core import BftCore
from node.effects import Effects
from node.io import keys
from node.io.config import BFT, NodeConfig
from node.io.keys import SigningKeyError
from node.io.server import Node, NodeFailed, now_us
from sim.byzantine.client_lies import STRATEGIES
from sim.byzantine.naming import LiarsError, strategy_name
from sim.byzantine.strategy import Own, Send, Strategy
from sim.local.lies import LIES_FILE, Lies

WRITE_S: Final = 0.25
"""Longest time for which lies stand in memory alone: a power cut takes those with it."""
BY_ITSELF: Final = "of its own accord"

log = structlog.get_logger()


def make_strategy(config: NodeConfig, core: BftCore, name: str, seed: int) -> Strategy:
    """The strategy of that name, with what the node of `config` has. Raises SigningKeyError."""
    assert config.committee is not None
    key = keys.load_key(config.committee.key)
    keyring = keys.MemberKeyring(key, {member.id: member.key for member in config.members})
    return STRATEGIES[name](Own(config.node, core.committee, keyring, random.Random(seed), core.timing))


class LyingNode(Node):
    """See the module. Strategy and node share the replica's thread."""

    def __init__(
        self, config: NodeConfig, settled: Callable[[], None], strategy: str, seed: int, lies: Path
    ) -> None:
        """As `Node`. Raises NodeFailed for a node whose protocol believes nodes anyway."""
        if config.protocol != BFT:
            raise NodeFailed(
                f"protocol {config.protocol} believes nodes; only one of a {BFT} cluster is to lie", 2
            )
        super().__init__(config, settled)
        core = self.replica.core
        assert isinstance(core, BftCore)
        try:
            self._strategy = make_strategy(config, core, strategy, seed)
        except SigningKeyError as error:
            raise NodeFailed(str(error), code=2) from None
        self._others = frozenset(member.id for member in config.peers)
        self._lies = Lies(lies, strategy, seed)

    async def _start(
        self, nursery: trio.Nursery, listeners: list[trio.SocketListener], http: list[trio.SocketListener]
    ) -> None:
        await super()._start(nursery, listeners, http)
        log.warning("lying", node=self.config.node, strategy=self._strategy.name)
        nursery.start_soon(self._prompt)
        nursery.start_soon(self._note)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await super().run(task_status)
        finally:
            self._lies.write()

    def _carry_out(self, effects: Effects) -> None:
        now = now_us()
        effects.peers = self._said(effects.peers, now)
        effects.bulk = self._said(effects.bulk, now)
        effects.clients = [
            (connection, said)
            for connection, message in effects.clients
            for said in self._counted(message, functools.partial(self._strategy.answer, message, now))
        ]
        super()._carry_out(effects)

    def _said(self, messages: Iterable[Send], now: int) -> list[Send]:
        sent: list[Send] = []
        for dest, message in messages:
            sent += self._counted(message, functools.partial(self._strategy.say, dest, message, now))
        return self._within_reach(sent)

    def _counted(self, message: Any, lie: Callable[[], list[Any]]) -> list[Any]:
        before = self._strategy.lies
        made = lie()
        if self._strategy.lies != before:
            self._lies.add(type(message).__name__, self._strategy.lies - before)
        return made

    def _within_reach(self, sent: Iterable[Send]) -> list[Send]:
        return [(dest, message) for dest, message in sent if dest in self._others]

    def _from_peer(self, peer: str, batch: list[Any]) -> None:
        now = now_us()
        heard = [pair for message in batch for pair in self._strategy.hear(peer, message, now)]
        for sender, pairs in groupby(heard, lambda pair: pair[0]):
            super()._from_peer(sender, [message for _, message in pairs])

    async def _prompt(self) -> None:
        """What the strategy says of its own accord, and what it has held back."""
        assert self._peers is not None
        while True:
            await trio.sleep(self._strategy.every / 1e6)
            before = self._strategy.lies
            sent = self._within_reach(self._strategy.pass_time(now_us()))
            if self._strategy.lies != before:
                self._lies.add(BY_ITSELF, self._strategy.lies - before)
            if sent:
                self._peers.send(sent)

    async def _note(self) -> None:
        while True:
            self._lies.write()
            await trio.sleep(WRITE_S)


@click.command(help="Run one node of a bft cluster that lies, until SIGTERM or SIGINT.")
@click.option(
    "--config", "path", required=True, type=click.Path(path_type=Path), help="the node's config.toml"
)
@click.option("--strategy", required=True, help=f"how it lies: {', '.join(STRATEGIES)}")
@click.option("--seed", type=click.IntRange(0), help="decides what it draws  [default: drawn]")
def main(path: Path, strategy: str, seed: int | None) -> None:
    try:
        name = strategy_name(strategy)
    except LiarsError as error:
        fail(2, error)
    drawn = random.SystemRandom().getrandbits(32) if seed is None else seed
    lies = path.with_name(LIES_FILE)
    run(path, make=lambda config, settled: LyingNode(config, settled, name, drawn, lies))


if __name__ == "__main__":
    gc.disable()  # see `node.io.__main__`
    main(prog_name="python -m sim.local.adversary")
