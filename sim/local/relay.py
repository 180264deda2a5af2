"""The relay that every link of a local cluster passes, so that a power domain can fall silent as one.

When a machine loses power it says nothing: no FIN, no RST, no refusal. When a process is killed its kernel
says all of these at once, so killing processes alone tests a different and easier fault (the peers learn of
it within microseconds). The relay stands between: bytes are forwarded untouched (TLS passes through), and
from the instant a domain is silenced nothing of what happens on its side of a link is seen on the other.

Rules, numbered for the tests:

1. From the instant `Relay.silence` returns no byte is handed to the kernel in a silent direction. What was
   read and not yet forwarded is dropped and counted. (What the kernel had already accepted for the receiver
   counts as delivered.)
2. The end of a connection, orderly or by reset, is news like any byte: it crosses only in an open direction.
3. A connection that lost a byte, or its end, in a direction is dead in that direction for ever: power coming
   back does not mend it. The living side keeps an open, silent socket until it closes that itself.
4. A connection opened while its link is silent is accepted by the kernel and then never answered. That stands
   for a SYN that vanishes: the dialler learns nothing, and has to time out in its handshake instead of in
   `connect`. It is never joined to the other side, not even when power is back.
5. A dead connection takes in `DARK_WINDOW` bytes a direction and then reads no more, so that a sender's
   buffers fill as they do when acknowledgements stop.
6. A refused dial in an open link is passed on as a reset: a powered machine answers for a port with nobody
   behind it.

7. A slow direction holds back every piece of a connection by at least its delay and lets nothing overtake: bytes,
   then the connection's end, leave in the order in which they came. It holds `HELD_WINDOW` bytes a connection and
   then reads no more. When the fault is lifted, what is held leaves when it was due, and what comes meanwhile
   waits behind it. Opening a connection is not slowed: the kernel does that before the relay is asked.

"One way" on a relay is a direction of bytes: a receiver that cannot answer still has its kernel's
acknowledgements delivered. A connection opened while one of its directions is silent is dead in both (rule 4),
because no handshake succeeds without an answer.

Directions are (sender, receiver) pairs of endpoints; each has a `Direction` with the reasons why it is silent
now. A domain's silence is a reason laid on every direction with an end in it, so that two dark domains do not
light each other. A reason is the label of a fault: what a direction lost or held back is counted to the label that
was laid first among those in force.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from sim.local.direction import Direction
from sim.local.flow import CHUNK, DARK_WINDOW, HELD_WINDOW, Flow, LinkCounts, close, dial, prepare
from sim.local.links import OUTSIDE, Ledger, Pair, Toll, now_us

__all__ = [
    "CHUNK", "DARK_WINDOW", "HELD_WINDOW", "OUTSIDE", "Direction", "Link", "LinkCounts", "Relay", "now_us",
]  # fmt: skip

_HALF_CLOSED_SECONDS: Final = 60
"""How long a side that had said its last word before the silence is kept waiting for an answer. Whether it
still listens cannot be seen from here; closing at once would tell it."""


@dataclass(slots=True, frozen=True)
class Link:
    """One listening port of the relay and where it leads. Ports are on the relay's host."""

    name: str
    source: str
    """Endpoint that dials here: a node, or `OUTSIDE`."""
    target: str
    """Node behind it."""
    listen: int
    forward: int


class Relay:
    """Forwards the connections of all links. `domains` maps each endpoint to its power domain (None: outside
    all)."""

    def __init__(
        self, links: Iterable[Link], domains: Mapping[str, str | None], host: str = "127.0.0.1"
    ) -> None:
        self.links = list(links)
        self.host = host
        self._domains: dict[str, str | None] = {OUTSIDE: None, **domains}
        self.counts: dict[str, LinkCounts] = {link.name: LinkCounts() for link in self.links}
        self._directions: dict[Pair, Direction] = {}
        self._listeners: list[tuple[Link, socket.socket]] = []
        self._buffer = memoryview(bytearray(CHUNK))
        self._ledger = Ledger()
        for link in self.links:
            for pair in ((link.source, link.target), (link.target, link.source)):
                for endpoint in pair:
                    if endpoint not in self._domains:
                        raise ValueError(f"link {link.name}: no domain is given for endpoint {endpoint!r}")
                self._directions.setdefault(pair, Direction(*pair, self._ledger))

    # ------------------------------------------------------------------------------------------ faults

    def silence(self, domain: str, cause: str = "power") -> int:
        """Silence every direction with an end in `domain`. Returns the instant (microseconds, `now_us`).
        Several causes may lie on a domain; laying one twice changes nothing. Raises ValueError listing the
        domains."""
        for direction in self._of_domain(domain):
            direction.silence(f"{cause} {domain}")
        return now_us()

    def restore(self, domain: str, cause: str = "power") -> int:
        """Take one cause away; when none is left new connections pass again, while old ones stay dead (rule
        3). Returns the instant."""
        for direction in self._of_domain(domain):
            direction.restore(f"{cause} {domain}")
        return now_us()

    def is_silent(self, domain: str, cause: str = "power") -> bool:
        """True between `silence` and `restore` of this domain for this cause."""
        return any(direction.silenced_by(f"{cause} {domain}") for direction in self._of_domain(domain))

    def direction(self, sender: str, receiver: str) -> Direction:
        """The direction from one endpoint to another. Raises KeyError if no link joins them."""
        return self._directions[sender, receiver]

    def dropped(self, domain: str) -> int:
        """Bytes dropped so far on links with an end in `domain`."""
        return sum(
            self.counts[link.name].dropped
            for link in self.links
            if domain in (self._domains[link.source], self._domains[link.target])
        )

    def block(self, label: str, pairs: Iterable[Pair]) -> int:
        """Silence directions, whoever's they are. Returns the instant. Raises ValueError for a pair that no link joins."""
        for direction in self._of_pairs(pairs):
            direction.silence(label)
        return now_us()

    def delay(
        self, label: str, pairs: Iterable[Pair], delay_us: int, jitter_us: int = 0, seed: int = 0
    ) -> int:
        """Hold back what is sent in these directions (rule 7); see `Links.delay`. Raises ValueError."""
        if delay_us < 0 or jitter_us < 0:
            raise ValueError(f"delay {delay_us} us, jitter {jitter_us} us: neither can be below 0")
        for direction in self._of_pairs(pairs):
            direction.delay(label, delay_us, jitter_us, seed)
        return now_us()

    def limit(self, label: str, pairs: Iterable[Pair], bytes_per_s: int) -> int:
        """Let each of these directions pass so many bytes a second (rule 7). Raises ValueError."""
        if bytes_per_s < 1:
            raise ValueError(f"{bytes_per_s} bytes a second: at least 1 must pass; `block` lets none through")
        for direction in self._of_pairs(pairs):
            direction.limit(label, bytes_per_s)
        return now_us()

    def lift(self, label: str) -> int:
        """Take away everything with this label; dead connections stay dead (rule 3). Returns the instant."""
        for direction in self._directions.values():
            direction.restore(label)
            direction.calm(label)
        return now_us()

    def tolls(self, label: str) -> dict[Pair, Toll]:
        """What a fault did so far, by direction."""
        return dict(self._ledger.of(label))

    def prefix(self, node: str) -> Sequence[str]:
        """Nothing: a node behind the relay is a process like any other."""
        return ()

    def _of_pairs(self, pairs: Iterable[Pair]) -> list[Direction]:
        found = []
        for pair in pairs:
            direction = self._directions.get(pair)
            if direction is None:
                known = sorted({end for both in self._directions for end in both})
                raise ValueError(f"no link joins {pair[0]} to {pair[1]}; endpoints are: {', '.join(known)}")
            found.append(direction)
        return found

    def _of_domain(self, domain: str) -> list[Direction]:
        found = [
            direction
            for direction in self._directions.values()
            if domain in (self._domains[direction.sender], self._domains[direction.receiver])
        ]
        if not found:
            known = sorted({name for name in self._domains.values() if name is not None})
            raise ValueError(f"no link has an end in a domain {domain!r}; there are: {', '.join(known)}")
        return found

    # ------------------------------------------------------------------------------------------ running

    def bind(self) -> None:
        """Open every listening port. Raises OSError naming the port that is taken; then none is left open."""
        try:
            for link in self.links:
                listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                self._listeners.append((link, listener))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setblocking(False)
                try:
                    listener.bind((self.host, link.listen))
                except OSError as error:
                    text = f"port {link.listen} (link {link.name}) cannot be opened: {error.strerror}"
                    raise OSError(error.errno, text) from None
                listener.listen(1024)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the listening ports."""
        for _, listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay until cancelled. Binds first unless `bind` was called."""
        if not self._listeners:
            self.bind()
        try:
            async with trio.open_nursery() as nursery:
                for link, listener in self._listeners:
                    nursery.start_soon(self._accept, link, listener, nursery)
                task_status.started()
        finally:
            self.close()

    async def _accept(self, link: Link, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                await trio.sleep(0.05)
                continue
            prepare(accepted)
            nursery.start_soon(self._connection, link, accepted)

    async def _connection(self, link: Link, accepted: socket.socket) -> None:
        counts = self.counts[link.name]
        counts.connections += 1
        there, back = self._directions[link.source, link.target], self._directions[link.target, link.source]
        cause = there.cause or back.cause
        outward, inward = Flow(there, counts, cause), Flow(back, counts, cause)
        outward.back, inward.back = inward, outward
        outward.reader = inward.writer = accepted
        try:
            if cause is not None:
                counts.born_dead += 1
                self._ledger.toll(cause, there.pair).dials_swallowed += 1
            else:
                # A dial that is under way when silence falls is carried through: giving up would be heard.
                dialled = await dial((self.host, link.forward))
                counts.dials_refused += dialled is None
                if dialled is None and outward.alive and inward.alive:
                    close(accepted, abort=True)
                    return
                outward.writer = inward.reader = dialled
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outward.run, self._buffer, nursery)
                nursery.start_soon(inward.run, self._buffer, nursery)
            if any(flow.writer is not None and not flow.alive for flow in (outward, inward)):
                await trio.sleep(_HALF_CLOSED_SECONDS)
        finally:
            for flow in (outward, inward):
                flow.direction.leave(flow)
            for end in (outward.reader, inward.reader, inward.writer, outward.writer):
                if end is not None:
                    close(end, abort=False)

    def describe(self) -> list[dict[str, Any]]:
        """Counts of every link, as data."""
        return [
            {
                "link": link.name,
                "source": link.source,
                "target": link.target,
                "silent": self._directions[link.source, link.target].silent
                or self._directions[link.target, link.source].silent,
                **{name: getattr(self.counts[link.name], name) for name in LinkCounts.__slots__},
            }
            for link in self.links
        ]
