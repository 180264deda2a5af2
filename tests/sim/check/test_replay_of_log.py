from __future__ import annotations

from node.sessions import commands_group
from sim.check.replay import Replay, lost_on_replica, replay_history


def replay(made) -> Replay:
    return replay_history(made.entries, made.fresh_state(), made.operations)


def problems(made) -> dict[str, int]:
    return {finding.name: finding.problems for finding in replay(made).findings if finding.problems}


def acked(made):
    return [o for o in made.operations if o.op == "write" and o.outcome == "ok"]


def test_an_honest_run_has_no_problem_and_loses_nothing(made) -> None:
    result = replay(made)
    assert problems(made) == {}
    assert (result.acked_updates, result.acked_updates_lost) == (10, 0)
    assert result.last_index == len(made.entries)
    assert len(result.positions) == 11  # the write of unknown outcome took effect


def test_an_acknowledged_write_that_the_log_lacks_is_lost(made) -> None:
    ghost = acked(made)[-1]
    ghost.seq = 77
    result = replay(made)
    assert result.acked_updates_lost == 1
    assert "is not in the log" in result.findings[0].examples[0]


def test_a_write_acknowledged_at_another_place_than_its_own_is_lost(made) -> None:
    acked(made)[0].place = 1
    assert replay(made).acked_updates_lost == 1
    assert problems(made) == {"writes_in_log": 1}


def test_another_command_under_the_same_number_is_caught(made) -> None:
    acked(made)[0].command = b"something else"
    assert problems(made) == {"writes_in_log": 1}


def test_a_result_that_the_log_does_not_give_is_caught(made) -> None:
    acked(made)[3].result = b"99"
    assert problems(made) == {"results_match": 1}


def test_a_command_that_takes_effect_twice_is_caught_and_counts_as_lost(made) -> None:
    class Forgetful:
        """A state whose sessions once forget what they have done."""

        def __init__(self, inner) -> None:
            self.inner = inner
            self.seen = []

        chain = property(lambda self: self.inner.chain)
        query = property(lambda self: self.inner.query)
        digest = property(lambda self: self.inner.digest)

        def apply(self, entry):
            effects = self.inner.apply(entry)
            self.seen += effects
            return [*effects, self.seen[0]] if len(self.seen) == 4 else effects

    result = replay_history(made.entries, Forgetful(made.fresh_state()), made.operations)
    names = {finding.name: finding for finding in result.findings}
    assert "took effect 2 times" in names["exactly_once"].examples[0]
    assert result.acked_updates_lost == 1


def test_a_repeated_command_that_sessions_answer_from_memory_is_no_second_effect(made) -> None:
    first = acked(made)[0]
    made.entry([commands_group(first.session, 0, [1, 2], [b"ada-1", b"ada-2"])])
    assert made.effects == []
    assert problems(made) == {}


def test_a_refused_write_that_took_effect_is_caught(made) -> None:
    unknown = next(o for o in made.operations if o.outcome == "unknown")
    unknown.outcome, unknown.returned = "refused", made.now
    assert problems(made) == {"refused_stay_out": 1}


def test_one_changed_byte_in_an_answer_is_caught_at_any_consistency(made) -> None:
    for query in [o for o in made.operations if o.op == "query"]:
        honest = query.result
        query.result = honest[:-1] + b"!"
        assert problems(made) == {"answers_match": 1}, query.consistency
        query.result = honest


def test_an_answer_given_at_another_index_than_it_claims_is_caught(made) -> None:
    query = next(o for o in made.operations if o.consistency == "any")
    query.index -= 1
    assert problems(made) == {"answers_match": 1, "chain_values_match": 1}


def test_a_chain_value_that_is_not_the_logs_is_caught(made) -> None:
    acked(made)[0].chain = bytes(31) + b"x"
    assert problems(made) == {"chain_values_match": 1}


def test_claims_behind_the_end_of_the_log_are_caught(made) -> None:
    made.operations[-1].index = 1000
    found = problems(made)
    assert found == {"answers_match": 1, "chain_values_match": 1}


def test_digests_are_taken_where_they_are_asked_for(made) -> None:
    result = replay_history(made.entries, made.fresh_state(), [], digests_at=[4, 6, 999])
    assert sorted(result.digests) == [4, 6]
    assert result.digests[4] != result.digests[6]


def test_a_replica_that_is_behind_lacks_what_was_acknowledged_later(made) -> None:
    assert lost_on_replica(made.operations, len(made.entries)) == 0
    assert lost_on_replica(made.operations, acked(made)[-1].index - 1) == 1
