"""What is checked when a virtual run is over: the clients' history against the committed log, run again from the beginning."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from sim.check.claims import check_ages_true, check_bounded, check_sessions, check_tiers
from sim.check.formats import convert
from sim.check.general import Outcome, check_kv
from sim.check.linear import check_chains_agree, check_real_time, check_unique_places
from sim.check.replay import replay_history
from sim.check.replicated import NodeState
from sim.oracles.oracle import Violation
from sim.virtual.clock import MILLION

if TYPE_CHECKING:
    from sim.check.history import Operation
    from sim.virtual.world import World

GENERAL_EVERY: Final = 8
"""Of so many seeds one is given to the general checker too, which takes about as long as all other checks together."""
GENERAL_BUDGET_S: Final = 0.5
"""Seconds for its search. Nearly all histories take it some milliseconds; where it is not done by then, as with many writes of
unknown outcome on one key, it has no say, which the run's notes tell."""


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
        check_ages_true(_in_world_time(world), 2),
        check_tiers(world.history, world.settings.fresh),
        check_sessions(world.history),
    ]
    for finding in findings:
        if not finding.passed:
            words = f"{finding.problems} of {finding.counted}: {'; '.join(finding.examples[:2])}"
            raise Violation(f"history: {finding.name.replace('_', ' ')}", words)
    if replay.acked_updates_lost:
        raise Violation("history: writes in log", f"{replay.acked_updates_lost} acknowledged writes are lost")
    if world.plan.machine == "kv" and world.plan.seed % GENERAL_EVERY == 0:
        _search(world)
    _states_agree(world, state, len(log))


def _search(world: World) -> None:
    """The general checker, which knows of no log: it must find an order by itself."""
    verdict = check_kv(convert(world.history), budget_s=GENERAL_BUDGET_S)
    if verdict.outcome is Outcome.NOT:
        failure = verdict.failure
        where = f"key {failure.key!r}: {failure.reason}" if failure is not None else "no order explains it"
        raise Violation("history: general checker", where)
    world.notes[f"general checker: {verdict.outcome.name.lower()}"] += 1


def committed(world: World) -> list[bytes] | None:
    """The committed log, as the first oracle that keeps one has it."""
    for oracle in world.oracles:
        log = getattr(oracle, "log", None)
        if log is not None:
            entries: list[bytes] = log()
            return entries
    return None


def _in_world_time(world: World) -> list[Operation]:
    """The history, with ages as long as they can have been if their node's clock was at its slowest all the time."""
    slow = {name: host.clock.slowest for name, host in world.hosts.items() if host.clock.slowest < 0}
    if not slow:
        return world.history
    found = []
    for operation in world.history:
        # Where several nodes answer together, any of them may be the one that is believed.
        drift = slow.get(operation.node or "") if world.protocol.requests is None else min(slow.values())
        if drift is not None and operation.age_us is not None:
            operation = dataclasses.replace(
                operation, age_us=operation.age_us * MILLION // (MILLION + drift) + 1
            )
        found.append(operation)
    return found


def _states_agree(world: World, state: NodeState, last: int) -> None:
    digest = state.digest()
    for host in world.hosts.values():
        replica = host.replica
        if replica is None or replica.state.applied_index != last or host.name in world.diverged:
            continue
        if replica.state.digest() != digest:
            raise Violation(
                "final states", f"{host.name} does not have the state that the log gives", [host.name]
            )
        if replica.quarantined and host.name not in world.excused:
            raise Violation("final states", f"{host.name}: {replica.quarantined}", [host.name])
