"""The client's queries against scripted nodes: who is asked, when somebody else is, and what is never accepted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from client_peer import CHAIN, CLUSTER, Peer, World
from trio.testing import MockClock

from node.io.client import BadQuery, Client, Event, NodeUnavailable, QueryFailed, Settings, open_client
from node.protocol import Answer, Code, Consistency, Query, QueryRefused, StatusRequest


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> World:
    world = World("A", "A", "B", "C")
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


def refusing(code: Code) -> Any:
    return lambda peer, message: [QueryRefused(message.request, int(code), f"scripted {code.name}", None)]


def deaf(peer: Peer, message: Any) -> list[Any]:
    return []


def asked(world: World) -> list[str]:
    return [peer.name for peer in world.peers.values() for message in peer.heard if type(message) is Query]


async def test_nodes_are_asked_in_turn(autojump_clock: MockClock, world: World) -> None:
    async with client_of(world) as client:
        nodes = [(await client.query(b"q")).node for _ in range(8)]
    assert sorted(nodes) == sorted([*world.peers, *world.peers])
    assert len(asked(world)) == 8


async def test_the_answer_says_where_it_comes_from_and_how_old_it_is(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        answer = await client.query(b"q", prefer="n3")
    assert (answer.node, answer.index, answer.chain, answer.age_us, answer.tier) == (
        "n3",
        7,
        CHAIN,
        1000,
        "fresh",
    )
    assert (answer.result, answer.hedged, answer.consistency) == (b"n3", False, Consistency.ANY)


async def test_the_preferred_node_or_domain_is_asked_first(autojump_clock: MockClock, world: World) -> None:
    async with client_of(world) as client:
        assert {(await client.query(b"q", prefer="n4")).node for _ in range(8)} == {"n4"}
        assert {(await client.query(b"q", prefer="A")).node for _ in range(8)} == {"n1", "n2"}
        world.peers["n4"].scripts[Query] = refusing(Code.QUARANTINED)
        assert (await client.query(b"q", prefer="C")).node in ("n1", "n2", "n3")


async def test_a_slow_node_is_asked_less(autojump_clock: MockClock, world: World) -> None:
    async with client_of(world) as client:
        client.links[1].note_latency(0.02)
        for link in (client.links[0], client.links[2], client.links[3]):
            link.note_latency(0.001)
        assert {(await client.query(b"q")).node for _ in range(12)} == {"n1", "n3", "n4"}


async def test_without_an_answer_another_domain_is_asked_as_well(
    autojump_clock: MockClock, world: World
) -> None:
    events: list[Event] = []
    world.peers["n1"].scripts[Query] = deaf
    async with client_of(world, events) as client:
        start = trio.current_time()
        answer = await client.query(b"q", prefer="A", hedge_ms=50)
        if answer.node == "n2":  # n1's turn comes next
            start = trio.current_time()
            answer = await client.query(b"q", prefer="A", hedge_ms=50)
        assert trio.current_time() - start == pytest.approx(0.05, abs=0.002)
        assert answer.node in ("n3", "n4")
        assert answer.hedged
        assert client.queries.hedged == 1
    assert [event.kind for event in events].count("hedge") == 1


async def test_the_first_answer_wins_and_the_late_one_harms_nobody(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        late: list[int] = []

        def keep(peer: Peer, message: Query) -> list[Any]:
            late.append(message.request)
            return []

        world.peers["n1"].scripts[Query] = keep
        assert (await client.query(b"q", prefer="n1")).hedged
        world.peers["n1"].push(Answer(late[0], 1, CHAIN, 1, "fresh", b"late"))
        await trio.sleep(0.01)
        assert client.connected == tuple(world.peers)
        assert client.queries._by_request == {}


async def test_hedges_stay_within_their_budget(autojump_clock: MockClock, world: World) -> None:
    for peer in world.peers.values():
        peer.scripts[Query] = deaf  # heartbeats are answered: nobody is suspect
    async with client_of(world) as client:
        for _ in range(100):
            with pytest.raises(QueryFailed):
                await client.query(b"q", hedge_ms=10, patience_ms=100)
        elapsed = 10
        assert client.queries.hedged <= client.queries.budget.cap + 0.1 * 100 + 10 * elapsed + 1
        assert client.queries.hedged >= 100


async def test_a_node_that_missed_a_heartbeat_is_passed_over_free_of_charge(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        await trio.sleep(1.05)
        client.queries.budget.cap = client.queries.budget.tokens = 0
        for name in ("n1", "n2"):
            world.peers[name].silent = True
            world.peers[name].reachable = False
        slowest, start = 0.0, trio.current_time()
        while trio.current_time() - start < 2:
            before = trio.current_time()
            answer = await client.query(b"q", prefer="A")
            slowest = max(slowest, trio.current_time() - before)
            assert answer.node in ("n3", "n4")
            await trio.sleep(0.003)
        # A power cut of the preferred domain, no hedge left to spend: late by at most the heartbeat and a hedge time.
        assert slowest <= 0.1 * 1.6 + 0.1


@pytest.mark.parametrize(
    "code", [Code.NO_QUORUM, Code.NOT_LEADER, Code.BUSY, Code.TOO_OLD, Code.QUARANTINED, Code.STOPPING]
)
async def test_a_refusal_sends_the_query_elsewhere_at_once(
    autojump_clock: MockClock, world: World, code: Code
) -> None:
    for name in ("n1", "n2", "n3"):
        world.peers[name].scripts[Query] = refusing(code)
    async with client_of(world) as client:
        start = trio.current_time()
        answer = await client.query(b"q", prefer="n1")
        assert (answer.node, answer.hedged) == ("n4", True)
        assert trio.current_time() - start < 0.001


async def test_a_lost_connection_sends_the_query_elsewhere_at_once(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        world.peers["n1"].scripts[Query] = deaf

        async def cut() -> None:
            await trio.sleep(0.01)
            await world.peers["n1"].cut_connections()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            start = trio.current_time()
            answer = await client.query(b"q", prefer="n1", hedge_ms=None)
        assert answer.node != "n1"
        assert trio.current_time() - start < 0.02


async def test_failure_names_every_nodes_reason(autojump_clock: MockClock, world: World) -> None:
    world.peers["n1"].scripts[Query] = refusing(Code.NO_QUORUM)
    world.peers["n2"].scripts[Query] = refusing(Code.QUARANTINED)
    world.peers["n3"].scripts[Query] = deaf
    world.peers["n4"].reachable = False
    async with client_of(world) as client:
        start = trio.current_time()
        with pytest.raises(QueryFailed, match="no answer within 300 ms") as caught:
            await client.query(b"q", Consistency.LINEARIZABLE, patience_ms=300)
        assert trio.current_time() - start == pytest.approx(0.3, abs=0.002)
    assert caught.value.reasons["n1"] == "NO_QUORUM: scripted NO_QUORUM"
    assert caught.value.reasons["n2"] == "QUARANTINED: scripted QUARANTINED"
    assert caught.value.reasons["n3"].startswith("no answer within")
    assert caught.value.reasons["n4"] == "not connected: n4: cannot connect: scripted"


async def test_rounds_of_refusals_slow_down(autojump_clock: MockClock, world: World) -> None:
    for peer in world.peers.values():
        peer.scripts[Query] = refusing(Code.NO_QUORUM)
    async with client_of(world) as client:
        with pytest.raises(QueryFailed):
            await client.query(b"q", Consistency.LINEARIZABLE, patience_ms=1000)
    assert 4 * 8 <= len(asked(world)) <= 4 * 25


async def test_a_query_waits_for_a_quorum_within_its_patience(
    autojump_clock: MockClock, world: World
) -> None:
    for peer in world.peers.values():
        peer.scripts[Query] = refusing(Code.NO_QUORUM)
    async with client_of(world) as client, trio.open_nursery() as nursery:

        async def heal() -> None:
            await trio.sleep(0.15)
            world.peers["n2"].scripts.clear()

        nursery.start_soon(heal)
        start = trio.current_time()
        answer = await client.query(b"q", Consistency.LINEARIZABLE, patience_ms=500)
        assert answer.node == "n2"
        assert answer.consistency == Consistency.LINEARIZABLE
        assert trio.current_time() - start < 0.26


async def test_an_answer_is_never_weaker_than_asked_for_unless_that_was_allowed(
    autojump_clock: MockClock, world: World
) -> None:
    def any_only(peer: Peer, message: Query) -> list[Any] | None:
        return None if message.consistency == Consistency.ANY else refusing(Code.NO_QUORUM)(peer, message)

    for peer in world.peers.values():
        peer.scripts[Query] = any_only
    async with client_of(world) as client:
        with pytest.raises(QueryFailed):
            await client.query(b"q", Consistency.LINEARIZABLE)
        start = trio.current_time()
        answer = await client.query(
            b"q", Consistency.LINEARIZABLE, fallback=Consistency.ANY, fallback_after_ms=120
        )
        assert trio.current_time() - start == pytest.approx(0.12, abs=0.002)
        assert answer.consistency == Consistency.ANY


async def test_with_a_fallback_allowed_the_better_answer_is_still_taken(
    autojump_clock: MockClock, world: World
) -> None:
    async with client_of(world) as client:
        answer = await client.query(b"q", Consistency.LINEARIZABLE, fallback=Consistency.ANY)
        assert answer.consistency == Consistency.LINEARIZABLE


async def test_an_answer_older_than_promised_is_not_taken(autojump_clock: MockClock, world: World) -> None:
    ages = {"n1": 6000, "n2": None, "n3": 5001, "n4": 5000}
    for peer in world.peers.values():
        peer.scripts[Query] = lambda peer, m: [Answer(m.request, 7, CHAIN, ages[peer.name], "stale", b"")]
    async with client_of(world) as client:
        answer = await client.query(b"q", Consistency.BOUNDED, max_age_ms=5)
        assert answer.node == "n4"
        with pytest.raises(QueryFailed) as caught:
            await client.query(b"q", Consistency.BOUNDED, max_age_ms=4, patience_ms=50)
    assert caught.value.reasons["n2"] == "answered with age None us where at most 4000 were asked for"


async def test_a_bad_query_fails_at_once(autojump_clock: MockClock, world: World) -> None:
    for peer in world.peers.values():
        peer.scripts[Query] = refusing(Code.BAD_QUERY)
    async with client_of(world) as client:
        with pytest.raises(BadQuery, match="scripted BAD_QUERY"):
            await client.query(b"q")
    assert len(asked(world)) == 1


async def test_the_node_is_told_how_much_patience_is_left(autojump_clock: MockClock, world: World) -> None:
    for name in ("n1", "n2"):
        world.peers[name].scripts[Query] = deaf
    async with client_of(world) as client:
        await client.query(
            b"q", Consistency.BOUNDED, max_age_ms=20, patience_ms=400, prefer="A", hedge_ms=100
        )
    queries = [m for peer in world.peers.values() for m in peer.heard if type(m) is Query]
    assert [(m.max_age, m.consistency) for m in queries] == [(20_000, 1)] * 2
    assert sorted(round(m.patience, -3) for m in queries) == [300_000, 400_000]


async def test_with_no_node_connected_a_query_waits_for_one(autojump_clock: MockClock, world: World) -> None:
    for peer in world.peers.values():
        peer.reachable = False
    async with client_of(world) as client:
        with pytest.raises(QueryFailed, match="n1: not connected"):
            await client.query(b"q", patience_ms=100)
        for peer in world.peers.values():
            peer.reachable = True
        assert (await client.query(b"q", patience_ms=2000)).index == 7


async def test_status_asks_one_node_in_person(autojump_clock: MockClock, world: World) -> None:
    async with client_of(world) as client:
        assert await client.status("n3") == {"node": "n3"}
        world.peers["n3"].scripts[StatusRequest] = deaf
        with pytest.raises(NodeUnavailable, match=r"n3 did not answer within 0\.2 s"):
            await client.status("n3", timeout_s=0.2)
        world.peers["n2"].reachable = False
        await world.peers["n2"].cut_connections()
        await trio.sleep(0.01)
        with pytest.raises(NodeUnavailable, match="n2 is not connected"):
            await client.status("n2", timeout_s=0.2)
        with pytest.raises(KeyError):
            await client.status("n9")
