"""Drills over a log whose members may lie, on virtual time: judged as on real processes, liars found, by a seed alone."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consensus.bft import core as cores
from node.io.client_types import QueryResult, Settings
from node.protocol import Answer, Consistency, Outcome, Query
from sim import scenario
from sim.byzantine.client_lies import STRATEGIES
from sim.byzantine.strategy import Strategy
from sim.check.verdict import FAILED, PASSED, VOID, exit_code, sentence
from sim.oracles.oracle import Oracle
from sim.virtual import drill, drill_faults, subjects, world
from sim.virtual.drill_agreed import AgreedQueries
from sim.virtual.drill_client import DrillClient
from sim.virtual.plan import dumps, loads
from sim.virtual.streams import Streams
from sim.virtual.timeline import Timeline
from sim.workload.synthetic import synthetic

ROOT = Path(__file__).parents[3]

WORDS = ("one_word_a_round", "words_signed", "words_on_disk", "blame_on_liars")
"""What only a committee is judged by."""


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the page that tells everything, which takes longer than the run."""
    monkeypatch.setattr(drill, "SHORT_S", 0.0)


def made(folder: Path, text: str, seconds: float = 3, **cluster: int) -> scenario.Scenario:
    shape = {"nodes": 4, "domains": 4, **cluster}
    lines = "\n".join(f"{name} = {value}" for name, value in shape.items())
    head = f"""
seconds = {seconds}
[cluster]
protocol = "bft"
{lines}
timing = {{ round_ms = 100, idle_ms = 50 }}
[workload]
machine = "kv"
per_s = 150
"""
    path = folder / "made.toml"
    path.write_text(head + text, encoding="utf-8")
    return scenario.load(str(path))


def run(plan: scenario.Scenario, folder: Path, seed: int = 1, **how: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return drill.run(plan, seed, folder, **how)


def check(verdict: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [item for item in verdict["checks"] if item["name"] == name]
    return dict(found)


def explained(verdict: dict[str, Any]) -> list[str]:
    bad = [f"{item['name']}: {item['detail']}" for item in verdict["checks"] if not item["passed"]]
    return [*bad, *verdict["void_reasons"]]


def cut(at_s: float, domain: str, dark_s: float = 0.5, **more: str) -> str:
    lines = "".join(f"{name} = {value}\n" for name, value in more.items())
    return f'[[cuts]]\nat_s = {at_s}\ndark_s = {dark_s}\ndomain = "{domain}"\n{lines}'


def lying(node: str, strategy: str) -> str:
    return f'[[liars]]\nnode = "{node}"\nstrategy = "{strategy}"\n'


REQUIRE = "[require]\nmin_writes_per_s = 5\nmax_outage_ms = 2500\n"


def test_a_committee_that_goes_dark_node_by_node_and_all_at_once_loses_nothing(
    tmp_path: Path, untold: None
) -> None:
    cuts = cut(0.5, "leader", trap="true") + cut(1.5, "untouched") + cut(2.5, "all", trap="true")
    # While all are dark nobody answers.
    plan = made(tmp_path, cuts + REQUIRE + "rank_requests_may_fail = 50\n")
    verdict = run(plan, tmp_path / "run")
    assert exit_code(verdict) == PASSED, explained(verdict)
    assert verdict["protocol"] == "bft"
    assert verdict["liars"] == []
    first, second, third = verdict["cuts"]
    assert first["leader_domain"]
    assert first["between_write_and_fsync"]
    assert second["domain"] != first["domain"]
    assert (third["domain"], third["nodes"]) == ("all", ["n1", "n2", "n3", "n4"])
    assert third["leader_domain"]
    assert third["unsynced_bytes_dropped"] > 0
    # Whoever is dark alone is hardly missed; of all of them nobody acknowledges anything.
    assert verdict["write_outage_ms"][1] < 450 < 500 <= verdict["write_outage_ms"][2]
    for name in WORDS[:3]:
        assert check(verdict, name)["counted"] > 100, name
    assert check(verdict, "digests_equal")["counted"] == 4
    assert check(verdict, "oracles_silent")["counted"] > 10


@pytest.fixture(scope="module")
def equivocated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The verdict on a run in which n2 says two things at once, and its folder."""
    base = tmp_path_factory.mktemp("liar")
    return run(made(base, lying("n2", "equivocate")), base / "run", command="again"), base


def test_a_liar_is_found_out_named_and_counted_and_its_own_disk_is_nobodys_business(
    equivocated: tuple[dict[str, Any], Path],
) -> None:
    verdict, base = equivocated
    assert exit_code(verdict) == PASSED, explained(verdict)
    (liar,) = verdict["liars"]
    assert (liar["node"], liar["strategy"]) == ("n2", "equivocate")
    assert liar["lies"]["Vote"] + liar["lies"]["Proposal"] > 20
    told = json.loads((base / "run" / "cluster" / "nodes" / "n2" / "lies.json").read_text(encoding="utf-8"))
    assert told == {"strategy": "equivocate", "seed": 1, "lies": liar["lies"]}
    assert sorted(liar["evidence"]) == ["n1", "n3", "n4"]
    assert any(liar["evidence"].values())
    assert {piece["node"] for held in liar["evidence"].values() for piece in held} == {"n2"}
    assert check(verdict, "blame_on_liars")["counted"] > 0
    assert check(verdict, "digests_equal")["counted"] == 3
    assert sentence(verdict).startswith(f"Although n2 lied {sum(liar['lies'].values()):,} times")
    assert "byzantine" in (base / "run" / drill.LANES).read_text(encoding="utf-8")


def test_a_seed_decides_a_liars_words_and_what_is_said_of_them_in_a_fresh_process_too(
    equivocated: tuple[dict[str, Any], Path],
) -> None:
    _, base = equivocated
    (base / "fresh").mkdir()
    script = (
        "import sys; from pathlib import Path; from sim import scenario; from sim.virtual import drill\n"
        "drill.SHORT_S = 0.0\n"
        "drill.run(scenario.load(sys.argv[1]), 1, Path(sys.argv[2]), 'again')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", script, str(base / "made.toml"), str(base / "fresh")]
    subprocess.run(arguments, env=environment, check=True, timeout=60)
    for name in ("history.jsonl", "metrics.jsonl", "verdict.json"):
        assert (base / "run" / name).read_bytes() == (base / "fresh" / name).read_bytes(), name


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "equivocate"])
def test_whatever_a_liar_does_the_drill_is_won(strategy: str, tmp_path: Path, untold: None) -> None:
    verdict = run(made(tmp_path, lying("n3", strategy), seconds=1.5), tmp_path / "run")
    assert exit_code(verdict) == PASSED, explained(verdict)
    assert sum(verdict["liars"][0]["lies"].values()) > 0


def test_a_liar_that_never_lied_makes_the_run_void(
    tmp_path: Path, untold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STRATEGIES, "forge", Strategy)  # as honest as they come
    verdict = run(made(tmp_path, lying("n2", "forge"), seconds=1), tmp_path / "run")
    assert exit_code(verdict) == VOID
    assert verdict["void_reasons"] == [
        "n2 was to lie (forge) and said nothing that an honest node would not have said"
    ]


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody watches from within."""
    monkeypatch.setattr(world, "STANDARD", ())
    monkeypatch.setattr(world, "CommittedLog", Oracle)
    unwatched = dataclasses.replace(subjects.protocol("bft"), oracles=())
    monkeypatch.setattr(subjects, "protocol", lambda spec: unwatched)


@pytest.mark.parametrize("watched", [True, False])
def test_votes_that_left_before_they_were_durable_are_caught_by_the_oracles_and_without_them_by_the_journals(
    watched: bool, tmp_path: Path, untold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = cores.BftCore._after

    def early(self: Any, now: int, out: Any) -> Any:
        found = after(self, now, out)
        out.now += out.wait
        out.wait.clear()
        return found

    monkeypatch.setattr(cores.BftCore, "_after", early)
    if not watched:
        blind(monkeypatch)
    cuts = "".join(cut(0.5 + 0.7 * turn, "ABCD"[turn], 0.3, trap="true") for turn in range(4))
    verdict = run(made(tmp_path, cuts + REQUIRE), tmp_path / "run")
    assert exit_code(verdict) == FAILED
    found = check(verdict, "oracles_silent" if watched else "words_on_disk")
    assert not found["passed"]
    assert ("its disk knows" if watched else "that its journal does not have") in found["detail"]


def test_words_of_another_epoch_are_no_words_of_this_committee(
    tmp_path: Path, untold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drill, "EPOCH", 2)
    verdict = run(made(tmp_path, lying("n2", "equivocate"), seconds=1), tmp_path / "run")
    assert [item["name"] for item in verdict["checks"] if not item["passed"]] == [
        "words_signed",
        "blame_on_liars",
    ]


FAULTS = """
[[faults]]
at_s = 0.5
for_s = 1.6
kind = "partition"
shape = "leader"

[[faults]]
at_s = 2.5
for_s = 1.6
kind = "kill"
node = "n3"

[require]
max_progress_ms = 1500
"""


@pytest.mark.parametrize("liar", ["", lying("n4", "hasty")], ids=["all honest", "one lies"])
def test_progress_is_demanded_where_a_quorum_of_honest_members_is_left_and_only_there(
    liar: str, tmp_path: Path, untold: None
) -> None:
    verdict = run(made(tmp_path, liar + FAULTS), tmp_path / "run")
    assert exit_code(verdict) == PASSED, explained(verdict)
    assert [fault["progress"] for fault in verdict["faults"]] == [not liar, not liar]
    assert check(verdict, "progress_during_faults")["counted"] == (0 if liar else 2)
    assert check(verdict, "progress_after_heals")["counted"] > 0
    assert verdict["faults"][0]["counts"]["dropped_messages"] > 50


def test_a_client_hangs_up_on_a_node_that_talks_nonsense(tmp_path: Path) -> None:
    plan = drill.plan_of(made(tmp_path, ""), 1, {"n1": "A", "n2": "B", "n3": "C", "n4": "D"})
    here = drill.DrillWorld(plan, {"n1": "A", "n2": "B", "n3": "C", "n4": "D"}, None)
    (client, *_) = cast("list[DrillClient]", here.clients)
    here.begin()
    client.begin(b"", 9.0, lambda pending: None)
    assert here.timeline.run_until(1_000_000, lambda: client.ready and client.writes.session is not None)
    link = client.links["n2"]
    channel = link.channel
    assert channel is not None
    # Two numbers and no result.
    client.hear((channel.connection, Outcome(client.writes.session or 0, 1, bytes(32), [1, 2], [0, 1], [])))
    assert link.channel is None
    assert here.timeline.run_until(1_500_000, lambda: link.channel is not None)
    assert link.channel is not channel


def test_a_committee_that_stands_more_that_stop_and_fewer_that_lie_is_the_one_asked_for(
    tmp_path: Path, untold: None
) -> None:
    # Of five, two may stop if none of them lies: three are a quorum. By the usual counts four would be.
    gone = cut(1, "A", dark_s=1.5) + cut(1.2, "B", dark_s=1.2, after_recovery="false")
    plan = made(
        tmp_path,
        gone + REQUIRE + "min_cuts = 2\nleader_cut = false\n" + LAX,
        nodes=5,
        domains=5,
        stop=2,
        lie=0,
    )
    verdict = run(plan, tmp_path / "run")
    assert exit_code(verdict) == PASSED, explained(verdict)
    assert max(verdict["write_outage_ms"]) < 1000
    asked = drill.plan_of(plan, 1, {f"n{number}": "east" for number in range(1, 6)})
    assert asked.committee == (2, 0)
    assert loads(dumps(asked)) == asked


LAX = "cut_between_write_and_fsync = false\nunsynced_bytes = false\n"


def test_a_cut_of_the_leader_passes_over_liars_and_is_not_made_if_only_they_lead(
    tmp_path: Path, untold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (
        lying("n2", "equivocate") + cut(0.5, "leader") + cut(1.5, "leader") + REQUIRE + "min_cuts = 2\n" + LAX
    )
    plan = made(tmp_path, text)
    for seed in (1, 2):
        verdict = run(plan, tmp_path / f"run-{seed}", seed)
        assert exit_code(verdict) == PASSED, explained(verdict)
        assert all(item["leader_domain"] for item in verdict["cuts"])
        assert "B" not in {item["domain"] for item in verdict["cuts"]}
    monkeypatch.setattr(drill_faults, "HONEST_LEADERS", 1)
    monkeypatch.setattr(drill.DrillWorld, "leader", lambda self: "n2")
    verdict = run(plan, tmp_path / "never")
    assert exit_code(verdict) == FAILED
    assert "nobody but liars has led of late" in check(verdict, "no_surprise")["detail"]


RANKING = """
evaluate_last = 200
seconds = 3

[cluster]
protocol = "bft"
nodes = 4
domains = 4
timing = { round_ms = 100, idle_ms = 50 }

[[liars]]
node = "n4"
strategy = "lies to clients"

[[cuts]]
at_s = 1.5
dark_s = 0.8
domain = "untouched"

[require]
min_cuts = 1
leader_cut = false
cut_between_write_and_fsync = false
unsynced_bytes = false
"""


def test_a_ranking_machine_learns_and_serves_although_one_node_lies_to_clients(
    tmp_path: Path, untold: None
) -> None:
    path = tmp_path / "made.toml"
    path.write_text(RANKING, encoding="utf-8")
    stream = synthetic(users=60, items=300, events=2_700, seed=3)
    verdict = run(scenario.load(str(path)), tmp_path / "run", stream=stream)
    assert exit_code(verdict) == PASSED, explained(verdict)
    assert verdict["acked_updates"] > 500
    assert verdict["rank_requests"] > 50
    assert verdict["rank_requests_failed"] == 0
    assert "D" not in {item["domain"] for item in verdict["cuts"]}


# ------------------------------------------------------------------------------------------------- agreed queries


class Wire:
    """A channel, its link, and what was said on it."""

    def __init__(self, node: str) -> None:
        self.node = self.domain = node
        self.link: Any = self
        self.channel = self
        self.queries: list[Query] = []

    def suspect(self, now: float) -> bool:
        return False

    def put(self, message: Query) -> bool:
        self.queries.append(message)
        return True


def asking(**how: Any) -> SimpleNamespace:
    """A client that believes what two of four nodes say, and has asked something."""
    timeline = Timeline()
    links: dict[str, Any] = {name: Wire(name) for name in ("n1", "n2", "n3", "n4")}
    numbers = iter(range(1, 1000))
    desk = AgreedQueries(2, timeline, links, numbers.__next__, Settings(), Streams(1).of("x"))
    heard: list[tuple[QueryResult | None, str]] = []
    how = {"max_age": 0, "patience": 500_000, "hedge": 50_000, "fallback_after": None, **how}
    level = how.pop("level", Consistency.ANY)
    desk.ask(b"q", level, lambda answer, why: heard.append((answer, why)), **how)
    return SimpleNamespace(timeline=timeline, links=links, desk=desk, heard=heard)


def say(at: SimpleNamespace, node: str, result: bytes, request: int | None = None, index: int = 7) -> None:
    wire = at.links[node]
    number = wire.queries[-1].request if request is None else request
    at.desk.on_answer(wire, Answer(number, index, bytes(32), 10, "fresh", result))


def asked(at: SimpleNamespace) -> list[str]:
    return [name for name, wire in at.links.items() for _ in wire.queries]


def test_a_query_goes_to_as_many_as_must_agree_and_an_answer_that_differs_sends_it_to_one_more() -> None:
    at = asking()
    one, other = asked(at)
    say(at, one, b"lie")
    assert asked(at) == [one, other]  # they may agree yet
    say(at, other, b"true")
    (third,) = [name for name in asked(at) if name not in (one, other)]
    assert at.heard == []
    say(at, third, b"true")
    ((answer, _),) = at.heard
    assert (answer.result, answer.index, answer.node) == (b"true", 7, other)
    assert at.desk.open == 0


def test_a_node_answers_for_itself_alone_whatever_number_it_guesses() -> None:
    at = asking()
    one, other = asked(at)
    for request in range(1, 9):
        say(at, one, b"lie", request)
    assert at.heard == []
    say(at, other, b"true")
    assert at.heard == []


def test_nobody_who_agrees_in_time_means_no_answer_and_every_nodes_last_word() -> None:
    at = asking(patience=100_000)
    at.timeline.run(200_000)
    ((answer, why),) = at.heard
    assert answer is None
    assert why.startswith("no answer in time (")
    assert sorted(set(asked(at))) == ["n1", "n2", "n3", "n4"]  # the late ones cost the others nothing
