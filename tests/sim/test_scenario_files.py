"""Scenarios: the shipped ones load, and a mistake in one is named with its place and its cure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from sim import scenario
from sim.scenario import ScenarioError

BRIDGE = 'kind = "partition"\nshape = "bridge"'


BFT = '[cluster]\nprotocol = "bft"\nnodes = 4\ndomains = 4\n'
LIAR = '[[liars]]\nnode = "n2"\nstrategy = "equivocate"\n'


def fault(keys: str, at_s: float = 1, for_s: float = 4) -> str:
    return f"[[faults]]\nat_s = {at_s}\nfor_s = {for_s}\n{keys}\n"


def cut(domain: str, at_s: float = 1, dark_s: float = 2) -> str:
    return f'[[cuts]]\nat_s = {at_s}\ndark_s = {dark_s}\ndomain = "{domain}"\n'


@pytest.mark.parametrize("name", scenario.names())
def test_every_shipped_scenario_loads_and_breaks_something(name: str) -> None:
    plan = scenario.load(name)
    assert plan.name == name
    assert plan.cuts or plan.faults or plan.liars
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
        ("[writes]\nper_s = -1", "per_s must be from 0.1 to 10000"),
        ("[writes]\nper_s = nan", "per_s must be from 0.1 to 10000"),
        ("[writes]\nbatch = 1.5", "batch must be of type int"),
        ("[writes]\nbatch = true", "batch must be of type int"),
        ("[[cuts]]\nat_s = 1", "missing dark_s, domain"),
        ('[[cuts]]\nat_s = 2\ndark_s = 1\ndomain = "A"\n[[cuts]]\nat_s = 1\ndark_s = 1\ndomain = "B"', "in the order of at_s"),
        ("[rank]\nany = 0.9", "must make 1"),
        ("cuts = 3", "cuts must be tables"),
        ("faults = 3", "faults must be tables"),
        ('[workload]\nmachine = "kvs"', "machine must be one of ranking, kv, not 'kvs'"),
        ('[workload]\nmachine = "kv"', "a key-value load has no end of its own"),
        ('[workload]\nany = 0.9', "[workload] any + bounded + linearizable must make 1"),
        ('[workload]\nread = 1.5', "read must be from 0 to 1"),
        ('[workload]\nmachine = "kv"\nkeys = 0', "keys must be from 1 to 10000, not 0"),
        ("[[faults]]\nat_s = 1", "missing for_s, kind"),
        (fault('kind = "partiton"'), "number 1: unknown kind 'partiton'; did you mean 'partition'?"),
        (fault('kind = "partition"'), "a partition needs a shape (one, leader, "),
        (fault('kind = "partition"\nshape = "brigde"'), "no partition shape 'brigde'; did you mean 'bridge'?"),
        (fault('kind = "partition"\nshape = "bridge:up"'), "a direction is 'out' or 'in'"),
        (fault('kind = "partition"\nshape = "bridge"\npairs = ["n1>n2"]'), "shape and pairs exclude each other"),
        (fault('kind = "partition"\npairs = ["n1-n2"]'), "'n1-n2' is no direction; write sender>receiver"),
        (fault('kind = "partition"\npairs = ["n1>n6"]'), "two of n1, n2, n3, n4, n5, leader, outside"),
        (fault('kind = "partition"\npairs = ["n1>n1"]'), "is no direction"),
        (fault('kind = "partition"\npairs = [3]'), "pairs must be a list of texts"),
        (fault('kind = "partition"\nshape = "bridge"\ndelay_ms = 3'), "delay_ms goes with delay, not with partition"),
        (fault('kind = "pause"\nshape = "bridge"'), "shape goes with partition, delay, rate, not with pause"),
        (fault('kind = "pause"\nnode = "n9"'), "node must be one of leader, follower, any, n1"),
        (fault('kind = "kill"'), "node must be one of leader"),
        (fault('kind = "delay"'), "a delay needs delay_ms or jitter_ms"),
        (fault('kind = "rate"'), "a rate needs kbytes_per_s"),
        (fault('kind = "pause"\nnode = "any"', for_s=0), "for_s must be from 0.01 to 3600, not 0"),
        (fault('kind = "pause"\nnode = "any"', for_s=2), "for_s must be longer than [require] max_progress_ms"),
        (fault('kind = "pause"\nnode = "n1"', 5) + fault('kind = "pause"\nnode = "n1"', 1), "[[faults]] must stand in the order"),
        (fault(BRIDGE, 1) + fault(BRIDGE, 4), "number 2 begins at 4 s, before number 1 ends at 5 s"),
        (fault('kind = "pause"\nnode = "n1"', 1) + fault('kind = "kill"\nnode = "n2"', 4), "processes must not overlap"),
        ("cluster = 3", "[cluster] must be a table"),
        ('[cluster]\nprotocol = "paxos"', "[cluster] protocol must be one of raft, bft, not 'paxos'"),
        ("[cluster]\nlie = 1", '[cluster] stop and lie go with protocol = "bft"'),
        ('[cluster]\nprotocol = "bft"\nnodes = 4\nstop = 2', "[cluster] 4 members, of which 2 may stop"),
        ('[cluster]\nprotocol = "bft"\nstop = 1.5', "stop must be of type int"),
        ("liars = 3", "liars must be tables"),
        (LIAR, "[[liars]] with the raft protocol nodes are believed"),
        (BFT + LIAR.replace("n2", "n9"), "[[liars]] there is no node 'n9'; there are: n1, n2, n3, n4"),
        (BFT + LIAR.replace("equivocate", "equivocal"), "no strategy 'equivocal'; did you mean 'equivocate'?"),
        (BFT + LIAR + LIAR, "a node lies in one way"),
        (BFT + LIAR + LIAR.replace("n2", "n3"), "this committee stands 1"),
        (BFT + LIAR.replace("strategy", "startegy"), "unknown key 'startegy'; did you mean 'strategy'"),
        ("a = [", "not TOML"),
        ("x = " + "[" * 50_000, "not TOML: nested too deeply"),
        (".".join("a" * 50_000) + " = 1", "not TOML: nested too deeply"),
        ("x = " + "7" * 5_000, "not TOML: a number in it has too many digits"),
        ("evaluate_last = 0x" + "f" * 5_000, "evaluate_last must be from 1 to 100000000, not what stands there"),
        ("x" * 5_000 + " = 1", "unknown key 'xxx"),
        ("[cluster]\nnodes = 0", "[cluster]: nodes must be from 1 to 25, not 0"),
        ("[cluster]\nnodes = 1000", "nodes must be from 1 to 25"),
        ("[cluster]\ndomains = 0", "domains must be from 1 to 25, not 0"),
        ("[cluster]\ndomains = 6", "[cluster] domains must be from 1 to the number of nodes, 5, not 6"),
        ("[cluster]\ntiming = 5", "timing must be a table of whole numbers, not 5"),
        ('[cluster]\ntiming = { election_ms = "x" }', "timing must be a table of whole numbers"),
        ("[cluster]\ntiming = { elction_ms = 200 }", "timing: unknown key 'elction_ms'; did you mean 'election_ms'?"),
        ("[cluster]\ntiming = { election_ms = 0 }", "timing: election_ms must be from 3 to 600000, not 0"),
        ("[cluster]\nstorage = { platter = 1 }", "storage: unknown key 'platter'"),
        ('[cluster]\nprotocol = "bft"\nnodes = 4\nstop = 9', "[cluster] 9 of 4 nodes may stop: none would be left"),
        ("[writes]\nper_s = 0", "per_s must be from 0.1 to 10000, not 0"),
        ("[writes]\nbatch = 0", "batch must be from 1 to 256, not 0"),
        ("[writes]\nbatch = 1000000", "batch must be from 1 to 256"),
        ("[rank]\nk = 0", "k must be from 1 to 1000, not 0"),
        ("[rank]\nper_s = 1e11", "per_s must be from 0 to 10000"),
        ("[workload]\nclients = 100000", "clients must be from 1 to 256"),
        ("seconds = inf", "seconds must be from 0 to 86400, not inf"),
        (fault('kind = "pause"\nnode = "any"', for_s=1e11), "for_s must be from 0.01 to 3600"),
        ("[cluster]\nnodes = 1\ndomains = 1\n" + fault('kind = "pause"\nnode = "follower"'), "one of leader, any, n1, not"),
        (cut("A", dark_s=1e11), "[[cuts]] number 1: dark_s must be from 0.01 to 3600"),
        (cut("A", dark_s=0), "dark_s must be from 0.01 to 3600, not 0"),
        (cut("Z"), "[[cuts]] number 1: domain must be one of leader, untouched, all, A, B, C, not 'Z'"),
        (cut(""), "domain must be one of leader, untouched, all, A, B, C, not ''"),
        (cut("A", 1) + cut("A", 2), "[[cuts]] number 2 of 'A' begins at 2 s, before number 1 of 'A' ends at 3 s"),
        (cut("A", 1) + cut("all", 2), "number 2 of 'all' begins at 2 s, before number 1 of 'A' ends"),
        (cut("all", 1) + cut("leader", 2), "number 2 of 'leader' begins at 2 s, before number 1 of 'all' ends"),
        (r'name = "a\u0000b"', "name must be at most 80 letters"),
        ('name = "../../../tmp/t/evil"', "name must be at most 80 letters"),
        ('name = ".hidden"', "the first of them no dot, not '.hidden'"),
        ('name = ""', "name must be at most 80 letters"),
        (f'name = "{"n" * 300}"', "name must be at most 80 letters"),
        (r'title = "two\nlines"', "title must be one line of at most 200 characters"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        scenario.load(str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 400
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(ScenarioError, match="did you mean 'quick'"):
        scenario.load("quikc")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="cannot be read"):
        scenario.load(str(tmp_path / "none.toml"))


def test_what_is_no_text_or_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary.toml", tmp_path / "large.toml"
    binary.write_bytes(b"title = \xff\xfe")
    large.write_bytes(b"# " + b"x" * (1 << 20))
    for path, words in (
        (binary, "no text in UTF-8"),
        (large, "more than 1,048,576 bytes"),
        (tmp_path / ("n" * 300 + ".toml"), "file name too long"),
        (tmp_path, "not a file"),
        (Path("/dev/zero"), "not a file"),
        (binary / "s.toml", "not a directory"),
    ):
        with pytest.raises(ScenarioError, match=f"cannot be read: {words}"):
            scenario.load(str(path))
    with pytest.raises(ScenarioError, match="no scenario ''"):
        scenario.load("")


def test_a_scenario_without_a_name_is_called_after_its_file_in_letters_that_a_folder_may_have(
    tmp_path: Path,
) -> None:
    path = tmp_path / "..my größtes & best.toml"
    path.write_text(cut("A"), encoding="utf-8")
    assert scenario.load(str(path)).name == "my-gr--tes---best"


def test_cuts_of_different_domains_may_overlap_and_a_domain_may_be_cut_again_when_it_is_lit(
    tmp_path: Path,
) -> None:
    plan = written(tmp_path, cut("A", 1) + cut("B", 2) + cut("A", 3) + cut("leader", 4) + cut("all", 10))
    assert [item.domain for item in plan.cuts] == ["A", "B", "A", "leader", "all"]


def written(tmp_path: Path, text: str) -> scenario.Scenario:
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    return scenario.load(str(path))


def test_faults_of_different_kinds_may_overlap_and_short_ones_may_be_excused(tmp_path: Path) -> None:
    plan = written(
        tmp_path,
        fault('kind = "delay"\ndelay_ms = 5', 1, 10)
        + fault('kind = "partition"\npairs = ["leader>outside", "n2>n1"]', 2, 2)
        + fault('kind = "pause"\nnode = "any"\nprogress = false', 3, 1),
    )
    assert [item.kind for item in plan.faults] == ["delay", "partition", "pause"]
    assert plan.faults[1].pairs == ("leader>outside", "n2>n1")


def test_progress_is_demanded_where_a_shape_leaves_a_quorum_whatever_is_drawn(tmp_path: Path) -> None:
    text = "".join(
        fault(keys, 10 * place)
        for place, keys in enumerate(
            [
                'kind = "partition"\nshape = "bridge:in"',
                'kind = "partition"\nshape = "everyone"',
                'kind = "partition"\npairs = ["n1>n2"]',
                'kind = "delay"\ndelay_ms = 5',
                'kind = "rate"\nkbytes_per_s = 5',
                'kind = "kill"\nnode = "leader"',
            ]
        )
    )
    assert [item.quorum for item in written(tmp_path, text).faults] == [True, False, False, True, False, True]


def test_with_faults_and_no_cuts_nothing_is_required_of_cuts_unless_it_is_said(tmp_path: Path) -> None:
    plain = written(tmp_path, fault(BRIDGE))
    assert (plain.require.min_cuts, plain.require.leader_cut, plain.require.min_writes_per_s) == (0, False, 0)
    said = written(tmp_path, fault(BRIDGE) + "[require]\nmin_cuts = 2\n")
    assert said.require.min_cuts == 2
    both = written(tmp_path, fault(BRIDGE) + '[[cuts]]\nat_s = 1\ndark_s = 1\ndomain = "A"\n')
    assert both.require.min_cuts == 3


def test_the_main_job_over_bft_cuts_each_of_four_domains_and_asks_for_no_less_than_over_raft() -> None:
    plan, raft = scenario.load("bft"), scenario.load("default")
    assert (plan.cluster.protocol, plan.cluster.nodes, plan.cluster.domains) == ("bft", 4, 4)
    assert len(plan.cuts) == plan.require.min_cuts == 4
    assert plan.writes == raft.writes
    assert plan.require.max_outage_ms == raft.require.max_outage_ms
    assert plan.compare_with_reference


def test_a_scenario_may_be_played_over_another_protocol_if_its_nodes_can_run_that() -> None:
    plan = scenario.with_protocol(scenario.load("quick"), "bft")
    assert plan.cluster.protocol == "bft"
    assert scenario.with_protocol(plan, "bft") is plan
    assert scenario.with_protocol(plan, "raft").cluster.protocol == "raft"


def test_a_scenario_of_liars_alone_requires_nothing_of_cuts_and_can_only_be_played_over_bft(
    tmp_path: Path,
) -> None:
    plan = written(tmp_path, BFT + LIAR)
    assert [(liar.node, liar.strategy) for liar in plan.liars] == [("n2", "equivocate")]
    assert (plan.require.min_cuts, plan.require.leader_cut) == (0, False)
    with pytest.raises(ScenarioError, match="nodes are believed"):
        scenario.with_protocol(plan, "raft")


def test_the_hybrid_one_cuts_every_domain_but_the_liar_s() -> None:
    plan = scenario.load("bft-hybrid")
    assert plan.cluster.committee is not None
    assert (plan.cluster.committee.quorum, plan.cluster.stop, plan.cluster.lie) == (4, 2, 1)
    assert len(plan.cuts) == plan.require.min_cuts == plan.cluster.nodes - len(plan.liars)


def test_over_a_committee_progress_is_demanded_where_its_quorum_of_honest_members_stays_together(
    tmp_path: Path,
) -> None:
    def demanded(text: str, keys: str) -> bool:
        plan = written(tmp_path, text + fault(keys))
        return scenario.leaves_quorum(plan.faults[0], plan)

    one, half = 'kind = "partition"\nshape = "one"', 'kind = "partition"\nshape = "halves"'
    kill, delay = 'kind = "kill"\nnode = "any"', 'kind = "delay"\ndelay_ms = 5'
    six = BFT.replace("nodes = 4\ndomains = 4", "nodes = 6\ndomains = 6\nstop = 2\nlie = 1")
    assert demanded("", half)  # of five believed nodes a majority stays
    assert [demanded(BFT, keys) for keys in (one, half, kill, delay)] == [True, False, True, True]
    # Of four nodes one that lies is the one that may fail; six stand another one.
    assert [demanded(BFT + LIAR, keys) for keys in (one, kill, delay)] == [False, False, True]
    assert [demanded(six + LIAR, keys) for keys in (one, half, kill)] == [True, False, True]


@pytest.mark.parametrize("name", scenario.names())
def test_no_shipped_scenario_asks_for_what_arithmetic_rules_out(name: str) -> None:
    assert scenario.beyond(scenario.load(name)) == ""


def test_a_cut_that_leaves_no_quorum_is_told_before_anything_starts() -> None:
    plan = scenario.load("default")
    over_bft = scenario.beyond(scenario.with_protocol(plan, "bft"))
    assert "may leave 3 honest nodes of 5 with power, and the log needs 4" in over_bft
    assert "for 6 s, and [require] max_outage_ms is 1000" in over_bft
    everything = dataclasses.replace(plan, cuts=(dataclasses.replace(plan.cuts[0], domain="all"),))
    assert "a cut of 'all' may leave 0 honest nodes of 5" in scenario.beyond(everything)
    longer = dataclasses.replace(plan.require, max_outage_ms=6_500)
    assert scenario.beyond(dataclasses.replace(everything, require=longer)) == "", (
        "the bound outlasts the cut"
    )
    hybrid = scenario.load("bft-hybrid")
    closer = dataclasses.replace(hybrid.cluster, domains=3)
    found = scenario.beyond(dataclasses.replace(hybrid, cluster=closer))
    assert "may leave 3 honest nodes of 6 with power, and the log needs 4" in found, "a liar does not count"
