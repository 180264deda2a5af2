"""Queries of the ranking machine and their answers: msgpack arrays [kind, *fields].

RANK   [1, user, k, candidates | nil, exclude seen, version, strict] -> [source, version, items, scores]
STATS  [2]                                                           -> a map of counts
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import msgpack

from node.machine import QueryError
from node.ranking.commands import SERVING, show
from node.ranking.settings import LARGEST_ID

MAX_K: Final = 1000
MAX_CANDIDATES: Final = 10_000

MODEL: Final = "model"
"""The learned tables and the user's history made the answer."""
POPULARITY: Final = "popularity"
"""Counts of interactions made it: the user has no history, or the version asked has learned nothing."""
STATIC: Final = "static"
"""The list in the settings, or the order of the item table, made it: nothing was ever observed."""


class QueryKind(IntEnum):
    """What a query asks."""

    RANK = 1
    STATS = 2


@dataclass(slots=True)
class Rank:
    """A decoded RANK query."""

    user: int
    k: int
    candidates: list[int] | None
    exclude_seen: bool
    version: str
    strict: bool


@dataclass(slots=True)
class Ranking:
    """The answer to RANK: the best items first, ties by lower item id. `source` is the tier that answered: `model`,
    `popularity` or `static`. `version` is the version that was asked, resolved. Scores are integers: Q32 (value x 2**32) from
    the model, counts from popularity, places from the end from static; a candidate unknown to the version has
    -2**62 and stands behind all others."""

    source: str
    version: str
    items: list[int]
    scores: list[int]


def rank(
    user: int,
    k: int = 10,
    candidates: Sequence[int] | None = None,
    *,
    exclude_seen: bool = False,
    version: str = SERVING,
    strict: bool = False,
) -> bytes:
    """RANK the candidates (all items if None) for a user; the best `k` (1 .. 1000) are wanted.

    `exclude_seen` leaves out the items of the user's history (as far back as the settings keep it). `version` is `serving`
    (whatever the serving pointer names), `live`, or a published name. `strict`: an unknown user is an error instead of a
    case for popularity."""
    chosen = None if candidates is None else list(candidates)
    data: bytes = msgpack.packb((int(QueryKind.RANK), user, k, chosen, exclude_seen, version, strict))
    return data


def stats() -> bytes:
    """STATS: counts of users, items, interactions; versions; what serves; whether learning is frozen."""
    data: bytes = msgpack.packb((int(QueryKind.STATS),))
    return data


def decode_ranking(answer: bytes) -> Ranking:
    """Read the answer to RANK."""
    return Ranking(*msgpack.unpackb(answer))


def decode_stats(answer: bytes) -> dict[str, Any]:
    """Read the answer to STATS."""
    table: dict[str, Any] = msgpack.unpackb(answer)
    return table


def decode_query(query: bytes) -> Rank | None:
    """A well-formed query; None stands for STATS. Raises QueryError."""
    try:
        fields = msgpack.unpackb(query)
    except Exception as error:  # msgpack raises many kinds
        raise QueryError("a ranking query must be one msgpack value; these bytes are not") from error
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise QueryError("a ranking query is [kind, ...] with kind 1 (RANK) or 2 (STATS)")
    if fields == [QueryKind.STATS]:
        return None
    if fields[0] != QueryKind.RANK or len(fields) != 7:
        raise QueryError("a ranking query is [1, user, k, candidates, exclude seen, version, strict] or [2]")
    _, user, k, candidates, exclude_seen, version, strict = fields
    if type(user) is not int or not 0 <= user <= LARGEST_ID:
        raise QueryError(f"user must be an integer from 0 to {LARGEST_ID}, not {show(user)}")
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise QueryError(f"k must be an integer from 1 to {MAX_K}, not {show(k)}")
    if candidates is not None:
        _check_candidates(candidates)
    if type(version) is not str:
        raise QueryError(f"version must be a text, not {show(version)}")
    if type(exclude_seen) is not bool or type(strict) is not bool:
        raise QueryError("exclude seen and strict must be true or false")
    return Rank(user, k, candidates, exclude_seen, version, strict)


def _check_candidates(candidates: Any) -> None:
    if type(candidates) is not list or not 1 <= len(candidates) <= MAX_CANDIDATES:
        raise QueryError(f"candidates must be a list of 1 to {MAX_CANDIDATES} item ids, or nil for all items")
    if set(map(type, candidates)) != {int} or min(candidates) < 0 or max(candidates) > LARGEST_ID:
        for place, item in enumerate(candidates):
            if type(item) is not int or not 0 <= item <= LARGEST_ID:
                raise QueryError(
                    f"candidate {place} must be an item id from 0 to {LARGEST_ID}, not {show(item)}"
                )
    if len(set(candidates)) != len(candidates):
        raise QueryError("candidates name an item twice; name each once")
