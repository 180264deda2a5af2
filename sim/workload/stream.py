"""A stream of positive interactions in time order, whatever it came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from node.ranking import commands

Pair = tuple[int, int]
"""(user, item)."""


class DataError(ValueError):
    """Data that cannot be used: which file or package, what is wrong, what to do."""


@dataclass(slots=True, frozen=True)
class BrokenRow:
    """A row that was left out."""

    line: int
    """Line number in the file, from 1."""
    text: str
    reason: str


@dataclass(slots=True, frozen=True)
class LoadReport:
    """What loading found."""

    source: str
    rows: int
    """Rows read, broken ones included, a header not."""
    broken: int
    first_broken: BrokenRow | None

    def __str__(self) -> str:
        text = f"{self.source}: {self.rows} rows, {self.broken} broken"
        if self.first_broken is not None:
            row = self.first_broken
            text += f" (the first is line {row.line}, {row.text!r}: {row.reason})"
        return text


@dataclass(slots=True, frozen=True)
class Stream:
    """Positive interactions in time order, and the items that there are to choose from."""

    users: list[int]
    items: list[int]
    """`users[i]` took `items[i]` at `timestamps[i]`."""
    timestamps: list[int]
    """Seconds; never decreasing."""
    catalogue: list[tuple[int, str]]
    """(item, title) of every item in the data, by item id, whether or not anybody liked it; a title may be empty."""
    report: LoadReport

    def __len__(self) -> int:
        return len(self.users)

    def head(self, count: int) -> Stream:
        """The first `count` interactions, with the whole catalogue."""
        return Stream(
            self.users[:count], self.items[:count], self.timestamps[:count], self.catalogue, self.report
        )

    def batches(self, size: int) -> Iterator[list[Pair]]:
        """The interactions, `size` at a time."""
        for start in range(0, len(self), size):
            yield list(zip(self.users[start : start + size], self.items[start : start + size], strict=True))

    def catalogue_commands(self) -> list[bytes]:
        """UPSERT commands that make every item known, as a shop's catalogue would be loaded before it opens."""
        rows = [(item, None, title[:120] or None) for item, title in self.catalogue]
        size = commands.MAX_ROWS
        return [commands.upsert_items(rows[start : start + size]) for start in range(0, len(rows), size)]


def in_time_order(
    rows: list[tuple[int, int, int]], catalogue: list[tuple[int, str]], report: LoadReport
) -> Stream:
    """A stream of (timestamp, user, item) rows in any order: sorted by time, then user, then item, so that the order of
    rows in a file makes no difference."""
    rows.sort()
    return Stream(
        [row[1] for row in rows], [row[2] for row in rows], [row[0] for row in rows], catalogue, report
    )
