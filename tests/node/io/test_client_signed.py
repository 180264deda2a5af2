"""The client where nodes may lie: it signs what it asks for, and one node's word settles nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from client_peer import CHAIN, CLUSTER
from hypothesis import given, settings
from hypothesis import strategies as st
from signed_peers import SignedPeer, SignedWorld
from trio.testing import MockClock

from node.io.client import (
    BadCommand,
    BadQuery,
    Client,
    Event,
    NotDone,
    OutcomeUnknown,
    QueryFailed,
    SessionLost,
    Settings,
    Signing,
    open_client,
)
from node.io.client_signed import SignedWrites
from node.io.keys import SigningKey, verify
from node.protocol import (
    Answer,
    Code,
    Consistency,
    Outcome,
    Query,
    QueryRefused,
    Refused,
    SessionOpened,
    SignedOpen,
    SignedSubmit,
)
from node.requests import submit_statement

KEY = SigningKey()


@pytest.fixture
async def world(nursery: trio.Nursery, autojump_clock: MockClock) -> SignedWorld:
    world = SignedWorld("A", "B", "C", "D")
    world.nursery = nursery
    return world


@asynccontextmanager
async def client_of(
    world: SignedWorld, events: list[Event] | None = None, lie: int = 1, **more: Any
) -> AsyncIterator[Client]:
    async with open_client(
        world.members, cluster=CLUSTER, dial=world.dial, seed=1, settings=Settings(**more), signing=Signing(lie, KEY),
        events=None if events is None else events.append,
    ) as client:  # fmt: skip
        await client.wait_connected(sum(peer.reachable for peer in world.peers.values()))
        yield client


def first_of(client: Client, world: SignedWorld) -> SignedPeer:
    """The node that the client turns to first."""
    peer = world.peers[client.leader or ""]
    assert isinstance(peer, SignedPeer)
    return peer


def other_than(peer: SignedPeer, world: SignedWorld) -> SignedPeer:
    found = next(other for other in world.peers.values() if other is not peer)
    assert isinstance(found, SignedPeer)
    return found


def bundles(world: SignedWorld) -> list[SignedSubmit]:
    return [m for peer in world.peers.values() for m in peer.heard if type(m) is SignedSubmit]


# ------------------------------------------------------------------------------------------------ commands


async def test_a_command_comes_back_with_its_place_in_the_log(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        first, second = await client.submit(b"a"), await client.submit(b"b")
    assert (first.index, first.place, first.result, first.attempts) == (1, 0, b"did a", 1)
    assert (second.index, second.result) == (2, b"did b")
    assert world.log == [(101, 1, b"a"), (101, 2, b"b")]


async def test_commands_begun_at_one_instant_stand_under_one_signature_and_go_to_one_node(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        await client.submit(b"first")
        results = await client.submit_many([b"%d" % number for number in range(500)])
    assert [result.result for result in results] == [b"did %d" % number for number in range(500)]
    assert [len(message.seqs) for message in bundles(world)] == [1, 500]
    bundle = bundles(world)[1]
    signed = submit_statement(CLUSTER, bundle.session, bundle.low, bundle.seqs, bundle.commands)
    assert verify(KEY.public, signed, bundle.signature)
    assert not verify(KEY.public, signed + b"x", bundle.signature)


async def test_a_bundle_holds_as_many_commands_as_the_settings_say(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world, bundle=3) as client:
        await client.submit_many([b"%d" % number for number in range(10)])
    assert [len(message.seqs) for message in bundles(world)] == [3, 3, 3, 1]


async def test_commands_of_more_bytes_than_a_bundle_may_hold_are_cut_into_several(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        await client.submit_many([bytes(60_000) for _ in range(40)])
    assert len(bundles(world)) == 3
    assert all(sum(map(len, message.commands)) <= 1 << 20 for message in bundles(world))


async def test_one_nodes_word_settles_no_command(autojump_clock: MockClock, world: SignedWorld) -> None:
    async with client_of(world) as client:
        await client.submit(b"a")
        liar = other_than(first_of(client, world), world)
        for peer in world.peers.values():
            assert isinstance(peer, SignedPeer)
            peer.keeps = True
        pending = client.begin(b"b", deadline_s=5)
        await trio.sleep(0.1)
        for _ in range(3):  # saying it often makes it no truer
            liar.push(Outcome(101, 9, CHAIN, [2], [0], [b"a lie"]))
        await trio.sleep(1)
        assert not pending.done
        other = next(peer for peer in world.peers.values() if peer is not liar)
        other.push(Outcome(101, 9, CHAIN, [2], [0], [b"a lie"]))  # two liars are more than there may be
        await trio.sleep(0.1)
        assert pending.done


@pytest.mark.parametrize(
    "lie",
    [
        lambda m: [dataclasses.replace(m, results=[b"false"])],
        lambda m: [dataclasses.replace(m, index=m.index + 1)],
        lambda m: [dataclasses.replace(m, places=[7])],
        lambda m: [dataclasses.replace(m, chain=bytes(32))],
        lambda m: [],
        lambda m: [dataclasses.replace(m, seqs=[*m.seqs, 99])],
        lambda m: [Refused(0, m.session, m.seqs, int(Code.UNKNOWN_SESSION), "no", None), m],
        lambda m: [Refused(0, m.session, m.seqs, int(Code.BAD_COMMAND), "no", None)],
        lambda m: [Refused(0, m.session, m.seqs, int(Code.FORGOTTEN), "no", None)],
    ],
    ids=["result", "index", "place", "chain", "silence", "shape", "unknown", "bad", "forgotten"],
)
async def test_a_liar_among_four_can_neither_pass_a_false_outcome_off_nor_keep_a_true_one_back(
    autojump_clock: MockClock, world: SignedWorld, lie: Any
) -> None:
    def about_outcomes(message: Any) -> list[Any]:
        said: list[Any] = lie(message) if type(message) is Outcome else [message]
        return said

    for liar in world.peers:
        peer = world.peers[liar]
        assert isinstance(peer, SignedPeer)
        peer.lie = about_outcomes
        async with open_client(
            world.members, cluster=CLUSTER, dial=world.dial, seed=1, signing=Signing(1)
        ) as client:
            result = await client.submit(b"told by " + liar.encode())
            assert result.result == b"did told by " + liar.encode()
            assert result.index == len(world.log)
        peer.lie = None


async def test_a_session_that_one_node_invents_is_not_used(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    def invent(peer: Any, message: SignedOpen) -> list[Any]:
        return [SessionOpened(message.nonce, 666, 1, CHAIN)]

    for peer in world.peers.values():
        peer.scripts[SignedOpen] = lambda peer, message: invent(peer, message) if peer.name == "n2" else None
    async with client_of(world) as client:
        client.writes.leader = "n2"
        assert (await client.submit(b"a")).result == b"did a"
    assert {message.session for message in bundles(world)} == {101}


async def test_a_node_that_keeps_requests_to_itself_costs_one_patience_and_no_second_effect(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    events: list[Event] = []
    async with client_of(world, events, answer_ms=400) as client:
        await client.submit(b"a")
        censor = first_of(client, world)
        censor.keeps = True
        began = trio.current_time()
        result = await client.submit(b"b")
        assert 0.4 < trio.current_time() - began < 0.6
        assert result.attempts > 1
        assert client.leader != censor.name
        began = trio.current_time()
        await client.submit(b"c")
        assert trio.current_time() - began < 0.1, "the next one goes elsewhere at once"
    assert [command for _, _, command in world.log] == [b"a", b"b", b"c"]
    assert any(event.kind == "resend" and event.detail == "no answer" for event in events)


async def test_when_the_first_node_goes_dark_what_it_had_goes_to_another_before_any_patience_ends(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world, answer_ms=5000) as client:
        await client.submit(b"a")
        dark = first_of(client, world)
        dark.silent = True
        began = trio.current_time()
        assert (await client.submit(b"b")).result == b"did b"
        assert trio.current_time() - began < 0.5
        assert client.leader != dark.name


async def test_what_was_sent_and_has_no_outcome_is_never_called_not_done(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        await client.submit(b"a")
        for peer in world.peers.values():
            peer.scripts[SignedSubmit] = lambda peer, message: [
                Refused(0, message.session, message.seqs, int(Code.BUSY), "scripted", None)
            ]
        with pytest.raises(OutcomeUnknown, match="BUSY"):
            await client.submit(b"b", deadline_s=2)
        for peer in world.peers.values():
            await peer.cut_connections()
            peer.reachable = False
        await trio.sleep(0.5)
        with pytest.raises(NotDone, match="the deadline has passed"):
            await client.submit(b"c", deadline_s=1)


async def test_a_busy_node_is_left_alone_for_another(autojump_clock: MockClock, world: SignedWorld) -> None:
    async with client_of(world) as client:
        await client.submit(b"a")
        busy = first_of(client, world)
        busy.scripts[SignedSubmit] = lambda peer, message: [
            Refused(0, message.session, message.seqs, int(Code.BUSY), "scripted", None)
        ]
        began = trio.current_time()
        await client.submit(b"b")
        assert trio.current_time() - began < 0.3


async def test_a_bad_command_fails_alone_and_only_by_more_than_one_nodes_word(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    world.bad = {b"bad"}
    async with client_of(world) as client:
        commands = [b"good %d" % number for number in range(7)]
        pendings = [client.begin(command) for command in [*commands[:3], b"bad", *commands[3:]]]
        outcomes: list[Any] = []
        for pending in pendings:
            try:
                outcomes.append((await pending.wait()).result)
            except BadCommand as error:
                outcomes.append(str(error))
    good = [b"did " + command for command in commands]
    assert outcomes[:3] + outcomes[4:] == good
    assert "it is bad" in outcomes[3]
    assert sorted(command for _, _, command in world.log) == sorted(commands)


async def test_a_lost_session_is_opened_anew_under_another_nonce_and_what_was_sent_stays_unknown(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        await client.submit(b"a")
        world.owner.clear()
        with pytest.raises(SessionLost):
            await client.submit(b"b")
        assert (await client.submit(b"c")).result == b"did c"
    nonces = {m.nonce for peer in world.peers.values() for m in peer.heard if type(m) is SignedOpen}
    assert len(nonces) == 2


async def test_a_key_that_was_used_by_a_clock_further_on_gets_a_session_nevertheless(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        assert isinstance(client.writes, SignedWrites)
        world.lowest_nonce = client.writes._nonce + 1
        assert (await client.submit(b"a", deadline_s=5)).result == b"did a"


async def test_after_a_connection_is_made_again_the_node_is_told_once_more_whom_it_speaks_to(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        await client.submit(b"a")
        for peer in world.peers.values():
            assert isinstance(peer, SignedPeer)
            peer.introduced.clear()
            await peer.cut_connections()
        assert (await client.submit(b"b")).result == b"did b"


async def test_a_client_that_is_closed_says_what_it_does_not_know(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        await client.submit(b"a")
        for peer in world.peers.values():
            assert isinstance(peer, SignedPeer)
            peer.keeps = True
        pending = client.begin(b"b")
        await trio.sleep(0.05)
    with pytest.raises(OutcomeUnknown, match="closed"):
        pending.outcome()


# ------------------------------------------------------------------------------------------------- queries


async def test_an_answer_counts_when_two_nodes_give_it(autojump_clock: MockClock, world: SignedWorld) -> None:
    async with client_of(world) as client:
        answer = await client.query(b"q", Consistency.LINEARIZABLE)
    assert (answer.index, answer.result, answer.age_us, answer.tier) == (7, b"the state", 1000, "fresh")
    asked = [peer.name for peer in world.peers.values() if any(type(m) is Query for m in peer.heard)]
    assert len(asked) == 2


@pytest.mark.parametrize("liar", ["n1", "n2", "n3", "n4"])
@pytest.mark.parametrize("how", ["result", "index", "chain", "refusal", "silence"])
async def test_a_liar_among_four_cannot_pass_a_false_answer_off(
    autojump_clock: MockClock, world: SignedWorld, liar: str, how: str
) -> None:
    def lie(peer: Any, message: Query) -> list[Any]:
        answer = Answer(message.request, 7, CHAIN, 1000, "fresh", b"the state")
        return {
            "result": [dataclasses.replace(answer, result=b"false")],
            "index": [dataclasses.replace(answer, index=10**9)],
            "chain": [dataclasses.replace(answer, chain=bytes(32))],
            "refusal": [QueryRefused(message.request, int(Code.BAD_QUERY), "no such query", None)],
            "silence": [],
        }[how]

    world.peers[liar].scripts[Query] = lie
    async with client_of(world) as client:
        for _ in range(6):
            answer = await client.query(b"q")
            assert (answer.index, answer.chain, answer.result) == (7, CHAIN, b"the state")
            assert answer.node != liar


async def test_a_liar_cannot_answer_in_the_name_of_another_node(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    liar = world.peers["n1"]
    # Copies of one query have numbers next to each other: whoever has one can guess the others.
    liar.scripts[Query] = lambda peer, message: [
        Answer(message.request + step, 9, CHAIN, 1, "fresh", b"lie") for step in range(-3, 4)
    ]
    async with client_of(world) as client:
        for _ in range(8):
            answer = await client.query(b"q")
            assert (answer.result, answer.index) == (b"the state", 7)


async def test_nodes_that_are_not_equally_far_are_asked_again_until_two_meet(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    ahead = dict.fromkeys(world.peers, 0)

    def apart(peer: Any, message: Query) -> list[Any]:
        ahead[peer.name] += 1
        index = 10 * int(peer.name[1]) + ahead[peer.name]
        if ahead[peer.name] > 3:
            index = 50
        return [Answer(message.request, index, CHAIN, 1000, "fresh", b"state %d" % index)]

    for peer in world.peers.values():
        peer.scripts[Query] = apart
    async with client_of(world) as client:
        answer = await client.query(b"q", Consistency.LINEARIZABLE, hedge_ms=None)
    assert (answer.index, answer.result) == (50, b"state 50")


async def test_nodes_whose_log_never_stands_still_meet_at_an_entry_that_is_asked_for(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    """Every question finds every node three entries further, each elsewhere; only who is asked for an entry answers alike."""
    at = {"n1": 11, "n2": 25, "n3": 32, "n4": 20}
    liar = "n4"

    def busy(peer: Any, message: Query) -> list[Any]:
        at[peer.name] = max(at[peer.name] + 3, message.entry)
        index = 10**15 if peer.name == liar else at[peer.name]
        return [Answer(message.request, index, CHAIN, 1000, "fresh", b"state %d" % index)]

    for peer in world.peers.values():
        peer.scripts[Query] = busy
    async with client_of(world) as client:
        answer = await client.query(b"q", Consistency.LINEARIZABLE)
        assert answer.index in at.values()
        assert answer.result == b"state %d" % answer.index
        asked = [m.entry for peer in world.peers.values() for m in peer.heard if type(m) is Query]
        assert 0 < max(asked) < 200, "the liar's entry is nobody's to meet at"


async def test_a_node_that_hangs_does_not_keep_the_others_from_being_asked_again(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    answers = 0

    def apart(peer: Any, message: Query) -> list[Any]:
        nonlocal answers
        answers += 1
        index = 50 if answers > 6 else answers
        return [Answer(message.request, index, CHAIN, 1000, "fresh", b"state %d" % index)]

    for peer in world.peers.values():
        peer.scripts[Query] = apart
    world.peers["n3"].scripts[Query] = lambda peer, message: []
    async with client_of(world) as client:
        for _ in range(4):
            answers = 0
            answer = await client.query(b"q", patience_ms=500, hedge_ms=40)
            assert answer.result == b"state 50"


async def test_an_answer_under_more_than_is_asked_for_by_now_counts_and_the_weaker_word_names_the_result(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    """Two that were asked for a linearizable answer and one that comes after the fallback."""

    def once(peer: Any, message: Query) -> list[Any]:
        quick = peer.name == "n1" and message.consistency == Consistency.LINEARIZABLE
        late = peer.name == "n4" and message.consistency == Consistency.ANY
        return [Answer(message.request, 7, CHAIN, 1000, "fresh", b"the state")] if quick or late else []

    for peer in world.peers.values():
        peer.scripts[Query] = once
    async with client_of(world) as client:
        answer = await client.query(
            b"q", Consistency.LINEARIZABLE, patience_ms=2000, hedge_ms=20, fallback=Consistency.ANY,
            fallback_after_ms=300,
        )  # fmt: skip
    assert (answer.result, answer.consistency) == (b"the state", Consistency.ANY)


async def test_nodes_that_never_agree_make_the_query_fail_and_say_what_each_said(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    for peer in world.peers.values():
        peer.scripts[Query] = lambda peer, message: [
            Answer(message.request, int(peer.name[1]), CHAIN, 1000, "fresh", b"")
        ]
    async with client_of(world) as client:
        with pytest.raises(QueryFailed, match="n3: answered from entry 3, and was not confirmed"):
            await client.query(b"q", patience_ms=300)


async def test_of_two_ages_the_greater_counts_and_a_bound_binds_both(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    ages = {"n1": 5_000, "n2": 9_000, "n3": 400_000, "n4": None}

    def aged(peer: Any, message: Query) -> list[Any]:
        return [Answer(message.request, 7, CHAIN, ages[peer.name], "fresh", b"the state")]

    for peer in world.peers.values():
        peer.scripts[Query] = aged
    async with client_of(world) as client:
        for _ in range(5):
            answer = await client.query(b"q", Consistency.BOUNDED, max_age_ms=100)
            assert answer.age_us == 9_000


async def test_a_query_is_bad_when_two_nodes_say_so(autojump_clock: MockClock, world: SignedWorld) -> None:
    for peer in world.peers.values():
        peer.scripts[Query] = lambda peer, message: [
            QueryRefused(message.request, int(Code.BAD_QUERY), "no such query", None)
        ]
    async with client_of(world) as client:
        with pytest.raises(BadQuery, match="no such query"):
            await client.query(b"q")


async def test_a_dark_node_costs_a_query_no_more_than_a_hedge(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    async with client_of(world) as client:
        world.peers["n2"].silent = True
        for _ in range(8):
            began = trio.current_time()
            await client.query(b"q", hedge_ms=50)
            assert trio.current_time() - began < 0.3


async def test_a_node_that_answers_pings_and_no_query_costs_nobody_an_answer(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    """A hundred queries a second are far more than the budget for hedges pays: without a memory of who is mute a fifth failed."""
    world.peers["n3"].scripts[Query] = lambda peer, message: []
    took: list[float] = []
    async with client_of(world) as client, trio.open_nursery() as nursery:

        async def ask() -> None:
            began = trio.current_time()
            answer = await client.query(b"q", patience_ms=500, hedge_ms=50)
            assert answer.node != "n3"
            took.append(trio.current_time() - began)

        for _ in range(600):
            nursery.start_soon(ask)
            await trio.sleep(0.01)
    took.sort()
    assert len(took) == 600
    assert took[300] < 0.01
    assert took[570] < 0.2


async def test_a_node_that_was_mute_is_asked_again_after_a_while(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    mute = world.peers["n3"]
    mute.scripts[Query] = lambda peer, message: []
    async with client_of(world) as client:
        for _ in range(20):
            await client.query(b"q", hedge_ms=20)
        del mute.scripts[Query]
        await trio.sleep(1.5)
        before = len(mute.heard)
        nodes = {(await client.query(b"q", hedge_ms=20)).node for _ in range(20)}
        assert len(mute.heard) > before
        assert len(nodes) > 1


async def test_a_node_that_refuses_for_ever_is_left_for_another(
    autojump_clock: MockClock, world: SignedWorld
) -> None:
    """It says that it is busy, and answers every ping."""
    async with client_of(world) as client:
        await client.submit(b"a")
        busy = first_of(client, world)
        busy.scripts[SignedSubmit] = lambda peer, message: [
            Refused(0, message.session, message.seqs, int(Code.BUSY), "scripted", None)
        ]
        began = trio.current_time()
        for number in range(400):
            await client.submit(b"%d" % number)
        assert client.leader != busy.name
        assert trio.current_time() - began < 3


async def test_where_nobody_lies_one_answer_is_enough(autojump_clock: MockClock, world: SignedWorld) -> None:
    async with client_of(world, lie=0) as client:
        assert (await client.submit(b"a")).result == b"did a"
        await client.query(b"q")
    assert sum(any(type(m) is Query for m in peer.heard) for peer in world.peers.values()) == 1


# ---------------------------------------------------------------------------------------------------- keys


@settings(max_examples=30, derandomize=True)
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_bytes_that_are_no_key_or_no_signature_verify_nothing_and_raise_nothing(
    key: bytes, data: bytes, signature: bytes
) -> None:
    assert not verify(key, data, signature)
    assert not verify(KEY.public, data, signature)
