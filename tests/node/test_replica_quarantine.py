"""A replica whose state is not what the log says: it is found, it stops serving and leading, and nobody else is harmed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replica_bench import Bench
from replica_world import SETTINGS, World

from consensus.core import NEVER, EntryKind
from node.disk import SNAPSHOT
from node.effects import Effects
from node.kv import KvMachine, append, get, put
from node.protocol import ChunkRequest, Code, Consistency, DigestReport, OpenSession, Query, Submit
from node.replica import Settings
from node.requests import RequestCheck
from node.sessions import PLACES, commands_group, decode_block, open_group
from node.snapshot import make_manifest, write_ops


class Corrupting(KvMachine):
    """Forgets a bit of every value from the `after`-th command on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def apply(self, commands: Sequence[bytes]) -> list[bytes]:
        results = super().apply(commands)
        self.left -= len(commands)
        if self.left < 0:
            for key in [*self._values]:
                self._set(key, self._values[key][:-1])
        return results


def marked(*, lead: bool = False, settings: Settings | None = None) -> tuple[Bench, DigestReport]:
    """A replica that has applied a mark, and its own report there."""
    bench = Bench(settings)
    bench.commit(open_group("elsewhere", 1))
    if lead:
        bench.lead()
    effects = bench.commit(kind=EntryKind.DIGEST)
    (_, report), (_, same) = effects.peers
    assert report == same
    return bench, report


def other(report: DigestReport) -> DigestReport:
    return DigestReport(report.index, b"\x01" * 32, report.chain)


def hear(bench: Bench, *reports: tuple[str, DigestReport]) -> None:
    for sender, report in reports:
        bench.replica.receive_peer(sender, report, bench.now)


def test_a_leader_that_learns_from_the_others_reports_that_it_is_the_odd_one_resigns_at_once() -> None:
    bench, report = marked(lead=True)
    hear(bench, ("n2", other(report)))
    assert not bench.replica.quarantined
    hear(bench, ("n3", other(report)))
    assert "digest" in bench.replica.quarantined
    assert bench.core.heard[-1] == ("resign",)
    events = [fields for name, fields in bench.turn().events if name == "diverged"]
    assert events[-1]["node"] == "n1"


def test_a_follower_that_is_the_odd_one_will_not_stand_for_election_either() -> None:
    bench, report = marked()
    hear(bench, ("n2", other(report)), ("n3", other(report)))
    assert bench.core.heard[-1] == ("resign",)


def indexes_reported(effects: Effects) -> list[int]:
    return [message.index for to, message in effects.peers if type(message) is DigestReport and to == "n2"]


def marks(bench: Bench, count: int) -> list[bytes]:
    """An opening, and then marks, each with an opening behind it."""
    entries = [bench.entry(open_group("elsewhere", 1))]
    for nonce in range(count):
        entries += [bench.entry(kind=EntryKind.DIGEST), bench.entry(open_group("elsewhere", nonce + 2))]
    return entries


@given(rerun_to=st.integers(0, 13))
def test_of_marks_that_are_run_again_after_a_start_digests_are_compared_at_the_last(rerun_to: int) -> None:
    bench = Bench(rerun_to=rerun_to)
    entries = marks(bench, 5)  # at 2, 4, 6, 8 and 10
    effects = bench.core_says(lambda out: out.committed.extend(entries))
    assert bench.state.applied_index == 11
    assert indexes_reported(effects) == [index for index in (2, 4, 6, 8) if index > rerun_to] + [10]
    assert indexes_reported(bench.commit(kind=EntryKind.DIGEST)) == [12]


def test_a_mark_of_which_somebody_has_reported_is_never_passed_over() -> None:
    bench = Bench(machine=Corrupting(0), rerun_to=20)
    entries = marks(bench, 3)
    theirs = DigestReport(4, b"\x01" * 32, bytes(32))
    hear(bench, ("n2", theirs), ("n3", theirs))
    effects = bench.core_says(lambda out: out.committed.extend(entries))
    assert indexes_reported(effects) == [4, 6]
    assert "index 4" in bench.replica.quarantined


def test_where_members_may_lie_no_mark_is_passed_over() -> None:
    bench = Bench(requests=RequestCheck("bench", lambda *_: True, KvMachine().check), rerun_to=20)
    entries = [bench.entry(kind=EntryKind.DIGEST), bench.entry(kind=EntryKind.CHECKPOINT)]
    entries += [bench.entry(kind=EntryKind.DIGEST)]
    assert indexes_reported(bench.core_says(lambda out: out.committed.extend(entries))) == [1, 2, 3]


def test_a_replica_that_applies_a_mark_late_is_measured_against_reports_that_came_before() -> None:
    bench = Bench()
    bench.commit(open_group("elsewhere", 1))
    theirs = DigestReport(2, b"\x01" * 32, bytes(32))
    hear(bench, ("n2", theirs), ("n3", theirs))
    assert not bench.replica.quarantined
    bench.commit(kind=EntryKind.DIGEST)
    assert "history" in bench.replica.quarantined
    assert ("resign",) in bench.core.heard


def test_in_quarantine_nothing_is_served_told_offered_or_snapshotted() -> None:
    bench, report = marked(lead=True, settings=Settings(barrier=NEVER, digest=NEVER, snapshot_bytes=300))
    session = PLACES
    chunks = bench.state.snapshot()
    manifest = make_manifest(bench.identity, 2, 1, bench.state.chain, ["n1"], chunks)
    bench.disk.perform(write_ops(manifest, chunks))
    bench.replica.receive_peer("n2", ChunkRequest(2, 0), bench.now)
    ((_, piece),) = bench.turn().bulk
    assert piece.data == manifest.encode()
    bench.replica.receive_client("alice", Submit(session, 0, [1], [put(b"a", b"b")]), bench.now)
    bench.replica.receive_client("alice", OpenSession(1), bench.now)
    bench.turn()
    waits = Query(2, Consistency.LINEARIZABLE, 0, 10_000_000, get(b"a"))
    bench.replica.receive_client("alice", waits, bench.now)
    bench.turn()
    bench.replica.receive_client("alice", Submit(session, 0, [2], [put(b"a", b"c")]), bench.now)
    hear(bench, ("n2", other(report)), ("n3", other(report)))
    assert [(m.code, bool(m.reason)) for _, m in bench.turn().clients] == [(Code.QUARANTINED, True)] * 2
    asked = (
        Query(3, Consistency.ANY, 0, 1000, get(b"a")),
        Submit(session, 0, [3], [put(b"a", b"d")]),
        OpenSession(4),
    )
    for message in asked:
        bench.replica.receive_client("alice", message, bench.now)
    assert [m.code for _, m in bench.turn().clients] == [Code.QUARANTINED] * 3
    # What it had proposed is committed and applied: its own results are not to be believed.
    for _, payload in bench.core.proposed:
        assert bench.commit(*decode_block(payload)).clients == []
    bench.replica.receive_peer("n2", ChunkRequest(2, 0), bench.now)
    ((_, piece),) = bench.turn().bulk
    assert piece.pieces == 0
    for ticket in range(1, 9):
        bench.record(ticket)
        bench.commit(commands_group(session, 0, [10 + ticket], [put(b"a", b"e")]))
    assert not [job for job in bench.jobs if job.lane == SNAPSHOT]
    assert bench.replica.status(bench.now)["quarantined"]


def test_nobody_is_harmed_by_anothers_divergence_and_it_is_told_once() -> None:
    bench, report = marked(lead=True)
    hear(bench, ("n2", report), ("n3", other(report)), ("n3", other(report)), ("n2", report))
    events = [fields for name, fields in bench.turn().events if name == "diverged"]
    assert events == [{"node": "n3", "index": report.index, "forked": False}]
    assert not bench.replica.quarantined
    assert ("resign",) not in bench.core.heard


def test_two_that_differ_without_a_majority_are_told_of_and_neither_is_condemned() -> None:
    bench, report = marked(lead=True)
    hear(bench, ("n2", other(report)))
    events = [fields for name, fields in bench.turn().events if name == "diverged"]
    assert events == [{"node": None, "index": report.index, "forked": False}]
    assert not bench.replica.quarantined


@pytest.mark.parametrize("culprit", ["leader", "follower"])
def test_a_replica_that_corrupts_its_state_is_found_at_the_next_mark_while_the_others_go_on(
    culprit: str,
) -> None:
    machines: dict[str, Corrupting] = {}

    def machine_of(name: str) -> Corrupting:
        return machines.setdefault(name, Corrupting(1 << 40))

    world = World(7, settings=SETTINGS, machine_of=machine_of)
    assert world.run(2_000_000, lambda: all(client.done > 10 for client in world.clients))
    leads = [host.role == "leader" for host in world.hosts.values()]
    odd = world.names[leads.index(culprit == "leader")]
    began = world.now
    world.excused.add(odd)
    machines[odd].left = 0
    host = world.hosts[odd]
    assert host.replica is not None
    assert world.run(2 * SETTINGS.digest, lambda: bool(host.replica.quarantined))
    found = world.now
    # Whoever was answered by it before it was found was not told the truth; from then on nobody is.
    wrong = {id(operation) for operation in world.history if operation.returned is not None}
    assert any(name == "diverged" and fields["node"] == odd for _, _, name, fields in world.events)
    before = {client.name: client.done for client in world.clients}
    applied = host.replica.state.applied_index
    world.run(2_500_000)
    assert all(client.done > before[client.name] + 5 for client in world.clients)
    assert host.replica.state.applied_index > applied, "it goes on following"
    assert host.replica.view.role == "follower"
    assert not any(
        name == odd and fields["role"] != "follower"
        for when, name, event, fields in world.events
        if event == "role" and when > found
    )
    asked_here = [o for o in world.history if o.op == "query" and o.node == odd and o.invoke > found]
    assert asked_here
    assert {o.outcome for o in asked_here} <= {"refused", "unknown"}
    assert world.bites["query refused: QUARANTINED"] > 5
    healthy = [other.replica for other in world.hosts.values() if other.name != odd and other.replica]
    assert not any(replica.quarantined for replica in healthy)
    # Everything said after it was found explains itself by the log of the other two.
    for client in world.clients:
        client.active = False
    world.loss = 0.0
    world.run(300_000)
    world.history = [o for o in world.history if id(o) not in wrong and o.invoke >= found]
    checked = world.check_history()
    failed = [finding for finding in checked.findings + checked.replay.findings if not finding.passed]
    assert not failed, failed
    assert checked.replay.acked_updates > 50
    assert found - began < 2 * SETTINGS.digest


def test_a_corrupting_machine_would_show_in_the_history_if_nobody_stopped_it() -> None:
    """The checks above can fail: without quarantine the same story does not pass them."""
    machine = Corrupting(0)
    honest = KvMachine()
    commands = [append(b"k", b"abc"), append(b"k", b"def")]
    assert machine.apply(commands[:1]) == honest.apply(commands[:1])
    assert machine.apply(commands[1:]) != honest.apply(commands[1:])
    assert machine.digest() != honest.digest()
