"""What the nodes of a BFT log have signed, as their journals have it: did an honest one ever contradict itself?

Every node's archived journal holds, in order, each vote, timeout and proposal before it was said, and with the blocks and
certificates the votes and timeouts of all the others that reached it. So the words of a node are read twice: from its own
journal, and from everybody else's. Signatures are verified here; nothing is taken from the core but the format of its records.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack

from sim.check.folders import Damage, Item, read_folder
from sim.check.verdict import Check

Verify = Callable[[str, bytes, bytes], bool]
"""(node, data, signature) -> whether the signature is that node's under the data."""

_TAG: Final = b"ridethrough/bft/1"
_PROPOSAL, _VOTE, _TIMEOUT = 1, 2, 3
_BLOCK_RECORD, _SAFETY_RECORD = 2, 3
_GIVEN_UP: Final = 2
"""Place of the highest round given up among the rounds of a safety record."""
_EXAMPLES: Final = 3


@dataclass(slots=True)
class Words:
    """What one node has signed, by round."""

    votes: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    """Round -> block -> signature."""
    timeouts: dict[int, dict[int, bytes]] = field(default_factory=dict)
    """Round -> round of the certificate that was signed with it -> signature."""
    proposals: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    """Round -> block -> signature."""

    def counts(self) -> tuple[int, int, int]:
        """(votes, timeouts, proposals)."""
        return (
            sum(map(len, self.votes.values())),
            sum(map(len, self.timeouts.values())),
            sum(map(len, self.proposals.values())),
        )


@dataclass(slots=True)
class Spoken:
    """The words of all nodes: `own`, from their own journals, and `heard`, from those of the others. `problems`: what a journal
    says against itself, in the order of its records."""

    own: dict[str, Words] = field(default_factory=dict)
    heard: dict[str, Words] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Journal:
    """One node's journal, record by record."""

    def __init__(self, node: str, spoken: Spoken) -> None:
        self._node = node
        self._spoken = spoken
        self._words = spoken.own.setdefault(node, Words())
        self._last: tuple[int, bytes] = (0, b"")
        self._given_up = 0
        self._seen: dict[bytes, None] = {}

    def add(self, kind: int, data: bytes) -> None:
        """Raises for what is no record of its kind."""
        if kind == _BLOCK_RECORD:
            self._qc(msgpack.unpackb(data, raw=False)[5])
        elif kind == _SAFETY_RECORD:
            _, rounds, vote, timeout, proposal, high_qc, high_tc = msgpack.unpackb(data, raw=False)
            if vote:
                _, _, round, block, signature = msgpack.unpackb(vote, raw=False)
                self._vote(round, block, signature)
            if timeout:
                _, _, round, certificate, _, signature = msgpack.unpackb(timeout, raw=False)
                high = msgpack.unpackb(certificate, raw=False)[0]
                self._words.timeouts.setdefault(round, {})[high] = signature
                self._given_up = max(self._given_up, round)
            self._given_up = max(self._given_up, rounds[_GIVEN_UP])
            if proposal:
                round, block, _, signature = proposal
                self._words.proposals.setdefault(round, {})[block] = signature
            self._qc(high_qc)
            self._tc(high_tc)

    def _vote(self, round: int, block: bytes, signature: bytes) -> None:
        if (round, block) != self._last:
            # A new vote: by now the timeouts of all records before this one stood on the disk.
            if round <= self._last[0]:
                self._spoken.problems.append(
                    f"{self._node} votes in round {round} for {block.hex()[:12]} after its vote in round {self._last[0]}"
                )
            if round <= self._given_up:
                self._spoken.problems.append(
                    f"{self._node} votes in round {round} after it gave round {self._given_up} up"
                )
            self._last = (round, block)
        self._words.votes.setdefault(round, {})[block] = signature

    def _qc(self, data: bytes) -> None:
        if not data or data in self._seen:
            return
        self._seen[data] = None
        round, block, votes = msgpack.unpackb(data, raw=False)
        for who, signature in votes:
            if who != self._node:
                self._heard(who).votes.setdefault(round, {})[block] = signature

    def _tc(self, data: bytes) -> None:
        if not data or data in self._seen:
            return
        self._seen[data] = None
        round, rows, high_qc = msgpack.unpackb(data, raw=False)
        for who, high, signature in rows:
            if who != self._node:
                self._heard(who).timeouts.setdefault(round, {})[high] = signature
        self._qc(high_qc)

    def _heard(self, who: str) -> Words:
        return self._spoken.heard.setdefault(who, Words())


def collect(journals: Mapping[str, Iterable[Item]]) -> Spoken:
    """Read the journals of nodes by name. Damage in them is for the audit of logs to judge."""
    spoken = Spoken()
    for node, items in journals.items():
        journal = _Journal(node, spoken)
        for item in items:
            if isinstance(item, Damage):
                continue
            segment, (kind, data) = item
            try:
                journal.add(kind, data)
            except (ValueError, TypeError, IndexError) as error:
                spoken.problems.append(f"{node}: {segment}: a record of kind {kind} makes no sense: {error}")
    return spoken


def check_words(
    folders: Mapping[str, Path], cluster: str, epoch: int, verify: Verify, liars: Collection[str] = ()
) -> list[Check]:
    """Read the data folders of nodes that do not lie, all of which are down, and hold their words against each other. `liars` may
    say what they like. Raises OSError."""
    return judge_words(
        collect({node: read_folder(folder) for node, folder in folders.items()}),
        cluster,
        epoch,
        verify,
        liars,
    )


def judge_words(
    spoken: Spoken, cluster: str, epoch: int, verify: Verify, liars: Collection[str] = ()
) -> list[Check]:
    """See `check_words`. Three checks: one word a round, every word of the node that signed it, every word on its own disk."""
    honest = [node for node in spoken.own if node not in liars]
    twice, forged, unwritten = list(spoken.problems), [], []
    votes = timeouts = proposals = heard = verified = 0
    known: dict[tuple[str, bytes, bytes], bool] = {}

    def signed(node: str, what: int, body: bytes, signature: bytes) -> bool:
        data = _statement(cluster, epoch, what, body)
        key = (node, data, signature)
        if key not in known:
            known[key] = verify(node, data, signature)
        return known[key]

    for node in honest:
        own, others = spoken.own[node], spoken.heard.get(node, Words())
        counted = own.counts()
        votes, timeouts, proposals = votes + counted[0], timeouts + counted[1], proposals + counted[2]
        heard += sum(others.counts())
        for round in sorted({*own.votes, *others.votes}):
            blocks = {**others.votes.get(round, {}), **own.votes.get(round, {})}
            if len(blocks) > 1:
                named = ", ".join(sorted(block.hex()[:12] for block in blocks))
                twice.append(f"{node} votes twice in round {round}: {named}")
        for round in sorted({*own.timeouts, *others.timeouts}):
            highs = {**others.timeouts.get(round, {}), **own.timeouts.get(round, {})}
            if len(highs) > 1:
                twice.append(
                    f"{node} gives round {round} up twice, with certificates of rounds {sorted(highs)}"
                )
        for round, made in sorted(own.proposals.items()):
            if len(made) > 1:
                twice.append(f"{node} proposes {len(made)} blocks in round {round}")
        for what, body, signature, words in _statements(own, others):
            verified += 1
            if not signed(node, what, body, signature):
                forged.append(f"{node} has not signed {words}")
        for round, blocks in sorted(others.votes.items()):
            unwritten += [
                f"others hold a vote of {node} in round {round} for {block.hex()[:12]} that its journal does not have"
                for block in blocks
                if block not in own.votes.get(round, {})
            ]
        for round, highs in sorted(others.timeouts.items()):
            if not highs.keys() <= own.timeouts.get(round, {}).keys():
                unwritten.append(
                    f"others hold a timeout of {node} in round {round} that its journal does not have"
                )
    return [
        Check(
            "one_word_a_round",
            not twice,
            _words(twice)
            or f"{votes:,} votes, {timeouts:,} timeouts and {proposals:,} proposals of {len(honest)} honest nodes: one a round "
            "each, none at or below a round given up",
            votes,
        ),
        Check(
            "words_signed",
            not forged,
            _words(forged) or f"{verified:,} words of honest nodes are signed by them",
            verified,
        ),
        Check(
            "words_on_disk",
            not unwritten,
            _words(unwritten)
            or f"{heard:,} votes and timeouts that others hold stand in the journals of those who said them",
            heard,
        ),
    ]


def _statements(own: Words, others: Words) -> Iterable[tuple[int, bytes, bytes, str]]:
    """(type, body, signature, in words)."""
    for words in (own, others):
        for round, blocks in words.votes.items():
            for block, signature in blocks.items():
                yield _VOTE, _u64(round) + block, signature, f"the vote of round {round}"
        for round, highs in words.timeouts.items():
            for high, signature in highs.items():
                yield _TIMEOUT, _u64(round) + _u64(high), signature, f"the timeout of round {round}"
        for round, blocks in words.proposals.items():
            for block, signature in blocks.items():
                yield _PROPOSAL, _u64(round) + block, signature, f"the proposal of round {round}"


def check_evidence(
    held: Mapping[str, Sequence[Mapping[str, Any]]],
    cluster: str,
    epoch: int,
    verify: Verify,
    liars: Mapping[str, str],
) -> Check:
    """The evidence of double dealing that honest nodes hold (`CoreView.facts`) names only liars, and both of its halves are
    signed. `liars`: with their strategies; of one that says two things at once something must have come out."""
    problems: list[str] = []
    pieces: dict[str, int] = {}
    for holder, evidence in held.items():
        if holder in liars:
            continue
        for piece in evidence:
            node = piece["node"]
            pieces[node] = pieces.get(node, 0) + 1
            words = f"{holder} holds two {piece['kind']}s of {node} in round {piece['round']}"
            if node not in liars:
                problems.append(f"{words}, and {node} does not lie")
            try:
                halves = [_half(piece, name) for name in ("first", "second")]
            except (ValueError, KeyError, struct.error) as error:
                problems.append(f"{words}, which cannot be read: {error}")
                continue
            if halves[0][1] == halves[1][1]:
                problems.append(f"{words} that say the same")
            for what, body, signature in halves:
                if not verify(node, _statement(cluster, epoch, what, body), signature):
                    problems.append(f"{words}, one of which it has not signed")
    found = ", ".join(f"{count:,} against {node}" for node, count in sorted(pieces.items()))
    return Check(
        "blame_on_liars",
        not problems,
        _words(problems)
        or (f"pairs of contradicting words, both signed: {found}" if found else "nobody is blamed"),
        sum(pieces.values()),
        needs_count="equivocate" in liars.values(),
    )


def _half(piece: Mapping[str, Any], name: str) -> tuple[int, bytes, bytes]:
    """(type, body, signature) of one of two statements."""
    kind, round, data = piece["kind"], int(piece["round"]), bytes.fromhex(piece[name])
    if kind == "timeout":
        high, slash, signature = data.partition(b"/")
        if not slash:
            raise ValueError("it does not say which certificate was signed")
        return _TIMEOUT, _u64(round) + _u64(int(high)), signature
    if kind not in ("vote", "proposal"):
        raise ValueError(f"it is of unknown kind {kind!r}")
    return (_VOTE if kind == "vote" else _PROPOSAL), _u64(round) + data[:32], data[32:]


def _statement(cluster: str, epoch: int, what: int, body: bytes) -> bytes:
    name = cluster.encode()
    return _TAG + struct.pack(">BQ", len(name), epoch) + name + bytes([what]) + body


def _u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def _words(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - _EXAMPLES:,} more" if len(problems) > _EXAMPLES else ""
    return "; ".join(problems[:_EXAMPLES]) + more
