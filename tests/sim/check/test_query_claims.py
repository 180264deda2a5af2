from __future__ import annotations

from sim.check.claims import check_ages_true, check_bounded, check_sessions, check_tiers
from sim.check.history import Operation


def write(end: int, index: int) -> Operation:
    return Operation(
        "write", "c", end - 5, end, "ok", session=1, seq=index, index=index, place=0, command=b"", result=b""
    )


def ask(invoke: int, index: int, age: int | None, consistency: str = "any", tier: str = "fresh") -> Operation:
    return Operation(
        "query",
        "q",
        invoke,
        invoke + 10,
        "ok",
        index=index,
        age_us=age,
        consistency=consistency,
        max_age_us=100 if consistency == "bounded" else None,
        tier=tier,
        source="model",
        query=b"",
        result=b"",
    )


def test_an_honest_run_keeps_its_claims(made) -> None:
    for finding in (
        check_bounded(made.operations),
        check_ages_true(made.operations),
        check_tiers(made.operations, 1000),
        check_sessions(made.operations),
    ):
        assert finding.passed, finding
        assert finding.counted


def test_a_bounded_answer_older_than_asked_for_or_without_age_is_caught() -> None:
    assert check_bounded([ask(0, 1, 100, "bounded")]).passed
    assert check_bounded([ask(0, 1, 101, "bounded")]).problems == 1
    assert check_bounded([ask(0, 1, None, "bounded")]).problems == 1
    assert check_bounded([ask(0, 1, 101)]).counted == 0


def test_an_answer_that_lacks_a_write_older_than_its_age_is_caught() -> None:
    writes = [write(1000, 5), write(2000, 6)]
    finding = check_ages_true([*writes, ask(3000, 5, 999)])
    assert finding.problems == 1
    assert "lacks write 1:6" in finding.examples[0]
    assert "acknowledged 1000 us before" in finding.examples[0]


def test_an_answer_may_lack_what_is_younger_than_its_age_and_no_more() -> None:
    writes = [write(1000, 5), write(2000, 6)]
    assert check_ages_true([*writes, ask(3000, 5, 1000)]).passed
    assert check_ages_true([*writes, ask(3000, 6, 0)]).passed
    assert check_ages_true([*writes, ask(3000, 4, 2000)]).passed
    assert not check_ages_true([*writes, ask(3000, 4, 1999)]).passed
    assert check_ages_true([*writes, ask(3000, 5, 999)], slack_us=1).passed


def test_an_answer_without_age_claims_nothing() -> None:
    assert check_ages_true([write(1000, 5), ask(9000, 1, None)]).counted == 0


def test_a_tier_that_its_age_does_not_bear_out_is_caught() -> None:
    assert check_tiers([ask(0, 1, 500)], 500).passed
    assert not check_tiers([ask(0, 1, 501)], 500).passed
    assert not check_tiers([ask(0, 1, None)], 500).passed
    assert check_tiers([ask(0, 1, None, tier="stale")], 500).passed
    assert not check_tiers([ask(0, 1, 3, tier="stale")], 500).passed


def test_a_session_given_twice_is_caught(made) -> None:
    opens = [o for o in made.operations if o.op == "open"]
    opens[1].session = opens[0].session
    finding = check_sessions(made.operations)
    assert "one session was given twice" in finding.examples[0]


def test_a_session_used_by_two_clients_is_caught_with_or_without_its_opening(made) -> None:
    next(o for o in made.operations if o.op == "write").client = "eve"
    assert check_sessions(made.operations).problems == 1
    unopened = [o for o in made.operations if o.op != "open"]
    finding = check_sessions(unopened)
    assert not finding.passed
    assert finding.counted == 10


def test_a_write_before_the_opening_of_its_session_is_caught(made) -> None:
    next(o for o in made.operations if o.op == "open").index = 50
    assert not check_sessions(made.operations).passed
