"""Client sessions: commands take effect exactly once, across retries, leader changes and snapshots (thesis 6.3).

A block, the payload of an `EntryKind.BLOCK` entry, is the msgpack array of groups. A group is one of

    [COMMANDS, session, low, [seq...], [command...]]   commands of one session; `low` as in `protocol.Submit`
    [OPEN, origin, nonce]                              open a session; (origin, nonce) tells the asker which is his
    [EXPIRE, session, last_index]                      forget a session, if it was last used at `last_index`
    [SIGNED_COMMANDS, session, low, [seq...], [command...], key, signature]
                                                       commands of a session of that key
    [SIGNED_OPEN, key, nonce, signature]               open a session that belongs to a key

A log whose members may lie holds groups of the last two kinds only (`node.requests` sees to that before anybody votes for
them), any other log none of them.

Sessions are opened and forgotten only here, by the log: every replica has the same table at the same index. Who
decides that a session is idle is the leader's clock; that it still is when the group is applied, the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Final

import msgpack

from consensus.marks import sometimes
from node.protocol import Code, Outcome, Refused, SessionOpened

COMMANDS: Final = 0
OPEN: Final = 1
EXPIRE: Final = 2
SIGNED_COMMANDS: Final = 3
SIGNED_OPEN: Final = 4

WINDOW: Final = 65536
"""How far a sequence number may lie above the client's `low`."""

PLACES: Final = 1 << 20
"""Most places in a block: a session's name is index * PLACES + place."""

MOST_GROUPS: Final = 512
"""Most groups in a block that is made here. Where requests are signed it is the most that anybody may bring at once: each group
costs a verification, and all of them one turn."""

Group = tuple[Any, ...]

# One for all: making a packer takes longer than packing what is usual here.
_packer: Final = msgpack.Packer(use_bin_type=True, autoreset=True)


def commands_group(session: int, low: int, seqs: Sequence[int], commands: Sequence[bytes]) -> Group:
    """A group of commands."""
    return COMMANDS, session, low, list(seqs), list(commands)


def open_group(origin: str, nonce: int) -> Group:
    """A group that opens a session."""
    return OPEN, origin, nonce


def expire_group(session: int, last_index: int) -> Group:
    """A group that forgets an idle session."""
    return EXPIRE, session, last_index


def signed_commands_group(
    session: int, low: int, seqs: Sequence[int], commands: Sequence[bytes], key: bytes, signature: bytes
) -> Group:
    """A group of commands under one signature."""
    return SIGNED_COMMANDS, session, low, list(seqs), list(commands), key, signature


def signed_open_group(key: bytes, nonce: int, signature: bytes) -> Group:
    """A group that opens a session of `key`."""
    return SIGNED_OPEN, key, nonce, signature


def encode_block(groups: Sequence[Group]) -> bytes:
    """Encode the groups of a block."""
    packed: bytes = _packer.pack(groups)
    return packed


def decode_block(payload: bytes) -> list[list[Any]]:
    """The groups of a block, of which nothing is judged but that they are arrays. Raises ValueError if it is none. In a log
    whose members tell the truth only a node makes blocks, and that is corruption."""
    try:
        groups = msgpack.unpackb(payload, raw=False, use_list=True)
    except Exception as error:
        raise ValueError(f"a block that is no msgpack: {error}") from None
    if type(groups) is not list:
        raise ValueError("a block is an array of groups")
    for group in groups:
        if type(group) is not list or not group:
            raise ValueError("a block is an array of groups")
    return groups


class Session:
    """What the state holds of one session."""

    __slots__ = ("chain", "done", "high", "key", "last_index", "low", "nonce")

    def __init__(self, last_index: int, key: bytes = b"", nonce: int = 0, chain: bytes = b"") -> None:
        self.key = key
        """Whose it is, where requests are signed; else empty."""
        self.nonce = nonce
        self.chain = chain
        """Chain value at which it was opened, so that every opening under this key and nonce is answered alike."""
        self.low = 0
        """Every number up to here is settled and forgotten."""
        self.high = 0
        """The highest number seen."""
        self.last_index = last_index
        self.done: dict[int, tuple[int, int, int, bytes, bytes]] = {}
        """seq -> (seq, index, place, chain, result) of what took effect above `low`: the rows of a dump as they are."""


def _unknown(name: int, seqs: list[int]) -> Refused:
    reason = f"session {name} was never opened or has expired"
    return Refused(0, name, seqs, Code.UNKNOWN_SESSION, reason, None)


def _forgotten(name: int, seqs: list[int], low: int) -> Refused:
    reason = f"the client has declared every number up to {low} settled"
    return Refused(0, name, seqs, Code.FORGOTTEN, reason, None)


def _merged(answers: list[Outcome | Refused]) -> list[Outcome | Refused]:
    """Neighbouring outcomes of one entry as one."""
    merged: list[Outcome | Refused] = []
    last: Outcome | None = None
    for item in answers:
        if not isinstance(item, Outcome):
            merged.append(item)
            last = None
        elif last is not None and last.index == item.index:
            last.seqs += item.seqs
            last.places += item.places
            last.results += item.results
        else:
            merged.append(item)
            last = item
    return merged


class Sessions:
    """The session table. All of it is replicated state."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._table: dict[int, Session] = {}  # in the order of opening
        self._newest: dict[bytes, int] = {}  # key -> its session of the highest nonce that is in the table
        self._of_key: dict[bytes, dict[int, None]] = {}  # key -> its sessions
        self._idle: list[tuple[int, int]] = []
        """A heap of (index of some use, session) for each in the table. No last use is earlier than what stands here, so the
        least that is still true is the least of all. Without it every opening at a full table would cost a walk through it."""

    def __len__(self) -> int:
        return len(self._table)

    def last_used(self) -> dict[int, int]:
        """session -> index at which it was last used."""
        return {name: session.last_index for name, session in self._table.items()}

    def open(self, index: int, place: int, chain: bytes, nonce: int) -> SessionOpened:
        """Open a session. A full table forgets the one that has been idle for the longest part of the log."""
        self._make_room()
        name = index * PLACES + place
        self._table[name] = Session(index)
        heappush(self._idle, (index, name))
        return SessionOpened(nonce, name, index, chain)

    def open_signed(
        self, index: int, place: int, chain: bytes, key: bytes, nonce: int
    ) -> SessionOpened | Refused:
        """Open a session that belongs to `key`: anew if `nonce` is above all that are known of that key. Whoever brings an old
        opening once more brings nothing about."""
        known = self.recall_opening(key, nonce)
        if known is not None:
            sometimes("a session is opened again that is open, or under an old nonce")
            return known
        self._make_room()
        name = index * PLACES + place
        self._table[name] = Session(index, key, nonce, chain)
        heappush(self._idle, (index, name))
        self._of_key.setdefault(key, {})[name] = None
        self._newest[key] = name
        return SessionOpened(nonce, name, index, chain)

    def recall_opening(self, key: bytes, nonce: int) -> SessionOpened | Refused | None:
        """What there is to say of an opening without doing anything; None if it would open a session."""
        newest = self._newest.get(key)
        if newest is None:
            return None
        session = self._table[newest]
        if nonce > session.nonce:
            return None
        if nonce == session.nonce:
            return SessionOpened(nonce, newest, newest // PLACES, session.chain)
        reason = f"this key has opened a session under nonce {session.nonce}; take a higher one"
        return Refused(nonce, 0, [], Code.FORGOTTEN, reason, None)

    def recall(self, name: int, seqs: list[int], key: bytes, reached: int) -> list[Outcome | Refused] | None:
        """What has become of these commands of a session of `key`, in the words in which `apply` would answer them; None if any
        of them may still take effect. `reached`: the table is that of this index of the log."""
        session = self._table.get(name)
        if session is None or session.key != key:
            # A session of an entry that is still to come is none that was forgotten.
            return [_unknown(name, seqs)] if session is not None or name // PLACES <= reached else None
        done, low = session.done, session.low
        if any(seq > low and seq not in done for seq in seqs):
            return None
        answers: list[Outcome | Refused] = []
        for seq in seqs:
            if seq > low:
                _, at, where, value, result = done[seq]
                answers.append(Outcome(name, at, value, [seq], [where], [result]))
        forgotten = [seq for seq in seqs if seq <= low]
        if forgotten:
            answers.append(_forgotten(name, forgotten, low))
        return _merged(answers)

    def _make_room(self) -> None:
        if len(self._table) >= self.most:
            sometimes("the table is full and the session longest idle goes")
            self._forget(self._longest_idle())

    def _longest_idle(self) -> int:
        table, heap = self._table, self._idle
        if len(heap) > 2 * len(table) + 64:  # sessions that have expired
            heap[:] = [(session.last_index, name) for name, session in table.items()]
            heapify(heap)
        while True:
            used, name = heap[0]
            session = table.get(name)
            if session is None:
                heappop(heap)
            elif session.last_index != used:
                heapreplace(heap, (session.last_index, name))
            else:
                return name

    def _forget(self, name: int) -> None:
        session = self._table.pop(name)
        key = session.key
        if not key:
            return
        others = self._of_key[key]
        del others[name]
        if not others:
            del self._of_key[key], self._newest[key]
        elif self._newest[key] == name:
            del self._newest[key]
            # An older one of that key may have been used more lately; what follows from the table alone is the same everywhere.
            for other in others:
                self._note_newest(other, self._table[other])

    def _note_newest(self, name: int, session: Session) -> None:
        known = self._newest.get(session.key)
        if known is None or self._table[known].nonce < session.nonce:
            self._newest[session.key] = name

    def expire(self, name: int, last_index: int) -> None:
        """Forget a session, unless it was used in the meantime."""
        session = self._table.get(name)
        if session is None:
            sometimes("a session expires that is gone already")
        elif session.last_index != last_index:
            sometimes("a session was used again before the log could expire it")
        else:
            sometimes("an idle session expires")
            self._forget(name)

    def apply(
        self,
        group: Sequence[Any],
        index: int,
        place: int,
        chain: bytes,
        apply: Callable[[Sequence[bytes]], list[bytes]],
        key: bytes = b"",
    ) -> list[Outcome | Refused]:
        """Let the commands of a group (its first five fields) take effect that have not done so yet; answer all of them. `key`:
        who has signed it; to anybody else than its owner a session is unknown."""
        _, name, low, seqs, commands = group
        session = self._table.get(name)
        if session is None or session.key != key:
            sometimes("commands of a session that the log does not know")
            return [_unknown(name, seqs)]
        session.last_index = index
        places = list(range(place, place + len(seqs)))
        # The common case first: all numbers new, each above the one before.
        if seqs and seqs[0] > session.high and (len(seqs) == 1 or all(map(int.__lt__, seqs, seqs[1:]))):
            results = apply(commands)
            session.high = seqs[-1]
            done = session.done
            for seq, where, result in zip(seqs, places, results, strict=True):
                done[seq] = (seq, index, where, chain, result)
            answers: list[Outcome | Refused] = [Outcome(name, index, chain, seqs, places, results)]
        else:
            answers = self._apply_mixed(session, group, index, places, chain, apply)
            if key:
                # Whoever waits for equal words from several nodes gets those of the first time.
                answers = _merged(answers)
        if low > session.low:
            self._settle(session, low)
        return answers

    def _apply_mixed(
        self,
        session: Session,
        group: Sequence[Any],
        index: int,
        places: list[int],
        chain: bytes,
        apply: Callable[[Sequence[bytes]], list[bytes]],
    ) -> list[Outcome | Refused]:
        """Some numbers may have been seen before: what took effect is answered from memory, in its old place."""
        _, name, _, seqs, commands = group
        answers: list[Outcome | Refused] = []
        forgotten: list[int] = []
        for seq, place, command in zip(seqs, places, commands, strict=True):
            if seq <= session.low:
                sometimes("a number is asked for again that its client has settled")
                forgotten.append(seq)
                continue
            known = session.done.get(seq)
            if known is not None:
                sometimes("a retried command is answered from memory")
            else:
                (result,) = apply([command])
                known = session.done[seq] = (seq, index, place, chain, result)
                session.high = max(session.high, seq)
            _, at, where, value, result = known
            answers.append(Outcome(name, at, value, [seq], [where], [result]))
        if forgotten:
            answers.append(_forgotten(name, forgotten, session.low))
        return answers

    def _settle(self, session: Session, low: int) -> None:
        done = session.done
        if low - session.low > len(done):
            for seq in [seq for seq in done if seq <= low]:
                del done[seq]
        else:
            for seq in range(session.low + 1, low + 1):
                done.pop(seq, None)
        session.low = low
        session.high = max(session.high, low)

    def dump(self) -> bytes:
        """The table as bytes; equal tables, equal bytes."""
        rows: list[list[Any]] = [
            [name, s.low, s.high, s.last_index, [s.done[seq] for seq in sorted(s.done)]]
            for name, s in self._table.items()
        ]
        if self._newest:
            for row, session in zip(rows, self._table.values(), strict=True):
                if session.key:
                    row += [session.key, session.nonce, session.chain]
        packed: bytes = _packer.pack(rows)
        return packed

    def load(self, data: bytes) -> None:
        """Replace the table. Raises ValueError."""
        try:
            table: dict[int, Session] = {}
            for row in msgpack.unpackb(data, raw=False):
                name, low, high, last_index, done = row[:5]
                session = table[name] = Session(last_index, *row[5:])
                session.low, session.high = low, high
                session.done = {seen[0]: (seen[0], seen[1], seen[2], seen[3], seen[4]) for seen in done}
        except Exception as error:
            raise ValueError(f"no session table: {error}") from None
        self._table = table
        self._newest, self._of_key = {}, {}
        self._idle = [(session.last_index, name) for name, session in table.items()]
        heapify(self._idle)
        for name, session in table.items():
            if session.key:
                self._of_key.setdefault(session.key, {})[name] = None
                self._note_newest(name, session)
