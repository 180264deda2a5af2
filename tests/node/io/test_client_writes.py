"""The client's commands against scripted nodes: every command has one outcome, whatever happens on the way."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from client_peer import CLUSTER, Peer, World
from trio.testing import MockClock

from node.io.client import (
    BadCommand,
    Client,
    ClientError,
    Event,
    NotDone,
    OutcomeUnknown,
    Overloaded,
    Pending,
    Settings,
    open_client,
)
from node.io.client_types import Budget, SessionLost
from node.protocol import Code, Leader, OpenSession, Outcome, Ping, Query, Refused, Submit


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    world = World("A", "B", "C")
    world.nursery = nursery
    return world


@asynccontextmanager
async def client_of(
    world: World, events: list[Event] | None = None, **settings: Any
) -> AsyncIterator[Client]:
    async with open_client(
        world.members,
        cluster=CLUSTER,
        dial=world.dial,
        seed=1,
        settings=Settings(**settings),
        events=None if events is None else events.append,
    ) as client:
        await client.wait_connected(sum(peer.reachable for peer in world.peers.values()))
        yield client


async def gather(pendings: list[Pending]) -> list[bytes | type]:
    """Each command's result, or the kind of its error."""
    results: list[bytes | type] = []
    for pending in pendings:
        try:
            results.append((await pending.wait()).result)
        except ClientError as error:
            results.append(type(error))
    return results


# ------------------------------------------------------------------------------------------------ pipelining


async def test_a_command_comes_back_with_its_place_in_the_log(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        first = await client.submit(b"a")
        second = await client.submit(b"b")
    assert (first.index, first.place, first.result, first.attempts) == (1, 0, b"did a", 1)
    assert (second.index, second.result) == (2, b"did b")
    assert world.log == [(101, 1, b"a"), (101, 2, b"b")]


async def test_commands_begun_at_one_instant_leave_in_one_frame(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        await client.submit(b"x")
        results = await client.submit_many([b"%d" % i for i in range(1000)])
    assert [result.result for result in results] == [b"did %d" % i for i in range(1000)]
    assert [len(submit.seqs) for submit in world.submits()] == [1, 1000]
    assert [seq for _, seq, _ in world.log] == list(range(1, 1002))


async def test_no_more_numbers_are_open_than_the_window_allows(
    autojump_clock: MockClock, world: World
) -> None:
    held: list[Submit] = []

    def hold(peer: Peer, message: Submit) -> list[Any]:
        held.append(message)
        return []

    async with client_of(world, window=10, answer_ms=100_000) as client:
        await client.submit(b"x")
        world.peers["n1"].scripts[Submit] = hold
        pendings = [client.begin(b"%d" % i) for i in range(25)]
        await trio.sleep(0.05)
        assert [len(message.seqs) for message in held] == [10]
        assert client.writes.in_flight == 10
        world.peers["n1"].scripts.clear()
        for answer in world.peers["n1"].apply(held[0]):
            world.peers["n1"].push(answer)
        assert len(await gather(pendings)) == 25
    assert len(world.log) == 26


async def test_low_follows_the_settled_prefix(autojump_clock: MockClock, world: World) -> None:
    async with client_of(world) as client:
        for i in range(3):
            await client.submit(b"%d" % i)
    assert [(submit.low, submit.seqs) for submit in world.submits()] == [(0, [1]), (1, [2]), (2, [3])]


async def test_long_commands_are_split_into_several_frames(autojump_clock: MockClock, world: World) -> None:
    async with client_of(world) as client:
        await client.submit_many([bytes([i]) * 400_000 for i in range(7)])
    assert max(sum(map(len, submit.commands)) for submit in world.submits()) <= 1 << 20
    assert len(world.log) == 7


async def test_callbacks_are_called_once_and_may_begin_the_next_command(
    autojump_clock: MockClock, world: World
) -> None:
    seen: list[bytes] = []
    async with client_of(world) as client:

        def again(pending: Pending) -> None:
            seen.append(pending.outcome().result)
            if len(seen) < 50:
                client.begin(b"%d" % len(seen), callback=again)

        client.begin(b"0", callback=again)
        with trio.fail_after(5):
            while len(seen) < 50:
                await trio.sleep(0.01)
    assert seen == [b"did %d" % i for i in range(50)]


async def test_a_full_queue_refuses_at_once(autojump_clock: MockClock, world: World) -> None:
    world.leader = None
    async with client_of(world, queue=3) as client:
        pendings = [client.begin(b"x", deadline_s=0.1) for _ in range(3)]
        with pytest.raises(Overloaded, match="3 commands wait"):
            client.begin(b"y")
        assert await gather(pendings) == [NotDone] * 3


# ------------------------------------------------------------------------------------------------ leaders


async def test_open_commands_go_to_a_new_leader_at_once_under_the_same_numbers(
    autojump_clock: MockClock, world: World
) -> None:
    # n1 applies everything, and its answers never leave: the case in which resending would do things twice.
    async with client_of(world) as client:
        await client.submit(b"x")

        def apply_silently(peer: Peer, message: Submit) -> list[Any]:
            peer.apply(message)
            return []

        world.peers["n1"].scripts[Submit] = apply_silently
        pendings = [client.begin(b"%d" % i) for i in range(100)]
        await trio.sleep(0.02)
        start = trio.current_time()
        world.lead("n2")
        results = await gather(pendings)
        assert trio.current_time() - start < 0.001  # by the push, not by a timer
    assert results == [b"did %d" % i for i in range(100)]
    assert len(world.log) == 101
    resent = [message for message in world.peers["n2"].heard if type(message) is Submit]
    assert [message.seqs for message in resent] == [list(range(2, 102))]


async def test_a_refusal_that_names_the_leader_is_followed_at_once(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        await client.submit(b"x")
        world.leader = "n3"  # nobody pushes
        start = trio.current_time()
        assert (await client.submit(b"y")).attempts == 2
        assert trio.current_time() - start < 0.001
        assert client.leader == "n3"


async def test_the_highest_term_is_right_whoever_speaks_last(autojump_clock: MockClock, world: World) -> None:
    async with client_of(world) as client:
        world.lead("n2")
        await trio.sleep(0.01)
        world.peers["n3"].push(Leader("n1", 1))
        await trio.sleep(0.01)
        assert client.leader == "n2"


async def test_nodes_that_name_each_other_do_not_keep_a_client_busy(
    autojump_clock: MockClock, world: World
) -> None:
    def blame(peer: Peer, message: Submit) -> list[Any]:
        other = "n2" if peer.name == "n1" else "n1"
        return [peer.refused(0, message.session, message.seqs, Code.NOT_LEADER, other)]

    async with client_of(world) as client:
        await client.submit(b"x")
        for name in ("n1", "n2"):
            world.peers[name].scripts[Submit] = blame
        pending = client.begin(b"y", deadline_s=5)
        await trio.sleep(4)
        sent = len(world.submits())
        assert sent < 150, f"{sent} copies in 4 s"
        world.peers["n2"].scripts.clear()
        world.lead("n2")
        await pending.wait()
    assert len(world.log) == 2


async def test_a_leader_without_a_connection_gets_the_commands_when_it_has_one(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        await client.submit(b"x")
        world.peers["n2"].reachable = False
        await world.peers["n2"].cut_connections()
        await trio.sleep(0.01)
        world.lead("n2")
        pending = client.begin(b"y")
        await trio.sleep(0.5)
        assert not pending.done
        world.peers["n2"].reachable = True
        with trio.fail_after(2):
            await pending.wait()


async def test_a_command_lost_by_a_deposed_leader_keeps_its_number(
    autojump_clock: MockClock, world: World
) -> None:
    def lose(peer: Peer, message: Submit) -> list[Any]:
        peer.scripts.clear()
        peer.apply(message)  # it was committed after all
        return [peer.refused(0, message.session, message.seqs, Code.LOST, None)]

    async with client_of(world) as client:
        await client.submit(b"x")
        world.peers["n1"].scripts[Submit] = lose
        result = await client.submit(b"y")
    assert (result.result, result.attempts) == (b"did y", 2)
    assert [submit.seqs for submit in world.submits()] == [[1], [2], [2]]
    assert len(world.log) == 2


async def test_a_command_lost_and_then_refused_stays_in_doubt(
    autojump_clock: MockClock, world: World
) -> None:
    def lose_then_refuse(peer: Peer, message: Submit) -> list[Any]:
        peer.scripts[Submit] = lambda peer, m: [peer.refused(0, m.session, m.seqs, Code.NO_QUORUM, None)]
        return [peer.refused(0, message.session, message.seqs, Code.LOST, None)]

    async with client_of(world) as client:
        await client.submit(b"x")
        world.peers["n1"].scripts[Submit] = lose_then_refuse
        with pytest.raises(OutcomeUnknown, match="last word: n1: NO_QUORUM"):
            await client.submit(b"y", deadline_s=1)


# ------------------------------------------------------------------------------------------------ refusals


async def test_a_bad_command_fails_alone(autojump_clock: MockClock, world: World) -> None:
    def check(peer: Peer, message: Submit) -> list[Any]:
        good = Submit(message.session, message.low, [], [])
        refused = []
        for seq, command in zip(message.seqs, message.commands, strict=True):
            if command == b"bad":
                refused.append(
                    Refused(0, message.session, [seq], int(Code.BAD_COMMAND), "user -1 is negative", None)
                )
            else:
                good.seqs.append(seq)
                good.commands.append(command)
        return [*refused, *peer.apply(good)]

    world.peers["n1"].scripts[Submit] = check
    async with client_of(world) as client:
        pendings = [client.begin(command) for command in (b"a", b"bad", b"b")]
        assert await gather(pendings) == [b"did a", BadCommand, b"did b"]
        assert str(pendings[1].error) == "user -1 is negative"


async def test_a_refusal_for_want_of_a_quorum_ends_as_not_done(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        await client.submit(b"x")
        world.peers["n1"].scripts[Submit] = lambda peer, m: [
            peer.refused(0, m.session, m.seqs, Code.NO_QUORUM, None)
        ]
        with pytest.raises(NotDone, match=r"deadline has passed; last word: n1: NO_QUORUM: scripted"):
            await client.submit(b"y", deadline_s=0.5)
    assert len(world.log) == 1


async def test_without_any_answer_the_outcome_is_unknown(autojump_clock: MockClock, world: World) -> None:
    async with client_of(world) as client:
        await client.submit(b"x")
        world.peers["n1"].scripts[Submit] = lambda peer, m: []
        start = trio.current_time()
        with pytest.raises(OutcomeUnknown, match="deadline has passed"):
            await client.submit(b"y", deadline_s=0.5)
        assert trio.current_time() - start < 0.52


async def test_without_a_leader_nothing_was_done(autojump_clock: MockClock, world: World) -> None:
    world.leader = None
    async with client_of(world) as client:
        with pytest.raises(NotDone, match="no leader is known"):
            await client.submit(b"y", deadline_s=0.5)


async def test_a_refusal_after_a_doubtful_copy_does_not_make_it_certain(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        await client.submit(b"x")
        world.peers["n1"].scripts[Submit] = lambda peer, m: []
        pending = client.begin(b"y", deadline_s=2)
        await trio.sleep(0.05)
        await world.peers["n1"].cut_connections()
        world.peers["n1"].scripts[Submit] = lambda peer, m: [
            peer.refused(0, m.session, m.seqs, Code.NO_QUORUM, None)
        ]
        with pytest.raises(OutcomeUnknown):
            await pending.wait()


async def test_a_command_dropped_on_a_living_connection_is_sent_again(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world, answer_ms=200) as client:
        await client.submit(b"x")

        def drop_once(peer: Peer, message: Submit) -> list[Any]:
            peer.scripts.clear()
            return []

        world.peers["n1"].scripts[Submit] = drop_once
        start = trio.current_time()
        result = await client.submit(b"y")
        assert result.attempts == 2
        assert 0.2 < trio.current_time() - start < 0.4


async def test_retries_stay_within_their_budget_during_an_outage(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        await client.submit(b"x")
        world.peers["n1"].scripts[Submit] = lambda peer, m: [
            peer.refused(0, m.session, m.seqs, Code.BUSY, None)
        ]
        before = sum(len(submit.seqs) for submit in world.submits())
        for _ in range(2000):  # 200/s for 10 s, all refused
            client.begin(b"y", deadline_s=60)
            await trio.sleep(0.005)
        copies = sum(len(submit.seqs) for submit in world.submits()) - before - 2000
        assert client.writes.budget.cap < copies < 0.2 * 2000 + 10 * 10 + client.writes.budget.cap + 10
        world.peers["n1"].scripts.clear()
        world.lead("n1")
        with trio.fail_after(60):
            while client.writes.busy:
                await trio.sleep(0.1)
    assert len(world.log) == 2001


def test_a_budget_gives_a_share_of_requests_and_a_floor_in_time() -> None:
    budget = Budget(0.1, 5.0, cap=20.0)
    budget.start(0.0)
    assert budget.take(100, 0.0) == 20
    budget.earn(100)
    assert budget.take(100, 0.0) == 10
    assert budget.take(100, 1.0) == 5
    assert budget.take(100, 1000.0) == 20
    assert budget.take(100, 999.0) == 0


# ------------------------------------------------------------------------------------------------ sessions


async def test_a_session_that_expired_while_idle_is_replaced_unnoticed(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        await client.submit(b"x")
        world.sessions[:] = [0]
        pending = client.begin(b"y")
        assert (await pending.wait()).result == b"did y"
        assert (pending.session, pending.seq) == (client.writes.session, 1)
        assert pending.session != 101
    assert [(seq, command) for _, seq, command in world.log] == [(1, b"x"), (1, b"y")]


async def test_a_lost_session_fails_the_commands_in_doubt_and_no_later_ones(
    autojump_clock: MockClock,
    world: World,
) -> None:
    events: list[Event] = []
    async with client_of(world, events) as client:
        await client.submit(b"x")

        def apply_silently(peer: Peer, message: Submit) -> list[Any]:
            peer.apply(message)
            return []

        world.peers["n1"].scripts[Submit] = apply_silently
        doubtful = [client.begin(b"d%d" % i) for i in range(3)]
        await trio.sleep(0.02)
        world.sessions[:] = [0]
        world.lead("n2")  # the copies sent to n1 stay unanswered; n2 does not know the session
        await trio.sleep(0.001)
        certain = [client.begin(b"c%d" % i) for i in range(3)]
        assert await gather(doubtful) == [SessionLost] * 3
        assert await gather(certain) == [b"did c%d" % i for i in range(3)]
    assert len(world.log) == 7
    assert [event.kind for event in events].count("session_lost") == 1


async def test_the_session_is_opened_by_the_first_command_and_again_when_that_is_refused(
    autojump_clock: MockClock,
    world: World,
) -> None:
    refusals = iter(range(3))

    def busy(peer: Peer, message: OpenSession) -> list[Any] | None:
        return (
            [peer.refused(message.request, 0, [], Code.BUSY, None)]
            if next(refusals, None) is not None
            else None
        )

    world.peers["n1"].scripts[OpenSession] = busy
    async with client_of(world) as client:
        await trio.sleep(1)
        assert not any(type(message) is OpenSession for message in world.peers["n1"].heard)
        with trio.fail_after(2):
            await client.submit(b"x")
    assert world.sessions == [101]


# ------------------------------------------------------------------------------------------------ connections


async def test_a_node_that_falls_silent_is_dropped_and_dialled_again(
    autojump_clock: MockClock, world: World
) -> None:
    events: list[Event] = []
    async with client_of(world, events) as client:
        await client.submit(b"x")
        peer = world.peers["n1"]
        await trio.sleep(0.5)
        start, dials = trio.current_time(), peer.dials
        peer.silent = True
        peer.reachable = False
        pending = client.begin(b"y")
        await trio.sleep(0.42)
        gone = [event for event in events if event.kind == "disconnected"]
        assert [event.node for event in gone] == ["n1"]
        assert gone[0].detail == "silent for 300 ms"
        assert 0.2 <= gone[0].at - start <= 0.41
        peer.silent = False
        peer.reachable = True
        with trio.fail_after(3):
            assert (await pending.wait()).attempts > 1
        assert peer.dials > dials
    assert [command for _, _, command in world.log] == [b"x", b"y"]


async def test_a_node_that_answers_heartbeats_stays_connected(
    autojump_clock: MockClock, world: World
) -> None:
    events: list[Event] = []
    async with client_of(world, events) as client:
        await trio.sleep(30)
        assert client.connected == ("n1", "n2", "n3")
    assert sum(event.kind == "disconnected" for event in events[:-3]) == 0
    pings = [message for message in world.peers["n2"].heard if type(message) is Ping]
    assert 290 <= len(pings) <= 310


async def test_garbage_from_a_node_ends_its_connection_only(autojump_clock: MockClock, world: World) -> None:
    events: list[Event] = []
    async with client_of(world, events) as client:
        world.peers["n2"].push_raw(b"\xc1\xc1\xc1")
        await trio.sleep(0.001)
        assert client.connected == ("n1", "n3")
        world.peers["n3"].push(Query(1, 0, 0, 1, b""))
        await trio.sleep(0.001)
        assert client.connected == ("n1",)
        world.peers["n1"].push(Outcome(101, 1, b"", [1], [], []))
        await client.submit(b"x")
        world.peers["n1"].push(Outcome(101, 1, b"", [1], [], []))
        await trio.sleep(0.001)
        assert client.connected == ()
        await client.wait_connected()
    told = {event.node: event.detail for event in events if "talks nonsense" in event.detail}
    assert "not msgpack" in told["n2"]
    assert "Query is nothing that a node says to a client" in told["n3"]
    assert "1 numbers, 0 places and 0 results" in told["n1"]


async def test_dialling_a_dead_node_slows_down(autojump_clock: MockClock, world: World) -> None:
    world.peers["n3"].reachable = False
    async with client_of(world):
        await trio.sleep(60)
    # Full jitter with a ceiling of 1 s: about two a second, where a fixed 20 ms would be 3000.
    assert 60 < world.peers["n3"].dials < 250


async def test_a_node_that_hangs_in_the_handshake_is_given_up_and_named(
    autojump_clock: MockClock, world: World
) -> None:
    world.peers["n3"].reachable = False
    world.peers["n3"].silent = True
    async with client_of(world) as client:
        await trio.sleep(1.5)
        text = "2 of 3 nodes within 1 s (n3: no connection within 1000 ms)"
        with pytest.raises(ClientError) as caught:
            await client.wait_connected(timeout_s=1)
        assert str(caught.value) == text


async def test_closing_the_client_settles_everything(autojump_clock: MockClock, world: World) -> None:
    world.peers["n1"].scripts[Submit] = lambda peer, m: []
    async with client_of(world) as client:
        sent = client.begin(b"x")
        await trio.sleep(0.1)
        world.lead(None)
        await trio.sleep(0.1)
        fresh = client.begin(b"y")
    assert await gather([sent, fresh]) == [OutcomeUnknown, NotDone]
    with pytest.raises(NotDone, match="closed"):
        client.begin(b"z")


async def test_an_error_in_the_body_comes_out_as_it_is(autojump_clock: MockClock, world: World) -> None:
    with pytest.raises(KeyError, match="mine"):
        async with client_of(world):
            raise KeyError("mine")


async def test_members_that_are_none_are_refused(autojump_clock: MockClock, world: World) -> None:
    for members in ([], [world.members[0]] * 2):
        with pytest.raises(ValueError, match="different ids"):
            async with open_client(members, cluster=CLUSTER, dial=world.dial):
                pass


# ------------------------------------------------------------------------------------------------ all at once


@pytest.mark.parametrize("seed", range(12))
async def test_under_random_faults_every_command_has_one_outcome_and_it_is_true(
    autojump_clock: MockClock, world: World, seed: int
) -> None:
    rng = random.Random(seed)
    names = list(world.peers)

    def flaky(peer: Peer, message: Submit) -> list[Any] | None:
        roll = rng.random()
        if peer.name != world.leader or roll < 0.5:
            return None
        if roll < 0.65:  # done, and never said
            peer.usual(message)
            return []
        if roll < 0.75:
            peer.usual(message)
            return [peer.refused(0, message.session, message.seqs, Code.LOST, None)]
        if roll < 0.85:
            return [peer.refused(0, message.session, message.seqs, Code.BUSY, None)]
        return []

    async def faults() -> None:
        while True:
            await trio.sleep(rng.uniform(0, 0.3))
            peer = world.peers[rng.choice(names)]
            fault = rng.randrange(5)
            if fault == 0:
                world.lead(rng.choice([*names, None]), tell=rng.random() < 0.8)
            elif fault == 1:
                await peer.cut_connections()
            elif fault == 2:
                peer.silent = rng.random() < 0.3
            elif fault == 3 and rng.random() < 0.3:
                world.sessions[:] = [0] * len(world.sessions)
            else:
                peer.reachable = rng.random() < 0.7

    for peer in world.peers.values():
        peer.scripts[Submit] = flaky
    pendings: list[Pending] = []
    calls: list[int] = []
    async with client_of(world, answer_ms=150) as client, trio.open_nursery() as nursery:
        nursery.start_soon(faults)
        for number in range(400):
            pendings.append(
                client.begin(b"%d" % number, deadline_s=3, callback=lambda _, n=number: calls.append(n))  # type: ignore[misc]
            )
            await trio.sleep(rng.uniform(0, 0.02))
        await trio.sleep(4)
        nursery.cancel_scope.cancel()
    assert sorted(calls) == list(range(400))
    times = dict.fromkeys((b"%d" % number for number in range(400)), 0)
    for _, _, command in world.log:
        times[command] += 1
    kinds = {"done": 0, "not done": 0, "unknown": 0}
    for number, pending in enumerate(pendings):
        applied = times[b"%d" % number]
        if pending.error is None:
            kinds["done"] += 1
            assert applied == 1
            assert pending.result == b"did %d" % number
        elif isinstance(pending.error, NotDone):
            kinds["not done"] += 1
            assert applied == 0
        else:
            kinds["unknown"] += 1
            assert applied <= 1
    assert kinds["done"] > 50, kinds  # a run in which nothing happened shows nothing
    assert max(itertools.chain(times.values())) == 1
