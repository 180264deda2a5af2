"""The BFT log in the virtual world: it runs, survives every kind of liar, and bugs planted in its core are seen."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from consensus.bft import core as cores
from consensus.bft import rules
from consensus.bft.certificates import QuorumCertificate
from consensus.bft.voting import Voting
from node.protocol import Introduce, Outcome, Refused, SessionOpened, SignedSubmit
from node.sessions import PLACES
from sim.byzantine.client_lies import STRATEGIES
from sim.faults.fault import Fault
from sim.faults.kind import FaultError
from sim.virtual.bft_client import BftClient
from sim.virtual.bft_committee import budget, committee, liars, quorum
from sim.virtual.client import Load
from sim.virtual.plan import Plan, dumps
from sim.virtual.subjects import SubjectError
from sim.virtual.world import Result, World

QUICK = Plan(
    5,
    protocol="bft",
    nodes=4,
    clients=3,
    duration=1_500_000,
    quorum=300_000,
    operations=20,
    timing={
        "round": 60_000,
        "idle": 30_000,
        "mark_heights": 4,
        "snapshot_bytes": 1_500,
        "turns": 4,
        "exile": 8,
    },
    load=Load(pause=(30_000, 120_000)),
)


def lying(variant: str, node: str = "n2", at: int = 100_000) -> Fault:
    return Fault(0, "byzantine", at, QUICK.duration, {"node": node, "variant": variant})


def run(*faults: Fault, seed: int = 5, **changes: Any) -> tuple[Result, World]:
    world = World(dataclasses.replace(QUICK, seed=seed, schedule=faults, **changes))
    return world.run(), world


def test_everything_that_clients_ask_for_is_answered_by_enough_nodes() -> None:
    result, world = run()
    assert (result.outcome, result.text) == ("ok", "")
    assert result.acknowledged > 0.9 * result.operations
    assert {type(client) for client in world.clients} == {BftClient}
    assert all(host.replica is not None and host.applied > 20 for host in world.hosts.values())


def test_a_member_that_is_well_and_never_votes_is_noticed_though_nobody_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consider, propose = Voting._consider, Voting._try_propose

    def silent(self: Voting, *what: Any) -> None:
        if self.node != "n3":
            consider(self, *what)

    monkeypatch.setattr(Voting, "_consider", silent)
    monkeypatch.setattr(
        Voting, "_try_propose", lambda self, now, out: self.node == "n3" or propose(self, now, out)
    )
    result, _ = run(quorum=0)
    assert result.outcome == "liveness"
    assert "n3: up to date and well connected, and without a say" in result.text


@pytest.mark.parametrize("variant", STRATEGIES)
def test_one_liar_among_four_stops_nothing_and_spoils_nothing(variant: str) -> None:
    bites: dict[str, int] = {}
    for seed in (1, 2):
        # Snapshots are fetched from it, too, by whoever was dark.
        dark = Fault(1, "outage", 300_000, 900_000, {"place": "n4"})
        result, world = run(lying(variant), dark, seed=seed)
        assert (result.outcome, result.text) == ("ok", "")
        assert world.liars == {"n2": variant}
        bites |= result.details
    assert any(name.startswith(f"byzantine {variant}: lies") for name in bites)


@pytest.mark.parametrize("nodes", [6, 7])
def test_more_nodes_stand_more_liars_and_more_that_stop(nodes: int) -> None:
    faults = [lying("equivocate", "n3"), Fault(1, "gone", 400_000, 400_000, {"node": "n1"})]
    if liars(nodes) == 2:
        faults[1] = Fault(1, "byzantine", 100_000, QUICK.duration, {"node": "n1", "variant": "forge"})
    result, _ = run(*faults, nodes=nodes)
    assert (result.outcome, result.text) == ("ok", "")


def test_thresholds_are_those_of_the_committee() -> None:
    table = {
        4: (3, 1, 1),
        6: (4, 2, 1),
        7: (5, 2, 2),
        10: (7, 3, 3),
        5: (4, 1, 1),
        3: (2, 1, 0),
        1: (1, 0, 0),
    }
    for nodes, expected in table.items():
        assert (quorum(nodes), budget(nodes), liars(nodes)) == expected
        assert committee([f"n{k}" for k in range(nodes)]).quorum == quorum(nodes)


def test_no_more_nodes_lie_than_the_committee_stands() -> None:
    other = Fault(1, "byzantine", 200_000, QUICK.duration, {"node": "n3", "variant": "forge"})
    result, world = run(lying("garbage"), other)
    assert list(world.liars) == ["n2"]
    assert result.details["byzantine forge: spared: as many as may lie have lied"] == 1


def test_a_strategy_that_is_none_and_a_protocol_without_liars_are_refused() -> None:
    with pytest.raises(FaultError, match=r"schedule\[0\]\.params\.variant: 'charm' is none of silent"):
        run(lying("charm"))
    world = World(QUICK)
    assert world.protocol.liar is not None
    with pytest.raises(SubjectError, match="no strategy 'charm' of liars; known: silent"):
        world.protocol.liar(world, "n1", "charm", Random(1))
    with pytest.raises(FaultError, match="nobody who takes part in raft may lie"):
        World(dataclasses.replace(QUICK, protocol="raft", timing={}, schedule=(lying("silent"),))).run()
    with pytest.raises(SubjectError, match="unknown 'hop'; BFT knows"):
        World(dataclasses.replace(QUICK, timing={"hop": 1}))


def test_an_equivocator_is_found_out() -> None:
    blamed = set()
    for seed in range(3):
        _, world = run(lying("equivocate", "n1"), seed=seed)
        for host in world.hosts.values():
            assert host.replica is not None
            blamed |= {item["node"] for item in host.replica.core.observe().facts["evidence"]}
    assert blamed == {"n1"}


def test_the_same_seed_gives_the_same_trace_in_a_fresh_process_whatever_the_hash_seed() -> None:
    program = (
        "from sim.virtual.plan import loads; from sim.virtual.world import World; import sys\n"
        "for text in sys.argv[1:]: print(World(loads(text)).run().trace_hash)"
    )
    plans = [dataclasses.replace(QUICK, schedule=(lying(name),)) for name in ("whimsical", "equivocate")]
    here = [World(plan).run().trace_hash for plan in plans]
    said = subprocess.run(
        [sys.executable, "-c", program, *map(dumps, plans)],
        env={"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.split() == here


# ----------------------------------------------------------------------------------------------------- clients


def client() -> tuple[BftClient, World, list[Any]]:
    """A client with an open session, and what it says to nodes from then on."""
    world = World(QUICK)
    made = world.clients[0]
    assert isinstance(made, BftClient)
    said: list[Any] = []
    for name in world.names:
        world.network.links[made.name, name].deliver = lambda carried: said.append(carried[1])
    made.act_once()
    for name in ("n1", "n2"):
        hear(made, name, SessionOpened(made.opening_request, 3 * PLACES, 3, bytes(32)))
    return made, world, said


def hear(client: BftClient, name: str, message: Any) -> None:
    client.hear((client._connection(name), message))


def outcome(client: BftClient, result: bytes, index: int = 9) -> Outcome:
    seq = min(client.open)
    return Outcome(client.session or 0, index, bytes(32), [seq], [0], [result])


def test_a_client_believes_what_two_of_four_say_alike_and_nobody_alone() -> None:
    made, _, _ = client()
    assert made.session == 3 * PLACES
    made.write_once(1)
    for name, result in (("n1", b"lie"), ("n1", b"lie"), ("n2", b"true"), ("n1", b"lie")):
        hear(made, name, outcome(made, result))
    hear(made, "n3", outcome(made, b"true", index=8))
    assert len(made.open) == 1
    operation = made.open[1]
    hear(made, "n4", outcome(made, b"true"))
    assert not made.open
    assert (operation.outcome, operation.result, operation.index) == ("ok", b"true", 9)


def test_a_client_gives_its_session_up_when_two_say_that_it_is_unknown() -> None:
    made, _, _ = client()
    gone = Refused(0, made.session or 0, [1], 4, "unknown", None)
    for name in ("n1", "n1", "n1"):
        hear(made, name, gone)
    assert made.session is not None
    hear(made, "n3", gone)
    assert made.session is None


def test_a_client_asks_one_node_first_and_then_several() -> None:
    made, world, said = client()
    made.active = False
    made.write_once(1)
    world.timeline.run(made.load.patience[0] - 1)
    assert sum(type(message) is SignedSubmit for message in said) == 1
    world.timeline.run(made.load.patience[1] + 12_000)
    assert sum(type(message) is SignedSubmit for message in said) == 3
    assert sum(type(message) is Introduce for message in said) >= 8


# ----------------------------------------------------------------------------------------------------- planted bugs


def forgets_its_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bamboo: the last voted round is never updated."""

    def vote(safety: rules.Safety, round: int, parent_round: int, tc: Any) -> None:
        rules.see(safety, parent_round)

    monkeypatch.setattr(rules, "vote", vote)


def believes_any_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    """libhotstuff: the result of verification is thrown away."""
    monkeypatch.setattr(QuorumCertificate, "verify", lambda *_: None)


def commits_without_consecutive_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relab's vulnerable Fast-HotStuff."""
    monkeypatch.setattr(rules, "commits", lambda parent, child: True)


def speaks_before_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Votes leave at once."""
    after = cores.BftCore._after

    def early(self: Any, now: int, out: Any) -> Any:
        found = after(self, now, out)
        out.now += out.wait
        out.wait.clear()
        return found

    monkeypatch.setattr(cores.BftCore, "_after", early)


@pytest.mark.parametrize(
    ("plant", "oracles"),
    [
        (forgets_its_votes, {"words on disk", "one word a round", "crash"}),
        (believes_any_certificate, {"certified chain", "bft log", "crash"}),
        (commits_without_consecutive_rounds, {"certified chain", "bft log"}),
        (speaks_before_it_is_durable, {"words on disk"}),
    ],
)
def test_a_bug_planted_in_the_core_is_seen(
    plant: Callable[[pytest.MonkeyPatch], None], oracles: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = set()
    rng = Random(1)
    for seed in range(8):
        kill = Fault(1, "kill", 400_000, 1_200_000, {"node": rng.randrange(4), "times": 2, "rest": 90_000})
        result, _ = run(lying("forge"), kill, seed=seed)
        found.add(result.oracle)
        if found & oracles:
            return
    raise AssertionError(f"not seen; what was found: {found}")
