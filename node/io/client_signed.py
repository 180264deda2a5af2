"""A client's commands where nodes may lie: signed in bundles, and settled by what so many nodes say that one of them is honest.

A bundle, once sent, may be brought to the log again by anybody who has seen it, for as long as its session lives. So a command
that was sent and has no outcome is never called "not done", and never gets a second number. What one node says, be it an
outcome or a refusal, settles nothing; it only moves the client on to another node.

No I/O in here: messages go to channels, time comes from a clock handed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

from node.io.client_bundles import Bundle, agreed
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
    Signing,
    code_name,
)
from node.protocol import (
    Code,
    Introduce,
    Leader,
    Outcome,
    Refused,
    SessionOpened,
    SignedOpen,
    SignedSubmit,
)
from node.requests import BUNDLE_BYTES, open_statement, submit_statement

_BUNDLE_COMMANDS: Final = 4096
_BAD_COMMAND: Final = int(Code.BAD_COMMAND)
_FORGOTTEN: Final = int(Code.FORGOTTEN)
_UNKNOWN_SESSION: Final = int(Code.UNKNOWN_SESSION)
_LEAVING: Final = frozenset((int(Code.STOPPING), int(Code.QUARANTINED)))
_STALE_EVERY_S: Final = 0.02
_REFUSALS: Final = 3
_BEAR_S: Final = 1.0
"""A node that refuses so many times is left for another, once in so many seconds at most: that costs sending everything again."""
_NONCE_STEP: Final = 1 << 40
"""Some days, where nonces are microseconds."""


class SignedWrites(Commands):
    """All commands of one client. Methods named `on_...` are called by the links; `flush` and `tick` by two tasks."""

    def __init__(
        self,
        settings: Settings,
        signing: Signing,
        cluster: str,
        first_nonce: int,
        rng: random.Random,
        clock: Callable[[], float],
        channels: Callable[[], list[Channel]],
        wake: Callable[[], None],
        events: EventHook,
    ) -> None:
        """`first_nonce`: above all under which this key has opened a session before."""
        super().__init__(settings, clock, wake)
        self._key = signing.key
        self._need = signing.lie + 1
        self._cluster = cluster
        self._nonce = first_nonce
        self._rng = rng
        self._channels = channels
        self._events = events
        self._bundles: dict[Bundle, None] = {}
        self._bundle_of: dict[int, Bundle] = {}
        self._opening: dict[str, int | None] | None = None
        """Who was asked to open the session, and which one each says it is; None: nobody was asked."""
        self._too_low: dict[str, None] = {}
        """Nodes that say that the nonce is too low."""
        self._open_after = 0.0
        self._open_attempts = 0
        self.signatures = 0
        """Bundles signed so far."""
        self._unknown: dict[str, None] = {}
        """Nodes that say that the session is gone."""
        self._refusals = 0
        self._bear_until = 0.0
        self._stale_after = 0.0

    # ------------------------------------------------------------------------------------------------ sending

    def flush(self) -> None:
        """Send what can be sent now."""
        if not self._fresh:
            return
        now = self._clock()
        if self.session is None:
            if self._opening is None and now >= self._open_after:
                self._ask_for_session(now, 1)
            return
        first = self._first(now)
        if first is None:
            return
        fresh, open_ = self._fresh, self._open
        room = min(len(fresh), self._settings.window - len(open_))
        batch: list[Pending] = []
        for _ in range(room):
            pending = fresh.popleft()
            pending.seq = self._next_seq
            pending.session = self.session
            open_[pending.seq] = pending
            self._next_seq += 1
            batch.append(pending)
        self.budget.earn(room)
        for bundle in self._make_bundles(batch):
            self._send(bundle, first, now)

    def _make_bundles(self, batch: list[Pending]) -> list[Bundle]:
        made: list[Bundle] = []
        most = min(self._settings.bundle, _BUNDLE_COMMANDS)
        start = 0
        while start < len(batch):
            end = start
            size = 0
            while end < len(batch) and end - start < most:
                size += len(batch[end].command)
                if size > BUNDLE_BYTES and end > start:
                    break
                end += 1
            made.append(self._bundle(batch[start:end]))
            start = end
        return made

    def _bundle(self, part: list[Pending]) -> Bundle:
        assert self.session is not None
        low = next(iter(self._open)) - 1
        seqs, commands = [pending.seq for pending in part], [pending.command for pending in part]
        key = self._key
        signature = key.sign(submit_statement(self._cluster, self.session, low, seqs, commands))
        bundle = Bundle(SignedSubmit(self.session, low, seqs, commands, key.public, signature))
        self._bundles[bundle] = None
        self.signatures += 1
        for seq in seqs:
            self._bundle_of[seq] = bundle
        return bundle

    def _send(self, bundle: Bundle, channel: Channel, now: float) -> bool:
        sent = channel.put(bundle.message)
        open_ = self._open
        for seq in bundle.message.seqs:
            pending = open_.get(seq)
            if pending is None:
                continue
            if sent:
                pending.attempts += 1
                pending.sent_at = now
            else:
                pending.last_word = f"the connection to {channel.node} takes no more"
        bundle.asked[channel.node] = channel
        bundle.sent_at = now
        if sent:
            bundle.attempts += 1
            bundle.again_at = None
        else:
            self._send_later(bundle, now)
        return sent

    def _send_later(self, bundle: Bundle, now: float) -> None:
        settings = self._settings
        ceiling = (
            min(
                settings.resend_max_ms, settings.resend_min_ms << min(len(bundle.asked) + bundle.attempts, 16)
            )
            / 1000
        )
        bundle.again_at = now + self._rng.uniform(0, ceiling)

    def _send_again(self, bundle: Bundle, channels: Iterable[Channel], why: str, now: float) -> None:
        for channel in channels:
            if self._send(bundle, channel, now):
                self.resent += bundle.left
                self._events(Event(now, "resend", channel.node, why, bundle.left))

    def _others(self, asked: dict[str, Channel], now: float) -> list[Channel]:
        """Nodes to ask next: those that have not been asked over the connection they have now, whoever is heard first. When all
        have, everybody again."""
        channels = self._channels()
        left = [channel for channel in channels if asked.get(channel.node) is not channel]
        if not left:
            asked.clear()
            left = channels
        start = self._rng.randrange(len(left)) if left else 0
        left = left[start:] + left[:start]
        return sorted(left, key=lambda channel: channel.link.suspect(now))

    # ---------------------------------------------------------------------------------------- which node first

    def _first(self, now: float) -> Channel | None:
        """The node that gets bundles first: always the same, so that commands stay in order, until it gives cause to leave it."""
        channels = self._channels()
        for channel in channels:
            if channel.node == self.leader:
                return channel
        return self._move(now, "")

    def _move(self, now: float, why: str) -> Channel | None:
        """Turn to another node, and give it everything open that the one before has had for itself."""
        old = self.leader
        choice = [channel for channel in self._channels() if channel.node != old]
        if not choice:
            return None
        heard = [channel for channel in choice if not channel.link.suspect(now)]
        channel = self._rng.choice(heard or choice)
        self.leader = channel.node
        self._refusals = 0
        self._events(Event(now, "leader", channel.node, why or "asked first"))
        if old is not None:
            self.budget.take(1, now)
            for bundle in list(self._bundles):
                if channel.node not in bundle.asked:
                    self._send_again(bundle, [channel], why, now)
        self._wake()
        return channel

    # ------------------------------------------------------------------------------------------- what nodes say

    def on_leader(self, channel: Channel, message: Leader) -> None:
        """Every node takes requests; who leads a round is no business of a client's."""

    def on_up(self, channel: Channel) -> None:
        """A connection is there: it is to hear what becomes of this key's requests."""
        channel.put(Introduce(self._key.public))
        if self.leader is None:
            self._first(self._clock())
        self._wake()

    def on_down(self, channel: Channel, reason: str) -> None:
        """A connection is gone. Others answer as well; but what only this node has had goes to another one."""
        for bundle in self._bundles:
            if bundle.asked.get(channel.node) is channel:
                for seq in bundle.message.seqs:
                    pending = self._open.get(seq)
                    if pending is not None:
                        pending.last_word = f"{channel.node}: {reason}"
        if channel.node == self.leader:
            self._move(self._clock(), f"{channel.node} is gone")

    def on_opened(self, channel: Channel, message: SessionOpened) -> None:
        """A node says that the session is open."""
        if message.request != self._nonce or self.session is not None or self._opening is None:
            return
        self._opening[channel.node] = message.session
        if sum(said == message.session for said in self._opening.values()) < self._need:
            return
        self.session = message.session
        self._opening = None
        self._open_attempts = 0
        self._next_seq = 1
        self._unknown.clear()
        self._events(
            Event(self._clock(), "session", channel.node, f"session {message.session} at {message.index}")
        )
        self._wake()

    def on_outcome(self, channel: Channel, message: Outcome) -> None:
        """A node says that commands have results."""
        if message.session != self.session:
            return
        seqs, places, results = message.seqs, message.places, message.results
        if not len(seqs) == len(places) == len(results):
            raise ProtocolViolation(
                f"{len(seqs)} numbers, {len(places)} places and {len(results)} results in an Outcome"
            )
        find, node, index, chain, need = (
            self._open.get,
            channel.node,
            message.index,
            message.chain,
            self._need,
        )
        for seq, place, result in zip(seqs, places, results, strict=True):
            pending = find(seq)
            if pending is None:
                continue  # what more nodes say than were needed
            word = (index, place, result, chain)
            if need > 1 and not agreed(pending, node, word, need):
                continue
            del self._open[seq]
            self._leave_bundle(seq)
            pending.index = index
            pending.place = place
            pending.chain = chain
            pending.result = result
            pending.said = None
            pending.settle()
        if self._fresh:
            self._wake()

    def on_refused(self, channel: Channel, message: Refused) -> None:
        """A node says that it did not take something, or that the log did not."""
        now = self._clock()
        if not message.seqs:
            self._opening_refused(channel, message, now)
            return
        if message.session != self.session:
            return
        code, node = message.code, channel.node
        word = f"{node}: {code_name(code)}: {message.reason}"
        bundles: dict[Bundle, None] = {}
        for seq in message.seqs:
            bundle = self._bundle_of.get(seq)
            if bundle is not None:
                bundles[bundle] = None
                self._open[seq].last_word = word
        if not bundles:
            return
        if code == _UNKNOWN_SESSION:
            self._unknown[node] = None
            if len(self._unknown) >= self._need:
                self._bury_session(message.reason, node, now)
            return
        if code in (_BAD_COMMAND, _FORGOTTEN):
            for bundle in bundles:
                self._judged(bundle, message, node, now)
        if node == self.leader:
            self._refusals += 1
            if code in _LEAVING or (self._refusals >= _REFUSALS and now >= self._bear_until):
                # Whoever has too much to do may say so; whoever lies may say it for ever.
                self._bear_until = now + _BEAR_S
                self._move(now, word)
        for bundle in bundles:
            if bundle.left and bundle in self._bundles and bundle.again_at is None:
                self._send_later(bundle, now)

    def _judged(self, bundle: Bundle, message: Refused, node: str, now: float) -> None:
        """A node finds fault with commands of a bundle. Once so many do that one is honest, it is true, and can never have taken
        effect: whoever votes asks the same question of the same bytes."""
        refused = set(message.seqs)
        found = [
            pending
            for seq in bundle.message.seqs
            if seq in refused
            and (pending := self._open.get(seq)) is not None
            and agreed(pending, node, message.code, self._need)
        ]
        if not found:
            return
        if message.code == _FORGOTTEN or bundle.left == 1:
            for pending in found:
                del self._open[pending.seq]
                self._leave_bundle(pending.seq)
                pending.fail(
                    BadCommand(message.reason)
                    if message.code == _BAD_COMMAND
                    else OutcomeUnknown(
                        f"number {pending.seq} is not known any more, or too far ahead: {message.reason}"
                    )
                )
            return
        # One bad command spoils all that stand under its signature: halves find it.
        rest = [self._open[seq] for seq in bundle.message.seqs if seq in self._open]
        del self._bundles[bundle]
        bundle.left = 0
        first = self._first(now)
        for half in (rest[: len(rest) // 2], rest[len(rest) // 2 :]):
            for pending in half:
                pending.said = None
            smaller = self._bundle(half)
            if first is None:
                self._send_later(smaller, now)
            else:
                self._send(smaller, first, now)

    # --------------------------------------------------------------------------------------------- the session

    def _ask_for_session(self, now: float, nodes: int) -> None:
        first = self._first(now)
        if first is None:
            return
        asked = self._opening if self._opening is not None else {}
        nobody: dict[str, Channel] = {}
        others = [channel for channel in self._others(nobody, now) if channel is not first]
        signature = self._key.sign(open_statement(self._cluster, self._key.public, self._nonce))
        message = SignedOpen(self._key.public, self._nonce, signature)
        for channel in [first, *others][:nodes]:
            channel.put(message)
            asked.setdefault(channel.node, None)
        self._opening = asked
        self._open_attempts += 1
        patience = self._settings.answer_ms / 1000
        self._open_after = now + min(patience * (1 << min(self._open_attempts - 1, 3)), 4 * patience)

    def _opening_refused(self, channel: Channel, message: Refused, now: float) -> None:
        if message.request != self._nonce or self._opening is None or self.session is not None:
            return
        if message.code == _FORGOTTEN:
            self._too_low[channel.node] = None
            if len(self._too_low) >= self._need:
                # The key was used by a process whose clock was ahead of this one's.
                self._nonce += _NONCE_STEP
                self._too_low.clear()
                self._opening, self._open_after = None, now
                self._wake()
            return
        settings = self._settings
        ceiling = min(settings.resend_max_ms, settings.resend_min_ms << min(self._open_attempts, 16)) / 1000
        self._open_after = min(self._open_after, now + self._rng.uniform(0, ceiling))
        if message.code in _LEAVING and channel.node == self.leader:
            self._move(now, f"{channel.node}: {code_name(message.code)}: {message.reason}")

    def _bury_session(self, reason: str, node: str, now: float) -> None:
        """The session is gone, and nothing tells what has become of what was sent in it."""
        self._events(Event(now, "session_lost", node, reason, len(self._open)))
        lost, self._open = self._open, {}
        self._bundles.clear()
        self._bundle_of.clear()
        session, self.session = self.session, None
        self._nonce += 1
        self._opening = None
        self._open_after = 0.0
        again: list[Pending] = []
        for pending in lost.values():
            if pending.attempts:
                pending.fail(SessionLost(f"session {session} is gone ({reason})"))
            else:
                del pending.seq
                pending.session = None
                again.append(pending)
        self._fresh.extendleft(reversed(again))
        self._wake()

    # ------------------------------------------------------------------------------------------------- time

    def tick(self) -> None:
        """What time brings: deadlines, bundles without an answer, a first node that is silent. A few times 10 ms apart."""
        now = self._clock()
        if now >= self._earliest:
            self._expire(now)
        if self.session is None:
            if self._fresh and now >= self._open_after:
                if self._opening is None:
                    self._wake()
                else:  # the first one may lie, or not reach the others
                    self._ask_for_session(now, 1 + self._need * self._open_attempts)
            return
        if now < self._stale_after:
            return
        self._stale_after = now + _STALE_EVERY_S
        first = self._first(now)
        if first is None:
            return
        if self.busy and first.link.suspect(now):
            first = self._move(now, f"{first.node} is silent") or first
        self._send_stale(first, now)

    def _send_stale(self, first: Channel, now: float) -> None:
        patience = self._settings.answer_ms / 1000
        for bundle in list(self._bundles):
            if bundle.again_at is not None:
                if bundle.again_at > now:
                    continue
                why = "after a refusal"
            elif now - bundle.sent_at > patience * (1 << min(max(0, bundle.attempts - 1), 5)):
                why = "no answer"
            else:
                continue
            if not self.budget.take(1, now):
                bundle.again_at = now + self._rng.uniform(0, self._settings.resend_max_ms / 1000)
                continue
            others = self._others(bundle.asked, now)
            self._send_again(bundle, others[: self._need], why, now)
            if why == "no answer" and self.leader == first.node:
                # It may be the network, and it may be that this node keeps what it is given to itself.
                self._move(now, f"{first.node} brought nothing about")

    # ---------------------------------------------------------------------------------------------- settling

    def _leave_bundle(self, seq: int) -> None:
        bundle = self._bundle_of.pop(seq)
        bundle.left -= 1
        if not bundle.left:
            del self._bundles[bundle]

    def _give_up(self, pending: Pending, why: str) -> None:
        heard = f"; last word: {pending.last_word}" if pending.last_word else ""
        if pending.session is not None:
            self._leave_bundle(pending.seq)
        if pending.attempts:
            said = f"; {len(pending.said)} nodes say what became of it" if pending.said else ""
            pending.fail(OutcomeUnknown(f"{why}, {pending.attempts} copies sent{said}{heard}"))
            return
        where = ""
        if self.leader is None:
            where = "; no node is connected"
        elif self.session is None and self._opening is not None:
            where = f"; {self._need} nodes must say that the session is open, {self._nodes_that_opened()} did"
        pending.fail(NotDone(f"{why}{where}{heard}"))

    def _nodes_that_opened(self) -> int:
        return sum(said is not None for said in (self._opening or {}).values())
