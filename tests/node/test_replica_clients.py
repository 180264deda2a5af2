"""What clients hear from one replica, and who hears it."""

from __future__ import annotations

from typing import Any

import pytest
from replica_bench import Bench

from consensus.core import NEVER, EntryKind, Refusal, RefusalCode
from node.held import HOLD
from node.kv import append, get, put
from node.protocol import (
    Answer,
    Code,
    Consistency,
    Leader,
    OpenSession,
    Outcome,
    Query,
    QueryRefused,
    Refused,
    SessionOpened,
    StatusRequest,
    Submit,
)
from node.queries import MOST_FIRST
from node.replica import APPLY_BYTES_A_TURN, QUERIES_A_TURN, Settings
from node.sessions import MOST_GROUPS, PLACES, WINDOW, commands_group, decode_block, expire_group, open_group
from node.writes import BLOCK_BYTES

SESSION = PLACES


def leading() -> Bench:
    """A leader with one session, opened from elsewhere."""
    bench = Bench()
    bench.commit(open_group("elsewhere", 1))
    bench.lead()
    return bench


def ask(bench: Bench, message: Any, who: Any = "alice") -> list[Any]:
    """What everybody hears in the turn that handles `message`."""
    bench.replica.receive_client(who, message, bench.now)
    return said(bench)


def said(bench: Bench, who: Any = "alice") -> list[Any]:
    return [message for connection, message in bench.turn().clients if connection == who]


def submit(*seqs: int, low: int = 0, commands: list[bytes] | None = None) -> Submit:
    return Submit(SESSION, low, list(seqs), commands or [append(b"k", b"%d;" % seq) for seq in seqs])


def commit_proposed(bench: Bench) -> list[Any]:
    """Commit what the core was asked to append; what alice hears."""
    heard = []
    for kind, payload in bench.core.proposed:
        assert kind == EntryKind.BLOCK
        heard += [message for _, message in bench.commit(*decode_block(payload)).clients]
    bench.core.proposed.clear()
    return heard


def test_an_outcome_goes_to_the_connection_that_last_used_the_session_with_index_chain_and_places() -> None:
    bench = leading()
    ask(bench, submit(1, 2), "old connection")
    ask(bench, submit(1, 2), "alice")
    bench.commit(*decode_block(bench.core.proposed.pop(0)[1]))
    ((who, outcome),) = bench.effects.clients
    assert who == "alice"
    assert (outcome.index, outcome.places, outcome.chain) == (2, [0, 1], bench.state.chain)
    # The second copy is answered from memory: other entry, same place and chain value.
    again = bench.commit(*decode_block(bench.core.proposed.pop(0)[1])).clients
    assert [(m.index, m.seqs, m.places, m.chain) for _, m in again] == [
        (2, [1], [0], outcome.chain),
        (2, [2], [1], outcome.chain),
    ]
    assert bench.state.machine.query(get(b"k")).endswith(b"1;2;")


def test_everything_of_a_turn_is_proposed_as_one_block() -> None:
    bench = leading()
    bench.replica.receive_client("alice", submit(1), bench.now)
    bench.replica.receive_client("bob", Submit(99, 0, [5], [put(b"x", b"y")]), bench.now)
    bench.turn()
    ((_, payload),) = bench.core.proposed
    assert [group[1] for group in decode_block(payload)] == [SESSION, 99]


def test_much_of_a_turn_is_cut_into_blocks_in_order() -> None:
    bench = leading()
    value = bytes(60_000)
    for seq in range(1, 31):
        bench.replica.receive_client("alice", submit(seq, commands=[put(b"k", value)]), bench.now)
    bench.turn()
    blocks = [decode_block(payload) for _, payload in bench.core.proposed]
    assert len(blocks) > 2
    assert [group[3] for groups in blocks for group in groups] == [[seq] for seq in range(1, 31)]
    assert all(len(payload) < BLOCK_BYTES + 65_000 for _, payload in bench.core.proposed)


def test_what_comes_together_is_cut_where_a_batch_has_as_many_groups_as_it_may() -> None:
    bench = leading()
    for seq in range(1, MOST_GROUPS + 101):
        bench.replica.receive_client("alice", submit(seq), bench.now)
    bench.turn()
    groups = [decode_block(payload) for _, payload in bench.core.proposed]
    assert [len(group) for group in groups] == [MOST_GROUPS, 100]


def test_a_bad_command_is_refused_alone_and_the_others_of_its_message_go_on() -> None:
    bench = leading()
    commands = [put(b"a", b"1"), b"garbage", put(b"b", b"2"), put(b"c", bytes(70_000))]
    heard = ask(bench, submit(1, 2, 3, 4, commands=commands))
    assert [(m.seqs, m.code) for m in heard] == [([2], Code.BAD_COMMAND), ([4], Code.BAD_COMMAND)]
    assert "65536" in heard[1].reason
    ((_, payload),) = bench.core.proposed
    assert decode_block(payload)[0][3] == [1, 3]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (Submit(SESSION, 0, [1, 2], [put(b"a", b"b")]), Code.BAD_COMMAND),
        (Submit(SESSION, 0, [0], [put(b"a", b"b")]), Code.FORGOTTEN),
        (Submit(SESSION, 7, [8 + WINDOW], [put(b"a", b"b")]), Code.FORGOTTEN),
        (Submit(SESSION, 0, [1] * (WINDOW + 1), [b""] * (WINDOW + 1)), Code.BAD_COMMAND),
    ],
)
def test_a_malformed_submit_is_refused_whole_and_proposes_nothing(message: Submit, code: Code) -> None:
    bench = leading()
    (refused,) = ask(bench, message)
    assert (refused.code, refused.seqs) == (code, message.seqs)
    assert not bench.core.proposed


def test_a_submit_without_commands_is_no_request() -> None:
    bench = leading()
    assert ask(bench, Submit(SESSION, 0, [], [])) == []
    assert not bench.core.proposed


def test_who_does_not_lead_refuses_and_names_the_leader_and_leaves_the_answering_to_it() -> None:
    bench = leading()
    ask(bench, submit(1))
    (_, payload) = bench.core.proposed.pop()
    bench.follow("n2")
    bench.core.refusal = Refusal(RefusalCode.NOT_LEADER, "n2 leads", "n2")
    (refused,) = ask(bench, submit(2))
    assert (refused.code, refused.leader, refused.seqs) == (Code.NOT_LEADER, "n2", [2])
    assert bench.commit(*decode_block(payload)).clients == []


def test_a_busy_leader_still_tells_the_outcome_of_what_it_took_before() -> None:
    bench = leading()
    ask(bench, submit(1))
    bench.core.refusal = Refusal(RefusalCode.BUSY, "too much", "n1")
    (refused,) = ask(bench, submit(2))
    assert (refused.code, refused.seqs) == (Code.BUSY, [2])
    (outcome,) = commit_proposed(bench)
    assert (type(outcome), outcome.seqs) == (Outcome, [1])


def test_a_session_is_told_to_the_connection_that_asked_under_its_request() -> None:
    bench = leading()
    ask(bench, OpenSession(7))
    ask(bench, OpenSession(3), "bob")
    first, second = [decode_block(payload)[0] for _, payload in bench.core.proposed]
    ((who, opened),) = bench.commit(second).clients
    assert (who, opened.request, opened.session) == ("bob", 3, opened.index * PLACES)
    assert opened.chain == bench.state.chain
    ((who, opened),) = bench.commit(first).clients
    assert (who, opened.request) == ("alice", 7)
    # From now on the session's outcomes go there, though nothing was submitted yet.
    group = commands_group(opened.session, 0, [1], [put(b"a", b"b")])
    assert [who for who, _ in bench.commit(group).clients] == ["alice"]


def test_a_session_opened_by_another_node_or_by_an_earlier_life_is_nobodys_here() -> None:
    bench = leading()
    ask(bench, OpenSession(7))
    (_, nonce) = decode_block(bench.core.proposed[0][1])[0][1:]
    assert nonce >> 32 == 1, "the incarnation stands in front, so no two lives share a nonce"
    assert bench.commit(open_group("n2", nonce)).clients == []
    assert bench.commit(open_group("n1", nonce - (1 << 32))).clients == []
    assert len(bench.commit(open_group("n1", nonce)).clients) == 1


def test_a_query_for_an_entry_is_answered_from_the_state_right_after_it_and_nothing_is_applied_before() -> (
    None
):
    bench = leading()
    ask(bench, submit(1))
    commit_proposed(bench)
    at = bench.state.applied_index
    for request, entry in ((1, at + 2), (2, at), (3, at + 4), (4, at + 2), (5, at + 1)):
        bench.replica.receive_client(
            "alice", Query(request, Consistency.ANY, 0, 100_000, get(b"k"), entry), bench.now
        )
    assert [answer.request for answer in said(bench)] == [2]
    entries = [
        bench.entry(commands_group(SESSION, 0, [seq], [append(b"k", b"%d;" % seq)])) for seq in range(2, 8)
    ]
    heard: dict[int, tuple[int, bytes]] = {}
    effects = bench.core_says(lambda out: out.committed.extend(entries))
    while True:
        heard |= {m.request: (m.index, m.result) for _, m in effects.clients if type(m) is Answer}
        if not effects.again:
            break
        effects = bench.turn()
    assert {request: index for request, (index, _) in heard.items()} == {
        5: at + 1,
        1: at + 2,
        4: at + 2,
        3: at + 4,
    }
    assert b"1;2;3;" in heard[1][1]
    assert b"4;" not in heard[1][1]
    assert bench.state.applied_index == at + 6


def test_however_many_ask_for_one_entry_all_are_answered_from_it_up_to_a_bound() -> None:
    bench = leading()
    at = bench.state.applied_index
    for request in range(1, MOST_FIRST + 41):
        bench.replica.receive_client(
            "alice", Query(request, Consistency.ANY, 0, 100_000, get(b"k"), at + 1), bench.now
        )
    while bench.turn().again:
        pass
    assert len(bench.replica.desk.held) == MOST_FIRST + 40
    entries = [bench.entry(commands_group(SESSION, 0, [seq], [append(b"k", b"x")])) for seq in range(1, 4)]
    heard: list[int] = []
    effects = bench.core_says(lambda out: out.committed.extend(entries))
    while True:
        heard += [m.index for _, m in effects.clients if type(m) is Answer]
        if not effects.again:
            break
        effects = bench.turn()
    assert len(heard) == MOST_FIRST + 40
    assert heard[:MOST_FIRST] == [at + 1] * MOST_FIRST
    assert bench.state.applied_index == at + 3


def test_a_query_for_an_entry_that_does_not_come_is_answered_from_the_newest_state_a_moment_later() -> None:
    bench = leading()
    at = bench.state.applied_index
    assert ask(bench, Query(1, Consistency.ANY, 0, 10_000_000, get(b"k"), at + 3)) == []
    assert bench.replica.deadline == bench.now + HOLD
    bench.commit(commands_group(SESSION, 0, [2], [append(b"k", b"2;")]))
    bench.now += HOLD - 1
    assert said(bench) == []
    bench.now += 1
    (answer,) = said(bench)
    assert (answer.request, answer.index) == (1, at + 1)


def test_one_refused_opening_takes_no_other_one_with_it() -> None:
    bench = leading()
    ask(bench, OpenSession(7))
    (_, payload) = bench.core.proposed.pop()
    bench.core.refusal = Refusal(RefusalCode.NO_QUORUM, "nobody there")
    (refused,) = ask(bench, OpenSession(7))
    assert (refused.request, refused.code) == (7, Code.NO_QUORUM)
    ((_, opened),) = bench.commit(*decode_block(payload)).clients
    assert (type(opened), opened.request) == (SessionOpened, 7)


def test_an_unknown_session_is_refused_by_the_log_and_never_made_up() -> None:
    bench = leading()
    ask(bench, Submit(12345, 0, [1], [put(b"a", b"b")]))
    (refused,) = commit_proposed(bench)
    assert (refused.code, refused.session, refused.seqs) == (Code.UNKNOWN_SESSION, 12345, [1])
    assert bench.state.machine.query(get(b"a")).endswith(b"\xc0")
    assert len(bench.state.sessions) == 1


def test_who_has_gone_hears_nothing_of_anything_asked_before() -> None:
    bench = leading()
    bench.replica.client_connected("alice")
    bench.turn()
    ask(bench, OpenSession(1))
    ask(bench, submit(1))
    linearizable = Query(2, Consistency.LINEARIZABLE, 0, 10_000_000, get(b"k"))
    bench.replica.receive_client("alice", linearizable, bench.now)
    bench.turn()
    # In the turn in which the connection ends: answers, refusals and news that have not left yet.
    any_ = Query(3, Consistency.ANY, 0, 1000, get(b"k"))
    bench.core.refusal = Refusal(RefusalCode.BUSY, "too much", "n1")
    for message in (any_, submit(2), StatusRequest(4), submit(3, commands=[b"garbage"])):
        bench.replica.receive_client("alice", message, bench.now)
    bench.core.then(lambda out: bench.core.become("follower", "n2", out))
    bench.replica.receive_peer("n2", "anything", bench.now)
    bench.replica.client_gone("alice")
    assert said(bench) == []
    assert commit_proposed(bench) == []
    bench.replica.desk.passed(bench.core.asked[0], 0)
    assert said(bench) == []
    bench.follow(None)
    assert said(bench) == []


def test_connected_clients_hear_of_every_new_leader_and_term_once() -> None:
    bench = Bench()
    bench.replica.client_connected("alice")
    assert said(bench) == [Leader(None, 1)]
    assert [message for _, message in bench.follow("n3").clients] == [Leader("n3", 1)]
    assert bench.follow("n3").clients == []


def test_who_leaves_refuses_what_waits_and_what_comes_and_asks_for_no_barrier_more() -> None:
    bench = leading()
    ask(bench, submit(1))
    bench.replica.receive_client("alice", submit(2), bench.now)
    bench.replica.receive_client(
        "alice", Query(5, Consistency.LINEARIZABLE, 0, 10_000_000, get(b"k")), bench.now
    )
    bench.replica.leave(bench.now)
    assert ("resign",) in bench.core.heard
    heard = said(bench)
    assert [(type(m), m.code) for m in heard] == [
        (Refused, Code.STOPPING),
        (QueryRefused, Code.STOPPING),
    ]
    for message in (submit(3), OpenSession(6), Query(7, Consistency.ANY, 0, 0, get(b"k"))):
        (refused,) = ask(bench, message)
        assert refused.code == Code.STOPPING
    assert not bench.core.asked
    bench.now += 10_000_000
    assert bench.replica.deadline == NEVER, "a node that leaves does not spin"


def test_what_was_proposed_before_leaving_is_still_answered() -> None:
    bench = leading()
    ask(bench, submit(1))
    bench.replica.leave(bench.now)
    bench.turn()
    (outcome,) = commit_proposed(bench)
    assert outcome.seqs == [1]


def test_a_storm_of_queries_is_answered_a_bounded_number_a_turn_and_all_of_it() -> None:
    bench = leading()
    for request in range(40):
        bench.replica.receive_client("alice", Query(request, Consistency.ANY, 0, 1000, get(b"k")), bench.now)
    heard = said(bench)
    assert len(heard) == QUERIES_A_TURN
    assert bench.effects.again
    while bench.effects.again:
        heard += said(bench)
    assert [message.request for message in heard] == list(range(40))
    assert all(type(m) is Answer and (m.index, m.chain) == (1, bench.state.chain) for m in heard)


def test_a_query_that_makes_no_sense_is_refused_in_words() -> None:
    (refused,) = ask(leading(), Query(1, Consistency.ANY, 0, 1000, b"nonsense"))
    assert refused.code == Code.BAD_QUERY
    assert "GET" in refused.reason or "key" in refused.reason


def test_committed_entries_are_applied_a_bounded_number_of_bytes_a_turn_but_at_least_one() -> None:
    bench = leading()
    half = bytes(APPLY_BYTES_A_TURN // 2)  # two of them and their headers are over the bound
    huge = bytes(3 * APPLY_BYTES_A_TURN)
    entries = [bench.entry(commands_group(9, 0, [1], [data])) for data in (half, half, half, huge, half)]
    bench.core_says(lambda out: out.committed.extend(entries))
    reached = [bench.state.applied_index]
    while bench.effects.again:
        bench.turn()
        reached.append(bench.state.applied_index)
    assert reached == [3, 5, 6]


def test_only_a_leader_sweeps_and_only_sessions_unused_for_their_whole_time_to_live() -> None:
    bench = Bench(Settings(barrier=NEVER, digest=NEVER, session_ttl=1000))
    bench.commit(open_group("elsewhere", 1))
    bench.commit(open_group("elsewhere", 2))
    bench.now += 5000
    bench.turn()
    assert not bench.core.proposed, "a follower proposes nothing"
    bench.lead()
    used = 2 * PLACES
    for seq in range(1, 5):  # 250 apart: at 1000 the idle one has been seen idle for its whole time
        bench.commit(commands_group(used, 0, [seq], [put(b"a", b"b")]))
        assert not bench.core.proposed
        bench.now += 250
        bench.turn()
    groups = [group for _, payload in bench.core.proposed for group in decode_block(payload)]
    assert groups == [list(expire_group(PLACES, 1))]
    assert bench.replica.deadline == bench.now + 250


def test_a_session_used_between_the_sweep_and_the_commit_lives_on() -> None:
    bench = leading()
    bench.commit(commands_group(SESSION, 0, [1], [put(b"a", b"b")]))
    bench.commit(expire_group(SESSION, 1))
    assert len(bench.state.sessions) == 1
    bench.commit(expire_group(SESSION, 2))
    assert len(bench.state.sessions) == 0


def test_the_status_names_what_an_operator_needs_and_changes_nothing() -> None:
    bench = leading()
    (first,) = ask(bench, StatusRequest(1))
    (second,) = ask(bench, StatusRequest(2))
    assert first.status == second.status
    assert first.status["role"] == "leader"
    assert first.status["applied_index"] == 1
    assert first.status["chain"] == bench.state.chain.hex()
    assert first.status["quarantined"] is None


def test_a_query_that_the_machine_trips_over_is_refused_and_stops_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = leading()

    def broken(query: bytes) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.state.machine, "query", broken)
    bench.replica.receive_client("a", Query(7, Consistency.ANY, 0, 1000, get(b"x")), bench.now)
    effects = bench.turn()
    refused = next(message for _, message in effects.clients if isinstance(message, QueryRefused))
    assert refused.code == Code.BAD_QUERY
    assert "ZeroDivisionError" in refused.reason
    assert [name for name, _ in effects.events] == ["query_failed"]
