"""Power cuts of real folders whose process is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

import sim.local.platter
from node.disk import Append, Create, Remove, Rename, Sync, SyncDirectory
from node.io.disk import FileDisk
from node.io.marks import read_marks
from node.journal import Identity, Journal
from sim.local.platter import arm_trap, cut_power, trap_state

ME = Identity("feed", "n1")
ROOT = Path(sim.local.platter.__file__).parents[2]

NODE = """
import sys
from pathlib import Path
from node.io.disk import FileDisk
from node.journal import Identity, Journal
disk = FileDisk(Path(sys.argv[1]), Path(sys.argv[2]))
journal, recovered = Journal.open(disk, Identity("feed", "n1"), archive=True, reserve=1 << 16)
records = [record for record in recovered.records]
print(len(records), flush=True)
while True:
    ops, mark = journal.append([(1, b"%d" % (len(records) + i) + b"#" * 1500) for i in range(3)])
    disk.perform(ops)
    journal.mark_synced(mark)
    records += [(1, b"%d" % (len(records) + i) + b"#" * 1500) for i in range(3)]
    print(len(records), flush=True)
    if len(records) % 30 == 0:
        ops, mark = journal.rotate(records)
        disk.perform(ops)
        journal.mark_synced(mark)
"""


def wait_for(platter: Path, state: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if trap_state(platter) == state:
            return True
        time.sleep(0.001)
    return False


def test_a_killed_and_cut_node_keeps_all_it_was_told_even_between_a_write_and_its_fsync(
    tmp_path: Path,
) -> None:
    data, platter = tmp_path / "data", tmp_path / "platter"
    first = FileDisk(data, platter)
    first.perform(Journal.create_ops(ME, 1 << 16))
    first.close()
    told = lost = 0
    for turn in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", NODE, str(data), str(platter)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert process.stdout is not None
        found = int(process.stdout.readline())
        assert found >= told, "a promised record was lost"
        for _ in range(3 + turn):
            process.stdout.readline()
        arm_trap(platter)
        assert wait_for(platter, "holding")
        os.kill(process.pid, signal.SIGKILL)
        lines = process.stdout.read().split(b"\n")[:-1]
        process.wait(10)
        process.stdout.close()
        told = int(lines[-1]) if lines else found + 3 * (3 + turn)
        loss = cut_power(data, platter, Random(turn))
        assert loss.in_trap
        assert loss.unsynced_bytes > 4000, "the bytes of the write whose fsync never came"
        assert trap_state(platter) == "off"
        lost += loss.dropped_bytes + loss.torn_bytes
    assert lost > 0
    disk = FileDisk(data, platter)
    records = Journal.open(disk, ME, archive=True)[1].records
    disk.close()
    assert len(records) >= told
    assert [int(record.split(b"#")[0]) for _, record in records] == list(range(len(records)))


def test_a_trap_that_nobody_comes_to_cut_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.io.marks.TRAP_PATIENCE_MS", 20)
    disk = FileDisk(tmp_path / "data", tmp_path / "platter")
    disk.perform([Create("a"), SyncDirectory()])
    arm_trap(tmp_path / "platter")
    disk.perform([Sync("a")])
    assert trap_state(tmp_path / "platter") == "armed", "nothing unsynced: a cut here would prove nothing"
    disk.perform([Append("a", b"x"), Sync("a")])
    assert trap_state(tmp_path / "platter") == "off"
    disk.close()


def test_a_platter_without_marks_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_bytes(b"kept")
    (tmp_path / "platter").mkdir()
    loss = cut_power(tmp_path / "data", tmp_path / "platter", Random(1))
    assert loss.unsynced_bytes == loss.entries_undone == 0
    assert (tmp_path / "data" / "a").read_bytes() == b"kept"
    assert trap_state(tmp_path / "nowhere") == "off"
    with pytest.raises(FileNotFoundError):
        arm_trap(tmp_path / "nowhere")


def test_a_cut_leaves_no_kept_file_behind_and_marks_that_hold(tmp_path: Path) -> None:
    data, platter = tmp_path / "data", tmp_path / "platter"
    for seed in range(20):
        disk = FileDisk(data, platter)
        for name in disk.names():
            disk.perform([Remove(name)])
        disk.perform([SyncDirectory(), Create("a"), Create("b"), Append("b", b"b" * 999), SyncDirectory()])
        disk.perform([Rename("a", "b"), Create("c"), Remove("c"), Create("c"), Append("c", b"c")])
        disk.close()
        cut_power(data, platter, Random(seed))
        assert sorted(path.name for path in platter.iterdir()) == ["marks", "trap"]
        state = read_marks(data, platter)
        assert state.pending == []
        assert {name: extent.synced for name, extent in state.files.items()} == {
            path.name: path.stat().st_size for path in data.iterdir()
        }
