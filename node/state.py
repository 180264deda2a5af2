"""Everything that the log determines: the machine, the sessions, the chain value.

The chain value of entry i is sha256(chain value of entry i-1 + the encoded entry i); that of index 0 is 32 zero bytes.
Two nodes that show the same chain value at the same index hold the same history up to there.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

import msgpack

from consensus.core import EntryKind, entry_payload, entry_position
from consensus.marks import sometimes
from node import sessions
from node.machine import Machine
from node.protocol import Outcome, Refused, SessionOpened
from node.sessions import Sessions

GENESIS: Final = bytes(32)
"""Chain value of index 0."""

VERSION: Final = 1
CHUNK: Final = 1 << 20
# A member of an enum that is looked up with every entry costs more than all the rest of that line.
_BLOCK: Final = EntryKind.BLOCK
_DIGEST: Final = EntryKind.DIGEST
_CHECKPOINT: Final = EntryKind.CHECKPOINT


class Opened:
    """A session was opened for (origin, nonce)."""

    __slots__ = ("message", "origin")

    def __init__(self, origin: str, message: SessionOpened) -> None:
        self.origin = origin
        self.message = message


class Keyed:
    """What came of a request that `key` has signed."""

    __slots__ = ("key", "message")

    def __init__(self, key: bytes, message: Outcome | Refused | SessionOpened) -> None:
        self.key = key
        self.message = message


class DigestDue:
    """The log asked for a comparison of states at `index`, and for a snapshot of this very state if `snapshot`."""

    __slots__ = ("chain", "digest", "index", "snapshot")

    def __init__(self, index: int, digest: bytes, chain: bytes, snapshot: bool) -> None:
        self.index = index
        self.digest = digest
        self.chain = chain
        self.snapshot = snapshot


Applied = Outcome | Refused | Opened | Keyed | DigestDue


def extend_chain(chain: bytes, entry: bytes) -> bytes:
    """The chain value behind an encoded entry."""
    return sha256(chain + entry).digest()


class ReplicatedState:
    """A machine with sessions and chain, driven by encoded entries in index order."""

    def __init__(self, machine: Machine, max_sessions: int = 4096) -> None:
        self.machine = machine
        self.sessions = Sessions(max_sessions)
        self.applied_index = 0
        self.applied_term = 0
        self.chain = GENESIS
        self.commands_applied = 0

    def apply(self, entry: bytes, compare: bool = True) -> list[Applied]:
        """Apply the next entry; what came of it, in order. `compare` False: at a mark for the comparison of states, no digest is
        made. Raises ValueError for another entry than the next."""
        index, term, kind = entry_position(entry)
        if index != self.applied_index + 1:
            raise ValueError(f"entry {index} cannot follow entry {self.applied_index}")
        self.chain = chain = extend_chain(self.chain, entry)
        self.applied_index, self.applied_term = index, term
        if kind == _BLOCK:
            return self._apply_block(index, chain, entry_payload(entry))
        if kind == _CHECKPOINT or (kind == _DIGEST and compare):
            return [DigestDue(index, self.digest(), chain, kind == _CHECKPOINT)]
        return []

    def _apply_block(self, index: int, chain: bytes, payload: bytes) -> list[Applied]:
        applied: list[Applied] = []
        place = 0
        groups = sessions.decode_block(payload)
        if len(groups) > 1:
            sometimes("an entry holds what several clients asked for")
        for group in groups:
            kind = group[0]
            if kind == sessions.COMMANDS:
                applied += self.sessions.apply(group, index, place, chain, self._apply_commands)
                place += len(group[3])
            elif kind == sessions.OPEN:
                applied.append(Opened(group[1], self.sessions.open(index, place, chain, group[2])))
                place += 1
            elif kind == sessions.EXPIRE:
                self.sessions.expire(group[1], group[2])
            elif kind == sessions.SIGNED_COMMANDS:
                key = group[5]
                for item in self.sessions.apply(group[:5], index, place, chain, self._apply_commands, key):
                    applied.append(Keyed(key, item))
                place += len(group[3])
            elif kind == sessions.SIGNED_OPEN:
                applied.append(
                    Keyed(group[1], self.sessions.open_signed(index, place, chain, group[1], group[2]))
                )
                place += 1
        return applied

    def _apply_commands(self, commands: Sequence[bytes]) -> list[bytes]:
        self.commands_applied += len(commands)
        return self.machine.apply(commands)

    def query(self, query: bytes) -> bytes:
        """Answer from the state as it is. Raises QueryError."""
        return self.machine.query(query)

    def digest(self) -> bytes:
        """32 bytes that name machine and sessions (the chain value names the history)."""
        return sha256(self.machine.digest() + sha256(self.sessions.dump()).digest()).digest()

    def snapshot(self) -> list[bytes]:
        """The state as chunks of at most 1 MiB."""
        table = self.sessions.dump()
        pieces = [table[start : start + CHUNK] for start in range(0, len(table), CHUNK)]
        head: bytes = msgpack.packb([VERSION, self.applied_index, self.applied_term, self.chain, len(pieces)])
        return [head, *pieces, *self.machine.snapshot()]

    def restore(self, chunks: Sequence[bytes]) -> None:
        """Replace the state by a snapshot's. Raises ValueError."""
        try:
            version, *fields = msgpack.unpackb(chunks[0], raw=False)
        except Exception as error:
            raise ValueError(f"no snapshot of a replicated state: {error}") from None
        if version != VERSION:
            raise ValueError(f"snapshot of state version {version}; this program reads version {VERSION}")
        if list(map(type, fields)) != [int, int, bytes, int] or not 0 <= fields[3] < len(chunks):
            raise ValueError(f"no snapshot of a replicated state: its head makes no sense ({fields!r:.80})")
        index, term, chain, pieces = fields
        table = Sessions(self.sessions.most)
        table.load(b"".join(chunks[1 : 1 + pieces]))
        self.machine.restore(chunks[1 + pieces :])
        self.sessions = table
        self.applied_index, self.applied_term, self.chain = index, term, chain
