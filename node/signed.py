"""Signed requests at a node: taken in, gathered with the others into blocks, and answered by every node.

A client believes what enough nodes say alike (one more than may lie). So a reply goes to all who have introduced themselves at
this node under the key, whichever node took the request in; and no node answers out of anything but its state.

A request that comes again is answered from the state alone where that can be. It is more than a saving: a log that tells batches
by their digests takes the same bytes in once, so whoever has missed the first answer would never get another.
"""

from __future__ import annotations

from typing import Final

from consensus.marks import sometimes
from node import sessions
from node.effects import Connection
from node.protocol import Code, Introduce, Refused, SignedOpen, SignedSubmit
from node.requests import KEY_BYTES, RequestCheck
from node.state import Keyed, ReplicatedState
from node.writes import Reply, WriteDesk

CONNECTIONS_A_KEY: Final = 4
"""Connections that hear of one key; a further one takes the place of the one introduced first."""
KEYS_A_CONNECTION: Final = 1024
"""Keys under which one connection may introduce itself; the one named first is dropped."""
_OVERHEAD: Final = 128
"""Bytes of a group around its commands, about."""
_COMMAND_BYTES: Final = 8


class SignedDesk:
    """Judges signed requests, hands them to the `WriteDesk`, and knows who wants to hear of which key."""

    def __init__(self, check: RequestCheck | None, writes: WriteDesk, state: ReplicatedState) -> None:
        """`check`: None where requests are not signed. `state` is only read."""
        self.required = check is not None
        """Whether requests must be signed here; else they must not."""
        self._check = check
        self._writes = writes
        self._state = state
        self._listening: dict[bytes, dict[Connection, None]] = {}  # key -> who, the longest introduced first
        self._keys: dict[Connection, dict[bytes, None]] = {}

    # ------------------------------------------------------------------------------------------------ requests

    def introduce(self, connection: Connection, message: Introduce) -> None:
        """A connection wants to hear of a key. What is no key is passed over."""
        if self.required and len(message.key) == KEY_BYTES:
            self._listen(connection, message.key)

    def submit(self, connection: Connection, message: SignedSubmit) -> list[Reply]:
        """Take in a bundle; if it is refused at once, the whole of it: it stands under one signature."""
        session, seqs, commands, key = message.session, message.seqs, message.commands, message.key
        group = sessions.signed_commands_group(session, message.low, seqs, commands, key, message.signature)
        problem = self._problem(group)
        if problem is not None:
            return [(connection, Refused(0, session, seqs, int(Code.BAD_COMMAND), problem, None))]
        self._listen(connection, key)
        known = self._state.sessions.recall(session, seqs, key, self._state.applied_index)
        if known is not None:
            sometimes("a bundle that comes again is answered from the state alone")
            return [(connection, item) for item in known]
        size = sum(map(len, commands)) + _COMMAND_BYTES * len(commands) + _OVERHEAD
        self._writes.gather(group, size, connection, 0, session, seqs)
        return []

    def open(self, connection: Connection, message: SignedOpen) -> list[Reply]:
        """Take in the opening of a session."""
        key, nonce = message.key, message.nonce
        group = sessions.signed_open_group(key, nonce, message.signature)
        problem = self._problem(group)
        if problem is not None:
            return [(connection, Refused(nonce, 0, [], int(Code.BAD_COMMAND), problem, None))]
        self._listen(connection, key)
        known = self._state.sessions.recall_opening(key, nonce)
        if known is not None:
            sometimes("an opening that comes again is answered from the state alone")
            return [(connection, known)]
        self._writes.gather(group, _OVERHEAD, connection, nonce, 0, [])
        return []

    def _problem(self, group: sessions.Group) -> str | None:
        problem = self._check.group(group) if self._check is not None else "nothing is signed here"
        if problem is not None:
            sometimes("a signed request is refused by the node that it is sent to")
        return problem

    # -------------------------------------------------------------------------------------------------- replies

    def replies(self, item: Keyed) -> list[Reply]:
        """What came of a signed request, for everybody here who wants to hear it."""
        return [(connection, item.message) for connection in self._listening.get(item.key, ())]

    def _listen(self, connection: Connection, key: bytes) -> None:
        keys = self._keys.setdefault(connection, {})
        if key in keys:
            return
        if len(keys) >= KEYS_A_CONNECTION:
            sometimes("a connection introduces itself under more keys than are kept")
            self._leave(connection, next(iter(keys)))
        listening = self._listening.setdefault(key, {})
        if len(listening) >= CONNECTIONS_A_KEY:
            sometimes("more connections want to hear of a key than are kept")
            self._leave(next(iter(listening)), key)
        keys[key] = None
        self._listening.setdefault(key, {})[connection] = None

    def _leave(self, connection: Connection, key: bytes) -> None:
        del self._keys[connection][key]
        listening = self._listening[key]
        del listening[connection]
        if not listening:
            del self._listening[key]

    def forget(self, connection: Connection) -> None:
        """A connection is gone. What it asked for still happens."""
        for key in self._keys.pop(connection, {}):
            listening = self._listening[key]
            del listening[connection]
            if not listening:
                del self._listening[key]

    def forget_all(self) -> None:
        """Tell nobody anything more: what this node would say is not to be trusted."""
        self._keys.clear()
        self._listening.clear()
