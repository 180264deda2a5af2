"""Offline audit of node data folders: what does each node's disk say the log is, and do they agree?

The log of a node is rebuilt from its archived and live journal segments, one record at a time; what is kept in memory
is 40 bytes an entry: its chain value and term. chain_0 is 32 zero bytes, chain_i = sha256(chain_{i-1} + encoded entry i),
so equal values at one index mean equal logs up to it, and one comparison of arrays finds the first fork.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consensus.core import entry_position
from consensus.raft import records as raft
from sim.check.folders import Damage, Item, Source, read_folder

ZERO: Final = bytes(32)
"""Chain value before the first entry; in the arrays here also: not known."""


@dataclass(slots=True)
class Fork:
    """Two nodes hold different logs as committed."""

    index: int
    """First index at which their chain values differ."""
    nodes: tuple[str, str]
    chains: tuple[str, str]
    entries: tuple[str, str]
    """Where each node's entry stands and what it is, in words."""


@dataclass(slots=True)
class NodeLog:
    """What the disk of one node says."""

    node: str
    first_index: int = 0
    """First entry found; 0 if none."""
    last_index: int = 0
    commit: int = 0
    """Highest index the node had noted as committed (a hint: it may lag)."""
    agreed_index: int = 0
    """Up to here its log is the cluster's agreed log."""
    chain_at_common: str = ""
    """Chain value at the report's `common_index`."""
    entries: int = 0
    segments: int = 0
    rewritten: int = 0
    """Entries that replaced others: a tail that a new leader overruled, or one repeated at a segment's start."""
    gaps: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of indexes (first, last) found in no segment: covered by a snapshot from another node."""
    damage: list[Damage] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """Records that cannot follow from those before them."""


@dataclass(slots=True)
class AuditReport:
    """What the folders of a cluster say together."""

    nodes: dict[str, NodeLog]
    agreed_index: int
    """End of the agreed log: committed by somebody's note, or held by a majority of the folders."""
    common_index: int
    """Every node's log agrees with the agreed one at least up to here."""
    chain: str
    """Chain value at `agreed_index`."""
    forks: list[Fork]
    missing: list[tuple[int, int]]
    """Ranges of the agreed log whose entries are in no folder at all."""
    compared: int
    """Chain values found equal to another node's at the same index."""

    @property
    def passed(self) -> bool:
        """No fork, nothing corrupt, nothing contradictory, no entry missing, and at least one comparison."""
        bad = any(
            log.errors or any(damage.kind == "corrupt" for damage in log.damage)
            for log in self.nodes.values()
        )
        return not (self.forks or bad or self.missing) and self.compared > 0

    def as_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return asdict(self) | {"passed": self.passed}


class _Chain:
    """Chain values of one node by index, in one array; zeros where not known. Terms beside them."""

    def __init__(self) -> None:
        self.values = bytearray(ZERO)
        self.terms = array("Q", [0])

    def __len__(self) -> int:
        """Last index."""
        return len(self.values) // 32 - 1

    def at(self, index: int) -> bytes | None:
        value = bytes(self.values[32 * index : 32 * index + 32])
        if len(value) < 32 or (index and value == ZERO):
            return None
        return value

    def put(self, entry: bytes, index: int, term: int) -> None:
        """Entry `index` replaces what stands there and behind."""
        previous = self.at(index - 1)
        self.cut(index)
        self.values += ZERO if previous is None else hashlib.sha256(previous + entry).digest()
        self.terms.append(term)

    def cut(self, index: int) -> None:
        """Forget entry `index` and what stands behind."""
        del self.values[32 * index :], self.terms[index:]

    def jump(self, index: int, term: int, value: bytes | None) -> None:
        """A snapshot stands for everything up to `index`, of which this log knows less."""
        missing = index - len(self)
        self.values += bytes(32 * missing)
        self.terms.extend([0] * missing)
        self.terms[index] = term
        if value is not None:
            self.values[32 * index :] = value


def _rows(values: bytearray, upto: int) -> NDArray[np.uint64]:
    """Chain values 0..upto as rows of four integers."""
    return np.frombuffer(bytes(values[: 32 * (upto + 1)]), dtype=np.uint64).reshape(-1, 4)


def _known(rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return np.asarray(rows.any(axis=1))


def _scan(
    node: str, items: Iterator[Item], anchor: Callable[[int], bytes | None]
) -> tuple[NodeLog, _Chain, bool]:
    """Read one folder. `anchor` gives the chain value at a snapshot's index where it is known from elsewhere; the
    third value returned says that one was wanted in vain."""
    log, chain, wanting = NodeLog(node), _Chain(), False
    segment = ""
    for item in items:
        if isinstance(item, Damage):
            log.damage.append(item)
            continue
        name, (kind, data) = item
        if name != segment:
            segment = name
            log.segments += 1
        if kind == raft.ENTRY:
            try:
                index, term, _ = entry_position(data)
            except ValueError as error:
                log.errors.append(f"{segment}: {error}")
                continue
            last = len(chain)
            if index < 1:
                log.errors.append(f"{segment}: an entry with index {index}; the first one is 1")
                continue
            if index > last + 1:
                log.errors.append(f"{segment}: entry {index} follows entry {last}")
                log.gaps.append((last + 1, index - 1))
                chain.jump(index - 1, 0, None)
            elif index <= last:
                log.rewritten += last - index + 1
            log.first_index = min(log.first_index or index, index)
            log.entries += 1
            chain.put(data, index, term)
        elif kind in (raft.BASE, raft.COMMIT):
            try:
                said = raft.replay([item[1]])
            except ValueError as error:
                log.errors.append(f"{segment}: {error}")
                continue
            log.commit = max(log.commit, said.commit)
            index, term = said.base_index, said.base_term
            if index > len(chain) or (index and chain.terms[index] != term):
                # Another node's snapshot took the place of a tail; what was not committed here may be overruled.
                chain.cut(min(log.commit, index - 1, len(chain)) + 1)
                log.gaps.append((len(chain) + 1, index))
                value = anchor(index)
                wanting = wanting or value is None
                chain.jump(index, term, value)
    log.last_index = len(chain)
    if log.commit > log.last_index and not log.damage:
        log.errors.append(
            f"committed up to {log.commit} by its own note, but its log ends at {log.last_index}"
        )
    return log, chain, wanting


def audit_folders(
    folders: Mapping[str, Path], source: Source | None = None, members: int | None = None
) -> AuditReport:
    """Audit data folders by node name. `source` reads one folder (default: Raft's journal); `members` counts the
    cluster (default: one a folder). Raises OSError; whatever is wrong *in* the folders is reported, not raised."""
    report, _ = _audit(folders, source or read_folder, members or len(folders))
    return report


def _audit(folders: Mapping[str, Path], source: Source, members: int) -> tuple[AuditReport, _Chain]:
    names = sorted(folders)
    logs: dict[str, NodeLog] = {}
    chains: dict[str, _Chain] = {}
    unanchored = []
    for name in names:
        logs[name], chains[name], wanting = _scan(name, source(folders[name]), lambda index: None)
        if wanting:
            unanchored.append(name)
    # A node that once took over a snapshot counts on from a value that only the others' logs can tell.
    for name in unanchored:
        others = [chains[other] for other in names if other not in unanchored]

        def anchor(index: int, others: list[_Chain] = others) -> bytes | None:
            return next((value for other in others if (value := other.at(index)) is not None), None)

        logs[name], chains[name], _ = _scan(name, source(folders[name]), anchor)

    reference, forks = _reference(names, logs, chains, members, folders, source)
    agreed = len(reference)
    compared = -agreed
    for name in names:
        logs[name].agreed_index, same = _agreed_prefix(chains[name].values, reference.values)
        compared += same
    common = min((log.agreed_index for log in logs.values()), default=0)
    for name in names:
        logs[name].chain_at_common = (chains[name].at(common) or b"").hex()
    report = AuditReport(
        nodes=logs,
        agreed_index=agreed,
        common_index=common,
        chain=bytes(reference.values[-32:]).hex(),
        forks=forks,
        missing=_missing(logs, agreed),
        compared=max(compared, 0),
    )
    return report, reference


def _reference(
    names: list[str],
    logs: Mapping[str, NodeLog],
    chains: Mapping[str, _Chain],
    members: int,
    folders: Mapping[str, Path],
    source: Source,
) -> tuple[_Chain, list[Fork]]:
    """The agreed chain: what nodes noted as committed, then what a majority holds. With it the forks among committed
    prefixes."""
    noted = {name: min(logs[name].commit, logs[name].last_index) for name in names}
    reference = _Chain()
    forks: list[Fork] = []
    used: list[str] = []
    for name in sorted(names, key=lambda name: (-noted[name], name)):
        upto, length = noted[name], min(noted[name], len(reference)) + 1
        own, ours = _rows(chains[name].values, upto), _rows(reference.values, length - 1)
        mine, theirs = _known(own[:length]), _known(ours)
        both = mine & theirs
        differing = np.flatnonzero(both & (own[:length] != ours).any(axis=1))
        if len(differing):
            index = int(differing[0])
            value = reference.at(index)
            other = next(each for each in used if chains[each].at(index) == value)
            forks.append(
                Fork(
                    index,
                    (other, name),
                    ((value or b"").hex(), (chains[name].at(index) or b"").hex()),
                    (_locate(folders[other], source, index), _locate(folders[name], source, index)),
                )
            )
        else:
            for gap in np.flatnonzero(mine & ~theirs).tolist():
                if gap:
                    reference.values[32 * gap : 32 * gap + 32] = own[gap].tobytes()
            reference.values += chains[name].values[32 * length : 32 * (upto + 1)]
        used.append(name)
    while True:
        index, last = len(reference) + 1, reference.at(len(reference))
        votes = Counter(
            value
            for name in names
            if chains[name].at(index - 1) == last and (value := chains[name].at(index)) is not None
        )
        winner, count = votes.most_common(1)[0] if votes else (b"", 0)
        if count <= members // 2:
            return reference, forks
        reference.values += winner


def _agreed_prefix(own: bytearray, reference: bytearray) -> tuple[int, int]:
    """Highest index at which a node's chain value is the agreed one (equal values mean equal logs up to there), and how
    many values were found equal."""
    upto = min(len(own), len(reference)) // 32 - 1
    mine, ours = _rows(own, upto), _rows(reference, upto)
    same = np.flatnonzero(_known(mine) & (mine == ours).all(axis=1))
    return (int(same[-1]), len(same)) if len(same) else (0, 0)


def _missing(logs: Mapping[str, NodeLog], agreed: int) -> list[tuple[int, int]]:
    """Ranges that every node lacks."""
    held = np.zeros(agreed + 2, dtype=bool)
    for log in logs.values():
        own = np.ones(agreed + 2, dtype=bool)
        own[log.last_index + 1 :] = False
        for first, last in log.gaps:
            own[first : last + 1] = False
        held |= own
    lacking = np.flatnonzero(~held[1 : agreed + 1]) + 1
    ranges: list[tuple[int, int]] = []
    for index in lacking.tolist():
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return ranges


def _locate(folder: Path, source: Source, index: int) -> str:
    """Where the entry that a folder ends up with at `index` stands, in words."""
    found = "in no segment"
    for item in source(folder):
        if isinstance(item, Damage):
            continue
        segment, (kind, data) = item
        if kind == raft.ENTRY:
            at, term, what = entry_position(data)
            if at == index:
                found = f"entry {index} of term {term}, kind {what}, {len(data)} bytes, in {segment}"
    return found


class ArchivedLog:
    """The agreed log of a cluster, entry by entry, read back from the folders and checked against the agreed chain."""

    def __init__(self, folders: Mapping[str, Path], source: Source | None = None, members: int | None = None):
        """Audits the folders first; the audit is in `report`. Raises OSError."""
        self._folders = folders
        self._source = source or read_folder
        self.report, self._agreed = _audit(folders, self._source, members or len(folders))
        self.reached = 0
        """Last index handed out so far."""

    def __iter__(self) -> Iterator[bytes]:
        """Encoded entries from index 1 on, without a hole; ends early (see `reached`, `complete`) where no folder has
        the next one. Restartable. Memory: one record at a time."""
        self.reached = 0
        chain, progress = ZERO, True
        while progress and self.reached < self.report.agreed_index:
            progress = False
            for name in sorted(self._folders):
                for item in self._source(self._folders[name]):
                    if isinstance(item, Damage) or item[1][0] != raft.ENTRY:
                        continue
                    entry = item[1][1]
                    wanted = self.reached + 1
                    if entry_position(entry)[0] != wanted or wanted > self.report.agreed_index:
                        continue
                    value = hashlib.sha256(chain + entry).digest()
                    # Another entry at this index was overruled later: the agreed one comes further on.
                    if self._agreed.at(wanted) != value:
                        continue
                    chain, self.reached, progress = value, wanted, True
                    yield entry
                    if self.complete:
                        return

    @property
    def complete(self) -> bool:
        """After an iteration: every entry of the agreed log was handed out."""
        return self.reached == self.report.agreed_index
