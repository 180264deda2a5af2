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

Directions are (sender, receiver) pairs of endpoints; each has a `Direction` with the reasons why it is silent
now. A domain's silence is a reason laid on every direction with an end in it, so that two dark domains do not
light each other. Other faults of a direction (delay, rate, loss) belong in that class.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

OUTSIDE: Final = "outside"
"""The endpoint of whoever is no member: clients, browsers. Belongs to no power domain."""

CHUNK: Final = 64 * 1024
"""Most bytes taken from a socket at once."""

DARK_WINDOW: Final = 256 * 1024
"""Bytes that a dead direction takes in before it stops reading (rule 5)."""

_LINGER_RESET: Final = struct.pack("ii", 1, 0)
_TCP_ESTABLISHED: Final = 1
_CLOSE_POLL_SECONDS: Final = 0.1
_HALF_CLOSED_SECONDS: Final = 60
"""How long a side that had said its last word before the silence is kept waiting for an answer. Whether it
still listens cannot be seen from here; closing at once would tell it."""


def now_us() -> int:
    """The clock of local experiments: microseconds of CLOCK_MONOTONIC, comparable between processes of a
    machine."""
    return time.monotonic_ns() // 1000


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


@dataclass(slots=True)
class LinkCounts:
    """What passed a link since the relay started. Bytes of both directions together."""

    connections: int = 0
    forwarded: int = 0
    dropped: int = 0
    """Bytes read and not forwarded."""
    dials_refused: int = 0
    swallowed_ends: int = 0
    """FINs and resets that the relay saw and did not pass on."""
    born_dead: int = 0
    """Connections opened during a silence (rule 4)."""


class Direction:
    """What happens to the bytes that `sender` sends to `receiver`, on whichever connection of whichever
    link."""

    __slots__ = ("_flows", "_reasons", "receiver", "sender")

    def __init__(self, sender: str, receiver: str) -> None:
        self.sender = sender
        self.receiver = receiver
        self._reasons: dict[str, None] = {}
        self._flows: dict[_Flow, None] = {}

    @property
    def silent(self) -> bool:
        """True while there is a reason for silence."""
        return bool(self._reasons)

    def silence(self, reason: str) -> None:
        """Lay a reason for silence; every connection that has bytes flowing this way dies in this
        direction."""
        self._reasons[reason] = None
        for flow in list(self._flows):
            flow.die()

    def restore(self, reason: str) -> None:
        """Take a reason away. The direction is open again once none is left."""
        self._reasons.pop(reason, None)

    def silenced_by(self, reason: str) -> bool:
        """True if this reason is one of those why the direction is silent."""
        return reason in self._reasons

    def enter(self, flow: _Flow) -> None:
        """A connection begins to send this way."""
        self._flows[flow] = None

    def leave(self, flow: _Flow) -> None:
        """A connection has ended in this direction."""
        self._flows.pop(flow, None)


class _Flow:
    """One direction of one connection: reads from `reader`, writes to `writer` as long as it is alive."""

    __slots__ = ("_scope", "alive", "back", "counts", "direction", "reader", "taken", "writer")

    def __init__(self, direction: Direction, counts: LinkCounts, alive: bool) -> None:
        self.direction = direction
        self.counts = counts
        self.alive = alive
        self.reader: socket.socket | None = None
        self.writer: socket.socket | None = None
        self.back: _Flow = self
        self.taken = 0
        self._scope: trio.CancelScope | None = None
        direction.enter(self)

    def die(self) -> None:
        """Forward nothing more. Takes effect before this returns: `run` looks at `alive` before each send."""
        self.alive = False
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, buffer: memoryview) -> None:
        """Forward until the sending side ends or the connection is gone."""
        reset = False
        while self.reader is not None:
            if not self.alive and self.taken >= DARK_WINDOW:
                await self._await_close(self.reader)
                break
            try:
                await trio.lowlevel.wait_readable(self.reader)
                reader: socket.socket | None = self.reader
                if reader is None:
                    return  # the other flow closed it after this one had been woken
                size = reader.recv_into(buffer)
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                return
            except OSError:
                reset, size = True, 0
            if size == 0:
                break
            await self._forward(buffer[:size])
        if self.reader is not None:
            self._reader_ended(reset)

    async def _forward(self, data: memoryview) -> None:
        """Send `data`, which stands in a buffer that others use as soon as this waits."""
        rest: memoryview = data
        while rest and self.alive and self.writer is not None:
            try:
                sent = self.writer.send(rest)
                self.counts.forwarded += sent
                rest = rest[sent:]
            except BlockingIOError:
                if rest.obj is data.obj:
                    rest = memoryview(bytes(rest))
                with trio.CancelScope() as self._scope:
                    try:
                        await trio.lowlevel.wait_writable(self.writer)
                    except trio.ClosedResourceError:
                        break
            except OSError:
                # The receiver is gone. That is news which flows the other way.
                self.back._reader_ended(reset=True)
                break
        self._scope = None
        self.taken += len(rest)
        self.counts.dropped += len(rest)

    def _reader_ended(self, reset: bool) -> None:
        """The sending side is over: tell the other side if the direction is alive (rule 2), else swallow
        it."""
        if self.alive and reset:
            self._close_both(abort=True)
        elif self.alive and self.writer is not None:
            try:
                self.writer.shutdown(socket.SHUT_WR)
            except OSError:
                self._close_both(abort=True)
        elif not self.alive:
            self.counts.swallowed_ends += 1
            if reset or not self.back.alive:
                # Nothing will ever be said to that side again; closing answers the close that it began
                # itself.
                self._close_reader()

    def _close_reader(self) -> None:
        if self.reader is not None:
            _close(self.reader, abort=False)
        self.reader = self.back.writer = None

    def _close_both(self, abort: bool) -> None:
        for end in (self.reader, self.writer):
            if end is not None:
                _close(end, abort)
        self.reader = self.writer = self.back.reader = self.back.writer = None

    async def _await_close(self, end: socket.socket) -> None:
        """Wait until the peer of a socket that is no longer read has closed it."""
        while end.fileno() >= 0 and (
            end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED
        ):
            await trio.sleep(_CLOSE_POLL_SECONDS)


def _close(end: socket.socket, abort: bool) -> None:
    if end.fileno() < 0:
        return
    if abort:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    trio.lowlevel.notify_closing(end)
    end.close()


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
        self._directions: dict[tuple[str, str], Direction] = {}
        self._listeners: list[tuple[Link, socket.socket]] = []
        self._buffer = memoryview(bytearray(CHUNK))
        for link in self.links:
            for pair in ((link.source, link.target), (link.target, link.source)):
                for endpoint in pair:
                    if endpoint not in self._domains:
                        raise ValueError(f"link {link.name}: no domain is given for endpoint {endpoint!r}")
                self._directions.setdefault(pair, Direction(*pair))

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
            _prepare(accepted)
            nursery.start_soon(self._connection, link, accepted)

    async def _connection(self, link: Link, accepted: socket.socket) -> None:
        counts = self.counts[link.name]
        counts.connections += 1
        there, back = self._directions[link.source, link.target], self._directions[link.target, link.source]
        open_now = not (there.silent or back.silent)
        outward, inward = _Flow(there, counts, open_now), _Flow(back, counts, open_now)
        outward.back, inward.back = inward, outward
        outward.reader = inward.writer = accepted
        try:
            if not open_now:
                counts.born_dead += 1
            else:
                dialled = await self._dial(link, counts)
                if dialled is None and outward.alive and inward.alive:
                    _close(accepted, abort=True)
                    return
                outward.writer = inward.reader = dialled
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outward.run, self._buffer)
                nursery.start_soon(inward.run, self._buffer)
            if any(flow.writer is not None and not flow.alive for flow in (outward, inward)):
                await trio.sleep(_HALF_CLOSED_SECONDS)
        finally:
            for flow in (outward, inward):
                flow.direction.leave(flow)
            for end in (outward.reader, inward.reader, inward.writer, outward.writer):
                if end is not None:
                    _close(end, abort=False)

    async def _dial(self, link: Link, counts: LinkCounts) -> socket.socket | None:
        """Connect to the target; None if it refuses. A dial that is under way when silence falls is carried
        through, because giving up would be heard at the target."""
        try:
            dialled = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        except OSError:  # out of file descriptors
            counts.dials_refused += 1
            return None
        try:
            _prepare(dialled)
            code = dialled.connect_ex((self.host, link.forward))
            if code == errno.EINPROGRESS:
                await trio.lowlevel.wait_writable(dialled)
                code = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except BaseException:
            dialled.close()
            raise
        if code:
            dialled.close()
            counts.dials_refused += 1
            return None
        return dialled

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


def _prepare(end: socket.socket) -> None:
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
