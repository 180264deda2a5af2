"""The part of a log that is in memory.

Entries are kept encoded, with their terms and a running count of bytes in two lists beside them, so that the questions that
replication asks (which term stands here, how many entries fit into a message) never decode anything."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Log:
    """Encoded entries `base_index + 1 .. last_index`, with their terms and a running count of bytes."""

    __slots__ = ("_ends", "_entries", "_terms", "base_index", "base_term", "last_index")

    def __init__(self, base_index: int = 0, base_term: int = 0) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self._entries: list[bytes] = []
        self._terms: list[int] = []
        self._ends: list[int] = []
        self.last_index = base_index
        """Index of the last entry, or of the base: always `base_index` plus the number of entries."""

    @property
    def last_term(self) -> int:
        """Term of the last entry, or of the base."""
        return self._terms[-1] if self._terms else self.base_term

    def term_at(self, index: int) -> int:
        """Term of the entry at `index`, which is at or behind the base and not behind the last."""
        place = index - self.base_index
        if place == 0:
            return self.base_term
        if not 0 < place <= len(self._terms):
            raise IndexError(f"entry {index} is not in memory ({self.base_index + 1}..{self.last_index})")
        return self._terms[place - 1]

    def agrees(self, index: int, term: int) -> bool:
        """Whether the entry at `index` is in memory (or the base) and has this term."""
        return self.base_index <= index <= self.last_index and self.term_at(index) == term

    def append(self, entry: bytes, term: int) -> None:
        """Add the next entry; `term` is what its header says."""
        self._entries.append(entry)
        self._terms.append(term)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(entry))
        self.last_index += 1

    def truncate(self, last: int) -> None:
        """Drop everything behind `last`."""
        place = last - self.base_index
        del self._entries[place:], self._terms[place:], self._ends[place:]
        self.last_index = self.base_index + len(self._entries)

    def slice(self, first: int, last: int) -> list[bytes]:
        """Entries first..last, both included."""
        return self._entries[first - self.base_index - 1 : last - self.base_index]

    def bytes_between(self, after: int, last: int) -> int:
        """Bytes of the entries behind `after` up to `last`."""
        return self._end(last) - self._end(after)

    def _end(self, index: int) -> int:
        place = index - self.base_index
        if place > 0:
            return self._ends[place - 1]
        return self._ends[0] - len(self._entries[0]) if self._ends else 0

    def last_within(self, after: int, size: int) -> int:
        """The highest index such that the entries behind `after` up to it have at most `size` bytes; at
        least one entry, where there is one."""
        place = bisect_right(self._ends, self._end(after) + size)
        return min(max(self.base_index + place, after + 1), self.last_index)

    def first_with_tail(self, last: int, size: int) -> int:
        """The lowest index such that the entries behind it up to `last` have at most `size` bytes."""
        start = self._end(last) - size
        if self._end(self.base_index) >= start:
            return self.base_index
        return self.base_index + bisect_left(self._ends, start) + 1

    def highest_with_term_at_most(self, index: int, term: int) -> int:
        """The highest index <= `index` whose term is <= `term`, not below the base (terms never fall)."""
        index = min(index, self.last_index)
        place = bisect_right(self._terms, term, 0, max(index - self.base_index, 0))
        return self.base_index + place

    def compact(self, index: int) -> None:
        """Forget the entries up to `index`, which becomes the base."""
        place = index - self.base_index
        if place <= 0:
            return
        self.base_term = self.term_at(index)
        self.base_index = index
        del self._entries[:place], self._terms[:place], self._ends[:place]

    def restart(self, index: int, term: int) -> None:
        """Forget everything; the log counts from `index`."""
        self.base_index, self.base_term = index, term
        self._entries, self._terms, self._ends = [], [], []
        self.last_index = index
