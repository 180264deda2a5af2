"""The relay's rules (numbers as in `sim.local.relay`)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
import trio

from sim.local import relay as relay_module
from sim.local.relay import DARK_WINDOW, OUTSIDE, Link, Relay

LINGER_RESET = struct.pack("ii", 1, 0)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(socket.socket()) for _ in range(count)]
        for end in ends:
            end.bind(("127.0.0.1", 0))
        return [int(end.getsockname()[1]) for end in ends]


class World:
    """n1 in A, n2 in B, n3 in C; links n1>n2, n3>n2 and outside>n2, all leading to the port of n2."""

    def __init__(self) -> None:
        self.target, *self.ports = free_ports(4)
        sources = ("n1", "n3", OUTSIDE)
        links = [
            Link(f"{source}>n2", source, "n2", port, self.target)
            for source, port in zip(sources, self.ports, strict=True)
        ]
        self.relay = Relay(links, {"n1": "A", "n2": "B", "n3": "C"})
        self.streams: list[trio.SocketStream] = []

    async def dial(self, source: str = "n1") -> trio.SocketStream:
        port = self.ports[("n1", "n3", OUTSIDE).index(source)]
        self.streams.append(await trio.open_tcp_stream("127.0.0.1", port))
        return self.streams[-1]

    async def accept(self, listener: trio.SocketListener) -> trio.SocketStream:
        self.streams.append(await listener.accept())
        return self.streams[-1]


@pytest.fixture
async def world(nursery: trio.Nursery) -> AsyncIterator[World]:
    made = World()
    await nursery.start(made.relay.run)
    yield made
    for stream in made.streams:
        stream.socket.close()
    nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def listening(port: int) -> AsyncIterator[trio.SocketListener]:
    listener = (await trio.open_tcp_listeners(port, host="127.0.0.1"))[0]
    async with listener:
        yield listener


async def pair(
    world: World, listener: trio.SocketListener, source: str = "n1"
) -> tuple[trio.SocketStream, trio.SocketStream]:
    with trio.fail_after(5):
        dialled = await world.dial(source)
        accepted = await world.accept(listener)
        await dialled.send_all(b"hi")
        assert await accepted.receive_some() == b"hi"
        return dialled, accepted


async def hears_nothing(stream: trio.SocketStream, seconds: float = 0.1) -> bool:
    """True if neither a byte nor an end arrives within the time."""
    with trio.move_on_after(seconds) as scope:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.receive_some()
        return False
    return scope.cancelled_caught


async def until(condition: object, seconds: float = 5) -> None:
    assert callable(condition)
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.005)


async def test_bytes_of_any_size_pass_both_ways_unchanged_and_are_counted(world: World) -> None:
    data = os.urandom(3_000_000)
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)

        async def receive_all(stream: trio.SocketStream, into: list[bytes]) -> None:
            into.append(b"".join([part async for part in stream]))

        there: list[bytes] = []
        back: list[bytes] = []
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive_all, dialled, back)
                nursery.start_soon(receive_all, accepted, there)
                for stream in (dialled, accepted):
                    await stream.send_all(data)
                    await stream.send_eof()  # rule 2: an orderly end crosses an open link
        assert there == back == [data]
        counts = world.relay.counts["n1>n2"]
        assert (counts.connections, counts.forwarded, counts.dropped) == (1, 2 * len(data) + 2, 0)


async def test_a_reset_crosses_an_open_link_as_a_reset(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        accepted.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        await accepted.aclose()
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await dialled.receive_some()


async def test_rule_6_a_refused_dial_reaches_the_dialler_as_a_reset(world: World) -> None:
    dialled = await world.dial()
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
        await dialled.receive_some()
    assert world.relay.counts["n1>n2"].dials_refused == 1


@pytest.mark.parametrize("source", ["n1", OUTSIDE])
async def test_rule_2_no_end_of_either_kind_leaves_a_silent_domain(world: World, source: str) -> None:
    for abort in (False, True):
        async with listening(world.target) as listener:
            dialled, accepted = await pair(world, listener, source)
            world.relay.silence("B")
            if abort:
                accepted.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            await accepted.aclose()
            assert await hears_nothing(dialled)
            await dialled.send_all(b"still writable, for all the living side knows")
            assert await hears_nothing(dialled, 0.02)
            world.relay.restore("B")
            assert await hears_nothing(dialled, 0.05)
    assert world.relay.counts[f"{source}>n2"].swallowed_ends == 2


async def test_rule_2_the_kernel_of_a_killed_process_is_not_heard(world: World) -> None:
    """The child dies with unread data in its socket: its kernel sends a reset."""
    listener = socket.create_server(("127.0.0.1", world.target))
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import socket,time; s=socket.socket(fileno={listener.fileno()}); c,_=s.accept(); "
            "c.send(b'up'); time.sleep(60)",
        ],
        pass_fds=[listener.fileno()],
    )
    listener.close()
    try:
        dialled = await world.dial()
        with trio.fail_after(10):
            assert await dialled.receive_some() == b"up"
        await dialled.send_all(b"unread")
        await until(lambda: world.relay.counts["n1>n2"].forwarded == len(b"up" + b"unread"))
        world.relay.silence("B")
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    await until(lambda: world.relay.counts["n1>n2"].swallowed_ends == 1)
    assert await hears_nothing(dialled)


async def test_without_silence_the_kernel_of_a_killed_process_is_heard_at_once(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        await accepted.aclose()
        assert not await hears_nothing(dialled, 5)


async def test_rule_1_no_byte_crosses_after_the_instant_of_silence_and_dropped_ones_are_counted(
    world: World,
) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        before = world.relay.counts["n1>n2"].forwarded
        os.write(
            dialled.socket.fileno(), b"x" * 1000
        )  # in the kernel; the relay cannot run before the silence
        world.relay.silence("B")
        await accepted.send_all(b"y" * 500)
        assert await hears_nothing(accepted)
        assert await hears_nothing(dialled, 0.02)
        counts = world.relay.counts["n1>n2"]
        assert (counts.forwarded, counts.dropped) == (before, 1500)
        assert world.relay.dropped("B") == world.relay.dropped("A") == 1500


async def test_rule_1_a_half_forwarded_piece_stops_where_silence_found_it(world: World) -> None:
    """The receiver reads nothing, so the relay stands with a piece in hand; after the silence it must not go
    on."""
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        counts = world.relay.counts["n1>n2"]
        with trio.move_on_after(0.3):
            while True:
                await dialled.send_all(b"x" * 65536)
        stuck_at = counts.forwarded
        world.relay.silence("B")
        await until(lambda: counts.dropped > 0)  # it does not wait for the dark side to read
        got = 0
        with trio.move_on_after(0.3):
            while True:
                got += len(await accepted.receive_some())
        assert counts.forwarded == stuck_at
        assert got == stuck_at - len(b"hi")


async def test_rule_3_an_old_connection_stays_dead_after_restore_and_a_new_one_lives(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.silence("A")
        world.relay.restore("A")
        await dialled.send_all(b"lost")
        await accepted.send_all(b"lost too")
        assert await hears_nothing(accepted)
        assert await hears_nothing(dialled, 0.02)
        await pair(world, listener)


async def test_rule_3_the_living_side_closes_a_dead_connection_itself_and_nobody_hears(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.silence("B")
        await dialled.aclose()
        await until(lambda: world.relay.counts["n1>n2"].swallowed_ends == 1)
        assert await hears_nothing(accepted)


async def test_rule_4_a_connection_opened_in_the_dark_hangs_and_is_never_joined(world: World) -> None:
    async with listening(world.target) as listener:
        world.relay.silence("B")
        dialled = await world.dial()
        await dialled.send_all(b"anyone?")
        assert await hears_nothing(dialled)
        world.relay.restore("B")
        with trio.move_on_after(0.1) as scope:
            await listener.accept()
        assert scope.cancelled_caught
        assert await hears_nothing(dialled, 0.02)
        assert world.relay.counts["n1>n2"].born_dead == 1


async def test_rule_5_a_dead_connection_takes_in_a_window_and_then_lets_the_sender_fill_up(
    world: World,
) -> None:
    async with listening(world.target) as listener:
        dialled, _ = await pair(world, listener)
        world.relay.silence("B")
        for _ in range(64):
            with trio.move_on_after(0.5) as scope:
                await dialled.send_all(bytes(1 << 20))
            if scope.cancelled_caught:
                break
        assert scope.cancelled_caught
        dropped = world.relay.counts["n1>n2"].dropped
        assert DARK_WINDOW <= dropped < DARK_WINDOW + relay_module.CHUNK


async def test_two_dark_domains_do_not_light_each_other(world: World) -> None:
    async with listening(world.target) as listener:
        world.relay.silence("A")
        world.relay.silence("B")
        world.relay.restore("A")
        dialled = await world.dial("n1")
        assert await hears_nothing(dialled)
        assert world.relay.counts["n1>n2"].born_dead == 1
        assert not world.relay.is_silent("A")
        assert world.relay.is_silent("B")
        world.relay.restore("B")
        await pair(world, listener)


async def test_a_silence_leaves_links_between_other_domains_alone(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener, "n3")
        world.relay.silence("A")
        await dialled.send_all(b"to n2")
        await accepted.send_all(b"to n3")
        with trio.fail_after(5):
            assert await accepted.receive_some() == b"to n2"
            assert await dialled.receive_some() == b"to n3"


async def test_one_direction_can_be_silent_while_the_other_speaks(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.direction("n1", "n2").silence("one way")
        await dialled.send_all(b"unheard")
        await accepted.send_all(b"heard")
        with trio.fail_after(5):
            assert await dialled.receive_some() == b"heard"
        assert await hears_nothing(accepted)
        await dialled.aclose()
        assert await hears_nothing(accepted)


async def test_an_end_said_before_the_silence_is_no_reason_to_answer_in_it(world: World) -> None:
    """The living side had closed its half and waits for the answer; then the other side's domain goes dark
    and dies."""
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        await dialled.send_eof()
        with trio.fail_after(5):
            assert await accepted.receive_some() == b""
        world.relay.silence("B")
        await accepted.aclose()
        assert await hears_nothing(dialled)


def test_an_unknown_domain_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"domain 'Z'; there are: A, B, C"):
        World().relay.silence("Z")


def test_a_port_that_is_taken_is_named_and_no_other_stays_open() -> None:
    world = World()
    with socket.create_server(("127.0.0.1", world.ports[2])):
        with pytest.raises(OSError, match=rf"port {world.ports[2]} \(link outside>n2\)"):
            world.relay.bind()
        socket.create_server(("127.0.0.1", world.ports[0])).close()
