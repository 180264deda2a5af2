"""Requests that go through the log: commands and openings of sessions, gathered into blocks; and to whom the outcome goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from consensus.core import NEVER, NodeId
from consensus.marks import sometimes
from node import sessions
from node.effects import Connection
from node.machine import fault_in
from node.protocol import Code, OpenSession, Outcome, Refused, Submit
from node.state import Opened

BLOCK_BYTES: Final = 512 << 10
"""A block is closed when it has grown to this."""
_GROUP_BYTES: Final = 64
_COMMAND_BYTES: Final = 8

Reply = tuple[Connection, Any]


@dataclass(slots=True, eq=False)
class _Asked:
    """A group that waits to be proposed, and who asked for it (None: nobody any more, or this node itself)."""

    group: sessions.Group
    size: int
    connection: Connection
    request: int
    session: int
    seqs: list[int]
    nonce: int = 0


class WriteDesk:
    """Turns requests into blocks and finds the connection that an outcome goes to.

    Nothing here decides what takes effect: that is the log's part (`node.sessions`). A reply that finds no connection is
    dropped; the client asks again, here or elsewhere, and the log answers."""

    def __init__(
        self,
        node: NodeId,
        check: Callable[[bytes], str | None],
        max_command_bytes: int,
        first_nonce: int,
    ) -> None:
        """`check`: `Machine.check`. `first_nonce`: above all that earlier lives of this node have used."""
        self._node = node
        self._check = check
        self._max_command_bytes = max_command_bytes
        self._nonce = first_nonce
        self.asked: list[_Asked] = []
        """What has come together and is to be proposed."""
        self._bytes = 0
        self._reply_to: dict[int, Connection] = {}  # session -> the connection that last used it here
        self._opening: dict[int, tuple[Connection, int]] = {}  # nonce -> (who, request)

    # ------------------------------------------------------------------------------------------------ requests

    def open(self, connection: Connection, message: OpenSession) -> None:
        """Ask the log for a session."""
        self._nonce += 1
        self._opening[self._nonce] = (connection, message.request)
        group = sessions.open_group(self._node, self._nonce)
        self._add(_Asked(group, _GROUP_BYTES, connection, message.request, 0, [], self._nonce))

    def gather(
        self,
        group: sessions.Group,
        size: int,
        connection: Connection,
        request: int,
        session: int,
        seqs: list[int],
    ) -> None:
        """Put a group of somebody else's making with what has come together; `request`, `session` and `seqs` go into a
        refusal."""
        self._add(_Asked(group, size, connection, request, session, seqs))

    def expire(self, session: int, last_index: int) -> None:
        """Ask the log to forget an idle session."""
        group = sessions.expire_group(session, last_index)
        self._add(_Asked(group, _GROUP_BYTES, None, 0, 0, []))

    def submit(self, connection: Connection, message: Submit) -> list[Reply]:
        """Take in commands; what is refused at once."""
        session, seqs, commands = message.session, message.seqs, message.commands
        problem = self._problem(message)
        if problem is not None:
            sometimes("a request is refused: its numbers make no sense")
            code, reason = problem
            return [(connection, Refused(0, session, seqs, int(code), reason, None))]
        if not seqs:
            return []
        self._reply_to[session] = connection
        bad = self._bad_commands(commands)
        refused: list[Reply] = [
            (connection, Refused(0, session, [seqs[place]], int(Code.BAD_COMMAND), reason, None))
            for place, reason in bad.items()
        ]
        if bad:
            sometimes("a command is refused: it is malformed or too long")
            seqs = [seq for place, seq in enumerate(seqs) if place not in bad]
            commands = [command for place, command in enumerate(commands) if place not in bad]
        if seqs:
            group = sessions.commands_group(session, message.low, seqs, commands)
            size = sum(map(len, commands)) + _COMMAND_BYTES * len(commands)
            self._add(_Asked(group, size, connection, 0, session, seqs))
        return refused

    @staticmethod
    def _problem(message: Submit) -> tuple[Code, str] | None:
        seqs, low = message.seqs, message.low
        if len(seqs) != len(message.commands):
            return Code.BAD_COMMAND, f"{len(seqs)} numbers for {len(message.commands)} commands"
        # As many places stand in a block as the name of a session has room for: see sessions.PLACES.
        if len(seqs) > sessions.WINDOW:
            return Code.BAD_COMMAND, f"{len(seqs)} commands at once; the limit is {sessions.WINDOW}"
        if seqs and (max(seqs) > low + sessions.WINDOW or min(seqs) < 1):
            reason = f"numbers must lie between 1 and {sessions.WINDOW} above the settled ones ({low})"
            return Code.FORGOTTEN, reason
        return None

    def _bad_commands(self, commands: list[bytes]) -> dict[int, str]:
        limit, check = self._max_command_bytes, self._check
        bad: dict[int, str] = {}
        for place, command in enumerate(commands):
            if len(command) > limit:
                bad[place] = f"the command has {len(command)} bytes; the limit is {limit}"
            else:
                problem = fault_in(check, command)
                if problem is not None:
                    bad[place] = problem
        return bad

    def _add(self, asked: _Asked) -> None:
        self.asked.append(asked)
        self._bytes += asked.size

    # ------------------------------------------------------------------------------------------------- proposing

    def blocks(self) -> list[bytes]:
        """What has come together, as payloads of bounded size (a group is never cut: a frame bounds it). `proposed` or
        `refuse` follows."""
        if self._bytes <= BLOCK_BYTES and len(self.asked) <= sessions.MOST_GROUPS:
            return [sessions.encode_block([asked.group for asked in self.asked])] if self.asked else []
        parts: list[list[sessions.Group]] = [[]]
        size = 0
        for asked in self.asked:
            if size and (size + asked.size > BLOCK_BYTES or len(parts[-1]) >= sessions.MOST_GROUPS):
                parts.append([])
                size = 0
            parts[-1].append(asked.group)
            size += asked.size
        return [sessions.encode_block(part) for part in parts]

    def proposed(self) -> None:
        """The blocks are on their way."""
        self.asked, self._bytes = [], 0

    def refuse(self, code: Code, reason: str, leader: NodeId | None = None) -> list[Reply]:
        """Refuse what has come together: nothing of it will ever be in the log."""
        replies: list[Reply] = []
        for asked in self.asked:
            self._opening.pop(asked.nonce, None)
            if asked.connection is None:
                continue
            refused = Refused(asked.request, asked.session, asked.seqs, int(code), reason, leader)
            replies.append((asked.connection, refused))
            if code == Code.NOT_LEADER:
                sometimes("a request is refused and told who leads")
            if code != Code.BUSY:
                # Whoever leads answers this session from now on; two answers would only cost twice. A leader that is
                # merely busy still owes the outcome of what it took before.
                self._reply_to.pop(asked.session, None)
        self.asked, self._bytes = [], 0
        return replies

    # -------------------------------------------------------------------------------------------------- outcomes

    def reply_to(self, item: Outcome | Refused) -> Connection:
        """The connection that waits for what came of commands; None if none does."""
        if type(item) is Refused and item.code == Code.UNKNOWN_SESSION:
            return self._reply_to.pop(item.session, None)
        return self._reply_to.get(item.session)

    def opened(self, item: Opened) -> list[Reply]:
        """A session was opened, here or elsewhere."""
        if item.origin != self._node:
            return []
        connection, request = self._opening.pop(item.message.request, (None, 0))
        if connection is None:
            sometimes("a session is opened and its asker is gone")
            return []
        item.message.request = request
        self._reply_to[item.message.session] = connection
        return [(connection, item.message)]

    def forget(self, connection: Connection) -> None:
        """A connection is gone. What it asked for still happens; nobody is told."""
        for session in [name for name, who in self._reply_to.items() if who == connection]:
            del self._reply_to[session]
        for nonce in [nonce for nonce, (who, _) in self._opening.items() if who == connection]:
            del self._opening[nonce]
        for asked in self.asked:
            if asked.connection == connection:
                sometimes("a client goes before its request is proposed")
                asked.connection = None

    def forget_all(self) -> None:
        """Tell nobody anything more: what this node would say of outcomes is not to be trusted."""
        self._reply_to.clear()
        self._opening.clear()


class IdleWatch:
    """A leader's idea of which sessions are idle. Its clock proposes; the log decides (`Sessions.expire`)."""

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self._seen: dict[int, tuple[int, int]] = {}  # session -> (last index, when this leader saw that)
        self.deadline = NEVER
        """When `sweep` is due."""

    def begin(self, last_used: Mapping[int, int], now: int) -> None:
        """This node leads. It has not seen when a session was last used: everybody gets a full time to live."""
        self._seen = {name: (used, now) for name, used in last_used.items()}
        self.deadline = now + self._ttl // 4

    def end(self) -> None:
        """This node leads no more."""
        self.deadline = NEVER

    def sweep(self, last_used: Mapping[int, int], now: int) -> list[tuple[int, int]]:
        """(session, last index) of those that nobody has used for their time to live."""
        self.deadline = now + self._ttl // 4
        seen = self._seen
        self._seen = {
            name: seen[name] if name in seen and seen[name][0] == index else (index, now)
            for name, index in last_used.items()
        }
        idle = [(name, index) for name, (index, when) in self._seen.items() if now - when >= self._ttl]
        if idle:
            sometimes("a leader proposes to forget an idle session")
        return idle
