"""The relay's rules (numbers as in `sim.local.relay`)."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable

import pytest
import trio

from sim.local import relay as relay_module
from sim.local.links import Toll
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


# ------------------------------------------------------------------------------------------------ faults by label


async def test_bytes_lost_one_way_are_counted_to_their_fault_and_direction_and_to_no_other(
    world: World,
) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        other, other_end = await pair(world, listener, "n3")
        world.relay.block("bridge", [("n1", "n2")])
        await dialled.send_all(b"x" * 700)
        await accepted.send_all(b"heard")
        await other.send_all(b"apart")
        with trio.fail_after(5):
            assert await dialled.receive_some() == b"heard"
            assert await other_end.receive_some() == b"apart"
        assert await hears_nothing(accepted)
        tolls = world.relay.tolls("bridge")
        assert {pair: toll.as_json() for pair, toll in tolls.items()} == {
            ("n1", "n2"): {"dropped_bytes": 700, "connections_killed": 1}
        }
        assert world.relay.tolls("another") == {}


async def test_a_connection_that_one_fault_killed_stays_its_own_when_the_next_fault_comes(
    world: World,
) -> None:
    async with listening(world.target) as listener:
        dialled, _ = await pair(world, listener)
        world.relay.block("first", [("n1", "n2")])
        world.relay.lift("first")
        world.relay.block("second", [("n1", "n2")])
        await dialled.send_all(b"x" * 40)
        await dialled.aclose()
        await until(lambda: world.relay.counts["n1>n2"].swallowed_ends == 1)
        assert world.relay.tolls("first")["n1", "n2"].as_json() == {
            "dropped_bytes": 40,
            "connections_killed": 1,
            "ends_swallowed": 1,
        }
        assert not world.relay.tolls("second")["n1", "n2"].bit


@pytest.mark.parametrize("way", [("n1", "n2"), ("n2", "n1")])
async def test_rule_4_a_dial_is_swallowed_whichever_direction_is_cut_and_counted_to_the_fault(
    world: World, way: tuple[str, str]
) -> None:
    async with listening(world.target) as listener:
        world.relay.block("one way", [way])
        dialled = await world.dial()
        await dialled.send_all(b"anyone?")
        assert await hears_nothing(dialled)
        world.relay.lift("one way")
        assert await hears_nothing(dialled, 0.02)
        toll = world.relay.tolls("one way")["n1", "n2"]
        assert (toll.dials_swallowed, toll.dropped_bytes) == (1, len(b"anyone?"))
        await pair(world, listener)


async def test_two_faults_on_one_direction_open_it_only_when_both_are_lifted(world: World) -> None:
    async with listening(world.target) as listener:
        world.relay.block("a", [("n1", "n2")])
        world.relay.block("b", [("n1", "n2")])
        assert await hears_nothing(await world.dial())
        assert world.relay.tolls("a")["n1", "n2"].dials_swallowed == 1  # the older one had it
        world.relay.lift("a")
        assert await hears_nothing(await world.dial())
        assert world.relay.tolls("b")["n1", "n2"].dials_swallowed == 1
        world.relay.lift("b")
        await pair(world, listener)


async def timed(
    sender: trio.SocketStream, receiver: trio.SocketStream, data: bytes, before: bytes = b""
) -> float:
    """Seconds from sending to having received everything, which must be what was sent, behind what went before."""
    began = trio.current_time()
    got = b""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, data)
            while len(got) < len(before + data):
                got += await receiver.receive_some()
    assert got == before + data
    return trio.current_time() - began


async def test_rule_7_a_delayed_direction_is_late_by_its_delay_and_the_other_is_not(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.delay("slow", [("n1", "n2")], 400_000)
        assert await timed(dialled, accepted, b"late") >= 0.4
        assert world.relay.tolls("slow")["n1", "n2"].delayed_bytes == 4
        back_before = trio.current_time()
        await accepted.send_all(b"prompt")
        assert await dialled.receive_some() == b"prompt"
        assert trio.current_time() - back_before < 0.4
        world.relay.lift("slow")
        assert await timed(dialled, accepted, b"prompt again") < 0.4


async def test_rule_7_whatever_jitter_draws_bytes_and_the_end_leave_in_order(world: World) -> None:
    data = os.urandom(200_000)
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.delay("jitter", [("n1", "n2")], 5_000, 60_000, seed=3)
        for start in range(0, len(data), 10_000):
            await dialled.send_all(data[start : start + 10_000])
            await trio.sleep(0.002)  # pieces of their own, each with a draw of its own
        await dialled.send_eof()
        world.relay.lift("jitter")  # what is held leaves when it was due, and nothing overtakes it
        with trio.fail_after(10):
            assert b"".join([part async for part in accepted]) == data


async def test_rule_7_a_rate_lets_no_more_through_over_all_connections_together(world: World) -> None:
    async with listening(world.target) as listener:
        one, one_end = await pair(world, listener)
        two, two_end = await pair(world, listener)
        world.relay.limit("trickle", [("n1", "n2")], 100_000)
        took: list[float] = []

        async def send(sender: trio.SocketStream, receiver: trio.SocketStream) -> None:
            took.append(await timed(sender, receiver, bytes(20_000)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, one, one_end)
            nursery.start_soon(send, two, two_end)
        assert max(took) >= 0.39
        held_up = world.relay.tolls("trickle")["n1", "n2"].delayed_bytes
        assert 36_000 <= held_up < 40_000  # all but what found the line free


async def test_a_rate_that_nothing_reaches_holds_nothing_up(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.limit("wide", [("n1", "n2")], 1_000_000)
        await timed(dialled, accepted, bytes(1000))
        assert not world.relay.tolls("wide").get(("n1", "n2"), Toll()).bit


async def test_rule_7_what_comes_after_the_heal_waits_behind_what_is_held(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.delay("slow", [("n1", "n2")], 300_000)
        await dialled.send_all(b"first")
        await until(lambda: world.relay.tolls("slow").get(("n1", "n2"), Toll()).delayed_bytes == 5)
        world.relay.lift("slow")
        assert await timed(dialled, accepted, b"second", b"first") > 0.1


async def test_what_is_held_back_when_silence_falls_is_lost_and_counted(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.delay("slow", [("n1", "n2")], 150_000)
        await dialled.send_all(b"x" * 900)
        await dialled.send_eof()
        await until(lambda: world.relay.tolls("slow").get(("n1", "n2"), Toll()).delayed_bytes == 900)
        await trio.sleep(0.02)
        world.relay.block("cut", [("n1", "n2")])
        assert await hears_nothing(accepted, 0.3)
        toll = world.relay.tolls("cut")["n1", "n2"]
        assert (toll.dropped_bytes, toll.ends_swallowed) == (900, 1)


async def test_rule_7_a_slow_direction_holds_a_window_and_then_lets_the_sender_fill_up(world: World) -> None:
    async with listening(world.target) as listener:
        dialled, accepted = await pair(world, listener)
        world.relay.delay("slow", [("n1", "n2")], 60_000_000)
        for _ in range(64):
            with trio.move_on_after(0.5) as scope:
                await dialled.send_all(bytes(1 << 20))
            if scope.cancelled_caught:
                break
        assert scope.cancelled_caught
        held = world.relay.tolls("slow")["n1", "n2"].delayed_bytes
        window = relay_module.HELD_WINDOW
        assert window <= held <= window + relay_module.CHUNK
        assert await hears_nothing(accepted, 0.02)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda relay: relay.block("x", [("n1", "n9")]), "no link joins n1 to n9; endpoints are: n1, n2, n3"),
        (lambda relay: relay.delay("x", [("n1", "n2")], -1), "neither can be below 0"),
        (lambda relay: relay.limit("x", [("n1", "n2")], 0), "at least 1 must pass"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(act: Callable[[Relay], int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        act(World().relay)
