"""What commands do to the ranking machine and what it answers."""

from __future__ import annotations

import pytest

from node.machine import QueryError
from node.ranking import RankingMachine, RankingSettings, commands, queries
from node.ranking.commands import Status, decode_result
from node.ranking.queries import Ranking, decode_ranking, decode_stats

SMALL = RankingSettings(
    factors=4, negatives=4, history=8, window=4, max_users=6, max_items=12, max_versions=2
)


def do(machine: RankingMachine, *batch: bytes) -> list[commands.Result]:
    return [decode_result(result) for result in machine.apply(batch)]


def ask(machine: RankingMachine, *args: object, **options: object) -> Ranking:
    return decode_ranking(machine.query(queries.rank(*args, **options)))  # type: ignore[arg-type]


def taught(machine: RankingMachine) -> RankingMachine:
    """Users 1 and 2 like items 10-13, users 3 and 4 items 20-23; nobody crosses over."""
    machine.apply([commands.upsert_items([(item, None, None) for item in (*range(10, 14), *range(20, 24))])])
    for turn in range(150):
        for user, first in ((1, 10), (2, 10), (3, 20), (4, 20)):
            machine.apply([commands.observe([(user, first + turn % 4)])])
    return machine


def test_the_model_learns_what_users_of_the_same_taste_took() -> None:
    machine = taught(
        RankingMachine(RankingSettings(factors=8, negatives=4, window=4, rate=6554, history_rate=6554))
    )
    for user, liked in ((1, {10, 11, 12, 13}), (3, {20, 21, 22, 23})):
        answer = ask(machine, user, 4)
        assert answer.source == "model"
        assert set(answer.items) == liked


def test_with_nothing_observed_the_static_list_answers_and_says_so() -> None:
    machine = RankingMachine(RankingSettings(static=(5, 3)))
    do(machine, commands.upsert_items([(3, None, None), (4, None, None), (5, None, None)]))
    answer = ask(machine, 1, 3)
    assert (answer.source, answer.items) == ("static", [5, 3, 4])


def test_without_a_static_list_the_order_of_the_item_table_answers() -> None:
    machine = RankingMachine(SMALL)
    assert ask(machine, 1, 3) == Ranking("static", "live", [], [])
    do(machine, commands.upsert_items([(9, None, None), (4, None, None), (5, None, None)]))
    assert ask(machine, 1, 2).items == [9, 4]
    assert ask(machine, 1, 3, [5, 4, 77]).items == [4, 5, 77]


def test_a_user_without_history_gets_what_is_popular_with_ties_by_item_id() -> None:
    machine = RankingMachine(SMALL)
    do(machine, commands.observe([(1, 9, 3), (1, 8, 2), (2, 7, 2), (2, 6, 1)]))
    answer = ask(machine, 55, 4)
    assert (answer.source, answer.items, answer.scores) == ("popularity", [9, 7, 8, 6], [3, 2, 2, 1])
    assert ask(machine, 55, 9, [100, 6, 8]).items == [8, 6, 100]
    with pytest.raises(QueryError, match="user 55 is unknown"):
        ask(machine, 55, 4, strict=True)


def test_seen_items_can_be_left_out() -> None:
    machine = RankingMachine(SMALL)
    do(machine, commands.observe([(1, 2), (1, 3), (2, 4), (2, 5)]))
    assert sorted(ask(machine, 1, 9).items) == [2, 3, 4, 5]
    assert sorted(ask(machine, 1, 9, exclude_seen=True).items) == [4, 5]
    assert ask(machine, 1, 9, [3, 4], exclude_seen=True).items == [4]


def test_a_candidate_that_the_model_does_not_know_comes_last() -> None:
    machine = RankingMachine(SMALL)
    do(machine, commands.observe([(1, 2), (1, 3)]))
    answer = ask(machine, 1, 9, [999, 3, 998, 2])
    assert answer.items[2:] == [998, 999]
    assert answer.scores[2:] == [-(1 << 62)] * 2


def test_ranking_candidates_gives_the_scores_of_ranking_everything() -> None:
    machine = taught(RankingMachine(SMALL))
    everything = ask(machine, 1, 100)
    assert ask(machine, 1, 100, sorted(everything.items)) == everything
    assert everything.scores == sorted(everything.scores, reverse=True)
    best = ask(machine, 1, 3)
    assert (best.items, best.scores) == (everything.items[:3], everything.scores[:3])


def test_publish_and_rollback_move_the_serving_pointer_and_old_versions_do_not_change() -> None:
    machine = taught(RankingMachine(SMALL))
    assert [r.fields for r in do(machine, commands.publish("a", "live"))] == [("a", None)]
    published = ask(machine, 1, 12)
    assert published.version == "a"
    do(machine, *[commands.observe([(1, 20), (1, 21)])] * 20)
    assert ask(machine, 1, 12, version="live").scores != published.scores
    # The history is the live one, the parameters are the version's.
    do(machine, *[commands.observe([(1, 10 + turn % 4)]) for turn in range(146, 150)])
    assert ask(machine, 1, 12) == published
    do(machine, commands.rollback("live"))
    assert ask(machine, 1, 1).version == "live"
    assert ask(machine, 1, 12, version="a") == published


def test_publish_and_rollback_compare_before_they_set() -> None:
    machine = RankingMachine(SMALL)
    statuses = [
        r.status
        for r in do(
            machine,
            commands.publish("a", "b"),
            commands.publish("a", "live"),
            commands.publish("a", "a"),
            commands.rollback("live", "live"),
            commands.rollback("x", "a"),
            commands.rollback("live", "a"),
        )
    ]
    assert statuses == [
        Status.CONFLICT, Status.OK, Status.EXISTS, Status.CONFLICT, Status.UNKNOWN, Status.OK,
    ]  # fmt: skip
    assert do(machine, commands.rollback("a", "zz"))[0].text.startswith("version 'live' is serving, not 'zz'")


def test_the_oldest_version_that_does_not_serve_is_dropped() -> None:
    machine = RankingMachine(SMALL)
    do(machine, commands.publish("a"), commands.publish("b"), commands.rollback("a"))
    assert do(machine, commands.publish("c"))[0].fields == ("c", "b")
    stats = decode_stats(machine.query(queries.stats()))
    assert (stats["versions"], stats["serving"]) == (["a", "c"], "c")


def test_a_version_ranks_items_that_came_after_it_last() -> None:
    machine = RankingMachine(SMALL)
    do(machine, commands.observe([(1, 2), (1, 3)]), commands.publish("a"), commands.observe([(2, 1), (1, 1)]))
    for user in (1, 2):
        answer = ask(machine, user, 9)
        assert answer.source == "model"
        assert answer.items[-1] == 1
        assert answer.scores[-1] == -(1 << 62)


def test_frozen_observations_are_remembered_and_counted_but_not_learned() -> None:
    machine = taught(RankingMachine(SMALL))
    before = ask(machine, 1, 12)
    assert do(machine, commands.freeze(), commands.freeze())[1].fields == (0,)
    for turn in range(146, 150):
        assert do(machine, commands.observe([(1, 10 + turn % 4), (5, 10)]))[0].fields[:3] == (2, 0, 1)
    assert ask(machine, 1, 12) == before
    assert ask(machine, 5, 12).source == "model"
    assert decode_stats(machine.query(queries.stats()))["learned"] == 600
    do(machine, commands.unfreeze(), commands.observe([(1, 10)]))
    assert ask(machine, 1, 12) != before


def test_a_delta_adds_to_rows_saturates_and_is_all_or_nothing() -> None:
    machine = RankingMachine(SMALL)
    do(machine, commands.observe([(1, 2), (1, 3)]))
    low, high = (ask(machine, 1, 2, [item]).scores[0] for item in (2, 3))
    assert do(machine, commands.delta("bias", [2, 3], [[1000], [-5]]))[0].fields == (2,)
    assert ask(machine, 1, 2, [2]).scores[0] == low + (1000 << 16)
    assert ask(machine, 1, 2, [3]).scores[0] == high - (5 << 16)
    digest = machine.digest()
    result = do(machine, commands.delta("item", [2, 99], [[1] * 4] * 2))[0]
    assert (result.status, result.text) == (Status.UNKNOWN, "row 1: there is no item 99; nothing was changed")
    assert machine.digest() == digest
    for _ in range(3):
        do(machine, commands.delta("bias", [2, 2], [[(1 << 31) - 1], [(1 << 31) - 1]]))
    assert ask(machine, 1, 1, [2]).scores[0] <= ((1 << 24) << 16) + (1 << 50)
    assert machine.digest() != digest


def test_upsert_sets_bias_and_title_and_leaves_what_is_not_given() -> None:
    machine = RankingMachine(SMALL)
    assert do(machine, commands.upsert_item(7, 500, "Seven"))[0].fields == (1,)
    assert do(machine, commands.upsert_item(7))[0].fields == (0,)
    assert machine.title(7) == "Seven"
    digest = machine.digest()
    do(machine, commands.upsert_item(7, None, "Se7en"))
    assert machine.title(7) == "Se7en"
    assert machine.digest() != digest
    assert machine.title(8) is None


def test_bounds_on_users_and_items_refuse_the_whole_command() -> None:
    machine = RankingMachine(SMALL)
    do(machine, commands.observe([(user, user) for user in range(5)]))
    digest = machine.digest()
    result = do(machine, commands.observe([(0, 0), (90, 0), (91, 0)]))[0]
    assert result.status == Status.FULL
    assert result.text == "2 new users do not fit: 5 of at most 6 exist; nothing was changed"
    assert (
        do(machine, commands.upsert_items([(i, None, None) for i in range(100, 108)]))[0].status
        == Status.FULL
    )
    assert do(machine, commands.observe([(0, i) for i in range(100, 108)]))[0].status == Status.FULL
    assert machine.digest() == digest
    assert do(machine, commands.observe([(90, 0), (90, 0)]))[0].ok
