"""The state of the ranking machine: tables that grow, version copies, and a digest that knows what changed.

A row's place (its slot) is given in the order of the log, so the maps from id to slot are the same on every replica
and are covered by the digest as columns of ids. Capacity is no part of the state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
import numpy as np

from node.ranking import learn
from node.ranking.commands import LIVE
from node.ranking.learn import BLOCK, BLOCK_SHIFT, Bytes, Int32s, Int64s
from node.ranking.settings import RankingSettings

_FIRST_CAPACITY: Final = 256
_ITEM_STREAM: Final = 1
_HISTORY_STREAM: Final = 2


@dataclass(slots=True)
class Version:
    """The parameters as they were at a PUBLISH. Arrays hold exactly the rows that existed then and are never written."""

    users: Int32s
    """[users, factors]"""
    items: Int32s
    history: Int32s
    biases: Int32s
    learned: int
    """Interactions learned from, up to the copy."""
    root: bytes = field(default=b"")
    """Hash of all of the above; empty until asked for."""

    def digest(self) -> bytes:
        """32 bytes that name the version's content."""
        if not self.root:
            seal = hashlib.sha256(f"{len(self.users)} {len(self.items)} {self.learned} ".encode())
            for table in (self.users, self.items, self.history, self.biases):
                seal.update(_raw(table))
            self.root = seal.digest()
        return self.root


class State:
    """Everything that commands change. Arrays have room behind `user_count` and `item_count` rows; that room is zero."""

    def __init__(self, settings: RankingSettings) -> None:
        self.settings = settings
        k = settings.factors
        self.user_slots: dict[int, int] = {}
        self.item_slots: dict[int, int] = {}
        self.user_ids: Int64s = np.zeros(0, np.int64)
        self.item_ids: Int64s = np.zeros(0, np.int64)
        self.titles: list[str] = []
        self.users: Int32s = np.zeros((0, k), np.int32)
        self.items: Int32s = np.zeros((0, k), np.int32)
        self.history: Int32s = np.zeros((0, k), np.int32)
        self.biases: Int32s = np.zeros(0, np.int32)
        self.ring: Int32s = np.zeros((0, settings.history), np.int32)
        self.total: Int64s = np.zeros(0, np.int64)
        self.popularity: Int64s = np.zeros(0, np.int64)
        self.counters: Int64s = np.zeros(learn.COUNTERS_SIZE, np.int64)
        self.frozen = False
        self.serving = LIVE
        self.versions: dict[str, Version] = {}
        self.dirty_users: Bytes = np.zeros(0, np.uint8)
        self.dirty_items: Bytes = np.zeros(0, np.uint8)
        self._user_hashes = bytearray()
        self._item_hashes = bytearray()
        self._grow_users(_FIRST_CAPACITY)
        self._grow_items(_FIRST_CAPACITY)

    @property
    def user_count(self) -> int:
        """Rows in use in the user tables."""
        return len(self.user_slots)

    @property
    def item_count(self) -> int:
        """Rows in use in the item tables."""
        return len(self.item_slots)

    # -------------------------------------------------------------------------------------------------- rows

    def add_user(self, user: int) -> int:
        """Make a row for a new user; its slot."""
        slot = len(self.user_slots)
        if slot == len(self.user_ids):
            self._grow_users(2 * slot)
        self.user_slots[user] = slot
        self.user_ids[slot] = user
        self.dirty_users[slot >> BLOCK_SHIFT] = 1
        return slot

    def add_item(self, item: int) -> int:
        """Make a row for a new item; its slot. Its first values depend on the slot and the seed alone."""
        slot = len(self.item_slots)
        if slot == len(self.item_ids):
            self._grow_items(2 * slot)
        self.item_slots[item] = slot
        self.item_ids[slot] = item
        self.titles.append("")
        settings = self.settings
        learn.initialise(self.items, slot, slot + 1, settings.spread, settings.seed + _ITEM_STREAM)
        self.dirty_items[slot >> BLOCK_SHIFT] = 1
        return slot

    def reserve(self, users: int, items: int) -> None:
        """Make room for so many rows (before a restore)."""
        if users > len(self.user_ids):
            self._grow_users(users)
        if items > len(self.item_ids):
            self._grow_items(items)

    def _grow_users(self, capacity: int) -> None:
        self.user_ids = _grown(self.user_ids, capacity)
        self.users = _grown(self.users, capacity)
        self.ring = _grown(self.ring, capacity)
        self.total = _grown(self.total, capacity)
        self.dirty_users = _grown(self.dirty_users, -(-capacity // BLOCK))

    def _grow_items(self, capacity: int) -> None:
        self.item_ids = _grown(self.item_ids, capacity)
        self.items = _grown(self.items, capacity)
        self.history = _grown(self.history, capacity)
        self.biases = _grown(self.biases, capacity)
        self.popularity = _grown(self.popularity, capacity)
        self.dirty_items = _grown(self.dirty_items, -(-capacity // BLOCK))

    # ---------------------------------------------------------------------------------------------- versions

    def live(self) -> Version:
        """The live tables as a version; a view that changes with them."""
        rows, items = self.user_count, self.item_count
        return Version(
            self.users[:rows],
            self.items[:items],
            self.history[:items],
            self.biases[:items],
            int(self.counters[learn.LEARNED]),
        )

    def publish(self, name: str) -> str | None:
        """Copy the live tables as version `name` and let it serve. At the bound on versions the oldest that did not serve
        is dropped; its name."""
        dropped = None
        if len(self.versions) >= self.settings.max_versions:
            dropped = next(other for other in self.versions if other != self.serving)
            del self.versions[dropped]
        live = self.live()
        self.versions[name] = Version(
            live.users.copy(), live.items.copy(), live.history.copy(), live.biases.copy(), live.learned
        )
        self.serving = name
        return dropped

    # ------------------------------------------------------------------------------------------------ digest

    def digest(self) -> bytes:
        """A Merkle root: blocks of 64 rows across all tables of users and of items, then the small state. Only blocks
        touched since the last call are hashed again; the result does not depend on when that was."""
        rows, items = self.user_count, self.item_count
        self._rehash(
            self._user_hashes, self.dirty_users, rows, (self.user_ids, self.users, self.ring, self.total)
        )
        columns = (self.item_ids, self.items, self.history, self.biases, self.popularity)
        self._rehash(self._item_hashes, self.dirty_items, items, columns, self.titles)
        small = msgpack.packb(
            (
                list(self.settings.to_table().values()),
                rows,
                items,
                self.counters.tolist(),
                self.frozen,
                self.serving,
                [(name, version.digest()) for name, version in self.versions.items()],
            )
        )
        seal = hashlib.sha256(small)
        seal.update(hashlib.sha256(self._user_hashes).digest())
        seal.update(hashlib.sha256(self._item_hashes).digest())
        return seal.digest()

    def _rehash(
        self,
        hashes: bytearray,
        dirty: Bytes,
        rows: int,
        columns: tuple[Any, ...],
        texts: list[str] | None = None,
    ) -> None:
        hashes.extend(bytes(32 * (-(-rows // BLOCK)) - len(hashes)))
        for block in np.flatnonzero(dirty).tolist():
            start = block * BLOCK
            stop = min(start + BLOCK, rows)
            seal = hashlib.sha256(b"".join([_raw(column[start:stop]) for column in columns]))
            if texts is not None:  # no title holds a NUL, so that joined ones are told apart
                seal.update("\0".join(texts[start:stop]).encode())
            hashes[32 * block : 32 * block + 32] = seal.digest()
        dirty[:] = 0


def _raw(array: Any) -> bytes:
    """The bytes of an array, little-endian whatever the machine."""
    raw: bytes = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return raw


def _grown(array: Any, rows: int) -> Any:
    """A copy with room for `rows` rows; the new ones are zero."""
    grown = np.zeros((rows, *array.shape[1:]), array.dtype)
    grown[: len(array)] = array
    return grown
