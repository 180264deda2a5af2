"""Scenarios: the shipped ones load, and a mistake in one is named with its place and its cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import scenario
from sim.scenario import ScenarioError


@pytest.mark.parametrize("name", scenario.names())
def test_every_shipped_scenario_loads_and_cuts_something(name: str) -> None:
    plan = scenario.load(name)
    assert plan.name == name
    assert plan.cuts
    assert plan.require.min_cuts <= len(plan.cuts)


def test_the_default_cuts_every_domain_and_holds_quality_against_the_reference() -> None:
    plan = scenario.load("default")
    assert plan.compare_with_reference
    assert plan.writes.per_s >= 200
    assert {cut.domain for cut in plan.cuts} == {"leader", "untouched"}
    assert sum(cut.trap for cut in plan.cuts) >= 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[writes]\nbach = 4", "unknown key 'bach'; did you mean 'batch'"),
        ("[writes]\nper_s = -1", "per_s must be a number from 0 on"),
        ("[writes]\nper_s = nan", "per_s must be a number from 0 on"),
        ("[writes]\nbatch = 1.5", "batch must be of type int"),
        ("[writes]\nbatch = true", "batch must be of type int"),
        ("[[cuts]]\nat_s = 1", "missing dark_s, domain"),
        ('[[cuts]]\nat_s = 2\ndark_s = 1\ndomain = "A"\n[[cuts]]\nat_s = 1\ndark_s = 1\ndomain = "B"', "in the order of at_s"),
        ("[rank]\nany = 0.9", "must make 1"),
        ("cuts = 3", "cuts must be tables"),
        ("cluster = 3", "[cluster] must be a table"),
        ("a = [", "not TOML"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        scenario.load(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(ScenarioError, match="did you mean 'quick'"):
        scenario.load("quikc")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read"):
        scenario.load(str(tmp_path / "none.toml"))
