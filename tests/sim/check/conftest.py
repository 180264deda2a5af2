"""A small run made by hand: a log, the folders that hold it, and the history that clients tell of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from consensus.core import EntryKind, Record, encode_entry
from consensus.raft import records as raft
from node.disk import Append, Create, Op, Remove, Rename, Truncate
from node.journal import Identity, Journal
from node.sessions import commands_group, encode_block, open_group
from sim.check.history import Operation
from sim.check.replay import ReplayState
from sim.check.replicated import NodeState


class Tally:
    """A machine that counts its commands and remembers the last one."""

    def __init__(self) -> None:
        self.count, self.last = 0, b""

    def check(self, command: bytes) -> str | None:
        return None

    def apply(self, commands: Sequence[bytes]) -> list[bytes]:
        results = []
        for command in commands:
            self.count, self.last = self.count + 1, command
            results.append(b"%d" % self.count)
        return results

    def query(self, query: bytes) -> bytes:
        return b"%s %d %s" % (query, self.count, self.last)

    def digest(self) -> bytes:
        return b"%031d" % self.count + b"."

    def snapshot(self) -> list[bytes]:
        return [b"%d" % self.count, self.last]

    def restore(self, chunks: Sequence[bytes]) -> None:
        self.count, self.last = int(chunks[0]), chunks[1]


class HandMade:
    """Builds a log and an honest history of it, step by step. Times are in microseconds, 100 an operation."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.operations: list[Operation] = []
        self.state = NodeState(Tally())
        self.now = 1000
        self.entry([], EntryKind.NOOP)

    def fresh_state(self) -> ReplayState:
        return NodeState(Tally())

    @property
    def index(self) -> int:
        return len(self.entries)

    def entry(
        self, groups: Sequence[tuple[object, ...]], kind: int = EntryKind.BLOCK, term: int = 1
    ) -> bytes:
        payload = encode_block(groups) if kind == EntryKind.BLOCK else b""
        entry = encode_entry(self.index + 1, term, kind, payload)
        self.entries.append(entry)
        self.effects = self.state.apply(entry)
        return entry

    def tick(self) -> tuple[int, int]:
        self.now += 100
        return self.now - 90, self.now - 10

    def open(self, client: str) -> int:
        self.entry([open_group(client, 1)])
        session = self.index << 20
        begin, end = self.tick()
        self.operations.append(
            Operation(
                "open", client, begin, end, "ok", session=session, index=self.index, chain=self.state.chain
            )
        )
        return session

    def write(self, client: str, session: int, *seqs: int, outcome: str = "ok") -> list[Operation]:
        commands = [b"%s-%d" % (client.encode(), seq) for seq in seqs]
        self.entry([commands_group(session, 0, list(seqs), commands)])
        begin, end = self.tick()
        made = []
        for effect in self.effects:
            operation = Operation(
                "write", client, begin, end, outcome, session=session, seq=effect.seq, command=effect.command
            )
            if outcome == "ok":
                operation.index, operation.place = self.index, effect.place
                operation.chain, operation.result = self.state.chain, effect.result
            made.append(operation)
        self.operations += made
        return made

    def ask(self, client: str, consistency: str = "linearizable", age: int | None = 50) -> Operation:
        begin, end = self.tick()
        operation = Operation(
            "query",
            client,
            begin,
            end,
            "ok",
            index=self.index,
            chain=self.state.chain,
            query=b"tally",
            result=self.state.query(b"tally"),
            consistency=consistency,
            max_age_us=500 if consistency == "bounded" else None,
            age_us=age,
            tier="fresh",
            source="model",
            node="n1",
        )
        self.operations.append(operation)
        return operation


@pytest.fixture
def made() -> HandMade:
    """An honest run: two clients, eleven writes (the last of unknown outcome but in the log), queries of all kinds."""
    run = HandMade()
    ada, ben = run.open("ada"), run.open("ben")
    run.write("ada", ada, 1, 2, 3)
    run.ask("ben", "any", age=None).tier = "stale"
    run.write("ben", ben, 1)
    run.ask("ada")
    run.write("ada", ada, 4, 5)
    run.ask("ben", "bounded")
    run.write("ben", ben, 2, 3, 4)
    run.write("ada", ada, 6)
    run.write("ben", ben, 5, outcome="unknown")[0].returned = None
    run.operations.append(
        Operation(
            "write",
            "ada",
            run.now,
            run.now + 10,
            "refused",
            session=ada,
            seq=9,
            command=b"never",
            error="BUSY",
        )
    )
    run.now += 10_000
    run.ask("ada")
    return run


def perform(folder: Path, ops: Sequence[Op]) -> None:
    """Runs disk operations on a real folder; enough of a disk for a journal without cuts."""
    for op in ops:
        path = folder / getattr(op, "name", "")
        if isinstance(op, Create):
            path.touch(exist_ok=False)
        elif isinstance(op, Append):
            with path.open("ab") as file:
                file.write(op.data)
        elif isinstance(op, Truncate):
            with path.open("r+b") as file:
                file.truncate(op.size)
        elif isinstance(op, Rename):
            (folder / op.old).rename(folder / op.new)
        elif isinstance(op, Remove):
            path.unlink(missing_ok=True)


class FolderDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        data = (self.folder / name).read_bytes()[offset:]
        return data if size < 0 else data[:size]

    def perform(self, ops: Sequence[Op]) -> None:
        perform(self.folder, ops)

    def close(self) -> None:
        pass


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Makes a node's data folder with a real journal: the records given, `None` for a new segment whose state is
    everything so far."""

    def make(node: str, records: Sequence[Record | None]) -> Path:
        path = tmp_path / node
        path.mkdir()
        identity = Identity("hand-made", node)
        perform(path, Journal.create_ops(identity, 0))
        journal, _ = Journal.open(FolderDisk(path), identity, archive=True, reserve=0)
        so_far: list[Record] = []
        for record in records:
            if record is None:
                ops, mark = journal.rotate(so_far[-3:] if so_far[0][0] == raft.BASE else so_far)
            else:
                so_far.append(record)
                ops, mark = journal.append([record])
            perform(path, ops)
            journal.mark_synced(mark)
        return path

    return make


def entry_records(entries: Sequence[bytes]) -> list[Record | None]:
    return [(raft.ENTRY, entry) for entry in entries]
