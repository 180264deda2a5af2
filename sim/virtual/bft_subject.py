"""The BFT log as the subject of virtual runs: committees, keys, clients, liars, and what seeds draw for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from random import Random
from typing import TYPE_CHECKING

from consensus.bft.committee import Committee, CommitteeError
from consensus.bft.core import BftCore
from consensus.bft.timing import Timing
from consensus.core import Core, NodeId
from node.requests import RequestCheck
from sim.byzantine.client_lies import STRATEGIES
from sim.byzantine.strategy import Own, Statement, Strategy
from sim.faults.bft_themes import BFT_THEMES
from sim.oracles.bft import BFT_ORACLES
from sim.virtual import subjects
from sim.virtual.bft_client import BftClient
from sim.virtual.bft_committee import CLUSTER, EPOCH, budget, committee, liars, notary, quorum
from sim.virtual.subjects import ProtocolSubject, SubjectError

if TYPE_CHECKING:
    from sim.virtual.plan import Plan
    from sim.virtual.world import World


def timing(plan: Plan) -> Timing:
    """The shipped times with the plan's overrides. Raises SubjectError."""
    known = {item.name for item in fields(Timing)}
    unknown = sorted(set(plan.timing) - known)
    if unknown:
        raise SubjectError(f"timing: unknown {unknown[0]!r}; BFT knows {', '.join(sorted(known))}")
    return Timing(**plan.timing)


def requests(plan: Plan) -> RequestCheck:
    """The check of signed requests."""
    names = tuple(f"n{number}" for number in range(1, plan.nodes + 1))
    limit = plan.settings.get("max_command_bytes", 65_536)
    machine = subjects.machine(plan.machine).make()
    return RequestCheck(CLUSTER, notary(names, plan.clients).verify_key, machine.check, limit)


def make(node: NodeId, members: Sequence[NodeId], rng: Random, plan: Plan) -> Core:
    """A core with virtual keys. Raises SubjectError."""
    keyring = notary(tuple(members), plan.clients).keyring(node)
    here = _committee(members, plan)
    core: Core = BftCore(node, here, keyring, rng, timing(plan), requests(plan).check)
    return core


def _committee(members: Sequence[NodeId], plan: Plan) -> Committee:
    try:
        return committee(members, plan.committee)
    except CommitteeError as error:
        raise SubjectError(f"committee: {error}") from None


def client(world: World, name: str) -> BftClient:
    """A client that signs, and believes r + 1."""
    keys = notary(tuple(world.names), world.plan.clients)
    return BftClient(world, name, world.plan.load, keys, world.may_lie + 1)


def leader(world: World) -> NodeId | None:
    """Who leads the highest round that an honest node is in."""
    best, found = -1, None
    for host in world.hosts.values():
        if host.replica is None or host.name in world.liars:
            continue
        view = host.replica.core.observe()
        if view.term > best:
            best, found = view.term, view.facts.get("leader")
    return found if found in world.hosts else None


def liar(world: World, node: NodeId, name: str, rng: Random) -> Strategy:
    """A strategy for a node. Raises SubjectError for a name that is none."""
    if name not in STRATEGIES:
        raise SubjectError(f"no strategy {name!r} of liars; known: {', '.join(STRATEGIES)}")
    here = _committee(world.names, world.plan)
    keys = notary(tuple(world.names), world.plan.clients)

    def elsewhere(member: NodeId, statement: Statement) -> bytes:
        """The same keys were in use in another cluster, and in the epoch before."""
        other = replace(here, epoch=EPOCH - 1) if rng.random() < 0.5 else replace(here, cluster="elsewhere")
        return keys.signer(member).sign(statement(other))

    own = Own(node, here, keys.keyring(node), rng, timing(world.plan), elsewhere)
    return STRATEGIES[name](own)


def takes_part(core: Core, since: int) -> bool:
    """Whether a member has voted in a round above `since`."""
    return bool(core.observe().facts["voted_round"] > since)


def nodes(rng: Random) -> int:
    """Mostly 4."""
    return rng.choice((4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 6, 7))


def draws(rng: Random) -> dict[str, int]:
    """Small bounds, so that marks, snapshots, exiles and backoffs happen within seconds."""
    return {
        "round": rng.choice((60_000, 120_000, 300_000)),
        "idle": rng.choice((50_000, 100_000, 150_000)),
        "backoff_most": rng.choice((400_000, 1_200_000)),
        "resend": rng.choice((50_000, 100_000, 200_000)),
        "mark_heights": rng.choice((2, 8, 32)),
        "snapshot_bytes": rng.choice((1_500, 5_000, 8 << 20)),
        "block_bytes": rng.choice((4_000, 2 << 20)),
        "turns": rng.choice((4, 16)),
        "exile": rng.choice((8, 64)),
        "served_bytes": rng.choice((4_000, 8 << 20, 8 << 20, 8 << 20)),
        "author_bytes": rng.choice((4_000, 32 << 20, 32 << 20, 32 << 20)),
    }


BFT = ProtocolSubject(
    "bft",
    make,
    BFT_ORACLES,
    least=2,
    quorum=quorum,
    budget=budget,
    liars=liars,
    nodes=nodes,
    timing=draws,
    themes=BFT_THEMES,
    client=client,
    requests=requests,
    leader=leader,
    liar=liar,
    takes_part=takes_part,
)
