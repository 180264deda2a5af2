"""scripts/cluster.py as people and programs call it, with stand-ins for the nodes where no real one is needed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consensus.core import EntryKind, encode_entry
from consensus.raft import records
from node.io.disk import FileDisk
from node.journal import Journal
from node.segment import Identity
from sim.local import layout
from sim.local.control import Control
from sim.local.layout import ClusterError
from sim.local.process import is_alive

ROOT = Path(__file__).parents[2]
STANDIN = json.dumps([sys.executable, str(ROOT / "tests" / "sim" / "local" / "standin.py"), "{config}"])


def _load_script() -> Any:
    spec = importlib.util.spec_from_file_location("cluster_script", ROOT / "scripts" / "cluster.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = _load_script()


class Cli:
    """Runs commands on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "cluster.py"), *args],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "RIDETHROUGH_CLUSTER": str(self.folder), "COLUMNS": "160"},
        )
        assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self(*args, "--json", code=code).stdout)

    def inside(self, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """The same without a process of its own, which takes half a second to start."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["cluster.py", *args])
            patch.setenv("RIDETHROUGH_CLUSTER", str(self.folder))
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                pytest.raises(SystemExit) as end,
            ):
                script.main()
        done = subprocess.CompletedProcess(args, int(end.value.code or 0), out.getvalue(), err.getvalue())
        assert done.returncode == code, (args, done.returncode, done.stdout, done.stderr)
        return done


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A cluster of stand-ins that is up: n1 in A, n2 in B, n3 in C."""
    folder = tmp_path_factory.mktemp("cli") / "c"
    layout.create(folder, 3, 3, settings={"storage": {"reserve_bytes": 0}})
    run = Cli(folder)
    run.inside("up", "--wait", "0", "--node-command", STANDIN)
    yield run
    with contextlib.suppress(ClusterError):
        Control(folder).down()


def test_a_cluster_is_made_started_cut_restored_and_stopped_from_the_command_line(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    made = cli.json("init", "--nodes", "3", "--domains", "3")
    assert [node["domain"] for node in made["nodes"].values()] == ["A", "B", "C"]
    up = cli.json("up", "--wait", "0", "--node-command", STANDIN)
    assert up["made"] is False
    cut = cli.json("cut", "B", "--seed", "4")
    assert (cut["domain"], cut["seed"], list(cut["losses"])) == ("B", 4, ["n2"])
    assert cli.json("restore", "B")["ready_at"]["n2"] > cut["cut_at"]
    killed = json.loads(cli.inside("kill", "n1", "--json").stdout)
    assert not is_alive(killed["pid"])
    assert is_alive(json.loads(cli.inside("start", "n1", "--json").stdout)["pid"])
    down = cli.json("down")
    assert len(down["pids"]) == 3
    assert not any(map(is_alive, [*down["pids"], up["supervisor"]]))
    cli.inside("status", code=3)


def test_people_are_told_what_happened_in_words(cli: Cli) -> None:
    words = cli.inside("cut", "C").stdout
    assert words.startswith("domain C is dark: n3 (dead after ")
    assert "unsynced bytes: 0 found" in words
    words = cli.inside("restore", "C").stdout
    assert "domain C is lit after" in words
    assert "n3 serves after" in words
    assert '{"event": "serving"' in cli.inside("logs", "n3", "-n", "1").stdout


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["cut", "Z"], 2, "no domain 'Z'; there are: A, B, C"),
        (["cut"], 2, "Missing argument 'DOMAIN'"),
        (["restore", "A"], 2, "domain A has power; nothing to restore"),
        (["kill", "n8"], 2, "no node 'n8'; there are: n1, n2, n3"),
        (["start", "n1"], 2, "node n1 runs already"),
        (["logs", "n8"], 2, "no node 'n8'"),
        (["up", "--wait", "0"], 2, "is up already"),
        (["init"], 2, "a cluster already"),
        (["init", "--move"], 2, "the cluster is up; `down` first"),
        (["verify"], 2, "the cluster is up"),
        (["rank"], 2, "Missing option '--user'"),
        (["rank", "--user", "-1"], 2, "-1 is not in the range x>=0"),
        (["rank", "--user", "NaN"], 2, "'NaN' is not a valid integer"),
        (
            ["rank", "--user", "1", "--consistency", "bounded"],
            2,
            "write any, linearizable or bounded:MILLISECONDS",
        ),
        (["observe"], 2, "no interaction was given"),
        (["observe", "--user", "3"], 2, "--user and --item go together"),
        (["observe", "3:-4"], 2, "'3:-4' is no interaction"),
        (["observe", "1.5:2"], 2, "'1.5:2' is no interaction"),
        (["dance"], 2, "No such command 'dance'"),
        (["status", "--folder", "/nonexistent/x"], 2, "no such folder"),
    ],
)
def test_bad_input_gets_one_clear_line_and_its_exit_code(
    cli: Cli, args: list[str], code: int, text: str
) -> None:
    done = cli.inside(*args, "--json", code=code)
    assert text in done.stderr
    assert done.stderr.count("\n") == 1
    answer = json.loads(done.stdout)
    assert text in answer["error"]
    assert answer["code"] == code


def test_a_rank_that_nobody_answers_says_why_and_is_told_from_bad_input(cli: Cli) -> None:
    assert "n1: " in cli.inside("rank", "--user", "1", code=3).stderr


def test_up_that_gets_no_leader_says_so_and_leaves_nothing_behind(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    done = cli.inside(
        "up", "--nodes", "1", "--domains", "1", "--wait", "1", "--node-command", STANDIN, code=3
    )
    assert "no leader served within 1 s" in done.stderr
    assert not Control(tmp_path / "c").running


def test_up_tells_the_last_words_of_a_node_that_ended(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    last = json.dumps([sys.executable, "-c", "import sys; sys.exit('no room on the disk')"])
    done = cli.inside("up", "--nodes", "1", "--domains", "1", "--node-command", last, code=1)
    assert "node n1 ended with code 1: no room on the disk" in done.stderr


def test_a_command_without_a_cluster_says_how_to_start_one(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    cli.inside("init", "--nodes", "1", "--domains", "1")
    for command in (["status"], ["cut", "A"], ["down"], ["rank", "--user", "1"], ["observe", "1:2"]):
        assert "start one with `up`" in cli.inside(*command, code=3).stderr


@pytest.mark.parametrize("text", ["notjson", "5", "[]", "[3]", "", "[" * 50_000])
def test_a_node_command_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, text: str) -> None:
    done = Cli(tmp_path / "c").inside("up", "--node-command", text, "--json", code=2)
    assert "must be a JSON list of texts" in json.loads(done.stdout)["error"]
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "text",
    ["[" * 99_999, "[]", "{", '{"pid": -1, "control": "x"}', '{"pid": "1", "control": "x"}', '{"pid": 5}'],
)
def test_a_supervisor_s_file_that_says_nothing_is_no_running_cluster(tmp_path: Path, text: str) -> None:
    cli = Cli(tmp_path / "c")
    cli.inside("init", "--nodes", "1", "--domains", "1")
    (tmp_path / "c" / "supervisor.json").write_text(text)
    assert "start one with `up`" in cli.inside("down", code=3).stderr


def test_a_cluster_ends_even_if_its_file_can_no_longer_be_read(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    cli.inside("init", "--nodes", "1", "--domains", "1")
    up = json.loads(cli.inside("up", "--wait", "0", "--node-command", STANDIN, "--json").stdout)
    (tmp_path / "c" / "cluster.toml").write_text("version = = 1")
    assert "not TOML" in cli.inside("status", code=2).stderr
    down = json.loads(cli.inside("down", "--json").stdout)
    assert not any(map(is_alive, [*down["pids"], up["supervisor"]]))
    assert "not TOML" in cli.inside("down", code=2).stderr


def test_more_nodes_that_may_stop_than_there_are_is_said_in_plain_words(tmp_path: Path) -> None:
    done = Cli(tmp_path / "c").inside("init", "--protocol", "bft", "--stop", "9", code=2)
    assert "9 of 4 nodes may stop: none would be left to order the log" in done.stderr


def test_an_audit_that_had_nothing_to_compare_is_no_success(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    cli.inside("init", "--nodes", "2", "--domains", "2")
    assert "NOTHING TO COMPARE" in cli.inside("verify", code=1).stdout
    assert json.loads(cli.inside("verify", "--json", code=1).stdout)["passed"] is False


def write_log(cluster: layout.Cluster, node: str, payloads: list[bytes]) -> Path:
    """Entries of term 1, a batch each, all synced; the segment's path."""
    data = cluster.node_folder(node) / "data"
    disk = FileDisk(data)
    try:
        journal, _ = Journal.open(disk, Identity(cluster.cluster, node), reserve=0)
        for index, payload in enumerate(payloads, 1):
            entry = encode_entry(index, 1, EntryKind.BLOCK, payload)
            ops, mark = journal.append([(records.ENTRY, entry), records.commit(index)])
            disk.perform(ops)
            journal.mark_synced(mark)
    finally:
        disk.close()
    return max(data.glob("journal-*.seg"))


def test_an_audit_of_equal_logs_succeeds_and_one_of_a_fork_or_of_corrupt_bytes_fails(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    cluster = layout.create(cli.folder, 3, 3)
    same = [b"a" * 400, b"b" * 400, b"c" * 400]
    segments = {node: write_log(cluster, node, same) for node in ("n1", "n2", "n3")}
    assert "agreed: " in cli.inside("verify").stdout
    assert json.loads(cli.inside("verify", "--json").stdout)["agreed_index"] == 3

    whole = segments["n2"].read_bytes()
    segments["n2"].write_bytes(whole.replace(b"a" * 400, b"a" * 399 + b"x"))
    words = cli.inside("verify", code=1).stdout
    assert "NOT AGREED" in words
    assert f"corrupt: {segments['n2'].name}" in words
    segments["n2"].write_bytes(whole)
    cli.inside("verify")

    other = layout.create(tmp_path / "d", 2, 2)
    write_log(other, "n1", [b"a", b"b"])
    write_log(other, "n2", [b"a", b"z"])
    assert "FORK at index 2 between n1 and n2" in Cli(other.folder).inside("verify", code=1).stdout


def test_real_nodes_learn_rank_and_lose_nothing_acknowledged_to_a_power_cut(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    try:
        up = json.loads(cli.inside("up", "--nodes", "3", "--domains", "3", "--json").stdout)
        assert cli.inside("status").stdout.count("lit") == 3
        nodes = json.loads(cli.inside("status", "--json").stdout)["nodes"]
        leader = next(node["domain"] for node in nodes.values() if node["status"]["role"] == "leader")
        before = json.loads(cli.inside("observe", "42:7", "42:9", "7:7:3", "--json").stdout)
        assert before["observed"] == 3

        cli.inside("cut", leader, "--seed", "1")
        words = cli.inside("status").stdout
        assert words.count("dark") == 2  # power and phase of one node
        after = json.loads(cli.inside("observe", "--user", "42", "--item", "8", "--json").stdout)
        assert after["index"] > before["index"]
        answer = json.loads(
            cli.inside("rank", "--user", "42", "--k", "3", "--consistency", "linearizable", "--json").stdout
        )
        assert sorted(answer["items"]) == [7, 8, 9]
        assert answer["index"] >= after["index"]
        links = json.loads(cli.inside("status", "--links", "--json").stdout)["links"]
        assert sum(link["dropped"] for link in links if link["silent"]) > 0
        assert "client>n1" in cli.inside("status", "--links").stdout
        assert "agreed: " in cli.inside("verify", "--live").stdout
        cli.inside("restore", leader)
        request = urllib.request.Request(
            up["nodes"][0]["http"] + "/v2/models/feed/infer", json.dumps(script.EXAMPLE_REQUEST).encode()
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            assert json.load(response)["model_name"] == "feed"
    finally:
        down = cli.inside("down")
    assert "no process is left" in down.stdout
    report = json.loads(cli.inside("verify", "--json").stdout)
    assert report["passed"]
    assert report["agreed_index"] >= after["index"]


# ------------------------------------------------------------------------------------------------ bft


def test_a_bft_cluster_has_four_nodes_in_four_domains_unless_told_otherwise(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    cli("init", "--protocol", "bft", "--machine", "kv")
    made = layout.load(cli.folder)
    assert (made.protocol, made.stop, made.lie, len(made.nodes), len(made.domains)) == ("bft", 1, 1, 4, 4)
    refused = Cli(tmp_path / "d")(
        "init", "--protocol", "bft", "--nodes", "5", "--stop", "2", "--lie", "1", code=2
    )
    assert "It takes 6 members" in refused.stderr


def test_what_is_no_proof_of_this_cluster_is_refused_in_words(tmp_path: Path) -> None:
    cli = Cli(tmp_path / "c")
    cli("init", "--protocol", "bft", "--machine", "kv")
    file = tmp_path / "proof.json"
    assert "cannot be read" in cli("verify", str(file), code=2).stderr
    file.write_text("{}")
    assert "not a proof" in cli("verify", str(file), code=1).stderr
    fields = {"version": 1, "cluster": "3f2a9c01", "epoch": 1, "index": 1, "kind": 1, "payload": ""}
    file.write_text(json.dumps({**fields, "blocks": [], "certificate": ""}))
    assert "of cluster 3f2a9c01, not for epoch 1 of" in cli("verify", str(file), code=1).stderr
    raft = Cli(tmp_path / "raft")
    raft("init", "--nodes", "1", "--domains", "1", "--machine", "kv")
    assert "the protocol of this cluster is raft" in raft("verify", str(file), code=2).stderr
