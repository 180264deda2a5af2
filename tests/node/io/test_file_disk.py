"""What real files add to the contract: locks, errors of the kernel, two threads, marks and the trap."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.disk import Append, Create, DiskError, Remove, Rename, Sync, SyncDirectory, Truncate
from node.io import disk as module
from node.io import marks
from node.io.disk import FileDisk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FileDisk]:
    made = FileDisk(tmp_path / "data")
    made.perform([Create("a", 64), Append("a", b"first"), Sync("a"), SyncDirectory()])
    yield made
    made.close()


def broken(code: int, times: int = 99) -> object:
    left = [times]

    def call(*args: object) -> int:
        left[0] -= 1
        raise OSError(code, os.strerror(code))

    call.left = left  # type: ignore[attr-defined]
    return call


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path, disk: FileDisk) -> None:
    with pytest.raises(DiskError, match=rf"{tmp_path / 'data'} is in use by another process"):
        FileDisk(tmp_path / "data")
    disk.close()
    FileDisk(tmp_path / "data").close()
    with pytest.raises(DiskError, match="closed"):
        disk.names()


@pytest.mark.parametrize(
    ("call", "code", "ops"),
    [
        ("pwrite", errno.ENOSPC, [Append("a", b"x")]),
        ("pwrite", errno.EIO, [Append("a", b"x")]),
        ("posix_fallocate", errno.ENOSPC, [Append("a", bytes(100))]),
        ("ftruncate", errno.EIO, [Truncate("a", 1)]),
        ("fsync", errno.EIO, [SyncDirectory()]),
        ("rename", errno.EIO, [Rename("a", "b")]),
        ("unlink", errno.EIO, [Remove("a")]),
    ],
)
def test_an_error_of_the_kernel_names_file_call_and_error(
    disk: FileDisk, monkeypatch: pytest.MonkeyPatch, call: str, code: int, ops: list[object]
) -> None:
    monkeypatch.setattr(os, call, broken(code))
    with pytest.raises(DiskError) as caught:
        disk.perform(ops)  # type: ignore[arg-type]
    monkeypatch.undo()
    text = str(caught.value)
    assert f"{call} failed: {errno.errorcode[code]}" in text
    assert "data" in text
    with pytest.raises(DiskError, match=f"{call} failed"):
        disk.perform([Sync("a")])


def test_a_failed_fsync_is_never_retried(disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail_once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module, "_sync_data", fail_once)
    for _ in range(3):
        with pytest.raises(DiskError, match=r"/a: fdatasync failed: EIO"):
            disk.perform([Append("a", b"lost"), Sync("a")])
    assert len(calls) == 1


def test_short_writes_are_finished(disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data)[:3], offset))
    disk.perform([Append("a", b"0123456789")])
    assert disk.read("a")[:15] == b"first0123456789"
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: 0)
    with pytest.raises(DiskError, match="nothing was written"):
        disk.perform([Append("a", b"0123456789")])


def test_a_file_system_that_cannot_reserve_gets_zeros_written(
    disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", broken(errno.EOPNOTSUPP))
    disk.perform([Create("z", 70000), Append("z", b"x"), Append("z", bytes(70000))])
    assert disk.read("z") == b"x" + bytes(140000)


def test_two_threads_write_different_files_at_once(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "data", tmp_path / "platter")
    failures: list[BaseException] = []

    def lane(name: str) -> None:
        try:
            for turn in range(40):
                own = f"{name}{turn}"
                disk.perform(
                    [
                        Create(own, 100),
                        Append(own, b"%d" % turn),
                        Sync(own),
                        Rename(own, name),
                        SyncDirectory(),
                    ]
                )
                disk.perform([Append(name, b"!"), Sync(name)])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=lane, args=(name,)) for name in ("journal", "snapshot")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert disk.names() == ["journal", "snapshot"]
    assert disk.read("journal")[:3] == disk.read("snapshot")[:3] == b"39!"
    disk.close()
    state = marks.read_marks(tmp_path / "data", tmp_path / "platter")
    assert state.pending == []
    assert state.files == {name: marks.Extent(3, 100) for name in ("journal", "snapshot")}
    assert sorted(path.name for path in (tmp_path / "platter").iterdir()) == ["marks", "trap"]


def test_marks_survive_a_restart_and_their_file_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "COMPACT_AT", 500)
    data, platter = tmp_path / "data", tmp_path / "platter"
    disk = FileDisk(data, platter)
    disk.perform([Create("a"), Create("b"), SyncDirectory()])
    for _ in range(100):
        disk.perform([Append("a", b"12345"), Sync("a")])
    disk.perform([Append("a", b"67890"), Rename("b", "c"), Create("d"), Remove("c")])
    assert (platter / "marks").stat().st_size < 1500
    disk.close()
    before = marks.read_marks(data, platter)
    assert before.files["a"] == marks.Extent(500, 500)
    assert [op.kind for op in before.pending] == ["r", "c", "u"]
    again = FileDisk(data, platter)
    assert marks.read_marks(data, platter) == before
    again.perform([SyncDirectory()])
    again.close()
    assert marks.read_marks(data, platter).pending == []


def test_marks_that_make_no_sense_are_named_by_their_line(tmp_path: Path) -> None:
    FileDisk(tmp_path / "data", tmp_path / "platter").close()
    with open(tmp_path / "platter" / "marks", "a") as file:
        file.write("s a 1 1\nnonsense\n")
    with pytest.raises(DiskError, match=r"marks, line 3: 'nonsense' is no mark"):
        FileDisk(tmp_path / "data", tmp_path / "platter")
    FileDisk(tmp_path / "data").close()  # the lock was given free


def test_a_mark_cut_short_counts_as_not_written(tmp_path: Path) -> None:
    disk = FileDisk(tmp_path / "data", tmp_path / "platter")
    disk.perform([Create("a"), Append("a", b"12345"), Sync("a")])
    disk.close()
    path = tmp_path / "platter" / "marks"
    path.write_bytes(path.read_bytes()[:-1])
    assert marks.read_marks(tmp_path / "data", tmp_path / "platter").files["a"] == marks.Extent(0, 0)


@pytest.mark.parametrize(
    ("line", "left"),
    [
        ("c 9 new - -", ["c"]),
        ("r 9 a other -", ["c"]),
        ("u 9 a - kept-9", ["c"]),
    ],
)
def test_an_operation_announced_but_never_done_does_not_count(
    tmp_path: Path, line: str, left: list[str]
) -> None:
    disk = FileDisk(tmp_path / "data", tmp_path / "platter")
    disk.perform([Create("a")])
    disk.close()
    with open(tmp_path / "platter" / "marks", "a") as file:
        file.write(line + "\n")
    state = marks.read_marks(tmp_path / "data", tmp_path / "platter")
    assert [op.kind for op in state.pending] == left
    assert list(state.files) == ["a"]


WRITER = """
import sys
from pathlib import Path
from node.disk import Append, Create, Sync, SyncDirectory
from node.io.disk import FileDisk
disk = FileDisk(Path(sys.argv[1]), Path(sys.argv[2]))
disk.perform([Create("a", 1 << 16), SyncDirectory()])
length = 0
while True:
    disk.perform([Append("a", b"x" * 100), Sync("a")])
    length += 100
    print(length, flush=True)
"""


def test_what_a_killed_process_was_told_is_in_the_marks(tmp_path: Path) -> None:
    data, platter = tmp_path / "data", tmp_path / "platter"
    root = Path(module.__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(data), str(platter)], stdout=subprocess.PIPE, cwd=root
    )
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    rest = process.stdout.read().split(b"\n")[:-1]
    process.wait(10)
    process.stdout.close()
    told = int(rest[-1]) if rest else 2000
    synced = marks.read_marks(data, platter).files["a"].synced
    assert told <= synced <= told + 100
    assert (data / "a").read_bytes()[:synced] == b"x" * synced
