"""The nodes' own replicated state, as the replay sees it."""

from __future__ import annotations

from consensus.core import EntryKind, entry_payload, entry_position
from node import sessions
from node.machine import Machine
from node.protocol import Outcome
from node.state import Keyed, ReplicatedState
from sim.check.replay import Effect


class NodeState:
    """The nodes' own `ReplicatedState` as the replay sees it."""

    def __init__(self, machine: Machine, max_sessions: int = 4096) -> None:
        """`machine`: in its initial state; `max_sessions`: as the nodes had it."""
        self._state = ReplicatedState(machine, max_sessions)

    @property
    def chain(self) -> bytes:
        """Chain value at the last applied entry."""
        return self._state.chain

    def apply(self, entry: bytes) -> list[Effect]:
        """Apply the next entry. Raises ValueError for another one."""
        index, _, kind = entry_position(entry)
        applied = self._state.apply(entry, compare=False)
        if kind != EntryKind.BLOCK:
            return []
        commands: list[bytes] = []
        for group in sessions.decode_block(entry_payload(entry)):
            if group[0] == sessions.COMMANDS or group[0] == sessions.SIGNED_COMMANDS:
                commands += group[4]
            elif group[0] == sessions.OPEN or group[0] == sessions.SIGNED_OPEN:
                commands.append(b"")  # an opening takes up a place
        effects = []
        taken: set[int] = set()
        for item in applied:
            outcome = item.message if isinstance(item, Keyed) else item
            # An outcome at an earlier index, or at a place already seen, repeats an old answer: nothing took effect.
            if not isinstance(outcome, Outcome) or outcome.index != index:
                continue
            for seq, place, result in zip(outcome.seqs, outcome.places, outcome.results, strict=True):
                if place not in taken:
                    taken.add(place)
                    effects.append(Effect(outcome.session, seq, place, commands[place], result))
        return effects

    def query(self, query: bytes) -> bytes:
        """Answer from the state. Raises node.machine.QueryError, a ValueError."""
        return self._state.query(query)

    def digest(self) -> bytes:
        """Digest of machine and sessions."""
        return self._state.digest()
