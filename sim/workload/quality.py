"""How good the ranking is: prequential evaluation, rank first, then learn.

Each of the last `last` interactions of a stream is put among 99 items which its user never took anywhere in the
stream, drawn evenly from the catalogue; HR@10 is the share of interactions that come among the first ten, NDCG@10 also
counts where (Krichene and Rendle, KDD 2020, on what sampled measures can and cannot compare). The 99 depend on user,
item and seed alone: two runs that see the stream in different batches, or lose part of it, face the same questions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from node.machine import Machine
from node.ranking import commands, learn, queries
from sim.workload.stream import DataError, Pair, Stream

DEPTH: Final = 10
"""The 10 of HR@10 and NDCG@10."""
_GAINS: Final = [1 / math.log2(place + 2) for place in range(DEPTH)]


@dataclass(slots=True)
class Tally:
    """Adds up answers."""

    events: int = 0
    hits: int = 0
    gain: float = 0.0
    sources: dict[str, int] = field(default_factory=dict)
    """How many answers each tier gave."""

    def add(self, ranked: list[int], item: int, source: str) -> None:
        """Count one answer: `ranked`, best first, to a question whose right answer is `item`."""
        self.events += 1
        self.sources[source] = self.sources.get(source, 0) + 1
        top = ranked[:DEPTH]
        if item in top:
            self.hits += 1
            self.gain += _GAINS[top.index(item)]

    @property
    def hr_at_10(self) -> float:
        """Share of questions with the right answer among the first ten; 0 if there were none."""
        return self.hits / self.events if self.events else 0.0

    @property
    def ndcg_at_10(self) -> float:
        """Mean of 1 / log2(place + 1), places from 1, beyond ten counting nothing; 0 if there were no questions."""
        return self.gain / self.events if self.events else 0.0


class Questions:
    """The questions that a stream's last interactions pose: for each a list of candidates, the right one among them."""

    def __init__(self, stream: Stream, *, last: int = 50_000, negatives: int = 99, seed: int = 7) -> None:
        """Raises DataError if a user took so much that `negatives` others cannot be found."""
        first = max(0, len(stream) - last)
        catalogue = np.array([item for item, _ in stream.catalogue], np.int64)
        users = np.array(stream.users, np.int64)
        items = np.searchsorted(catalogue, np.array(stream.items, np.int64))
        names, rows = np.unique(users, return_inverse=True)
        # Compressed rows of what each user took, sorted: user row r took taken[bounds[r]:bounds[r + 1]].
        pairs = np.unique(rows.astype(np.int64) * len(catalogue) + items)
        taken = pairs % len(catalogue)
        bounds = np.searchsorted(pairs, np.arange(len(names) + 1, dtype=np.int64) * len(catalogue))
        most = int(np.diff(bounds).max(initial=0))
        if len(catalogue) - most < negatives:
            raise DataError(
                f"a user took {most} of {len(catalogue)} items: too few are left to draw {negatives} others from"
            )
        self.events = len(stream) - first
        self._candidates = np.empty((self.events, negatives + 1), np.int64)
        _draw(
            users[first:],
            rows[first:].astype(np.int64),
            items[first:].astype(np.int64),
            bounds.astype(np.int64),
            taken,
            catalogue,
            seed,
            self._candidates,
        )
        self._row = {
            pair: row for row, pair in enumerate(zip(stream.users[first:], stream.items[first:], strict=True))
        }

    def candidates(self, user: int, item: int) -> list[int] | None:
        """The candidates (item ids, the right one first) for an interaction; None if it stands before the last ones."""
        row = self._row.get((user, item))
        if row is None:
            return None
        candidates: list[int] = self._candidates[row].tolist()
        return candidates


@learn.entry(
    "void(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64, int64[:, ::1])"
)
def _draw(
    users: Any, rows: Any, items: Any, bounds: Any, taken: Any, catalogue: Any, seed: Any, candidates: Any
) -> None:
    """Fill row e of `candidates`: first the item of event e, then items that its user never took, each once. `items` and
    `taken` are places in `catalogue`."""
    chosen = np.empty(candidates.shape[1], np.int64)
    for event in range(len(users)):
        low, high = bounds[rows[event]], bounds[rows[event] + 1]
        own = catalogue[items[event]]
        stream = learn.mix(users[event], seed) >> 1
        chosen[0] = items[event]
        filled = 1
        counter = learn.mix(own, stream) << 20
        while filled < candidates.shape[1]:
            place = (learn.mix(counter, stream) * len(catalogue)) >> 32
            counter += 1
            fresh = True
            for other in range(filled):
                if chosen[other] == place:
                    fresh = False
            left, right = low, high
            while left < right:
                middle = (left + right) >> 1
                if taken[middle] < place:
                    left = middle + 1
                else:
                    right = middle
            if fresh and (left == high or taken[left] != place):
                chosen[filled] = place
                filled += 1
        for place in range(filled):
            candidates[event, place] = catalogue[chosen[place]]


def prequential(machine: Machine, batches: Iterable[list[Pair]], questions: Questions) -> Tally:
    """Rank every interaction of a batch that poses a question with the machine's live version as it was before the batch;
    then apply the batch as one OBSERVE. Batches (1 .. 256 pairs) come in log order."""
    tally = Tally()
    for batch in batches:
        for user, item in batch:
            candidates = questions.candidates(user, item)
            if candidates is not None:
                asked = queries.rank(user, DEPTH, candidates, version=commands.LIVE)
                ranking = queries.decode_ranking(machine.query(asked))
                tally.add(ranking.items, item, ranking.source)
        result = commands.decode_result(machine.apply([commands.observe(batch)])[0])
        if not result.ok:
            raise DataError(f"the machine refused a batch: {result.text}")
    return tally


def evaluate(machine: Machine, stream: Stream, questions: Questions, *, batch: int = 1) -> Tally:
    """Load the catalogue into a fresh machine, then evaluate it over the whole stream, `batch` interactions at a time."""
    machine.apply(stream.catalogue_commands())
    return prequential(machine, stream.batches(batch), questions)


def popularity(stream: Stream, questions: Questions) -> Tally:
    """The baseline: rank by how often an item was taken so far, ties by item id."""
    tally = Tally()
    counts: dict[int, int] = {}
    for user, item in zip(stream.users, stream.items, strict=True):
        candidates = questions.candidates(user, item)
        if candidates is not None:
            ranked = sorted(candidates, key=lambda other: (-counts.get(other, 0), other))
            tally.add(ranked, item, queries.POPULARITY)
        counts[item] = counts.get(item, 0) + 1
    return tally
