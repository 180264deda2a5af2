from __future__ import annotations

import pytest

from sim.bench import check as bench


def test_a_made_history_is_the_same_for_the_same_seed_and_passes() -> None:
    one, two = bench.make_history(3_000, 4), bench.make_history(3_000, 4)
    assert one.entries == two.entries
    assert one.operations == two.operations
    assert bench.make_history(3_000, 5).operations != one.operations
    findings = bench.check_by_index(one)
    assert all(finding.passed for finding in findings)
    counted = {finding.name: finding.counted for finding in findings}
    assert counted["real_time_order"] >= 3_000
    assert counted["results_match"] > 1_000
    assert counted["answers_match"] > 1_000


def test_the_benchmark_reports_what_was_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SHAPES", [bench.SHAPES[0], bench.SHAPES[-1]])
    result = bench.run(10_000, 1, 5.0)
    assert bench.failures(result) == []
    assert {row["corruption"] for row in result["by_index"]["corruptions"]} == {
        corrupt.__name__ for corrupt in bench.CORRUPTIONS
    }
    assert {row["verdict"] for row in result["general"]} >= {"linearizable", "not linearizable"}
    result["by_index"]["corruptions"][0]["found"] = False
    result["agreement"]["agree"] = False
    assert len(bench.failures(result)) == 2
