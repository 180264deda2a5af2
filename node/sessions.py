"""Client sessions: commands take effect exactly once, across retries, leader changes and snapshots (thesis 6.3).

A block, the payload of an `EntryKind.BLOCK` entry, is the msgpack array of groups. A group is one of

    [COMMANDS, session, low, [seq...], [command...]]   commands of one session; `low` as in `protocol.Submit`
    [OPEN, origin, nonce]                              open a session; (origin, nonce) tells the asker which is his
    [EXPIRE, session, last_index]                      forget a session, if it was last used at `last_index`

Sessions are opened and forgotten only here, by the log: every replica has the same table at the same index. Who
decides that a session is idle is the leader's clock; that it still is when the group is applied, the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgpack

from consensus.marks import sometimes
from node.protocol import Code, Outcome, Refused, SessionOpened

COMMANDS: Final = 0
OPEN: Final = 1
EXPIRE: Final = 2

WINDOW: Final = 65536
"""How far a sequence number may lie above the client's `low`."""

PLACES: Final = 1 << 20
"""Most places in a block: a session's name is index * PLACES + place."""

Group = tuple[Any, ...]


def commands_group(session: int, low: int, seqs: Sequence[int], commands: Sequence[bytes]) -> Group:
    """A group of commands."""
    return COMMANDS, session, low, list(seqs), list(commands)


def open_group(origin: str, nonce: int) -> Group:
    """A group that opens a session."""
    return OPEN, origin, nonce


def expire_group(session: int, last_index: int) -> Group:
    """A group that forgets an idle session."""
    return EXPIRE, session, last_index


def encode_block(groups: Sequence[Group]) -> bytes:
    """Encode the groups of a block."""
    packed: bytes = msgpack.packb(groups, use_bin_type=True)
    return packed


def decode_block(payload: bytes) -> list[list[Any]]:
    """The groups of a block. Raises ValueError if it is none: only a node makes blocks, so that is corruption."""
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

    __slots__ = ("done", "high", "last_index", "low")

    def __init__(self, last_index: int) -> None:
        self.low = 0
        """Every number up to here is settled and forgotten."""
        self.high = 0
        """The highest number seen."""
        self.last_index = last_index
        self.done: dict[int, tuple[int, int, bytes, bytes]] = {}
        """seq -> (index, place, chain, result) of what took effect above `low`."""


class Sessions:
    """The session table. All of it is replicated state."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._table: dict[int, Session] = {}  # in the order of opening

    def __len__(self) -> int:
        return len(self._table)

    def last_used(self) -> dict[int, int]:
        """session -> index at which it was last used."""
        return {name: session.last_index for name, session in self._table.items()}

    def open(self, index: int, place: int, chain: bytes, nonce: int) -> SessionOpened:
        """Open a session. A full table forgets the one that has been idle for the longest part of the log."""
        if len(self._table) >= self.most:
            sometimes("the table is full and the session longest idle goes")
            idle = min(self._table, key=lambda name: (self._table[name].last_index, name))
            del self._table[idle]
        name = index * PLACES + place
        self._table[name] = Session(index)
        return SessionOpened(nonce, name, index, chain)

    def expire(self, name: int, last_index: int) -> None:
        """Forget a session, unless it was used in the meantime."""
        session = self._table.get(name)
        if session is None:
            sometimes("a session expires that is gone already")
        elif session.last_index != last_index:
            sometimes("a session was used again before the log could expire it")
        else:
            sometimes("an idle session expires")
            del self._table[name]

    def apply(
        self,
        group: Sequence[Any],
        index: int,
        place: int,
        chain: bytes,
        apply: Callable[[Sequence[bytes]], list[bytes]],
    ) -> list[Outcome | Refused]:
        """Let the commands of a group take effect that have not done so yet; answer all of them."""
        _, name, low, seqs, commands = group
        session = self._table.get(name)
        if session is None:
            sometimes("commands of a session that the log does not know")
            reason = f"session {name} was never opened or has expired"
            return [Refused(0, name, seqs, Code.UNKNOWN_SESSION, reason, None)]
        session.last_index = index
        places = list(range(place, place + len(seqs)))
        # The common case first: all numbers new, each above the one before.
        if seqs and seqs[0] > session.high and (len(seqs) == 1 or all(map(int.__lt__, seqs, seqs[1:]))):
            results = apply(commands)
            session.high = seqs[-1]
            done = session.done
            for seq, where, result in zip(seqs, places, results, strict=True):
                done[seq] = (index, where, chain, result)
            answers: list[Outcome | Refused] = [Outcome(name, index, chain, seqs, places, results)]
        else:
            answers = self._apply_mixed(session, group, index, places, chain, apply)
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
                known = session.done[seq] = (index, place, chain, result)
                session.high = max(session.high, seq)
            at, where, value, result = known
            answers.append(Outcome(name, at, value, [seq], [where], [result]))
        if forgotten:
            reason = f"the client has declared every number up to {session.low} settled"
            answers.append(Refused(0, name, forgotten, Code.FORGOTTEN, reason, None))
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
        rows = [
            [name, s.low, s.high, s.last_index, [[seq, *known] for seq, known in sorted(s.done.items())]]
            for name, s in self._table.items()
        ]
        packed: bytes = msgpack.packb(rows, use_bin_type=True)
        return packed

    def load(self, data: bytes) -> None:
        """Replace the table. Raises ValueError."""
        try:
            table: dict[int, Session] = {}
            for name, low, high, last_index, done in msgpack.unpackb(data, raw=False):
                session = table[name] = Session(last_index)
                session.low, session.high = low, high
                session.done = {row[0]: (row[1], row[2], row[3], row[4]) for row in done}
        except Exception as error:
            raise ValueError(f"no session table: {error}") from None
        self._table = table
