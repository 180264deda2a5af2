from __future__ import annotations

import json

import pytest

from consensus.core import EntryKind, encode_entry, entry_position
from consensus.raft import records as raft
from sim.check.audit import ArchivedLog, audit_folders
from sim.check.folders import ReadOnlyDisk, read_folder
from sim.check.verdict import check_audit

SIZE = 12


def log(size: int = SIZE, term: int = 1, change: int = 0) -> list[bytes]:
    """Entries 1..size; from `change` on, another history of the next term."""
    return [
        encode_entry(i, term + (1 if change and i >= change else 0), EntryKind.BLOCK, b"entry %d" % i)
        for i in range(1, size + 1)
    ]


def records(entries, commit: int | None = None):
    found = [(raft.ENTRY, entry) for entry in entries]
    return found if commit is None else [*found, raft.commit(commit)]


def test_three_equal_logs_pass_and_every_value_was_compared(folder) -> None:
    folders = {name: folder(name, records(log(), SIZE)) for name in ("n1", "n2", "n3")}
    report = audit_folders(folders)
    assert report.passed
    assert (report.agreed_index, report.common_index, report.compared) == (SIZE, SIZE, 2 * SIZE)
    assert {node.chain_at_common for node in report.nodes.values()} == {report.chain}
    json.dumps(report.as_json())
    archived = ArchivedLog(folders)
    assert list(archived) == log()
    assert archived.complete


def test_once_the_agreed_log_is_handed_out_no_further_folder_is_read(folder) -> None:
    folders = {name: folder(name, records(log(), SIZE)) for name in ("n1", "n2", "n3")}
    read = []

    def source(path):
        read.append(path)
        return read_folder(path)

    archived = ArchivedLog(folders, source)
    read.clear()
    assert list(archived) == log()
    assert archived.complete
    assert read == [folders["n1"]]


def test_the_agreed_log_reaches_behind_every_note_as_far_as_a_majority_holds_it(folder) -> None:
    folders = {
        "n1": folder("n1", records(log(12), 5)),
        "n2": folder("n2", records(log(9))),
        "n3": folder("n3", records(log(4))),
    }
    report = audit_folders(folders)
    assert report.agreed_index == 9
    assert [node.agreed_index for node in report.nodes.values()] == [9, 9, 4]
    assert list(ArchivedLog(folders)) == log(9)


def test_a_fork_among_committed_entries_names_index_values_and_places(folder) -> None:
    folders = {
        "n1": folder("n1", records(log(), SIZE)),
        "n2": folder("n2", records(log(change=7), SIZE)),
        "n3": folder("n3", records(log(), SIZE)),
    }
    report = audit_folders(folders)
    assert not report.passed
    (fork,) = report.forks
    assert fork.index == 7
    assert set(fork.nodes) == {"n1", "n2"}
    assert fork.chains[0] != fork.chains[1]
    assert "entry 7 of term 1" in fork.entries[0]
    assert "entry 7 of term 2" in fork.entries[1]
    check = check_audit(report)
    assert not check.passed
    assert "fork at entry 7" in check.detail


def test_a_tail_that_a_new_leader_overruled_is_no_fork(folder) -> None:
    overruled = [*records(log(9)), *records(log(change=7)[6:], SIZE)]
    behind = records(log(9), 6)  # still holds the old tail, and never said that it was committed
    folders = {
        "n1": folder("n1", overruled),
        "n2": folder("n2", records(log(change=7), SIZE)),
        "n3": folder("n3", behind),
    }
    report = audit_folders(folders)
    assert report.passed
    assert report.nodes["n1"].rewritten == 3
    assert report.nodes["n3"].agreed_index == 6
    assert list(ArchivedLog({"n1": folders["n1"]})) == log(change=7)


def test_segments_that_begin_with_state_are_read_on_from_there(folder) -> None:
    entries = log()
    state = [*records(entries[:6]), raft.base(4, 1), raft.hard_state(1, "n1")]
    folders = {"n1": folder("n1", [*state, None, *records(entries[6:], SIZE)])}
    report = audit_folders(folders)
    assert report.nodes["n1"].errors == []
    assert report.nodes["n1"].segments == 2
    assert list(ArchivedLog(folders)) == entries


def test_a_node_that_took_over_a_snapshot_has_a_gap_and_is_still_compared(folder) -> None:
    entries = log()
    snapshot = [*records(entries[:3], 3), raft.base(8, 1), *records(entries[8:], SIZE)]
    folders = {"n1": folder("n1", records(entries, SIZE)), "n2": folder("n2", snapshot)}
    report = audit_folders(folders)
    assert report.passed
    assert report.nodes["n2"].gaps == [(4, 8)]
    assert report.nodes["n2"].agreed_index == SIZE
    assert list(ArchivedLog(folders)) == entries


def test_entries_that_no_folder_holds_are_missing(folder) -> None:
    entries = log()
    snapshot = [*records(entries[:3], 3), raft.base(8, 1), *records(entries[8:], SIZE)]
    folders = {name: folder(name, snapshot) for name in ("n1", "n2")}
    report = audit_folders(folders)
    assert report.missing == [(4, 8)]
    assert not report.passed
    archived = ArchivedLog(folders)
    assert [entry_position(entry)[0] for entry in archived] == [1, 2, 3]
    assert not archived.complete


def test_a_torn_tail_is_reported_and_is_no_failure(folder) -> None:
    folders = {name: folder(name, records(log(), SIZE)) for name in ("n1", "n2")}
    live = max(folders["n2"].iterdir())
    live.write_bytes(live.read_bytes()[:-3])
    report = audit_folders(folders)
    assert [damage.kind for damage in report.nodes["n2"].damage] == ["torn"]
    assert report.passed
    assert report.nodes["n2"].agreed_index == SIZE


def test_a_flipped_bit_in_what_was_promised_is_corruption(folder) -> None:
    folders = {name: folder(name, records(log(), SIZE)) for name in ("n1", "n2")}
    live = max(folders["n2"].iterdir())
    data = bytearray(live.read_bytes())
    data[data.index(b"entry 5")] ^= 1
    live.write_bytes(data)
    report = audit_folders(folders)
    assert [damage.kind for damage in report.nodes["n2"].damage] == ["corrupt"]
    assert not report.passed
    assert "n2: journal-0000000000000001.seg is corrupt" in check_audit(report).detail
    # The other folder still has all of it.
    assert list(ArchivedLog(folders)) == log()


def test_a_folder_without_a_journal_is_corrupt_not_empty(folder, tmp_path) -> None:
    (tmp_path / "bare").mkdir()
    report = audit_folders({"n1": folder("n1", records(log(), SIZE)), "n2": tmp_path / "bare"})
    assert not report.passed
    assert report.common_index == 0


def test_a_hole_in_the_records_is_an_error(folder) -> None:
    entries = log()
    report = audit_folders({"n1": folder("n1", records([*entries[:3], *entries[5:]]))})
    assert "entry 6 follows entry 3" in report.nodes["n1"].errors[0]
    assert not report.passed


def test_nothing_compared_is_no_pass(folder) -> None:
    report = audit_folders({"n1": folder("n1", [])})
    assert report.compared == 0
    assert not report.passed
    assert check_audit(report).counted == 0


def test_the_audit_cannot_write(folder) -> None:
    disk = ReadOnlyDisk(folder("n1", records(log())))
    with pytest.raises(Exception, match="reading only"):
        disk.perform([])
