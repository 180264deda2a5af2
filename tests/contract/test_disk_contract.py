"""What every disk promises (`node.disk.Disk`); the same suite for each of them.

For a disk of your own: `pytest tests/contract/test_disk_contract.py --disk module:Class`. How it is made, restarted and cut:
`disk_bench.Bench`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from contract_class import chosen
from disk_bench import Bench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from node.disk import (
    Append,
    Create,
    Disk,
    DiskError,
    Op,
    Remove,
    Rename,
    Sync,
    SyncDirectory,
    Truncate,
)
from sim.virtual.loss import PowerLoss


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    own = chosen(metafunc.config, "disk")
    for fixture, kinds in (("bench", ["memory", "files", "platter"]), ("powered", ["memory", "platter"])):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, kinds if own is None else ["chosen"], indirect=True)


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(request.param, tmp_path, chosen(request.config, "disk"))
    yield made
    made.disk.close()


@pytest.fixture
def powered(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    made: list[Bench] = []

    def make() -> Bench:
        home = tmp_path / str(len(made))
        home.mkdir()
        made.append(Bench(request.param, home, chosen(request.config, "disk")))
        if not made[-1].has_power:
            pytest.skip("this disk has no `cut`")
        return made[-1]

    yield make
    for one in made:
        one.disk.close()


@pytest.fixture(scope="session")
def other_disks(request: pytest.FixtureRequest) -> list[Callable[[Path], Bench]]:
    """Makers of what is held against the disk in memory."""
    own = chosen(request.config, "disk")
    if own is not None:
        return [lambda home: Bench("chosen", home, own)]
    return [lambda home: Bench("files", home), lambda home: Bench("platter", home)]


def test_appends_stand_behind_each_other_and_can_be_read_in_parts(bench: Bench) -> None:
    bench.disk.perform([Create("a"), Append("a", b"one"), Append("a", b""), Append("a", b"two"), Sync("a")])
    assert bench.disk.read("a") == b"onetwo"
    assert bench.disk.read("a", 2, 2) == b"et"
    assert bench.disk.read("a", 5, 100) == b"o"
    assert bench.disk.read("a", 100) == b""


def test_reserved_space_reads_as_zeros_and_appends_go_in_front_of_it(bench: Bench) -> None:
    bench.disk.perform([Create("a", 8), Append("a", b"12345")])
    assert bench.disk.read("a") == b"12345\0\0\0"
    bench.disk.perform([Append("a", b"6789")])
    assert bench.disk.read("a") == b"123456789" + bytes(8)  # exceeded: a step of 8 behind the end


def test_truncate_moves_the_end_back_and_sets_space_aside_anew(bench: Bench) -> None:
    bench.disk.perform([Create("a", 8), Append("a", b"12345"), Truncate("a", 2), Append("a", b"xy")])
    assert bench.disk.read("a") == b"12xy"
    bench.disk.perform([Truncate("a", 3, 4), Append("a", b"z")])
    assert bench.disk.read("a") == b"12xz\0\0\0"


def test_a_new_process_appends_behind_all_there_is_until_it_truncates(bench: Bench) -> None:
    bench.disk.perform([Create("a", 4), Append("a", b"12"), Sync("a"), SyncDirectory()])
    disk = bench.restart()
    assert disk.read("a") == b"12\0\0"
    disk.perform([Append("a", b"3"), Truncate("a", 2, 4), Append("a", b"4"), Sync("a")])
    assert disk.read("a") == b"124\0\0\0"


def test_names_are_sorted_and_follow_rename_and_remove(bench: Bench) -> None:
    disk = bench.disk
    disk.perform(
        [Create("b"), Create("a"), Append("a", b"A"), Append("b", b"B"), Rename("a", "b"), Create("c")]
    )
    assert disk.names() == ["b", "c"]
    disk.perform([Append("b", b"2"), Remove("c"), Remove("c"), Remove("never"), SyncDirectory()])
    assert disk.names() == ["b"]
    assert disk.read("b") == b"A2"
    disk.perform([Create("a"), Rename("b", "b")])
    assert disk.read("a") == b""


def test_reading_a_missing_file_is_no_failure_of_the_disk(bench: Bench) -> None:
    with pytest.raises(FileNotFoundError):
        bench.disk.read("nothing")
    assert bench.disk.names() == []


@pytest.mark.parametrize(
    "bad",
    [Create("a"), Append("no", b"x"), Sync("no"), Rename("no", "b"), Truncate("a", 4), Truncate("no", 0)],
    ids=repr,
)
def test_an_operation_that_cannot_be_done_fails_the_disk_for_good(bench: Bench, bad: Op) -> None:
    bench.disk.perform([Create("a"), Append("a", b"123")])
    with pytest.raises(DiskError, match=r"failed"):
        bench.disk.perform([bad])
    for call in (lambda: bench.disk.perform([Sync("a")]), bench.disk.names, lambda: bench.disk.read("a")):
        with pytest.raises(DiskError, match=r"failed"):
            call()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".hidden", "a b", "a\n", "ä"])
def test_a_name_with_a_path_or_strange_letters_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(ValueError, match="no plain file name"):
        bench.disk.perform([Create(name)])


def test_what_was_synced_survives_every_cut(powered: Callable[[], Bench]) -> None:
    for seed in range(40):
        one = powered()
        one.disk.perform([Create("a", 3000), Append("a", b"s" * 700), Sync("a"), SyncDirectory()])
        one.disk.perform([Append("a", b"u" * 9000), Create("b"), Append("b", b"x")])
        one.cut(Random(seed))
        assert one.disk.read("a")[:700] == b"s" * 700
        assert len(one.disk.read("a")) >= 3000
        one.disk.close()


def test_a_cut_keeps_drops_shortens_and_tears_what_was_not_synced(powered: Callable[[], Bench]) -> None:
    seen = set()
    for seed in range(60):
        one = powered()
        one.disk.perform([Create("a"), Append("a", b"s" * 100), Sync("a"), SyncDirectory()])
        one.disk.perform([Append("a", b"u" * 10000)])
        loss = one.cut(Random(seed))
        assert loss.unsynced_bytes == 10000
        tail = one.disk.read("a")[100:]
        if tail == b"u" * 10000:
            seen.add("kept")
            assert loss.dropped_bytes == loss.torn_bytes == 0
        elif loss.torn_bytes:
            seen.add("torn")
            assert loss.torn_bytes >= sum(1 for byte in tail if byte != ord("u"))
            if any(byte not in b"u\0" for byte in tail):
                seen.add("garbage")
        else:
            tail = tail.rstrip(b"\0")  # the length may have reached the disk before the bytes
            assert tail == b"u" * len(tail)
            assert loss.dropped_bytes == 10000 - len(tail)
            assert not tail or (len(tail) + 100) % 512 == 0
            seen.add("prefix" if tail else "dropped")
        one.disk.close()
    assert seen == {"kept", "torn", "garbage", "prefix", "dropped"}


def test_names_that_were_not_synced_may_be_undone_and_synced_ones_never(powered: Callable[[], Bench]) -> None:
    seen = set()
    for seed in range(60):
        one = powered()
        disk = one.disk
        for name in "abc":
            disk.perform([Create(name), Append(name, name.encode()), Sync(name)])
        disk.perform([Create("gone"), SyncDirectory(), Remove("gone"), SyncDirectory()])
        disk.perform([Rename("a", "b"), Remove("c"), Create("d"), Rename("d", "e"), Create("c")])
        loss = one.cut(Random(seed))
        disk = one.disk
        names = disk.names()
        assert "gone" not in names
        renamed = disk.read("b") == b"a"
        assert ("a" in names) == (not renamed), "a rename is undone whole or stays whole"
        if not renamed:
            assert disk.read("a") == b"a"
            assert disk.read("b") == b"b"
        c = disk.read("c") if "c" in names else None
        assert c in (None, b"", b"c")
        assert not ("d" in names and "e" in names)
        seen.add((renamed, c, "d" in names, "e" in names))
        assert (loss.entries_undone == 0) == ((renamed, c, "e" in names) == (True, b"", True))
        disk.close()
    assert {entry[0] for entry in seen} == {True, False}
    assert {entry[1] for entry in seen} == {None, b"", b"c"}
    assert {entry[2:] for entry in seen} == {(False, False), (True, False), (False, True)}


def test_a_truncation_that_was_not_synced_may_come_back(powered: Callable[[], Bench]) -> None:
    seen = set()
    for seed in range(40):
        one = powered()
        one.disk.perform([Create("a"), Append("a", b"old-tail"), Sync("a"), SyncDirectory()])
        one.disk.perform([Truncate("a", 3)])
        one.cut(Random(seed))
        seen.add(one.disk.read("a"))
        one.disk.perform([Truncate("a", 3), Sync("a")])
        one.cut(Random(seed))
        assert one.disk.read("a") == b"old"
        one.disk.close()
    assert seen == {b"old", b"old-tail"}


def test_the_same_seed_gives_the_same_loss(powered: Callable[[], Bench]) -> None:
    def run() -> tuple[PowerLoss, dict[str, bytes]]:
        one = powered()
        one.disk.perform(
            [Create("a", 99), Append("a", b"q" * 5000), Sync("a"), Create("b"), Append("b", b"w" * 5000)]
        )
        one.disk.perform([Rename("b", "c"), Append("a", b"z" * 5000)])
        loss = one.cut(Random(7))
        found = {name: one.disk.read(name) for name in one.disk.names()}
        one.disk.close()
        return loss, found

    assert run() == run()


def test_after_a_cut_what_is_there_is_durable(powered: Callable[[], Bench]) -> None:
    for seed in range(10):
        one = powered()
        one.disk.perform([Create("a"), Append("a", b"u" * 5000), Create("b"), Rename("b", "c")])
        one.cut(Random(seed))
        found = {name: one.disk.read(name) for name in one.disk.names()}
        again = one.cut(Random(seed + 1))
        assert again == PowerLoss()
        assert {name: one.disk.read(name) for name in one.disk.names()} == found
        one.disk.close()


def test_a_new_process_can_use_a_disk_that_had_failed(bench: Bench) -> None:
    bench.disk.perform([Create("a"), Append("a", b"123"), Sync("a"), SyncDirectory()])
    with pytest.raises(DiskError):
        bench.disk.perform([Sync("no")])
    disk = bench.restart()
    assert disk.read("a") == b"123"
    disk.perform([Append("a", b"4"), Sync("a")])
    assert disk.read("a") == b"1234"


def test_operations_behind_one_that_failed_are_not_done(bench: Bench) -> None:
    bench.disk.perform([Create("a")])
    with pytest.raises(DiskError):
        bench.disk.perform([Append("a", b"1"), Sync("no"), Append("a", b"2"), Create("b")])
    disk = bench.restart()
    assert disk.names() == ["a"]
    assert disk.read("a") == b"1"


def test_a_name_and_the_bytes_behind_it_know_nothing_of_each_other(powered: Callable[[], Bench]) -> None:
    """A new name may stand before its bytes, and synced bytes do not keep a name that was not."""
    seen = set()
    for seed in range(60):
        one = powered()
        one.disk.perform([Create("a"), SyncDirectory()])
        one.disk.perform(
            [Append("a", b"unsynced"), Rename("a", "b"), Create("c"), Append("c", b"c"), Sync("c")]
        )
        one.cut(Random(seed))
        names = one.disk.names()
        seen.add(("b" in names, one.disk.read("b" if "b" in names else "a") == b"unsynced", "c" in names))
        one.disk.close()
    assert {entry[:2] for entry in seen} == {(True, True), (True, False), (False, True), (False, False)}
    assert {entry[2] for entry in seen} == {True, False}


def test_bytes_behind_a_truncation_may_land_in_the_file_as_it_was_before(
    powered: Callable[[], Bench],
) -> None:
    mixed = 0
    for seed in range(40):
        one = powered()
        one.disk.perform([Create("a"), Append("a", b"o" * 3000), Sync("a"), SyncDirectory()])
        one.disk.perform([Truncate("a", 300), Append("a", b"n" * 2000)])
        loss = one.cut(Random(seed))
        found = one.disk.read("a")
        assert found[:300] == b"o" * 300
        if loss.mixed_bytes:
            mixed += 1
            assert len(found) == 3000
            assert found[2300:] == b"o" * 700
            for start in range(512, 2048, 512):
                assert found[start : start + 512] in (b"o" * 512, b"n" * 512)
            assert found.count(b"n") == loss.mixed_bytes
        one.disk.perform([Truncate("a", 300), Sync("a"), Append("a", b"n" * 2000)])
        one.cut(Random(seed))
        assert b"o" * 50 not in one.disk.read("a")[300:], "a truncation that was synced stays"
        one.disk.close()
    assert 3 < mixed < 35


def test_a_reserve_that_was_synced_reads_as_zeros_and_another_may_hold_what_stood_there(
    powered: Callable[[], Bench],
) -> None:
    stale = 0
    for seed in range(50):
        one = powered()
        one.disk.perform([Create("a", 4000), Sync("a"), Create("b", 4000), SyncDirectory()])
        one.disk.perform([Append("a", b"u" * 600), Append("b", b"u" * 600)])
        one.cut(Random(seed))
        assert not any(one.disk.read("a")[600:])
        stale += any(one.disk.read("b")[600:])
        one.disk.close()
    assert 2 < stale < 30


NAMES = st.sampled_from(["a", "b", "c"])
OPS = st.one_of(
    st.builds(Create, NAMES, st.sampled_from([0, 0, 5, 600])),
    st.builds(Append, NAMES, st.binary(max_size=40) | st.integers(1, 2000).map(lambda size: b"x" * size)),
    st.builds(Append, NAMES, st.binary(min_size=1, max_size=9)),
    st.builds(Sync, NAMES),
    st.builds(SyncDirectory),
    st.builds(Rename, NAMES, NAMES),
    st.builds(Remove, NAMES),
    st.builds(Truncate, NAMES, st.integers(0, 60), st.sampled_from([0, 7])),
    st.just("restart"),
)


@settings(max_examples=70, deadline=None, derandomize=True)
@given(steps=st.lists(OPS, max_size=25))
def test_any_operations_leave_the_same_names_and_bytes_on_every_disk(
    other_disks: list[Callable[[Path], Bench]], steps: list[Op | str]
) -> None:
    home = Path(tempfile.mkdtemp())
    benches = [Bench("memory", home)]
    for number, make in enumerate(other_disks):
        (home / str(number)).mkdir()
        benches.append(make(home / str(number)))
    try:
        for step in steps:
            if isinstance(step, str):
                for one in benches:
                    one.restart()
                continue
            if step is not steps[-1] and not _possible(step, benches[0].disk):
                continue  # a failure ends the run: leave it to the last step
            failures = []
            for one in benches:
                try:
                    one.disk.perform([step])
                    failures.append(False)
                except DiskError:
                    failures.append(True)
            assert len(set(failures)) == 1, f"{step}: {failures}"
            if failures[0]:
                return
            states = [{name: one.disk.read(name) for name in one.disk.names()} for one in benches]
            assert all(state == states[0] for state in states), step
    finally:
        for one in benches:
            one.disk.close()
        shutil.rmtree(home)


class Promised:
    """What must be there after a cut, from the operations alone."""

    def __init__(self) -> None:
        self.files: dict[str, list[bytes]] = {}  # name -> [bytes written, bytes promised]
        self.durable: dict[str, list[bytes]] = {}
        self.touched: list[str] = []

    def note(self, op: Op) -> None:
        if isinstance(op, SyncDirectory):
            self.durable, self.touched = dict(self.files), []
        elif isinstance(op, Rename):
            self.touched += [op.old, op.new]
            self.files[op.new] = self.files.pop(op.old)
        elif isinstance(op, Create):
            self.touched.append(op.name)
            self.files[op.name] = [b"", b""]
        elif isinstance(op, Remove):
            self.touched.append(op.name)
            self.files.pop(op.name, None)
        elif isinstance(op, Append):
            self.files[op.name][0] += op.data
        elif isinstance(op, Sync):
            self.files[op.name][1] = self.files[op.name][0]
        else:
            file = self.files[op.name]
            file[0] = file[0][: op.size].ljust(op.size, b"\0")
            file[1] = file[1][: op.size]  # of a truncation only what stays in front of it is certain

    def kept(self) -> dict[str, bytes]:
        return {name: file[1] for name, file in self.durable.items() if name not in self.touched}


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(OPS.filter(lambda op: op != "restart"), max_size=25), seed=st.integers(0, 1 << 30))
def test_whatever_was_done_synced_bytes_under_synced_names_survive_a_cut(
    powered: Callable[[], Bench], steps: list[Op], seed: int
) -> None:
    one = powered()
    promised = Promised()
    for step in steps:
        if _possible(step, one.disk):
            one.disk.perform([step])
            if not (isinstance(step, Rename) and step.old == step.new):
                promised.note(step)
    one.cut(Random(seed))
    for name, data in promised.kept().items():
        assert one.disk.read(name)[: len(data)] == data
    one.disk.close()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(steps=st.lists(OPS.filter(lambda op: op != "restart"), max_size=25), seed=st.integers(0, 1 << 30))
def test_a_cut_does_the_same_to_memory_and_to_real_files_as_far_as_names_go(
    steps: list[Op], seed: int
) -> None:
    """Names are drawn alike; bytes too, but for zeros at a file's written end, which a real file does not tell from a reserve."""
    home = Path(tempfile.mkdtemp())
    benches = [Bench("memory", home), Bench("platter", home)]
    try:
        for step in steps:
            if _possible(step, benches[0].disk):
                for one in benches:
                    one.disk.perform([step])
        losses = [one.cut(Random(seed)) for one in benches]
        assert losses[0].entries_undone == losses[1].entries_undone
        assert benches[0].disk.names() == benches[1].disk.names()
        for name in benches[0].disk.names():
            if not any(isinstance(step, Append | Truncate) and _zeros(step) for step in steps):
                assert benches[0].disk.read(name) == benches[1].disk.read(name)
    finally:
        for one in benches:
            one.disk.close()
        shutil.rmtree(home)


def _zeros(step: Append | Truncate) -> bool:
    return isinstance(step, Truncate) or step.data.endswith(b"\0")


def _possible(step: Op, disk: Disk) -> bool:
    names = disk.names()
    if isinstance(step, Create):
        return step.name not in names
    if isinstance(step, Truncate):
        return step.name in names and step.size <= len(disk.read(step.name))
    if isinstance(step, Rename):
        return step.old in names
    return isinstance(step, SyncDirectory | Remove) or step.name in names
