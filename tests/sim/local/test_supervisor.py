"""The power switch and the process that holds it, with stand-ins for the nodes (standin.py)."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from sim.local import control, daemon, layout
from sim.local import supervisor as supervisor_module
from sim.local.control import Control
from sim.local.daemon import PlatterDisks
from sim.local.layout import HOST, Cluster, ClusterError
from sim.local.process import NodeProcess, is_alive
from sim.local.relay import now_us
from sim.local.supervisor import Supervisor

STANDIN = [sys.executable, str(Path(__file__).with_name("standin.py")), "{config}"]
SMALL = {"storage": {"reserve_bytes": 0}}


def make(folder: Path, nodes: int = 3, domains: int = 2) -> Cluster:
    """n1 and n2 in A, n3 in B."""
    return layout.create(folder, nodes, domains, settings=SMALL)


def set_mode(cluster: Cluster, node: str, mode: str) -> None:
    (cluster.node_folder(node) / "mode").write_text(mode)


class NotingDisks(PlatterDisks):
    """Notes what is alive when power is cut, and plays the node's part of the trap."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.seen: list[tuple[str, list[bool]]] = []
        self.draws: list[float] = []
        self.armed: list[str] = []
        self.holds = ""

    def arm_trap(self, folder: Path) -> None:
        self.armed.append(folder.parent.name)

    def is_held(self, folder: Path) -> bool:
        return folder.parent.name == self.holds

    def cut_power(self, data: Path, folder: Path, rng: random.Random, sure: bool) -> dict[str, Any]:
        self.seen.append((data.parent.name, [is_alive(pid) for pid in self.pids]))
        self.draws.append(rng.random())
        return super().cut_power(data, folder, rng, sure)


@contextlib.asynccontextmanager
async def running(
    cluster: Cluster, disks: PlatterDisks | None = None, ready: bool = True
) -> AsyncIterator[Supervisor]:
    command = daemon.node_command(STANDIN, cluster.folder)
    supervisor = Supervisor(cluster, command, disks or PlatterDisks())
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        supervisor.start_all()
        if ready:
            await phases(supervisor, "serving")
        yield supervisor
        nursery.cancel_scope.cancel()


async def phases(supervisor: Supervisor, phase: str, *names: str) -> None:
    """Wait until nodes (all, if none is named) are in a phase."""
    with trio.fail_after(10):
        while any(supervisor.nodes[name].phase != phase for name in names or supervisor.nodes):
            await trio.sleep(0.005)


def child_of(cluster: Cluster, node: str) -> int:
    log = (cluster.node_folder(node) / "log.jsonl").read_text().splitlines()
    return next(int(line["pid"]) for line in map(json.loads, log) if line["event"] == "family")


async def echoes(port: int) -> bool:
    """Whether whoever answers on the port is a stand-in that is reachable."""
    with trio.move_on_after(0.3), contextlib.suppress(trio.BrokenResourceError):
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"?")
            return await stream.receive_some() == b"?"
    return False


# ------------------------------------------------------------------------------------------------ the switch


async def test_a_cut_is_silence_then_death_then_loss_and_restore_brings_all_back(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    disks = NotingDisks()
    async with running(cluster, disks) as supervisor:
        disks.pids = [node.process.pid for node in supervisor.nodes.values() if node.process]
        async with await trio.open_tcp_stream(HOST, cluster.node("n1").client_port) as peer:
            await peer.send_all(b"hello")
            assert await peer.receive_some() == b"hello"
            before = now_us()
            result = await supervisor.cut("A", seed=7)
            assert before <= result["cut_at"] <= result["dead_at"] <= now_us()
            assert disks.seen == [("n1", [False, False, True]), ("n2", [False, False, True])]
            assert set(result["losses"]) == {"n1", "n2"}
            with trio.move_on_after(0.1) as heard_nothing:
                await peer.receive_some()
            assert heard_nothing.cancelled_caught
        status = await supervisor.status()
        assert {name: node["phase"] for name, node in status["nodes"].items()} == {
            "n1": "dark",
            "n2": "dark",
            "n3": "serving",
        }
        assert not await echoes(cluster.node("n1").client_port)
        assert await echoes(cluster.node("n3").client_port)

        restored = await supervisor.restore("A", wait=10)
        assert set(restored["ready_at"]) == {"n1", "n2"}
        assert all(at >= restored["restored_at"] for at in restored["ready_at"].values())
        assert await echoes(cluster.node("n1").client_port)


async def test_the_power_of_all_domains_fails_at_once_and_each_is_restored_by_itself(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    async with running(cluster) as supervisor:
        result = await supervisor.cut("all", trap=True, seed=7)
        assert (result["domain"], sorted(result["pids"])) == ("all", ["n1", "n2", "n3"])
        assert sorted(result["losses"]) == ["n1", "n2", "n3"]
        shown = await supervisor.status()
        since = [domain["since"] for domain in shown["domains"].values()]
        assert {node["power"] for node in shown["nodes"].values()} == {"dark"}
        # Silence everywhere before anybody dies: else the last ones would notice.
        assert max(since) <= min(node["last_exit"]["at_us"] for node in shown["nodes"].values())
        with pytest.raises(ClusterError, match="domain A is dark already"):
            await supervisor.cut("all")
        await supervisor.restore("B", wait=10)
        shown = await supervisor.status()
        assert [node["phase"] for node in shown["nodes"].values()] == ["dark", "dark", "serving"]
        await supervisor.restore("A", wait=10)


async def test_the_seed_the_node_and_the_count_of_its_cuts_decide_what_is_lost(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    disks = NotingDisks()
    async with running(cluster, disks) as supervisor:
        for seed in (1, 1):
            await supervisor.cut("A", seed=seed)
            await supervisor.restore("A", wait=10)
        assert len(set(disks.draws)) == 4
        expected = [random.Random(f"1/{node}/{cut}").random() for cut in (1, 2) for node in ("n1", "n2")]
        assert disks.draws == expected


async def test_a_cut_counts_the_unsynced_bytes_of_a_real_disk_and_takes_them_by_its_seed(
    tmp_path: Path,
) -> None:
    after: list[bytes] = []
    for run in ("one", "two"):
        cluster = make(tmp_path / run, nodes=2, domains=2)
        set_mode(cluster, "n1", "unsynced")
        async with running(cluster) as supervisor:
            loss = (await supervisor.cut("A", seed=3))["losses"]["n1"]
        assert loss["unsynced_bytes"] == 100_000
        assert loss["dropped_bytes"] + loss["torn_bytes"] > 0
        after.append((cluster.node_folder("n1") / "data" / "extra.seg").read_bytes())
        assert after[-1].startswith(b"s" * 4096)
        assert after[-1] != b"s" * 4096 + b"u" * 100_000
    assert after[0] == after[1]


async def test_a_trap_waits_for_a_node_between_write_and_fsync_and_says_which_it_was(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    disks = NotingDisks()
    async with running(cluster, disks) as supervisor:
        disks.holds = "n2"
        result = await supervisor.cut("A", trap=True)
        assert (disks.armed, result["held"]) == (["n1", "n2"], ["n2"])
        began = now_us()
        result = await supervisor.cut("B", trap=True)
        assert result["held"] == []
        assert 300_000 <= result["cut_at"] - began < 2_000_000


async def test_processes_of_a_node_s_own_die_with_the_power(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    set_mode(cluster, "n1", "family")
    async with running(cluster) as supervisor:
        child = child_of(cluster, "n1")
        assert is_alive(child)
        await supervisor.cut("A")
        assert not is_alive(child)


async def test_processes_that_a_crashed_node_left_behind_are_ended_with_it(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    set_mode(cluster, "n1", "orphans")
    async with running(cluster, ready=False) as supervisor:
        await phases(supervisor, "exited", "n1")
        assert not is_alive(child_of(cluster, "n1"))


async def test_no_disk_is_touched_before_every_process_of_the_domain_is_known_to_be_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead: list[int] = []
    seen: list[int] = []
    real = NodeProcess.group_gone

    async def slowly(process: NodeProcess, seconds: float = 5) -> bool:
        await trio.sleep(0.2)
        dead.append(process.pid)
        return await real(process, seconds)

    class Disks(PlatterDisks):
        def cut_power(self, data: Path, folder: Path, rng: random.Random, sure: bool) -> dict[str, Any]:
            seen.append(len(dead))
            return super().cut_power(data, folder, rng, sure)

    monkeypatch.setattr(NodeProcess, "group_gone", slowly)
    async with running(make(tmp_path / "c"), Disks()) as supervisor:
        await supervisor.cut("A")
        assert seen == [2, 2]


async def test_the_disk_of_a_node_whose_processes_will_not_die_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(process: NodeProcess, seconds: float = 5) -> bool:
        return False

    disks = NotingDisks()
    monkeypatch.setattr(NodeProcess, "group_gone", never)
    async with running(make(tmp_path / "c"), disks) as supervisor:
        with pytest.raises(ClusterError, match="a process of node n1 does not die"):
            await supervisor.cut("A")
        assert disks.seen == []


async def test_requests_that_make_no_sense_are_refused_and_change_nothing(tmp_path: Path) -> None:
    async with running(make(tmp_path / "c")) as supervisor:
        for op, argument, text in (
            (supervisor.cut, "Z", "no domain 'Z'; there are: A, B"),
            (supervisor.restore, "Z", "no domain 'Z'; there are: A, B"),
            (supervisor.restore, "A", "domain A has power; nothing to restore"),
            (supervisor.unsilence, "A", "domain A is not silenced"),
            (supervisor.start, "n1", "node n1 runs already"),
            (supervisor.kill, "n7", "no node 'n7'; there are: n1, n2, n3"),
        ):
            with pytest.raises(ClusterError, match=text):
                await op(argument)
        await phases(supervisor, "serving")
        await supervisor.cut("A")
        with pytest.raises(ClusterError, match="domain A is dark already; `restore A` comes first"):
            await supervisor.cut("A")
        with pytest.raises(ClusterError, match="domain A is dark; `restore A` first"):
            await supervisor.start("n1")
        with pytest.raises(ClusterError, match=r"node n1 does not run \(dark\)"):
            await supervisor.kill("n1")


async def test_silence_without_a_cut_leaves_the_processes_alive_and_unsilence_undoes_it(
    tmp_path: Path,
) -> None:
    cluster = make(tmp_path / "c")
    async with running(cluster) as supervisor:
        pids = {name: node.process.pid for name, node in supervisor.nodes.items() if node.process}
        await supervisor.silence("B")
        assert not await echoes(cluster.node("n3").client_port)
        with pytest.raises(ClusterError, match="silenced already"):
            await supervisor.silence("B")
        with pytest.raises(ClusterError, match="its network is silenced: `unsilence B`"):
            await supervisor.restore("B")
        await supervisor.unsilence("B")
        assert await echoes(cluster.node("n3").client_port)
        assert all(is_alive(pid) for pid in pids.values())


async def test_restoring_power_does_not_lift_a_silence(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    async with running(cluster) as supervisor:
        await supervisor.silence("B")
        await supervisor.cut("B")
        await supervisor.restore("B", wait=10)
        assert not await echoes(cluster.node("n3").client_port)
        await supervisor.unsilence("B")
        assert await echoes(cluster.node("n3").client_port)


async def test_a_node_that_ends_by_itself_is_reported_with_its_last_words_and_stays_down(
    tmp_path: Path,
) -> None:
    cluster = make(tmp_path / "c")
    set_mode(cluster, "n3", "crash")
    async with running(cluster, ready=False) as supervisor:
        await phases(supervisor, "exited", "n3")
        last = (await supervisor.status())["nodes"]["n3"]["last_exit"]
        assert (last["code"], last["expected"], last["tail"][-1]) == (7, False, "last words")
        set_mode(cluster, "n3", "")
        await supervisor.start("n3")
        await phases(supervisor, "serving")


async def test_a_crash_is_heard_at_once_as_a_cut_is_not(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    async with running(cluster) as supervisor:
        async with await trio.open_tcp_stream(HOST, cluster.node("n3").client_port) as peer:
            await peer.send_all(b"x")
            assert await peer.receive_some() == b"x"
            await supervisor.kill("n3")
            with trio.fail_after(5), contextlib.suppress(trio.BrokenResourceError):
                assert await peer.receive_some() == b""
        assert supervisor.nodes["n3"].phase == "stopped"


async def test_events_tell_the_story_in_order_of_time(tmp_path: Path) -> None:
    async with running(make(tmp_path / "c")) as supervisor:
        with supervisor.subscribe() as events:
            await supervisor.cut("B", seed=1)
            await supervisor.restore("B", wait=10)
            await supervisor.kill("n3")
            told = [await events.receive() for _ in range(6)]
        assert [event["event"] for event in told] == ["exit", "cut", "restore", "spawn", "ready", "exit"]
        by_time = [event["at_us"] for event in told if event["event"] != "cut"]
        assert by_time == sorted(by_time)
        assert told[1]["at_us"] == told[1]["cut_at"] < told[0]["at_us"]


async def test_a_node_that_ignores_sigterm_is_killed_by_down_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_SECONDS", 0.3)
    cluster = make(tmp_path / "c")
    set_mode(cluster, "n2", "stubborn")
    async with running(cluster) as supervisor:
        began = now_us()
        result = await supervisor.down()
        assert 300_000 <= now_us() - began < 3_000_000
        assert result["killed"] == ["n2"]
        assert result["exit_codes"] == {"n1": 0, "n2": -signal.SIGKILL, "n3": 0}
        assert not any(map(is_alive, result["pids"]))
        with pytest.raises(ClusterError, match="going down"):
            await supervisor.cut("A")


# ------------------------------------------------------------------------------------------------ the process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = make(tmp_path / "c")
    yield made
    with contextlib.suppress(ClusterError):
        Control(made.folder).down()


def wait_serving(client: Control) -> dict[str, int]:
    """Wait until every node serves; their process ids."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        nodes = client.call("status")["nodes"]
        if all(node["phase"] == "serving" for node in nodes.values()):
            return {name: node["pid"] for name, node in nodes.items()}
        time.sleep(0.01)
    raise AssertionError(f"not all nodes serve: {nodes}")


def wait_dead(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, f"left behind: {[pid for pid in pids if is_alive(pid)]}"
        time.sleep(0.005)


def test_up_and_down_leave_no_process_no_socket_and_no_port_behind(cluster: Cluster) -> None:
    client = Control(cluster.folder)
    pid = control.start(cluster.folder, node_command=STANDIN)
    assert client.pid == pid
    pids = wait_serving(client)
    result = client.down()
    assert result["killed"] == []
    assert result["exit_codes"] == {"n1": 0, "n2": 0, "n3": 0}
    assert not any(map(is_alive, [pid, *pids.values()]))
    assert not (cluster.folder / "control.sock").exists()
    layout.check_ports(cluster)
    with pytest.raises(ClusterError, match="no cluster is running") as refusal:
        client.call("status")
    assert refusal.value.code == layout.NOT_RUNNING


def test_nothing_outlives_a_supervisor_that_was_killed_and_the_folder_can_be_used_again(
    cluster: Cluster,
) -> None:
    pid = control.start(cluster.folder, node_command=STANDIN)
    client = Control(cluster.folder)
    pids = wait_serving(client)
    os.kill(pid, signal.SIGKILL)
    wait_dead([pid, *pids.values()])
    assert not client.running
    control.start(cluster.folder, node_command=STANDIN)
    wait_serving(client)


def test_with_die_with_parent_everything_ends_with_whoever_started_it(cluster: Cluster) -> None:
    program = (
        "import sys, time; from pathlib import Path; from sim.local import control;"
        f"control.start(Path({str(cluster.folder)!r}), die_with_parent=True, node_command={STANDIN!r});"
        "print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        client = Control(cluster.folder)
        pids = [client.pid, *wait_serving(client).values()]
        parent.kill()
    wait_dead(pids)


def test_a_second_supervisor_is_refused_and_told_the_first_one_s_pid(cluster: Cluster) -> None:
    pid = control.start(cluster.folder, node_command=STANDIN)
    with pytest.raises(ClusterError, match=rf"up already \(supervisor's pid: {pid}\)"):
        control.start(cluster.folder, node_command=STANDIN)
    assert len(wait_serving(Control(cluster.folder))) == 3


def test_a_taken_port_stops_the_start_and_is_named(cluster: Cluster) -> None:
    port = cluster.links[3][2]
    with socket.create_server((HOST, port)), pytest.raises(ClusterError, match=f"port {port} is in use"):
        control.start(cluster.folder, node_command=STANDIN)
    control.start(cluster.folder, node_command=STANDIN)


def test_a_folder_with_a_long_path_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    made = make(tmp_path / ("long" * 30), nodes=1, domains=1)
    control.start(made.folder, node_command=STANDIN)
    client = Control(made.folder)
    wait_serving(client)
    path = Path(json.loads((made.folder / "supervisor.json").read_text())["control"])
    assert not path.is_relative_to(made.folder)
    assert path.stat().st_mode & 0o077 == 0
    client.down()
    assert not path.parent.exists()


def test_bad_requests_get_an_answer_and_the_cluster_goes_on(cluster: Cluster) -> None:
    control.start(cluster.folder, node_command=STANDIN)
    client = Control(cluster.folder)
    for op, args, text in (
        ("explode", {}, "unknown operation 'explode'; there are: status, start"),
        ("cut", {}, "bad request for 'cut'.*'domain'"),
        ("cut", {"domain": "A", "colour": "red"}, "bad request for 'cut'.*'colour'"),
        ("cut", {"domain": ["A"]}, "no domain"),
        ("cut", {"domain": "Q"}, "no domain 'Q'; there are: A, B"),
    ):
        with pytest.raises(ClusterError, match=text):
            client.call(op, **args)
    with socket.socket(socket.AF_UNIX) as end:
        end.connect(str(cluster.folder / "control.sock"))
        end.sendall(b"\xff{]\n[]\n")
        with end.makefile("rb") as answers:
            assert all(json.loads(answers.readline())["ok"] is False for _ in range(2))
    wait_serving(client)


async def test_a_trio_client_works_the_switch_and_watches_it(cluster: Cluster) -> None:
    control.start(cluster.folder, node_command=STANDIN)
    client = Control(cluster.folder)
    wait_serving(client)
    async with client.watching() as events:
        cut = await client.acall("cut", domain="B", seed=5)
        restored = await client.acall("restore", domain="B", wait=10.0)
        with trio.fail_after(10):
            told = [(await events.receive())["event"] for _ in range(5)]
    assert told == ["exit", "cut", "restore", "spawn", "ready"]
    assert cut["cut_at"] < restored["restored_at"]
    kept = [json.loads(line)["event"] for line in (cluster.folder / "events.jsonl").read_text().splitlines()]
    assert kept[-5:] == told


def test_sigterm_to_the_supervisor_is_an_orderly_down(cluster: Cluster) -> None:
    pid = control.start(cluster.folder, node_command=STANDIN)
    pids = wait_serving(Control(cluster.folder))
    os.kill(pid, signal.SIGTERM)
    control._children.pop(pid).wait(10)
    assert not any(map(is_alive, pids.values()))
    kept = [json.loads(line) for line in (cluster.folder / "events.jsonl").read_text().splitlines()]
    assert [event["code"] for event in kept if event["event"] == "exit"] == [0, 0, 0]


# ------------------------------------------------------------------------------------------------ faults with the power on


async def test_a_partition_bites_in_its_directions_until_it_is_healed_and_says_what_it_did(
    tmp_path: Path,
) -> None:
    cluster = make(tmp_path / "c")
    async with running(cluster) as supervisor:
        port = cluster.node("n1").client_port
        laid = await supervisor.faults.partition("cut", [["outside", "n1"]])
        assert laid["laid_at"] <= now_us()
        assert not await echoes(port)
        assert await echoes(cluster.node("n2").client_port)
        with pytest.raises(ClusterError, match="in force already"):
            await supervisor.faults.partition("cut", [["outside", "n1"]])
        healed = await supervisor.faults.heal("cut")
        assert healed["counts"]["dropped_bytes"] == 1
        assert healed["counts"]["dials_swallowed"] == 1
        assert [(row["sender"], row["receiver"]) for row in healed["by_direction"]] == [("outside", "n1")]
        assert (await supervisor.faults.faults(["cut"]))["cut"]["counts"]["dropped_bytes"] == 1
        assert await echoes(port)
        with pytest.raises(ClusterError, match="no fault 'cut' is in force; there are: none"):
            await supervisor.faults.heal("cut")


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([["n1", "n9"]], "no link joins n1 to n9"),
        ([["n1"]], "write .sender, receiver."),
        ([], "names no direction"),
    ],
)
async def test_a_partition_that_names_no_link_is_refused_and_not_in_force(
    tmp_path: Path, pairs: list[list[str]], words: str
) -> None:
    supervisor = Supervisor(make(tmp_path / "c"), daemon.node_command(STANDIN, tmp_path), PlatterDisks())
    with pytest.raises(ClusterError, match=words):
        await supervisor.faults.partition("cut", pairs)
    with pytest.raises(ClusterError, match="no fault"):
        await supervisor.faults.heal("cut")


async def test_a_paused_node_stands_still_with_its_connections_open_and_goes_on_when_it_is_resumed(
    tmp_path: Path,
) -> None:
    cluster = make(tmp_path / "c")
    async with running(cluster) as supervisor:
        async with await trio.open_tcp_stream(HOST, cluster.node("n1").client_port) as stream:
            await stream.send_all(b"a")
            assert await stream.receive_some() == b"a"
            await supervisor.pause("n1")
            with pytest.raises(ClusterError, match="paused already"):
                await supervisor.pause("n1")
            await stream.send_all(b"b")
            with trio.move_on_after(0.1) as scope:
                await stream.receive_some()
            assert scope.cancelled_caught
            await supervisor.resume("n1")
            with trio.fail_after(5):
                assert await stream.receive_some() == b"b"
        assert supervisor.nodes["n1"].phase == "serving"
        with pytest.raises(ClusterError, match="is not paused"):
            await supervisor.resume("n1")


async def test_a_cluster_with_a_paused_node_goes_down_in_order(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    async with running(cluster) as supervisor:
        await supervisor.pause("n2")
        assert (await supervisor.down())["killed"] == []
