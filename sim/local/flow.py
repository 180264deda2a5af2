"""One direction of one connection through the relay: reads at one end, writes at the other, as long as it is alive.

The rules that this keeps stand, numbered, in `sim.local.relay`."""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final

import trio

from sim.local.direction import Direction
from sim.local.links import now_us

CHUNK: Final = 64 * 1024
"""Most bytes taken from a socket at once."""

DARK_WINDOW: Final = 256 * 1024
"""Bytes that a dead direction takes in before it stops reading (rule 5)."""

HELD_WINDOW: Final = 4 << 20
"""Bytes of one connection that a slow direction holds before it stops reading (rule 7)."""

_LINGER_RESET: Final = struct.pack("ii", 1, 0)
_TCP_ESTABLISHED: Final = 1
_CLOSE_POLL_SECONDS: Final = 0.1


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


@dataclass(slots=True)
class _Held:
    """Something on its way through a slow direction: bytes, or the connection's end."""

    due: int
    data: bytes
    end: bool = False
    reset: bool = False


class Flow:
    """One direction of one connection: reads from `reader`, writes to `writer` as long as it is alive."""

    __slots__ = (
        "_held", "_held_bytes", "_last_due", "_nursery", "_pumping", "_room", "_scope", "alive", "back", "cause", "counts",
        "direction", "reader", "taken", "writer",
    )  # fmt: skip

    def __init__(self, direction: Direction, counts: LinkCounts, cause: str | None) -> None:
        """`cause`: the fault that this direction is dead by from birth, or None."""
        self.direction = direction
        self.counts = counts
        self.alive = cause is None
        self.cause = cause
        self.reader: socket.socket | None = None
        self.writer: socket.socket | None = None
        self.back: Flow = self
        self.taken = 0
        self._scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._held: deque[_Held] = deque()
        self._held_bytes = 0
        self._last_due = 0
        self._room = trio.Event()
        self._pumping = False
        direction.enter(self)

    def die(self, cause: str) -> bool:
        """Forward nothing more, for this reason; whether it was alive. Takes effect before this returns: `alive` is looked
        at before each send."""
        if not self.alive:
            return False
        self.alive, self.cause = False, cause
        held, self._held, self._held_bytes = self._held, deque(), 0
        for item in held:
            if item.end:
                self._ended(item.reset)
            else:
                self._lost(len(item.data))
        if self._scope is not None:
            self._scope.cancel()
        self._room.set()
        return True

    def _lost(self, size: int) -> None:
        self.taken += size
        self.counts.dropped += size
        if self.cause is not None and size:
            self.direction.ledger.toll(self.cause, self.direction.pair).dropped_bytes += size

    async def run(self, buffer: memoryview, nursery: trio.Nursery) -> None:
        """Forward until the sending side ends or the connection is gone."""
        self._nursery = nursery
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
            if self.alive and (self._pumping or self.direction.shaped):
                await self._hold(bytes(buffer[:size]))
            else:
                await self._forward(buffer[:size])
        if self.reader is not None:
            if self.alive and self._pumping:
                self._push(_Held(self._last_due, b"", True, reset))
            else:
                self._ended(reset)

    # ------------------------------------------------------------------------------------------ held back

    async def _hold(self, data: bytes) -> None:
        """Put bytes behind what is held already; waits while that is more than `HELD_WINDOW`."""
        piece = self.direction.piece() or len(data)
        now = now_us()
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            if not self.alive:
                self._lost(len(part))
                continue
            # Whatever jitter draws: within a connection nothing overtakes.
            self._last_due = max(self._last_due, self.direction.due(len(part), now))
            self._push(_Held(self._last_due, part))
        while self.alive and self._held_bytes > HELD_WINDOW:
            self._room = trio.Event()
            await self._room.wait()

    def _push(self, item: _Held) -> None:
        self._held.append(item)
        self._held_bytes += len(item.data)
        if not self._pumping:
            assert self._nursery is not None
            self._pumping = True
            self._nursery.start_soon(self._pump)

    async def _pump(self) -> None:
        """Let go of what is held when it is due."""
        try:
            while self._held:
                late = self._held[0].due - now_us()
                if late > 0:
                    with trio.CancelScope() as self._scope:
                        await trio.sleep(late / 1e6)
                    self._scope = None
                    continue  # the connection may have died meanwhile
                item = self._held.popleft()
                self._held_bytes -= len(item.data)
                if item.end:
                    self._ended(item.reset)
                else:
                    await self._forward(memoryview(item.data))
                self._room.set()
        finally:
            self._pumping = False
            self._room.set()

    # ------------------------------------------------------------------------------------------ at once

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
                self.back._ended(reset=True)
                break
        self._scope = None
        self._lost(len(rest))

    def _ended(self, reset: bool) -> None:
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
            if self.cause is not None:
                self.direction.ledger.toll(self.cause, self.direction.pair).ends_swallowed += 1
            if reset or not self.back.alive:
                # Nothing will ever be said to that side again; closing answers the close that it began
                # itself.
                self._close_reader()

    def _close_reader(self) -> None:
        if self.reader is not None:
            close(self.reader, abort=False)
        self.reader = self.back.writer = None

    def _close_both(self, abort: bool) -> None:
        for end in (self.reader, self.writer):
            if end is not None:
                close(end, abort)
        self.reader = self.writer = self.back.reader = self.back.writer = None

    async def _await_close(self, end: socket.socket) -> None:
        """Wait until the peer of a socket that is no longer read has closed it."""
        while end.fileno() >= 0 and (
            end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_ESTABLISHED
        ):
            await trio.sleep(_CLOSE_POLL_SECONDS)


def close(end: socket.socket, abort: bool) -> None:
    """Close a socket, with a reset if `abort`; whoever waits on it is told."""
    if end.fileno() < 0:
        return
    if abort:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
    trio.lowlevel.notify_closing(end)
    end.close()


def prepare(end: socket.socket) -> None:
    """Make a socket ready for the relay: it never blocks and sends at once."""
    end.setblocking(False)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def dial(address: tuple[str, int]) -> socket.socket | None:
    """Connect; None if it is refused or this process has no descriptor left."""
    try:
        dialled = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return None
    try:
        prepare(dialled)
        code = dialled.connect_ex(address)
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(dialled)
            code = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except BaseException:
        dialled.close()
        raise
    if code:
        dialled.close()
        return None
    return dialled
