"""When a query may be answered: the desk by itself."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.core import NEVER, Refusal, RefusalCode
from node.held import HOLD
from node.protocol import Code, Consistency, Query
from node.queries import LONGEST_PATIENCE, RETRY, QueryDesk

PACE, FRESH = 100_000, 1_000_000
ANY, BOUNDED, LINEARIZABLE = Consistency.ANY, Consistency.BOUNDED, Consistency.LINEARIZABLE


def desk(capacity: int = 8, first: int = 0) -> QueryDesk:
    return QueryDesk(capacity, PACE, FRESH, first)


def query(request: int, consistency: int, max_age: int = 0, patience: int = 500_000, entry: int = 0) -> Query:
    return Query(request, int(consistency), max_age, patience, b"", entry)


def ready(one: QueryDesk, now: int, applied: int = 0) -> list[int]:
    found = []
    while (item := one.take(applied, now)) is not None:
        found.append(item.query.request)
    return found


def test_any_is_answered_at_once_even_before_the_first_barrier() -> None:
    one = desk()
    assert one.add("a", query(1, ANY), 5) is None
    assert ready(one, 5) == [1]
    assert (one.age(5), one.tier(5)) == (None, "stale")


def test_a_linearizable_query_waits_for_a_barrier_that_was_asked_after_it_arrived() -> None:
    one = desk()
    one.add("a", query(1, LINEARIZABLE), 9)
    before = one.wants_barrier(10)
    assert before is not None
    assert not one.lazy
    one.add("a", query(2, LINEARIZABLE), 11)
    assert one.wants_barrier(12) is None, "one barrier at a time"
    one.passed(before, 3)
    one.caught_up(3, 13)
    assert ready(one, 13) == [1], "that barrier was asked before the second query arrived"
    after = one.wants_barrier(14)
    assert after is not None
    one.passed(after, 3)
    one.caught_up(3, 15)
    assert ready(one, 15) == [2]
    assert one.age(20) == 6, "counted from when the barrier was asked for"


def test_a_query_does_not_wait_for_a_lazy_barrier_but_has_its_own_at_once() -> None:
    one = desk()
    lazy = one.wants_barrier(10)
    assert lazy is not None
    assert one.lazy
    assert one.wants_barrier(11) is None, "nobody waits"
    one.add("a", query(1, LINEARIZABLE), 12)
    assert one.deadline() <= 12
    own = one.wants_barrier(12)
    assert own not in (None, lazy)
    assert not one.lazy
    assert own is not None
    one.passed(lazy, 3)
    one.caught_up(3, 13)
    assert (ready(one, 13), one.age(13)) == ([], None), "it was given up for the query's own"
    one.passed(own, 3)
    one.caught_up(3, 14)
    assert (ready(one, 14), one.age(14)) == ([1], 2)


def test_a_lazy_barrier_gives_an_age_counted_from_when_it_was_asked_for() -> None:
    one = desk()
    token = one.wants_barrier(10)
    assert token is not None
    one.passed(token, 0)
    one.caught_up(0, 50_000)
    assert one.age(50_000) == 49_990
    one.add("a", query(1, BOUNDED, max_age=60_000), 50_000)
    assert ready(one, 50_000) == [1]


def test_a_barrier_releases_nothing_before_the_state_has_reached_its_index() -> None:
    one = desk()
    one.add("a", query(1, LINEARIZABLE), 0)
    token = one.wants_barrier(0)
    assert token is not None
    one.passed(token, 9)
    one.caught_up(8, 5)
    assert ready(one, 5) == []
    assert one.age(5) is None
    one.caught_up(9, 6)
    assert ready(one, 6) == [1]


def test_an_answer_to_another_barrier_than_the_one_under_way_counts_for_nothing() -> None:
    one = desk(first=1 << 32)
    one.add("a", query(1, LINEARIZABLE), 0)
    token = one.wants_barrier(0)
    assert token == (1 << 32) + 1
    one.passed(1, 9)
    one.refused(token + 1, Refusal(RefusalCode.NOT_LEADER, "x"), 1)
    one.caught_up(9, 1)
    assert ready(one, 1) == []
    one.passed(token, 9)
    one.passed(token, 2)
    one.caught_up(9, 2)
    assert ready(one, 2) == [1]


def test_a_refused_barrier_is_asked_for_again_a_moment_later_and_those_who_wait_keep_their_place() -> None:
    one = desk()
    one.add("a", query(1, LINEARIZABLE), 0)
    token = one.wants_barrier(0)
    assert token is not None
    one.add("a", query(2, LINEARIZABLE), 1)
    one.refused(token, Refusal(RefusalCode.NO_QUORUM, "nobody answers"), 2)
    assert one.wants_barrier(3) is None
    assert one.deadline() == 2 + RETRY
    again = one.wants_barrier(2 + RETRY)
    assert again is not None
    one.passed(again, 0)
    one.caught_up(0, 2 + RETRY)
    assert ready(one, 2 + RETRY) == [1, 2]


def test_barriers_are_asked_for_at_their_pace_without_any_query() -> None:
    one = desk()
    token = one.wants_barrier(0)
    assert token is not None
    one.passed(token, 0)
    one.caught_up(0, 1)
    assert one.wants_barrier(PACE - 1) is None
    assert one.deadline() == PACE
    assert one.wants_barrier(PACE) is not None


def test_a_query_for_an_entry_waits_for_that_and_no_longer_than_a_moment() -> None:
    one = desk()
    for request, entry in ((1, 7), (2, 5), (3, 4), (4, 9)):
        one.add("a", query(request, ANY, entry=entry), 100)
    assert ready(one, 100, applied=4) == [3], "the state is there already"
    assert (one.held.entry, len(one), one.deadline()) == (5, 3, 0), "a barrier is due at 0 at the latest"
    token = one.wants_barrier(100)
    assert token is not None
    assert one.deadline() == 100 + HOLD
    one.release(4, 99 + HOLD)
    assert ready(one, 99 + HOLD, applied=4) == []
    one.release(5, 99 + HOLD)
    assert ready(one, 99 + HOLD, applied=5) == [2]
    one.release(8, 99 + HOLD)
    assert ready(one, 99 + HOLD, applied=8) == [1], (
        "of a state that came from elsewhere and is past the entry"
    )
    one.release(8, 100 + HOLD)
    assert ready(one, 100 + HOLD, applied=8) == [4], "the entry has not come"
    assert (one.held.entry, one.held.due, len(one)) == (NEVER, NEVER, 0)


def test_a_query_for_an_entry_is_answered_rather_than_given_up_when_its_patience_ends() -> None:
    one = desk()
    one.add("a", query(1, ANY, patience=300, entry=7), 0)
    assert ready(one, 0) == []
    assert list(one.give_up(300)) == []
    one.release(0, 300)
    assert ready(one, 300) == [1]


def test_what_is_held_is_forgotten_with_its_connection_and_refused_with_everything_else() -> None:
    one = desk()
    for request, who in ((1, "a"), (2, "b")):
        one.add(who, query(request, ANY, entry=6 + request), 0)
    assert ready(one, 0) == []
    one.forget(lambda connection: connection == "a")
    assert (len(one), one.held.entry) == (1, 8)
    assert [(who, refused.request) for who, refused in one.refuse_all(Code.STOPPING, "ends")] == [("b", 2)]
    assert (len(one), one.held.entry, one.held.due) == (0, NEVER, NEVER)


def test_a_bounded_query_is_answered_by_the_age_of_the_moment_of_the_answer() -> None:
    one = desk()
    token = one.wants_barrier(1000)
    assert token is not None
    one.passed(token, 0)
    one.caught_up(0, 1500)
    one.add("a", query(1, BOUNDED, max_age=500), 1500)
    one.add("a", query(2, BOUNDED, max_age=499), 1500)
    assert len(one.ready) == 1
    assert ready(one, 1501) == [], "it grew too old while it stood in line"
    assert one.wants_barrier(1501) is not None, "both wait for a newer barrier"


def test_whose_patience_ends_hears_why_and_whom_to_ask() -> None:
    one = desk()
    one.add("a", query(1, LINEARIZABLE, patience=100), 0)
    one.add("b", query(2, BOUNDED, max_age=5, patience=100), 0)
    token = one.wants_barrier(0)
    assert token is not None
    one.refused(token, Refusal(RefusalCode.NOT_LEADER, "n2 leads", "n2"), 1)
    assert list(one.give_up(99)) == []
    late = list(one.give_up(100))
    assert [(who, m.request, m.code, m.leader) for who, m in late] == [
        ("a", 1, Code.NO_QUORUM, "n2"),
        ("b", 2, Code.NO_QUORUM, "n2"),
    ]
    assert "n2 leads" in late[0][1].reason
    assert list(one.give_up(100)) == []
    assert len(one) == 0


def test_a_bounded_query_whose_age_cannot_be_had_is_told_the_age_there_is() -> None:
    one = desk()
    token = one.wants_barrier(0)
    assert token is not None
    one.passed(token, 0)
    one.caught_up(0, 0)
    one.add("b", query(2, BOUNDED, max_age=5000, patience=100), 90_000)
    ((_, refused),) = one.give_up(90_100)
    assert refused.code == Code.TOO_OLD
    assert "90 ms old, 5 ms" in refused.reason


def test_no_patience_is_longer_than_the_longest() -> None:
    one = desk()
    one.add("a", query(1, LINEARIZABLE, patience=1 << 62), 0)
    assert len(list(one.give_up(LONGEST_PATIENCE))) == 1


def test_more_than_the_capacity_is_refused_wherever_the_others_stand() -> None:
    one = desk(capacity=4)
    one.add("a", query(1, LINEARIZABLE), 0)
    token = one.wants_barrier(0)
    assert token is not None
    one.add("a", query(2, LINEARIZABLE), 0)
    one.add("a", query(3, ANY), 0)
    one.passed(token, 5)
    one.add("a", query(4, BOUNDED), 0)
    refused = one.add("a", query(5, ANY), 0)
    assert refused is not None
    assert refused.code == Code.BUSY
    assert ready(one, 0) == [3]
    assert one.add("a", query(6, ANY), 0) is None


def test_an_unknown_consistency_is_refused() -> None:
    refused = desk().add("a", query(1, 3), 0)
    assert refused is not None
    assert refused.code == Code.BAD_QUERY


def everywhere() -> QueryDesk:
    """Two queries, of `a` and `b`, at each of the four places where one can stand."""
    one = desk(capacity=20)
    number = 0

    def two(consistency: int) -> None:
        nonlocal number
        for who in "ab":
            number += 1
            one.add(who, query(number, consistency), 0)

    two(LINEARIZABLE)
    first = one.wants_barrier(0)
    assert first is not None
    one.passed(first, 99)
    two(LINEARIZABLE)
    assert one.wants_barrier(0) is not None
    two(LINEARIZABLE)
    two(ANY)
    assert len(one) == 8
    return one


def test_who_is_gone_is_forgotten_wherever_the_query_stands() -> None:
    one = everywhere()
    one.forget(lambda who: who == "a")
    assert len(one) == 4
    assert {who for who, _ in one.refuse_all(Code.STOPPING, "x")} == {"b"}


def test_refusing_all_refuses_each_once_wherever_it_stands() -> None:
    one = everywhere()
    refused = list(one.refuse_all(Code.QUARANTINED, "odd"))
    assert sorted(m.request for _, m in refused) == list(range(1, 9))
    assert {(m.code, m.reason) for _, m in refused} == {(Code.QUARANTINED, "odd")}
    assert len(one) == 0


def test_the_deadline_is_the_first_patience_to_end_or_the_next_barrier() -> None:
    one = desk()
    one.add("a", query(1, LINEARIZABLE, patience=700), 0)
    assert one.deadline() == 0, "somebody waits, and no barrier is under way"
    token = one.wants_barrier(0)
    assert token is not None
    assert one.deadline() == 700
    one.passed(token, 0)
    one.caught_up(0, 5)
    assert one.deadline() == PACE
    assert one.deadline() < NEVER


_step = st.one_of(
    st.tuples(
        st.just("ask"),
        st.sampled_from([ANY, BOUNDED, LINEARIZABLE]),
        st.integers(0, 300),
        st.sampled_from([0, 0, 1, 2, 5]),
    ),
    st.tuples(st.just("barrier")),
    st.tuples(st.just("pass"), st.integers(0, 3)),
    st.tuples(st.just("late answer")),
    st.tuples(st.just("refuse")),
    st.tuples(st.just("apply"), st.integers(0, 3)),
    st.tuples(st.just("answer")),
    st.tuples(st.just("give up")),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 120), _step), max_size=60))
def test_whatever_happens_no_query_is_lost_and_every_answer_keeps_what_was_asked(steps: list) -> None:
    """Against a model that knows only when each query came, and when the barriers were asked for that the state has reached."""
    one = QueryDesk(6, 150, FRESH, 0)
    now = request = commit = applied = 0
    open_: dict[int, tuple[int, Query]] = {}
    asked: tuple[int, int] | None = None  # token, when
    lazy = False  # nobody waited when it was asked for
    given_up: list[int] = []  # tokens of lazy barriers, in whose place another one was asked for
    came_back: list[tuple[int, int]] = []  # when it was asked, index
    for wait, step in steps:
        now += wait
        if step[0] == "ask":
            request += 1
            made = query(request, step[1], max_age=step[2], patience=400, entry=step[3])
            if one.add("a", made, now) is None:
                open_[request] = (now, made)
            else:
                assert len(open_) == 6
        elif step[0] == "barrier":
            token = one.wants_barrier(now)
            if token is not None:
                if asked is not None:
                    assert lazy, "one barrier at a time"
                    given_up.append(asked[0])
                asked, lazy = (token, now), one.lazy
        elif step[0] == "pass" and asked is not None:
            commit += step[1]
            one.passed(asked[0], commit)
            came_back.append((asked[1], commit))
            asked = None
        elif step[0] == "late answer" and given_up:
            one.passed(given_up.pop(), commit)
        elif step[0] == "refuse" and asked is not None:
            one.refused(asked[0], Refusal(RefusalCode.NO_QUORUM, "x"), now)
            asked = None
        elif step[0] == "apply":
            applied = min(applied + step[1], commit)
            one.caught_up(applied, now)
            one.release(applied, now)
            for item in one.held.items:
                assert item.query.entry > applied
                assert now < open_[item.query.request][0] + 400, "held for too long"
        elif step[0] == "answer" and (item := one.take(applied, now)) is not None:
            came, made = open_.pop(item.query.request)
            assert made.entry <= applied or now >= came + 400, (
                "neither the entry nor the end of its patience has come"
            )
            reached = max((when for when, index in came_back if index <= applied), default=None)
            if made.consistency == LINEARIZABLE:
                assert reached is not None
                assert reached >= came
            elif made.consistency == BOUNDED:
                assert reached is not None
                assert now - reached <= made.max_age
        elif step[0] == "give up":
            for _, refused in one.give_up(now):
                assert now - open_.pop(refused.request)[0] >= 400
        assert len(one) == len(open_)
        remembered, one._due = one.deadline(), None
        assert one.deadline() == remembered, "a change has not moved the deadline"
