"""The benchmarks from their command line: what cannot be measured is refused before anything starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sim.bench import cluster, command
from sim.bench.cluster import BenchError, Load, Plan

ROOT = Path(__file__).parents[2]
LOAD = Load("raft", 3, 1, 8.0, 9872, 1234.0, 1.0, 2.0, 3.0, 4.0, 0, "", 0, 0.0, 300.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cluster", "--size", "60000", "--in-flight", "4096"], "with that size at most 279 updates"),
        (["cluster", "--size", "60000"], "with so many at most 16777 bytes"),
        (["cluster", "--folder", __file__], "is a file"),
        (["cluster", "--folder", "/nonexistent/x"], "does not exist"),
        (["apply", "--seed", "-1"], "-1 is not in the range"),
        (["apply", "--seed", "2147483647"], "2147483647 is not in the range"),
        (["check", "--seed", "-1"], "-1 is not in the range"),
    ],
)
def test_bad_input_is_named_and_exits_with_two(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(command.main, arguments)
    assert done.exit_code == 2, done.output
    assert words in " ".join(done.stderr.split())


def test_a_wrong_option_is_answered_with_an_object_where_json_was_asked_for() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/bench.py", "apply", "--seed", "x", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "'x' is not a valid integer" in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr


def test_a_folder_that_takes_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**asked: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(command, "measure_cluster", refuse)
    done = CliRunner().invoke(command.main, ["cluster", "--folder", str(tmp_path), "--json"])
    assert done.exit_code == 1
    assert "No space left on device" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize(("nodes", "stands"), [(1, 0), (3, 0), (4, 1)])
def test_loads_with_a_dark_node_are_left_out_where_none_may_be_dark(
    monkeypatch: pytest.MonkeyPatch, nodes: int, stands: int
) -> None:
    asked: list[tuple[int, str, list[Plan]]] = []

    def measured(nodes: int, protocol: str, plans: list[Plan], *rest: Any) -> None:
        asked.append((nodes, protocol, plans))
        rest[-1].loads.append(LOAD)

    monkeypatch.setattr(cluster, "_measure_one", measured)
    monkeypatch.setattr(cluster, "apply_cost_us", lambda size: 1.0)
    cluster.measure_cluster(nodes=nodes, protocol="bft", in_flight=(1, 10))
    assert [(count, protocol) for count, protocol, _ in asked] == [(nodes, "bft"), (2 * stands + 1, "raft")]
    assert [sum(plan.dark for plan in plans) for *_, plans in asked] == [stands, stands]
    assert [len(plans) for *_, plans in asked] == [3 + stands, 2 + stands]


def test_a_load_that_shows_nothing_takes_no_figures_of_others_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(nodes: int, protocol: str, *rest: Any) -> None:
        if protocol == "raft":
            rest[-1].loads.append(LOAD)
        else:
            rest[-1].problems.append("no update was acknowledged")

    monkeypatch.setattr(cluster, "_measure_one", measured)
    monkeypatch.setattr(cluster, "apply_cost_us", lambda size: 1.0)
    done = CliRunner().invoke(command.main, ["cluster", "--protocol", "bft", "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert (len(found["loads"]), found["problems"]) == (1, ["no update was acknowledged"])
    done = CliRunner().invoke(command.main, ["cluster", "--protocol", "bft"])
    assert done.exit_code == 1
    assert "1,234" in done.stdout
    assert "no update was acknowledged" in done.stderr
    monkeypatch.setattr(cluster, "_measure_one", lambda *rest: rest[-1].problems.append("nothing"))
    with pytest.raises(BenchError, match="nothing"):
        cluster.measure_cluster()


def test_the_largest_values_are_fewer_so_that_they_fit_into_memory() -> None:
    assert cluster.keys_for(1) == cluster.keys_for(256) == cluster.KEYS
    assert cluster.keys_for(60_000) * 60_000 <= cluster.MOST_READY
    cluster.check_bytes(279, 60_000)
    with pytest.raises(BenchError, match="280 updates of 60000 bytes"):
        cluster.check_bytes(280, 60_000)
