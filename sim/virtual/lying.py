"""A lying host: its strategy stands between its replica, which is honest, and everybody else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sim.byzantine.strategy import Strategy
    from sim.faults.running import Running
    from sim.virtual.host import Host


BY_ITSELF: Final = "of its own accord"


class Lies:
    """While a host lies. `by`: the fault that is to blame, which is told of every lie."""

    def __init__(self, host: Host, strategy: Strategy, by: Running) -> None:
        self._host = host
        self.strategy = strategy
        self._by = by
        self._over = False
        self.counts: Counter[str] = Counter()
        """How often it said something else than an honest node, by the kind of message that was due."""
        host.world.timeline.after(strategy.every, self._prompt, None)

    def end(self) -> None:
        """What was held back is never said."""
        self._over = True

    def hear(self, sender: str, message: Any) -> None:
        """A message for its replica."""
        for who, heard in self.strategy.hear(sender, message, self._host.world.timeline.now):
            self._host.take_in(who, heard)

    def to_peers(self, messages: Sequence[tuple[str, Any]]) -> None:
        """What its replica would say to other nodes."""
        now, strategy = self._host.world.timeline.now, self.strategy
        for dest, message in messages:
            before = strategy.lies
            sent = strategy.say(dest, message, now)
            if strategy.lies != before:
                self._by.bite("lies to nodes")
                self.counts[type(message).__name__] += strategy.lies - before
            self._send(sent)

    def to_clients(self, replies: Sequence[tuple[Any, Any]]) -> None:
        """What its replica would say to clients."""
        now, strategy = self._host.world.timeline.now, self.strategy
        for connection, message in replies:
            before = strategy.lies
            for sent in strategy.answer(message, now):
                connection.to_client(sent)
            if strategy.lies != before:
                self._by.bite("lies to clients")
                self.counts[type(message).__name__] += strategy.lies - before

    def _prompt(self, _nothing: None) -> None:
        if self._over:
            return
        host, strategy = self._host, self.strategy
        now = host.world.timeline.now
        before = strategy.lies
        sent = strategy.pass_time(now)
        if host.running and now >= host.paused_until:
            self._send(sent)
            if strategy.lies != before:
                self._by.bite(f"lies {BY_ITSELF}")
                self.counts[BY_ITSELF] += strategy.lies - before
        host.world.timeline.after(strategy.every, self._prompt, None)

    def _send(self, sent: Sequence[tuple[str, Any]]) -> None:
        host = self._host
        world = host.world
        for dest, message in sent:
            link = world.network.links.get((host.name, dest))
            if link is None or dest not in world.hosts:
                continue
            for hook in world.on_overheard.get(type(message), ()):
                hook(host, dest, message)
            link.send(message)
