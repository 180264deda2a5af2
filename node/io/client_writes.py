"""A client's commands: numbering, batching, the session, and sending again until each has one outcome.

Exactly once rests on two things. A command keeps its number, in its session, for all its copies; the replicated
session table applies a number once. And a command is given a second number, in a second session, only when every copy
sent under the first was answered by a refusal that says that nothing was done.

No I/O in here: messages go to channels, time comes from a clock handed in.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from node.io.client_commands import Commands
from node.io.client_link import Channel
from node.io.client_pending import Pending
from node.io.client_types import (
    BadCommand,
    Event,
    EventHook,
    NotDone,
    OutcomeUnknown,
    ProtocolViolation,
    SessionLost,
    Settings,
    code_name,
)
from node.protocol import Code, Leader, OpenSession, Outcome, Refused, SessionOpened, Submit

_FRAME_BYTES: Final = 1 << 20
_FRAME_COMMANDS: Final = 4096
_MOST_HINTS: Final = 3

_LOST: Final = int(Code.LOST)
_UNKNOWN_SESSION: Final = int(Code.UNKNOWN_SESSION)
_BAD_COMMAND: Final = int(Code.BAD_COMMAND)
_FORGOTTEN: Final = int(Code.FORGOTTEN)
_NOT_LEADER: Final = int(Code.NOT_LEADER)


class Writes(Commands):
    """All commands of one client, to whoever leads. Methods named `on_...` are called by the links; `flush` and `tick` by two
    tasks."""

    def __init__(
        self,
        settings: Settings,
        rng: random.Random,
        clock: Callable[[], float],
        next_request: Callable[[], int],
        channel_of: Callable[[str], Channel | None],
        channels: Callable[[], list[Channel]],
        wake: Callable[[], None],
        events: EventHook,
    ) -> None:
        super().__init__(settings, clock, wake)
        self.term = 0
        self._hinted = False
        self._hints = 0
        self._rng = rng
        self._next_request = next_request
        self._channel_of = channel_of
        self._channels = channels
        self._events = events
        self._again: list[tuple[float, int]] = []
        self._opening: int | None = None
        self._opening_at: Channel | None = None
        self._open_after = 0.0
        self._open_attempts = 0
        self._open_word = ""
        self._dying_since: float | None = None
        self._probe_after = 0.0
        self._probes = 0
        self._stale_after = 0.0

    # ------------------------------------------------------------------------------------------------ sending

    def flush(self) -> None:
        """Send what can be sent now: commands that are not at the leader's connection yet, then fresh ones."""
        channel = self._leader_channel()
        if channel is None or self._dying_since is not None:
            return
        if self.session is None:
            if self._fresh and self._opening_at is not channel and self._clock() >= self._open_after:
                self._ask_for_session(channel)
            return
        fresh, open_, seq = self._fresh, self._open, self._next_seq
        room = min(len(fresh), self._settings.window - len(open_))
        if room <= 0:
            return
        batch: list[Pending] = []
        session = self.session
        for _ in range(room):
            pending = fresh.popleft()
            pending.seq = seq
            pending.session = session
            open_[seq] = pending
            seq += 1
            batch.append(pending)
        self._next_seq = seq
        self.budget.earn(room)
        self._send(channel, batch)

    def _send(self, channel: Channel, batch: list[Pending]) -> None:
        """Send a copy of each to `channel`, in frames of bounded size."""
        now = self._clock()
        low = next(iter(self._open)) - 1
        session = self.session
        assert session is not None
        start = 0
        while start < len(batch):
            size = 0
            end = start
            while end < len(batch) and end - start < _FRAME_COMMANDS:
                size += len(batch[end].command) + 12
                if size > _FRAME_BYTES and end > start:
                    break
                end += 1
            part = batch[start:end] if end - start < len(batch) else batch
            start = end
            message = Submit(session, low, [p.seq for p in part], [p.command for p in part])
            if channel.put(message):
                for pending in part:
                    if pending.at is not None:
                        pending.unsure = True
                    pending.at = channel
                    pending.attempts += 1
                    pending.sent_at = now
            else:
                for pending in part:
                    if pending.at is not None:
                        pending.unsure = True
                        pending.at = None
                    pending.last_word = f"the connection to {channel.node} takes no more"
                    self._send_later(pending, now)

    def _send_again(self, channel: Channel, batch: list[Pending], why: str) -> None:
        self.resent += len(batch)
        self._events(Event(self._clock(), "resend", channel.node, why, len(batch)))
        self._send(channel, batch)

    def _send_later(self, pending: Pending, now: float) -> None:
        settings = self._settings
        ceiling = min(settings.resend_max_ms, settings.resend_min_ms << min(pending.attempts, 16)) / 1000
        heapq.heappush(self._again, (now + self._rng.uniform(0, ceiling), pending.seq))

    def _leader_channel(self) -> Channel | None:
        return None if self.leader is None else self._channel_of(self.leader)

    def _leader_moved(self, why: str) -> None:
        """All open commands go to the leader's connection at once. Paid for once, however many they are: a change of
        leader is one event, and the new leader has seen none of them."""
        channel = self._leader_channel()
        if channel is None:
            return
        if self.session is not None and self._dying_since is None:
            batch = [pending for pending in self._open.values() if pending.at is not channel]
            if batch:
                self.budget.take(1, self._clock())
                self._send_again(channel, batch, why)
        else:
            self._open_after = 0.0
        self._wake()

    # ------------------------------------------------------------------------------------------- what nodes say

    def on_leader(self, channel: Channel, message: Leader) -> None:
        """A node learnt of a leader; the highest term is right."""
        term, leader = message.term, message.leader
        if term < self.term or (
            term == self.term and (leader is None or (self.leader is not None and not self._hinted))
        ):
            return
        changed = leader != self.leader
        self.term, self.leader, self._hinted, self._hints = term, leader, False, 0
        self._probe_after = 0.0
        self._probes = 0
        if changed:
            self._events(Event(self._clock(), "leader", leader, f"term {term}, says {channel.node}"))
        self._leader_moved(f"{leader} leads in term {term}")

    def on_up(self, channel: Channel) -> None:
        """A connection is there."""
        if channel.node == self.leader:
            self._leader_moved(f"connected to {channel.node} again")
        else:
            self._wake()

    def on_down(self, channel: Channel, reason: str) -> None:
        """A connection is gone, and with it the answers that were to come over it."""
        for pending in self._open.values():
            if pending.at is channel:
                pending.at = None
                pending.unsure = True
                pending.last_word = f"{channel.node}: {reason}"
        if self._opening_at is channel:
            self._opening_at = None
        if self._dying_since is not None:
            self._bury_session("the connection is gone", wait=True)

    def on_opened(self, channel: Channel, message: SessionOpened) -> None:
        """The session is open (a second answer to the same request names one more, which is left to expire)."""
        if message.request != self._opening or self.session is not None:
            return
        self.session = message.session
        self._opening = self._opening_at = None
        self._open_attempts = 0
        self._next_seq = 1
        self._events(
            Event(self._clock(), "session", channel.node, f"session {message.session} at {message.index}")
        )
        self._wake()

    def on_outcome(self, channel: Channel, message: Outcome) -> None:
        """Commands have results."""
        if message.session != self.session:
            return
        seqs, places, results = message.seqs, message.places, message.results
        if not len(seqs) == len(places) == len(results):
            raise ProtocolViolation(
                f"{len(seqs)} numbers, {len(places)} places and {len(results)} results in an Outcome"
            )
        take, index, chain = self._open.pop, message.index, message.chain
        for seq, place, result in zip(seqs, places, results, strict=True):
            pending = take(seq, None)
            if pending is not None:  # else: a second answer, to another copy
                pending.index = index
                pending.place = place
                pending.chain = chain
                pending.result = result
                pending.settle()
        self._hints = 0
        if self._dying_since is not None and not self._open:
            self._bury_session("settled")
        if self._fresh:
            self._wake()

    def on_refused(self, channel: Channel, message: Refused) -> None:
        """Commands, or the wish for a session, were refused."""
        now = self._clock()
        if not message.seqs:
            if message.request != self._opening:
                return
            self._opening_at = None
            self._open_attempts += 1
            self._open_word = f"; no session: {channel.node}: {code_name(message.code)}: {message.reason}"
            ceiling = min(
                self._settings.resend_max_ms, self._settings.resend_min_ms << min(self._open_attempts, 16)
            )
            self._open_after = now + self._rng.uniform(0, ceiling / 1000)
            self._follow_hint(channel, message)
            return
        if message.session != self.session:
            return
        code = message.code
        word = f"{channel.node}: {code_name(code)}: {message.reason}"
        again: list[Pending] = []
        for seq in message.seqs:
            pending = self._open.get(seq)
            if pending is None or (pending.at is not channel and code != _BAD_COMMAND):
                continue  # settled, or an answer to an older copy while a newer one is under way elsewhere
            pending.last_word = word
            if code == _BAD_COMMAND:
                del self._open[seq]
                pending.fail(BadCommand(message.reason))
                continue
            pending.at = None
            if code == _FORGOTTEN:
                del self._open[seq]
                pending.fail(OutcomeUnknown(f"number {seq} is not known any more, or too far ahead: {word}"))
                continue
            if code == _LOST:
                pending.unsure = True
            again.append(pending)
        if code == _UNKNOWN_SESSION and self._dying_since is None:
            self._dying_since = now
            self._events(Event(now, "session_lost", channel.node, message.reason, len(self._open)))
        if self._dying_since is not None:
            self._bury_session(message.reason, wait=True)
            return
        if not self._follow_hint(channel, message):
            for pending in again:
                self._send_later(pending, now)
        if self._fresh:
            self._wake()

    def _follow_hint(self, channel: Channel, message: Refused) -> bool:
        """Turn to the leader a refusal names; whether everything open was sent there. Two nodes that name each other get
        only so many turns, then the timer takes over."""
        if channel.node != self.leader and self._leader_channel() is not None:
            return False
        hint = message.leader
        if hint is not None and hint != channel.node and self._hints < _MOST_HINTS:
            self._hints += 1
            if hint != self.leader:
                self.leader, self._hinted = hint, True
                self._events(Event(self._clock(), "leader", hint, f"a hint by {channel.node}"))
            self._leader_moved(f"{channel.node} names {hint} as leader")
            return self._leader_channel() is not None
        if message.code == _NOT_LEADER:
            self.leader, self._hinted = None, True
        return False

    # --------------------------------------------------------------------------------------------- the session

    def _ask_for_session(self, channel: Channel) -> None:
        if self._opening is None:
            self._opening = self._next_request()
        if channel.put(OpenSession(self._opening)):
            self._opening_at = channel
            self._open_after = self._clock() + self._settings.answer_ms / 1000

    def _bury_session(self, reason: str, wait: bool = False) -> None:
        """The session is gone. What was certainly not done moves to the next one; what may have been done fails, but for
        what still has its answer coming (`wait`)."""
        again: list[Pending] = []
        for seq, pending in list(self._open.items()):
            if pending.at is not None and wait:
                continue
            del self._open[seq]
            if pending.unsure or pending.at is not None:
                pending.fail(SessionLost(f"session {self.session} is gone ({reason}); {pending.last_word}"))
            else:
                del pending.seq
                pending.session = None
                again.append(pending)
        self._fresh.extendleft(reversed(again))
        if not self._open:
            self.session = None
            self._dying_since = None
            self._again.clear()
            self._open_after = 0.0
            self._wake()

    # ------------------------------------------------------------------------------------------------- time

    def tick(self) -> None:
        """What time brings: deadlines, commands to be sent again, no answer at all, no leader. A few times 10 ms apart."""
        now = self._clock()
        if now >= self._earliest:
            self._expire(now)
        if self._dying_since is not None:
            if now - self._dying_since > self._settings.answer_ms / 1000:
                self._bury_session("no answer")
            return
        channel = self._leader_channel()
        if channel is None:
            if self.busy and now >= self._probe_after:
                self._probe(now)
            return
        if self.session is None:
            if self._opening_at is channel and now >= self._open_after:
                self._opening_at = None
            if self._fresh and now >= self._open_after:
                self._wake()
            return
        self._send_due(channel, now)
        if now >= self._stale_after:
            self._stale_after = now + 0.05
            self._send_stale(channel, now)

    def _give_up(self, pending: Pending, why: str) -> None:
        heard = f"; last word: {pending.last_word}" if pending.last_word else ""
        if pending.unsure or pending.at is not None:
            pending.fail(OutcomeUnknown(f"{why}, {pending.attempts} copies sent{heard}"))
        else:
            where = ""
            if self.leader is None:
                where = "; no leader is known, a majority of the members may be out of reach"
            elif self._leader_channel() is None:
                where = f"; {self.leader}, the last leader that was known, is out of reach"
            elif self.session is None:
                where = self._open_word
            pending.fail(NotDone(f"{why}{where}{heard}"))

    def _due(self, now: float) -> Iterable[Pending]:
        while self._again and self._again[0][0] <= now:
            pending = self._open.get(heapq.heappop(self._again)[1])
            if pending is not None and pending.at is None:
                yield pending

    def _send_due(self, channel: Channel, now: float) -> None:
        due = {pending.seq: pending for pending in self._due(now)}
        if not due:
            return
        waiting = [due[seq] for seq in sorted(due)]
        granted = self.budget.take(len(waiting), now)
        for pending in waiting[granted:]:
            heapq.heappush(
                self._again, (now + self._rng.uniform(0, self._settings.resend_max_ms / 1000), pending.seq)
            )
        if granted:
            self._send_again(channel, waiting[:granted], "after a refusal")

    def _send_stale(self, channel: Channel, now: float) -> None:
        if channel.link.suspect(now):
            return  # another copy would wait behind the first; the link will be given up or come back
        patience = self._settings.answer_ms / 1000
        stale = [
            pending
            for pending in islice(self._open.values(), 256)
            if pending.at is channel
            and now - pending.sent_at > patience * (1 << min(pending.attempts - 1, 5))
        ]
        granted = self.budget.take(len(stale), now) if stale else 0
        if granted:
            self._send_again(channel, stale[:granted], "no answer")

    def _probe(self, now: float) -> None:
        """No leader is known, or not connected. Nodes say so when there is one; asking now and then covers what got lost."""
        ceiling = min(self._settings.resend_max_ms, 100 << min(self._probes, 8)) / 1000
        self._probe_after = now + ceiling / 2 + self._rng.uniform(0, ceiling / 2)
        self._probes += 1
        channels = self._channels()
        if self._probes < 2 or not channels or self.budget.take(1, now) == 0:
            return
        channel = channels[self._probes % len(channels)]
        self._hints = 0
        if self.session is None:
            self._ask_for_session(channel)
            return
        for pending in self._open.values():
            if pending.at is None:
                self._send_again(channel, [pending], "looking for a leader")
                return
