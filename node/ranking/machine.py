"""The ranking machine: commands, queries, digest and snapshots of the replicated model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np

from node.machine import QueryError
from node.ranking import learn, snapshots
from node.ranking.commands import (
    LIVE,
    SERVING,
    CommandError,
    Kind,
    Status,
    Table,
    decode,
    encode_result,
    show,
)
from node.ranking.learn import LEARNED, LIMIT, RECORDED, UNKNOWN_SCORE, Int64s
from node.ranking.queries import MODEL, POPULARITY, STATIC, Rank, decode_query
from node.ranking.settings import RankingSettings
from node.ranking.state import State, Version

_EVERY: Int64s = np.zeros(0, np.int64)


class RankingMachine:
    """Meets `node.machine.Machine`. Integers only; the same commands in the same order give the same bits and answers,
    however they were grouped into calls, and however interactions were grouped into OBSERVE commands."""

    def __init__(self, settings: RankingSettings | None = None) -> None:
        self.settings = settings if settings is not None else RankingSettings()
        self._state = State(self.settings)
        self._rule: Int64s = np.zeros(learn.RULE_SIZE, np.int64)
        for place, value in (
            (learn.RATE, self.settings.rate),
            (learn.HISTORY_RATE, self.settings.history_rate),
            (learn.BIAS_RATE, self.settings.bias_rate),
            (learn.DECAY, self.settings.decay),
            (learn.NEGATIVES, self.settings.negatives),
            (learn.SEED, self.settings.seed),
            (learn.WINDOW, self.settings.window),
        ):
            self._rule[place] = value
        # Interactions taken but not yet learned from: one call of the compiled loop serves many commands.
        self._users: list[int] = []
        self._items: list[int] = []
        self._values: list[int] = []
        self._handlers: dict[int, Callable[[list[Any]], bytes]] = {
            Kind.OBSERVE: self._observe,
            Kind.DELTA: self._delta,
            Kind.PUBLISH: self._publish,
            Kind.ROLLBACK: self._rollback,
            Kind.FREEZE: self._freeze,
            Kind.UNFREEZE: self._unfreeze,
            Kind.UPSERT: self._upsert,
        }

    # ---------------------------------------------------------------------------------------------- commands

    def check(self, command: bytes) -> str | None:
        """None if the command is well formed, else what is wrong, where, and what to do."""
        try:
            decode(command, self.settings)
        except CommandError as error:
            return str(error)
        return None

    def apply(self, commands: Sequence[bytes]) -> list[bytes]:
        """Apply commands in order; one result each (`commands.decode_result` reads it). Raises on no bytes."""
        results = []
        handlers = self._handlers
        for command in commands:
            try:
                fields = decode(command, self.settings)
            except CommandError as error:
                results.append(encode_result(Status.MALFORMED, str(error)))
                continue
            if fields[0] != Kind.OBSERVE:
                self._flush()
            results.append(handlers[fields[0]](fields))
        self._flush()
        return results

    def _flush(self) -> None:
        if not self._users:
            return
        state = self._state
        learn.observe(
            np.array(self._users, np.int64),
            np.array(self._items, np.int64),
            np.array(self._values, np.int64),
            not state.frozen,
            state.users,
            state.items,
            state.history,
            state.biases,
            state.ring,
            state.total,
            state.popularity,
            state.dirty_users,
            state.dirty_items,
            self._rule,
            state.counters,
        )
        self._users.clear()
        self._items.clear()
        self._values.clear()

    def _observe(self, fields: list[Any]) -> bytes:
        _, users, items, values = fields
        state = self._state
        user_slots = [state.user_slots.get(user, -1) for user in users]
        item_slots = [state.item_slots.get(item, -1) for item in items]
        if -1 in user_slots:
            full = _no_room("users", users, state.user_slots, self.settings.max_users)
            if full:
                return full
        if -1 in item_slots:
            full = _no_room("items", items, state.item_slots, self.settings.max_items)
            if full:
                return full
            item_slots = [self._item_slot(item) for item in items]
        if -1 in user_slots:
            user_slots = [self._user_slot(user) for user in users]
        self._users += user_slots
        self._items += item_slots
        self._values += values if values is not None else [1] * len(users)
        recorded = int(state.counters[RECORDED]) + len(self._users)
        return encode_result(
            Status.OK, len(users), 0 if state.frozen else len(users), int(state.frozen), recorded
        )

    def _user_slot(self, user: int) -> int:
        slot = self._state.user_slots.get(user)
        return self._state.add_user(user) if slot is None else slot

    def _item_slot(self, item: int) -> int:
        slot = self._state.item_slots.get(item)
        return self._state.add_item(item) if slot is None else slot

    def _delta(self, fields: list[Any]) -> bytes:
        _, table, rows, deltas = fields
        state = self._state
        slots = state.user_slots if table == Table.USER else state.item_slots
        for place, row in enumerate(rows):
            if row not in slots:
                what = "user" if table == Table.USER else "item"
                return encode_result(
                    Status.UNKNOWN, f"row {place}: there is no {what} {row}; nothing was changed"
                )
        target = (state.users, state.items, state.history, state.biases.reshape(-1, 1))[table]
        dirty = state.dirty_users if table == Table.USER else state.dirty_items
        steps = np.array(deltas, np.int64).reshape(len(rows), -1)
        for row, step in zip(rows, steps, strict=True):
            slot = slots[row]
            target[slot] = np.clip(target[slot] + step, -LIMIT, LIMIT)
            dirty[slot >> learn.BLOCK_SHIFT] = 1
        return encode_result(Status.OK, len(rows))

    def _publish(self, fields: list[Any]) -> bytes:
        _, version, expected = fields
        conflict = self._conflict(expected)
        if conflict:
            return conflict
        if version in self._state.versions:
            return encode_result(
                Status.EXISTS, f"version {version!r} exists and never changes; choose a new name"
            )
        dropped = self._state.publish(version)
        return encode_result(Status.OK, version, dropped)

    def _rollback(self, fields: list[Any]) -> bytes:
        _, version, expected = fields
        conflict = self._conflict(expected)
        if conflict:
            return conflict
        if version != LIVE and version not in self._state.versions:
            return encode_result(Status.UNKNOWN, self._no_version(version))
        self._state.serving = version
        return encode_result(Status.OK, version)

    def _conflict(self, expected: str | None) -> bytes | None:
        serving = self._state.serving
        if expected is None or expected == serving:
            return None
        return encode_result(
            Status.CONFLICT, f"version {serving!r} is serving, not {expected!r}; nothing was changed"
        )

    def _no_version(self, version: str) -> str:
        names = ", ".join([LIVE, *self._state.versions])
        return f"there is no version {show(version)}; there are: {names}"

    def _freeze(self, fields: list[Any]) -> bytes:
        changed = not self._state.frozen
        self._state.frozen = True
        return encode_result(Status.OK, int(changed))

    def _unfreeze(self, fields: list[Any]) -> bytes:
        changed = self._state.frozen
        self._state.frozen = False
        return encode_result(Status.OK, int(changed))

    def _upsert(self, fields: list[Any]) -> bytes:
        state = self._state
        rows = fields[1]
        full = _no_room("items", [row[0] for row in rows], state.item_slots, self.settings.max_items)
        if full:
            return full
        before = state.item_count
        for item, bias, title in rows:
            slot = self._item_slot(item)
            if bias is not None:
                state.biases[slot] = bias
            if title is not None:
                state.titles[slot] = title
            state.dirty_items[slot >> learn.BLOCK_SHIFT] = 1
        # A catalogue's items stand against observed ones from now on, before anybody took them.
        state.counters[learn.KNOWN] = state.item_count
        return encode_result(Status.OK, state.item_count - before)

    # ----------------------------------------------------------------------------------------------- queries

    def query(self, query: bytes) -> bytes:
        """Answer RANK or STATS (`node.ranking.queries`). Raises QueryError."""
        wanted = decode_query(query)
        if wanted is None:
            return self._stats()
        return self._rank(wanted)

    def title(self, item: int) -> str | None:
        """The title of an item; None if the item is unknown."""
        slot = self._state.item_slots.get(item)
        return None if slot is None else self._state.titles[slot]

    def _stats(self) -> bytes:
        state = self._state
        data: bytes = msgpack.packb(
            {
                "users": state.user_count,
                "items": state.item_count,
                "recorded": int(state.counters[RECORDED]),
                "learned": int(state.counters[LEARNED]),
                "frozen": state.frozen,
                "serving": state.serving,
                "versions": list(state.versions),
            }
        )
        return data

    def _rank(self, wanted: Rank) -> bytes:
        state = self._state
        name = state.serving if wanted.version == SERVING else wanted.version
        if name != LIVE and name not in state.versions:
            raise QueryError(self._no_version(name))
        version = state.live() if name == LIVE else state.versions[name]
        user = state.user_slots.get(wanted.user)
        if user is None and wanted.strict:
            raise QueryError(f"user {wanted.user} is unknown: nothing was observed of that user")
        identities, slots = self._candidates(wanted)
        if not state.counters[RECORDED]:
            source, scores = STATIC, self._static_scores(identities)
        elif user is None or not version.learned:
            source, scores = POPULARITY, self._popularity_scores(slots)
        else:
            source, scores = MODEL, self._model_scores(user, slots, version)
        if wanted.exclude_seen and user is not None:
            self._leave_out_seen(user, wanted.candidates, identities, slots, scores)
        size = min(wanted.k, len(scores))
        top_scores = np.empty(size, np.int64)
        top_items = np.empty(size, np.int64)
        filled = learn.best(scores, identities, top_scores, top_items, size) if size else 0
        answer: bytes = msgpack.packb(
            (source, name, top_items[:filled].tolist(), top_scores[:filled].tolist())
        )
        return answer

    def _candidates(self, wanted: Rank) -> tuple[Int64s, Int64s]:
        """(ids, slots) to score; slots empty means all items in order of slots. An unknown item has slot -1."""
        state = self._state
        if wanted.candidates is None:
            return state.item_ids[: state.item_count], _EVERY
        find = state.item_slots.get
        slots = np.array([find(item, -1) for item in wanted.candidates], np.int64)
        return np.array(wanted.candidates, np.int64), slots

    def _model_scores(self, user: int, slots: Int64s, version: Version) -> Int64s:
        state = self._state
        scores: Int64s = np.empty(len(slots) or state.item_count, np.int64)
        tables = (version.users, version.items, version.history, version.biases)
        learn.score(
            user, slots, len(version.items), self.settings.window, *tables, state.ring, state.total, scores
        )
        return scores

    def _popularity_scores(self, slots: Int64s) -> Int64s:
        counts = self._state.popularity[: self._state.item_count]
        if not len(slots):
            return counts.copy()
        return np.where(slots < 0, UNKNOWN_SCORE, counts[slots])

    def _static_scores(self, identities: Int64s) -> Int64s:
        order = self.settings.static or tuple(self._state.item_slots)
        places = {item: len(order) - place for place, item in enumerate(order)}
        return np.array([places.get(item, UNKNOWN_SCORE) for item in identities.tolist()], np.int64)

    def _leave_out_seen(
        self, user: int, candidates: list[int] | None, identities: Int64s, slots: Int64s, scores: Int64s
    ) -> None:
        state = self._state
        filled = min(int(state.total[user]), self.settings.history)
        seen = state.ring[user, :filled]
        if candidates is None:
            scores[seen] = learn.SKIP
        else:
            scores[np.isin(slots, seen)] = learn.SKIP

    # ------------------------------------------------------------------------------------ digest and snapshot

    def digest(self) -> bytes:
        """32 bytes that name the state; only row blocks touched since the last call are hashed again."""
        return self._state.digest()

    def snapshot(self) -> list[bytes]:
        """The state as chunks of at most 1 MiB (`node.ranking.snapshots`)."""
        return snapshots.write(self._state)

    def restore(self, chunks: Sequence[bytes]) -> None:
        """Replace the state. Raises ValueError, leaving the old state, if the chunks make no sense or belong to a machine
        of other settings."""
        self._state = snapshots.read(chunks, self.settings)


def _no_room(what: str, ids: list[int], slots: dict[int, int], bound: int) -> bytes | None:
    """The result FULL if the new ones among `ids` do not fit."""
    new = len({identity for identity in ids if identity not in slots})
    if len(slots) + new <= bound:
        return None
    return encode_result(
        Status.FULL,
        f"{new} new {what} do not fit: {len(slots)} of at most {bound} exist; nothing was changed",
    )
