"""What is checked when a virtual run is over: the clients' history against the committed log, run again from the beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.check.claims import check_ages_true, check_bounded, check_sessions, check_tiers
from sim.check.linear import check_chains_agree, check_real_time, check_unique_places
from sim.check.replay import replay_history
from sim.check.replicated import NodeState
from sim.oracles.oracle import Violation

if TYPE_CHECKING:
    from sim.virtual.world import World


def judge(world: World) -> None:
    """Raise Violation unless every acknowledged write stands in the committed log where its reply said, every answer
    is what that log
    gives, everything agrees with real time, and all nodes have the state that the log gives."""
    log = committed(world)
    if log is None:
        return
    state = NodeState(world.machine.make(), world.settings.max_sessions)
    replay = replay_history(log, state, world.history)
    findings = [
        *replay.findings,
        check_real_time(world.history, replay.positions),
        check_unique_places(world.history),
        check_chains_agree(world.history),
        check_bounded(world.history),
        check_ages_true(world.history, _age_slack(world)),
        check_tiers(world.history, world.settings.fresh),
        check_sessions(world.history),
    ]
    for finding in findings:
        if not finding.passed:
            words = f"{finding.problems} of {finding.counted}: {'; '.join(finding.examples[:2])}"
            raise Violation(f"history: {finding.name.replace('_', ' ')}", words)
    if replay.acked_updates_lost:
        raise Violation("history: writes in log", f"{replay.acked_updates_lost} acknowledged writes are lost")
    _states_agree(world, state, len(log))


def committed(world: World) -> list[bytes] | None:
    """The committed log, as the first oracle that keeps one has it."""
    for oracle in world.oracles:
        log = getattr(oracle, "log", None)
        if log is not None:
            entries: list[bytes] = log()
            return entries
    return None


def _age_slack(world: World) -> int:
    """Ages are read from clocks that drift: over the largest age in question that much."""
    return 2 + world.timeline.now * world.plan.drift // 1_000_000


def _states_agree(world: World, state: NodeState, last: int) -> None:
    digest = state.digest()
    for host in world.hosts.values():
        replica = host.replica
        if replica is None or replica.state.applied_index != last:
            continue
        if replica.state.digest() != digest:
            raise Violation(
                "final states", f"{host.name} does not have the state that the log gives", [host.name]
            )
        if replica.quarantined:
            raise Violation("final states", f"{host.name}: {replica.quarantined}", [host.name])
