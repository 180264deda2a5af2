"""What every protocol core promises (`consensus.core`); the same suite for each of them.

For a protocol of your own: `pytest tests/contract/test_protocol_contract.py --protocol module:Class`, with
`Class(node, members, rng)` or a `sim.virtual.subjects.ProtocolSubject` of that name. Most laws stand in `protocol_bench.Bench`,
which looks at every answer of every core in every test here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from contract_class import chosen
from protocol_bench import Bench, stand, storm

from consensus import wire
from consensus.bft.core import BftCore
from consensus.bft.timing import Timing
from consensus.core import Core, Out
from sim.faults.swarm import Options, draw
from sim.virtual import subjects
from sim.virtual.bft_committee import committee, notary
from sim.virtual.plan import Plan
from sim.virtual.subjects import ProtocolSubject
from sim.virtual.world import World

BUILT_IN = ["raft", "bft"]
SMALL = Plan(0, timing={"retain_bytes": 300})
"""Compaction that really forgets, for protocols that know such an option."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "spec" in metafunc.fixturenames:
        chosen(metafunc.config, "protocol")  # says what is wrong with the option
        own = getattr(metafunc.config.option, "contract_protocol", None)
        metafunc.parametrize("spec", BUILT_IN if own is None else [own], scope="module")


@pytest.fixture(scope="module")
def subject(spec: str) -> ProtocolSubject:
    return subjects.protocol(spec)


@pytest.fixture(scope="module")
def make(subject: ProtocolSubject) -> Callable[[str, Sequence[str], Random], Core]:
    if subject.name == "bft":
        return plain_bft
    plan = dataclasses.replace(SMALL, timing=SMALL.timing if subject.name == "raft" else {})
    return lambda node, members, rng: subject.make(node, members, rng, plan)


def plain_bft(node: str, members: Sequence[str], rng: Random) -> Core:
    """The BFT core of the virtual world with small bounds, and without its check of requests: payloads here are anything."""
    timing = Timing(
        round=100_000, idle=50_000, resend=80_000, mark_heights=4, snapshot_bytes=3_000, turns=4, exile=12
    )
    keyring = notary(tuple(members), 0).keyring(node)
    return BftCore(node, committee(members), keyring, rng, timing)


def lead(bench: Bench) -> Any:
    """The leader, once there is one."""
    assert bench.run(20_000_000, lambda: bench.leader() is not None), f"nobody leads: {bench.explain()}"
    return bench.leader()


def expendable(bench: Bench, subject: ProtocolSubject) -> list[str]:
    """As many as the others must go on without."""
    return bench.names[max(subject.vital, 1) :][: subject.budget(len(bench.names))]


# ------------------------------------------------------------------------------------------------------ progress


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_what_is_proposed_to_the_leader_is_handed_out_everywhere_in_order(size: int, make: Any) -> None:
    bench = Bench(make, size, seed=size)
    leader = lead(bench)
    for number in range(20):
        assert bench.propose(leader, b"%d/a" % number, b"%d/b" % number) is None
        bench.run(3_000)
    bench.settle()
    wanted = [b"%d/%s" % (number, half) for number in range(20) for half in (b"a", b"b")]
    if bench.leaderless:
        # They travel apart from each other: each of them once, in whatever order.
        assert bench.run(10_000_000, lambda: len(bench.payloads()) > len(wanted))
        assert sorted(set(bench.payloads()) & set(wanted)) == sorted(wanted)
        assert len(bench.payloads()) == len(set(bench.payloads()))
    else:
        assert bench.payloads()[: len(wanted)] == wanted


def test_one_node_alone_commits_by_itself_or_is_refused_with_words(make: Any) -> None:
    try:
        bench = Bench(make, 1)
    except ValueError as error:
        if not str(error):
            pytest.fail("a cluster of one node is refused without words")
        return
    leader = lead(bench)
    assert bench.propose(leader, b"alone") is None
    bench.settle()
    assert b"alone" in bench.payloads()
    bench.crash("n1")
    bench.settle()


@pytest.mark.parametrize("size", [3, 5])
def test_a_minority_can_be_away_and_catches_up_when_it_is_back(
    size: int, make: Any, subject: ProtocolSubject
) -> None:
    bench = Bench(make, size, seed=1)
    away = expendable(bench, subject)
    bench.settle()
    for name in away:
        bench.crash(name)
    for number in range(30):
        assert bench.run(20_000_000, lambda: bench.leader() is not None)
        node = bench.leader()
        assert node is not None
        bench.propose(node, b"%d" % number * 20)
        bench.run(20_000)
        if number % 10 == 9:
            for name in bench.names:
                bench.snapshot(name)
    assert len(bench.payloads()) > 25
    bench.settle()


def test_a_read_barrier_is_answered_or_refused_and_what_it_names_is_not_older_than_the_question(
    make: Any,
) -> None:
    """How old it may be is looked at with every answer."""
    bench = Bench(make, 3, seed=2)
    bench.settle()
    for token in range(40):
        leader = lead(bench)
        bench.propose(leader, b"%d" % token)
        for number, node in enumerate(bench.nodes.values()):
            bench.read(node, 10 * token + number)
        bench.run(token * 200)
    assert bench.run(20_000_000, lambda: not any(node.waiting for node in bench.nodes.values()))
    assert bench.answered >= 20


# ------------------------------------------------------------------------------------------------------ rules 1 to 5


@pytest.mark.parametrize("seed", range(10))
def test_whatever_happens_logs_never_fork_and_everybody_agrees_in_the_end(seed: int, make: Any) -> None:
    bench = Bench(make, 3 if seed % 2 else 5, seed)
    storm(bench, 120)
    bench.settle(60_000_000)
    bench.replay()


@pytest.mark.parametrize("seed", range(4))
def test_when_all_lose_power_at_any_moment_nothing_that_was_handed_out_is_lost(seed: int, make: Any) -> None:
    bench = Bench(make, 3, seed)
    for moment in range(25):
        node = bench.leader()
        if node is not None:
            bench.propose(node, b"%d" % moment)
        for _ in range(bench.rng.randrange(60)):
            bench.step()
        for name in bench.names:
            bench.crash(name)
        for name in bench.names:
            bench.boot(name)
    bench.settle(60_000_000)


def test_nothing_more_is_handed_out_while_no_disk_syncs(make: Any) -> None:
    bench = Bench(make, 3, seed=3)
    bench.settle()
    for node in bench.nodes.values():
        node.stalled = True
    before = {name: node.handed_out for name, node in bench.nodes.items()}
    durable = len(bench.committed)
    leader = lead(bench)
    for number in range(10):
        bench.propose(leader, b"%d" % number)
        bench.run(20_000)
    assert len(bench.committed) == durable
    assert {name: node.handed_out for name, node in bench.nodes.items()} == before
    bench.settle()


def test_a_node_whose_disk_does_not_sync_hands_out_nothing_more_while_the_others_go_on(
    make: Any, subject: ProtocolSubject
) -> None:
    bench = Bench(make, 3, seed=4)
    bench.settle()
    slow = bench.nodes[expendable(bench, subject)[0]]
    slow.stalled = True
    bench.run(50_000)  # what was under way when it stalled
    before, common = slow.handed_out, len(bench.committed)
    for number in range(30):
        node = lead(bench)
        bench.propose(node, b"%d" % number)
        bench.run(60_000)
    assert len(bench.committed) > common + 10
    assert slow.handed_out == before
    bench.settle()


@pytest.mark.parametrize("seed", range(4))
def test_state_records_and_snapshot_are_all_that_a_restart_needs(seed: int, make: Any) -> None:
    """Each snapshot replaces the whole journal by the state records, and is followed by a restart."""
    bench = Bench(make, 3, seed)
    for number in range(25):
        node = bench.leader()
        if node is not None:
            bench.propose(node, b"%d" % number * 10)
        bench.run(bench.rng.choice((20_000, 200_000)))
        name = bench.rng.choice(bench.names)
        bench.snapshot(name)
        if bench.rng.random() < 0.5:
            bench.crash(name)
            bench.boot(name)
    bench.settle(60_000_000)
    assert any(node.snapshot is not None for node in bench.nodes.values())


@pytest.mark.parametrize("seed", range(3))
def test_the_same_inputs_have_the_same_answers(seed: int, make: Any) -> None:
    bench = Bench(make, 3, seed, loss=0.05)
    storm(bench, 60)
    bench.replay()
    assert sum(len(life.inputs) for life in bench.lives) > 200


# ------------------------------------------------------------------------------------------------------ other rules


def test_who_does_not_lead_refuses_with_words_and_nothing_comes_of_it(make: Any) -> None:
    bench = Bench(make, 5, seed=5)
    if bench.leaderless:
        everybody_takes_requests(bench)
        return
    refused = 0
    for number in range(60):
        for node in bench.nodes.values():
            payload = b"%d/%s" % (number, node.name.encode())
            leads = node.up.observe().role == "leader"
            refusal = bench.propose(node, payload)
            assert leads or refusal is not None, f"{node.name} does not lead, and accepts"
            refused += refusal is not None
        bench.run(10_000)
    assert refused > 100
    bench.settle()
    assert bench.refused


def everybody_takes_requests(bench: Bench) -> None:
    """Whoever is asked, it is handed out in the end, or was refused with words."""
    for number in range(20):
        for node in bench.nodes.values():
            bench.propose(node, b"%d/%s" % (number, node.name.encode()))
        bench.run(10_000)
    bench.settle()
    assert bench.run(10_000_000, lambda: set(bench.accepted) <= set(bench.payloads()))
    assert len(bench.accepted) > 80


class Stranger:
    """A message of no protocol."""


def test_strangers_the_node_itself_and_messages_of_other_protocols_are_ignored(make: Any) -> None:
    bench = Bench(make, 3, seed=6)
    heard: list[Any] = []
    plain = bench._deliver
    bench._deliver = lambda source, dest, data: (heard.append(wire.decode(data)), plain(source, dest, data))[
        1
    ]  # type: ignore[func-returns-value,method-assign]
    bench.settle()
    bench.run(200_000)
    assert heard
    kinds = {type(message): message for message in heard}
    for node in bench.nodes.values():
        core = node.up
        before = stand(core.observe()), core.state_records(), core.deadline
        given = [(sender, message) for message in kinds.values() for sender in ("n9", "", node.name)]
        given += [(other, what) for other in bench.names for what in (None, b"", 7, [], {}, Stranger())]
        for sender, message in given:
            out = Out()
            out.ticket = node.out.ticket
            core.receive(sender, message, bench.now, out)
            asked = out.records, out.now, out.wait, out.committed, out.reads, out.refused_reads, out.install
            assert not any(asked), f"{node.name} answers {sender!r} who says {message}: {asked}"
            assert (stand(core.observe()), core.state_records(), core.deadline) == before
    bench.settle()


@pytest.mark.parametrize("seed", range(4))
def test_messages_that_come_again_much_later_do_no_harm(seed: int, make: Any) -> None:
    bench = Bench(make, 3, seed)
    heard: list[tuple[str, str, bytes]] = []
    plain = bench._deliver

    def deliver(source: str, dest: str, data: bytes) -> None:
        heard.append((source, dest, data))
        plain(source, dest, data)

    bench._deliver = deliver  # type: ignore[method-assign]
    storm(bench, 50)
    for _ in range(150):
        plain(*bench.rng.choice(heard))
        if bench.rng.random() < 0.3:
            bench.run(20_000)
    bench.settle(60_000_000)


@pytest.mark.parametrize("seed", range(3))
def test_resigning_is_safe_at_any_time_and_who_has_resigned_never_leads_again(
    seed: int, make: Any, subject: ProtocolSubject
) -> None:
    """That it does not lead is looked at with every answer."""
    bench = Bench(make, 5, seed)
    bench.run(bench.rng.choice((0, 100_000, 400_000)))
    for name in bench.rng.sample(bench.names[subject.vital :], 2):
        bench.resign(bench.nodes[name])
        bench.run(bench.rng.choice((1_000, 300_000)))
        bench.resign(bench.nodes[name])
    if not subject.vital:
        leader = lead(bench)
        bench.resign(leader)
        bench.crash(leader.name)
        bench.run(100_000)
        bench.boot(leader.name)
    bench.settle()
    for node in bench.nodes.values():
        bench.resign(node)
    bench.run(2_000_000)
    assert bench.leader() is None
    before = len(bench.committed)
    bench.run(2_000_000)
    assert len(bench.committed) == before, "nobody leads, and the log goes on"


def test_a_whole_cluster_of_replicas_runs_on_it_through_faults(spec: str) -> None:
    """The oracles and checkers of the virtual world, with whatever faults the seeds draw."""
    for seed in range(4):
        plan = draw(seed, Options(protocol=spec))
        result = World(dataclasses.replace(plan, duration=4_000_000, operations=60, coded=seed == 0)).run()
        assert result.outcome == "ok", f"seed {seed}: {result.oracle}: {result.text}"
        assert result.acknowledged > 20
