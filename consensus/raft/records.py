"""What Raft writes to its journal, and how a run of such records is read back."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from consensus.core import NodeId, Record, entry_position
from consensus.marks import sometimes

HARD_STATE: Final = 1
"""term (u64), then the node voted for in it, or nothing."""
ENTRY: Final = 2
"""An encoded entry; it replaces whatever stood at its index and behind."""
BASE: Final = 3
"""index, term (u64 each): a durable snapshot covers everything up to here."""
COMMIT: Final = 4
"""index (u64): everything up to here is known to be committed. A hint that saves waiting after a restart."""

_U64: Final = struct.Struct("<Q")
_PLACE: Final = struct.Struct("<QQ")


def hard_state(term: int, voted_for: NodeId | None) -> Record:
    """Term and vote, always together: written in two records they could be torn apart."""
    return HARD_STATE, _U64.pack(term) + (voted_for or "").encode()


def base(index: int, term: int) -> Record:
    """The place from which the log counts."""
    return BASE, _PLACE.pack(index, term)


def commit(index: int) -> Record:
    """A commit hint."""
    return COMMIT, _U64.pack(index)


@dataclass(slots=True)
class Replayed:
    """The log that a run of records describes. `entries[i]` stands at index `base_index + 1 + i`."""

    term: int = 0
    voted_for: NodeId | None = None
    base_index: int = 0
    base_term: int = 0
    entries: list[bytes] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)
    """`terms[i]` is the term of `entries[i]`."""
    commit: int = 0

    @property
    def last_index(self) -> int:
        """Index of the last entry, or of the base."""
        return self.base_index + len(self.entries)

    @property
    def last_term(self) -> int:
        """Term of the last entry, or of the base."""
        return self.terms[-1] if self.terms else self.base_term

    def rebase(self, index: int, term: int) -> None:
        """A snapshot covers everything up to `index`. What stands behind stays only if it continues it."""
        place = index - self.base_index
        if place < 0:
            raise ValueError(f"the log starts at {self.base_index + 1}, behind the snapshot at {index}")
        if place == 0:
            return
        agrees = place <= len(self.entries) and self.terms[place - 1] == term
        self.entries = self.entries[place:] if agrees else []
        self.terms = self.terms[place:] if agrees else []
        self.base_index, self.base_term = index, term

    def add(self, record: Record) -> None:
        """Take in one more record. Raises ValueError where it cannot follow."""
        kind, data = record
        if kind == ENTRY:
            index, term, _ = entry_position(data)
            place = index - self.base_index - 1
            if place < 0:
                raise ValueError(f"entry {index} stands below the base {self.base_index}")
            if place > len(self.entries):
                raise ValueError(f"entry {index} follows entry {self.last_index}: a gap")
            if place < len(self.entries) and index <= self.commit and self.entries[place] != data:
                raise ValueError(
                    f"entry {index} is replaced, though everything up to {self.commit} is committed"
                )
            if place < len(self.entries):
                sometimes("recovery: an entry of the journal was replaced later")
                del self.entries[place:], self.terms[place:]
            if term < self.last_term:
                raise ValueError(f"entry {index} has term {term}, the one before it {self.last_term}")
            self.entries.append(data)
            self.terms.append(term)
        elif kind == HARD_STATE:
            (term,) = _U64.unpack_from(data)
            vote = data[_U64.size :].decode() or None
            if term < self.term:
                raise ValueError(f"the term goes back from {self.term} to {term}")
            if term == self.term and self.voted_for not in (None, vote):
                raise ValueError(f"the vote of term {term} changes from {self.voted_for} to {vote}")
            self.term, self.voted_for = term, vote
        elif kind == BASE:
            index, term = _PLACE.unpack(data)
            if index >= self.base_index:
                self.rebase(index, term)
        elif kind == COMMIT:
            self.commit = max(self.commit, _U64.unpack(data)[0])
        else:
            raise ValueError(f"unknown record kind {kind}; was this journal written by another protocol?")


def replay(records: Iterable[Record]) -> Replayed:
    """Read a run of records, oldest first. Raises ValueError with the reason if they contradict themselves."""
    replayed = Replayed()
    for number, record in enumerate(records):
        try:
            replayed.add(record)
        except (ValueError, struct.error) as error:
            raise ValueError(f"journal record {number}: {error}") from None
    return replayed
