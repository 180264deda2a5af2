"""Cores alone, in lockstep: no journal bytes, no replicas, no clock but each core's own deadline. What a core asks to have made
durable counts as durable at once; messages arrive in the order in which they were sent, or not at all.

A run has numbered steps, and a proposal, vote or timeout of round r waits for step r: in each step every core goes through one
round at most, under that step's links; who is stuck runs out of patience before the step ends. Behind the steps everybody hears
everybody, and something new has to be committed everywhere in few rounds.

What is judged: honest nodes commit the same; a core votes once a round, never in a round below or one that it has given up, and
proposes once a round (a liar's core, too: the lies are made behind it); evidence of double dealing names only liars; and the end.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from consensus.bft.block import decode_block
from consensus.bft.certificates import decode_qc
from consensus.bft.messages import Batch, Proposal, Timeout, Vote
from consensus.bft.timing import Timing
from consensus.core import NEVER, Core, EntryKind, NodeId, Out, entry_payload, entry_position
from sim.byzantine.strategy import Strategy

MOST_FIRES: Final = 8
"""Deadlines that pass at one core in one step, at most."""
MOST_MESSAGES: Final = 20_000
"""Messages in one step, at most: cores that answer each other for ever are a finding."""
PACE: Final = Timing(round=1_000, idle=500, backoff_most=16_000, resend=1_000, stall=1 << 40, turns=1 << 40)
"""Nothing takes time here, so that deadlines pass only where nothing else is left to happen. The schedule of leaders stays as
it is at the beginning."""

_BLOCK: Final = int(EntryKind.BLOCK)
_HARNESS: Final = Path(__file__).parent
CRASH: Final = "crash"
"""What a core that raises counts as."""
TERMINATION: Final = "termination"

Links = Callable[[int, int, Any], bool]
"""(from, to, message): whether the message arrives; numbers of instances."""


class Objection(Exception):
    """Something happened that must never happen."""

    def __init__(self, oracle: str, text: str) -> None:
        super().__init__(f"{oracle}: {text}")
        self.oracle, self.text = oracle, text


@dataclass(slots=True)
class Instance:
    """A running core. `liar`: what it says is held against nobody but its own name. `strategy` stands between it and the rest."""

    number: int
    node: NodeId
    core: Core
    liar: bool
    strategy: Strategy | None = None
    out: Out = field(default_factory=Out)
    clock: int = 0
    log: list[bytes] = field(default_factory=list)
    voted: dict[int, bytes] = field(default_factory=dict)
    proposed: dict[int, bytes] = field(default_factory=dict)
    timeouts: dict[int, bytes] = field(default_factory=dict)
    """Round -> the signature of the first timeout of it that it sent."""
    given_up: int = 0
    """The highest round of a timeout that it sent."""
    patient: bool = True
    """It has not run out of patience in this step."""

    @property
    def round(self) -> int:
        """The round that the core is in."""
        return self.core.round  # type: ignore[attr-defined, no-any-return]


@dataclass(slots=True)
class Counts:
    """What happened in a run. `early`: log entries that an honest node had committed before the links were healed. `rounds`: that
    it took from then to the end."""

    messages: int = 0
    cut: int = 0
    fires: int = 0
    early: int = 0
    rounds: int = 0


@dataclass(slots=True)
class Played:
    """What became of a run. `oracle`: which objected, empty if none did. `dealt`: whether somebody truly said two things, or what
    no honest program would have said. `evidence`: pieces of it that honest nodes hold."""

    number: int
    oracle: str = ""
    text: str = ""
    dealt: bool = False
    evidence: int = 0
    counts: Counts = field(default_factory=Counts)


class Lockstep:
    """One run. `step` for each round, then `settle`; both raise Objection. `said`: told what happens, line by line."""

    def __init__(self, instances: Sequence[Instance], said: Callable[[str], None] | None = None) -> None:
        self.instances = list(instances)
        self.said = said
        self.counts = Counts()
        self.now = 0
        """The step."""
        self._links: Links = all_arrive
        self._of: dict[NodeId, list[Instance]] = {}
        for instance in instances:
            self._of.setdefault(instance.node, []).append(instance)
        self._queue: deque[tuple[Instance, Instance, Any]] = deque()
        self._held: dict[int, list[tuple[Instance, Instance, Any]]] = {}
        self._log: dict[int, tuple[bytes, NodeId]] = {}
        self._rounds: dict[bytes, int] = {}
        self._budget = MOST_MESSAGES
        for instance in self.instances:
            self._call(instance, instance.core.start)
        self._pump()

    # ----------------------------------------------------------------------------------------------------- the steps

    def step(self, links: Links, payloads: Sequence[tuple[int, bytes]] = ()) -> None:
        """The next round, under these links. `payloads`: (instance, payload) that come in at its beginning."""
        self.now += 1
        self._links = links
        self._budget = MOST_MESSAGES
        for instance in self.instances:
            instance.patient = True
        for number, payload in payloads:
            self.propose(self.instances[number], payload)
        for source, target, message in self._held.pop(self.now, ()):
            self._enqueue(source, target, message)
        self._pump()
        for _ in range(MOST_FIRES):
            stuck = [one for one in self.instances if one.patient and one.round <= self.now]
            if not stuck:
                break
            for instance in stuck:
                self._fire(instance, instance.core.deadline)
            self._pump()
        self._pass_time()
        self._pump()

    def settle(self, rounds: int, payload: bytes = b"afterwards") -> None:
        """Heal all links, give every honest node something new, and let it run until all of that is committed on all of them, for
        at most so many rounds more than the highest that anybody is in."""
        honest = [one for one in self.instances if not one.liar]
        self.counts.early = max((len(one.log) for one in honest), default=0)
        began = max(one.round for one in self.instances)
        self.now = 1 << 60
        self._links = all_arrive
        wanted = {payload + b" " + one.node.encode() for one in honest}
        missing = {one.number: set(wanted) for one in honest}
        seen = {one.number: len(one.log) for one in honest}
        for one in honest:
            self.propose(one, payload + b" " + one.node.encode())
        for round in sorted(self._held):
            for source, target, message in self._held.pop(round):
                self._enqueue(source, target, message)
        clock = max(one.clock for one in self.instances)
        for one in self.instances:
            one.clock = clock
        self._budget = MOST_MESSAGES * rounds
        while True:
            # As few at a time as anything hangs on, so that the end is seen when it comes.
            self._pump(until=lambda: self._done(honest, missing, seen))
            if self._done(honest, missing, seen):
                break
            reached = max(one.round for one in self.instances)
            if reached > began + rounds:
                raise Objection(TERMINATION, self._unfinished(missing, reached - began))
            due = min(self.instances, key=lambda one: (one.core.deadline, one.number))
            if due.core.deadline >= NEVER:
                raise Objection(TERMINATION, self._unfinished(missing, reached - began) + "; nobody waits")
            at = max(due.core.deadline, max(one.clock for one in self.instances))
            for one in self.instances:
                one.clock = at
            self._fire(due, at)
            self._pass_time()
        self.counts.rounds = max(0, max(one.round for one in honest) - began)

    def blame(self) -> set[tuple[NodeId, int, str]]:
        """(node, round, kind) of the evidence that honest nodes hold. Raises Objection if some names a node that is no liar."""
        liars = {one.node for one in self.instances if one.liar}
        found = set()
        for one in self.instances:
            if one.liar:
                continue
            for item in one.core.observe().facts["evidence"]:
                if item["node"] not in liars:
                    raise Objection("blame", f"{one.node} holds evidence against {item['node']}: {item}")
                found.add((item["node"], item["round"], item["kind"]))
        return found

    def propose(self, instance: Instance, payload: bytes) -> None:
        """A request comes to an instance."""
        instance.core.propose([(_BLOCK, payload)], instance.clock, instance.out)
        self._drain(instance)

    # -------------------------------------------------------------------------------------------------- the machinery

    def _done(self, honest: Sequence[Instance], missing: dict[int, set[bytes]], seen: dict[int, int]) -> bool:
        for one in honest:
            wanted = missing[one.number]
            if wanted and len(one.log) > seen[one.number]:
                for entry in one.log[seen[one.number] :]:
                    wanted.discard(entry_payload(entry))
                seen[one.number] = len(one.log)
        return not any(missing.values())

    def _unfinished(self, missing: dict[int, set[bytes]], rounds: int) -> str:
        lacking = ", ".join(
            f"{self.instances[number].node} (round {self.instances[number].round}, {len(self.instances[number].log)} "
            f"entries) lacks {len(wanted)} of {len(missing)}"
            for number, wanted in missing.items()
            if wanted
        )
        return f"{rounds} rounds after all links were healed {lacking}"

    def _fire(self, instance: Instance, at: int) -> None:
        if at >= NEVER:
            return
        self.counts.fires += 1
        instance.clock = max(instance.clock, at)
        self._call(instance, instance.core.timeout)

    def _call(self, instance: Instance, act: Callable[[int, Out], None]) -> None:
        act(instance.clock, instance.out)
        self._drain(instance)

    def _pass_time(self) -> None:
        """What liars say of their own accord."""
        for instance in self.instances:
            if instance.strategy is not None:
                for dest, message in instance.strategy.pass_time(instance.clock):
                    self._post(instance, dest, message, 0)

    def _pump(self, until: Callable[[], bool] | None = None) -> None:
        queue = self._queue
        while queue:
            source, target, message = queue.popleft()
            self._budget -= 1
            if self._budget < 0:
                raise Objection(
                    "termination", f"messages without end, the last of them {message} to {target.node}"
                )
            if self.said is not None:
                self.said(f"    {_name(source, self._of)} -> {_name(target, self._of)}: {_words(message)}")
            if target.strategy is not None:
                heard = target.strategy.hear(source.node, message, target.clock)
                for sender, changed in heard:
                    target.core.receive(sender, changed, target.clock, target.out)
            else:
                target.core.receive(source.node, message, target.clock, target.out)
            before = len(target.log)
            self._drain(target)
            if until is not None and len(target.log) > before and until():
                return

    def _drain(self, instance: Instance) -> None:
        """The replica's part, with a disk that takes no time."""
        out = instance.out
        while True:
            now, wait, committed = out.now, out.wait, out.committed
            if committed:
                out.committed = []
                self._commit(instance, committed)
            if now:
                out.now = []
                for dest, message in now:
                    self._send(instance, dest, message)
            if out.records:
                out.records.clear()
                out.wait = []
                instance.core.persisted(out.ticket, instance.clock, out)
            elif wait:
                out.wait = []
            elif not (now or committed):
                break
            for dest, message in wait:
                self._send(instance, dest, message)
        out.install, out.changed = None, False

    def _send(self, instance: Instance, dest: NodeId, message: Any) -> None:
        kind = type(message)
        # What is no step of the protocol itself (batches, blocks, help) goes or is lost under the links of the moment.
        round = 0
        if kind is Vote or kind is Timeout:
            round = message.round
            if kind is Timeout and round == instance.round:
                instance.patient = False
        elif kind is Proposal:
            round = self._round_of(message.block)
        self._judge(instance, kind, round, message)
        if instance.strategy is None:
            self._post(instance, dest, message, round)
        else:
            for changed_dest, changed in instance.strategy.say(dest, message, instance.clock):
                self._post(instance, changed_dest, changed, round)

    def _post(self, source: Instance, dest: NodeId, message: Any, round: int) -> None:
        for target in self._of.get(dest, ()):
            if round > self.now:
                self._held.setdefault(round, []).append((source, target, message))
            else:
                self._enqueue(source, target, message)

    def _enqueue(self, source: Instance, target: Instance, message: Any) -> None:
        if self._links(source.number, target.number, message):
            self.counts.messages += 1
            self._queue.append((source, target, message))
        else:
            self.counts.cut += 1

    def _round_of(self, block: bytes) -> int:
        round = self._rounds.get(block)
        if round is None:
            round = self._rounds[block] = decode_block(block).round
        return round

    # ---------------------------------------------------------------------------------------------------- the oracles

    def _commit(self, instance: Instance, entries: list[bytes]) -> None:
        for entry in entries:
            index, _, _ = entry_position(entry)
            if index != len(instance.log) + 1:
                raise Objection("agreement", f"{instance.node} hands out {index} after {len(instance.log)}")
            instance.log.append(entry)
            if self.said is not None:
                self.said(f"    {_name(instance, self._of)} commits {index}: {entry_payload(entry)!r}")
            if instance.liar:
                continue
            first, node = self._log.setdefault(index, (entry, instance.node))
            if first != entry:
                raise Objection(
                    "agreement",
                    f"entry {index} is {entry_payload(first)!r} of round {entry_position(first)[1]} on {node} and "
                    f"{entry_payload(entry)!r} of round {entry_position(entry)[1]} on {instance.node}",
                )

    def _judge(self, one: Instance, kind: type, round: int, message: Any) -> None:
        if kind is Vote:
            again = one.voted.get(round)
            if again is None:
                done = max(one.given_up, max(one.voted, default=0))
                if round <= done:
                    raise Objection(
                        "promises",
                        f"{one.node} votes in round {round}, and had voted in {done} or given it up",
                    )
                one.voted[round] = message.block
            elif again != message.block:
                raise Objection("one vote a round", f"{one.node} votes for two blocks in round {round}")
        elif kind is Timeout:
            one.given_up = max(one.given_up, round)
            one.timeouts.setdefault(round, message.signature)
        elif kind is Proposal and one.proposed.setdefault(round, message.block) != message.block:
            raise Objection("one proposal a round", f"{one.node} proposes two blocks in round {round}")


def judged(
    number: int,
    instances: Callable[[], Sequence[Instance]],
    script: Callable[[Lockstep], None],
    rounds: int,
    said: Callable[[str], None] | None = None,
) -> tuple[Played, Lockstep | None]:
    """Play `script`, then settle within `rounds`, and say what became of it; with the run, if it ever began."""
    played = Played(number)
    run: Lockstep | None = None
    try:
        run = Lockstep(instances(), said)
        script(run)
        if said is not None:
            said("afterwards: everybody hears everybody")
        run.settle(rounds)
        played.evidence = len(run.blame())
    except Objection as error:
        played.oracle, played.text = error.oracle, error.text
    except Exception as error:
        # Whatever a program is told by others, it may not fall over. If it was not the program, the harness is at fault.
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if Path(frame.filename).parent == _HARNESS]
        if frames[-1] is ours[-1] or Path(ours[-1].filename) != Path(__file__):
            raise
        place = f"{'/'.join(Path(frames[-1].filename).parts[-3:])}:{frames[-1].lineno}"
        played.oracle, played.text = CRASH, f"{type(error).__name__} at {place}: {error}"
    if run is not None:
        played.counts = run.counts
    return played, run


def all_arrive(source: int, target: int, message: Any) -> bool:
    """Links without a fault."""
    return True


def links(sides: Sequence[int], round: int, hears: Mapping[int, Sequence[bool]]) -> Links:
    """Links within sides, in that round. `hears`: round -> whether the votes of that round reach an instance, however often they
    are said again. Where some hear them and others do not, those who do keep what they learn to themselves for this round: else
    they would show the certificate to everybody who gives the round up."""
    now = hears.get(round, ())
    knowing = [heard and not all(now) for heard in now]

    def arrives(source: int, target: int, message: Any) -> bool:
        if sides[source] != sides[target]:
            return False
        kind = type(message)
        if kind is Vote:
            heard = hears.get(message.round)
            return heard is None or heard[target]
        return not knowing or not knowing[source] or kind is Proposal or kind is Batch

    return arrives


def _name(instance: Instance, of: dict[NodeId, list[Instance]]) -> str:
    """The second copy of a node has a prime."""
    return instance.node + "'" * of[instance.node].index(instance)


def _words(message: Any) -> str:
    """A message for people, in a few words."""
    kind = type(message)
    if kind is Proposal:
        block = decode_block(message.block)
        below = block.parent
        return f"block {block.digest.hex()[:6]} of round {block.round} on {below.block.hex()[:6]} of round {below.round}"
    if kind is Vote:
        return f"vote for {message.block.hex()[:6]} of round {message.round}"
    if kind is Timeout:
        return f"gives round {message.round} up, knowing round {decode_qc(message.high_qc).round}"
    return kind.__name__
