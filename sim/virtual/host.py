"""A virtual machine of the cluster: clock, disk, power, a processor with a price, and the replica on it while it runs.

What arrives while the processor is busy (or paused) is handled in one turn when it is free again, as on a real node.
Between any two
steps of a disk job, and between a turn and each of the messages that it sends, the process can be made to die.
"""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

from consensus import marks
from consensus.core import NEVER, CoreView
from consensus.raft.messages import AppendEntriesReply
from node import snapshot
from node.disk import DiskError
from node.effects import Effects
from node.journal import Journal, JournalError, Recovered
from node.protocol import Answer, Outcome
from node.replica import Replica
from node.segment import Identity
from node.snapshot import SnapshotError
from node.state import ReplicatedState
from sim.virtual.clock import Clock
from sim.virtual.disk import MemoryDisk
from sim.virtual.disk_lanes import DiskLanes
from sim.virtual.loss import PowerLoss
from sim.virtual.lying import Lies
from sim.virtual.watched import WatchedJournal, WatchedState

if TYPE_CHECKING:
    from sim.faults.running import Running
    from sim.virtual.client import Connection
    from sim.virtual.network import Link
    from sim.virtual.world import World

CLUSTER: Final = "virtual"
RESERVE: Final = 16384
"""Bytes that a journal segment sets aside."""
TURN: Final = 200
"""Microseconds from the begin of a turn until the next can begin: what a real node takes to handle what has come together, send,
and look at its sockets again."""
LOOK_AFTER: Final = 400_000
"""Microseconds until somebody starts a process again that its disk has stopped."""

_PEER: Final = 0
_CLIENT: Final = 1
_DONE: Final = 2


class Connect:
    """What a client's connection says first."""


class HangUp:
    """What it says last."""


CONNECT: Final = Connect()
HANG_UP: Final = HangUp()
_BAD_PIECE: Final = "a snapshot's piece was not what had been announced"

AMID_THE_START: Final = "amid the start"
TRAPS: Final = (
    "before the sync",
    "after the sync",
    "before the messages",
    "amid the messages",
    AMID_THE_START,
)
"""Moments at which a process can be made to die."""


class Host:
    """One machine. `replica` is None while its process does not run; `lost` says why it never will again."""

    def __init__(self, world: World, name: str, clock: Clock) -> None:
        self.world = world
        self.name = name
        self.clock = clock
        self.identity = Identity(CLUSTER, name)
        self.replica: Replica | None = None
        self.life = 0
        self.lost = ""
        self.view: CoreView | None = None
        self.applied = 0
        self.turn_cost = TURN
        self.free_at = 0
        self.paused_until = 0
        self.trap: tuple[str, Running, str] | None = None
        """(moment of `TRAPS`, the fault that set it, `power` or `kill`)"""
        self.crashed = ""
        """The exception that ended the process, if one did."""
        self.disk = MemoryDisk()
        self.disk.perform(Journal.create_ops(self.identity, reserve=RESERVE))
        self._power_rng: Random = world.streams.of(f"power/{name}")
        self.stall: Running | None = None
        """The fault that keeps every sync from returning."""
        self.stall_journal_only = False
        self.slowness = 1
        """How many times longer than usual a sync takes."""
        self._inbox: list[tuple[int, Any, Any]] = []
        self._waking = False
        self._timer_at = NEVER
        self._lanes = DiskLanes(self)
        self._timeline = world.timeline
        self._skew = clock.skew
        self._told = (0, 0, 0, 0)
        self.lies: Lies | None = None
        """While it lies: what stands between its replica and everybody else."""
        self.lied = False
        """Whether it ever has: then what it says is held against nobody."""
        self.asserted: dict[str, tuple[int, bool, int]] = {}
        """peer -> what it was told last of this node's log, since something was recorded last."""
        self._to_peers: dict[str, Link] = {}

    # ------------------------------------------------------------------------------------------------ life and death

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.replica is not None

    def boot(self) -> None:
        """Start the process: read the disk, recover, take part. A node that cannot is lost, and says why."""
        if self.replica is not None or self.lost or not self.world.power.powered(self.name):
            return
        world = self.world
        self.life += 1
        self.disk.restart()
        try:
            journal, recovered = Journal.open(self.disk, self.identity, archive=True, reserve=RESERVE)
            notes = list(recovered.notes)
            newest = snapshot.newest(self.disk, self.identity, notes)
            replica = self._replica(journal, recovered, newest)
        except DiskError as refusal:  # it may read again another time
            self.crashed = f"could not start: {refusal}"
            self.disk.cut(
                self._power_rng
            )  # the machine is started again from nothing: see `World.disk_failed`
            world.count("starts that the disk refused")
            world.timeline.after(LOOK_AFTER, lambda host: host.look_after(), self)
            return
        except (JournalError, SnapshotError, ValueError) as damage:
            self._lose(f"{type(damage).__name__}: {damage}")
            return
        if world.trace is not None:
            world.trace.tell(world.timeline.now, "boot", self.name, life=self.life, notes=notes)
        for hook in world.on_recovered:
            hook(self, recovered.records)
        self.replica = replica
        self.asserted.clear()
        self.crashed = ""
        self._inbox = []
        self._waking = False
        self._timer_at = NEVER
        self._lanes.restart()
        self.view = None
        self.applied = replica.state.applied_index
        if self.applied < world.diverged.get(self.name, 0):
            del world.diverged[self.name]  # its snapshot is older than that, and the log is right
        self.free_at = self.paused_until = now = world.timeline.now
        local = self.clock.read(now)
        try:
            replica.start(local)
        except Exception as error:
            world.core_failed(self, error)
            return
        self._turn(now, local)

    def _replica(self, journal: Journal, recovered: Recovered, newest: Any) -> Replica:
        world = self.world
        rng = world.streams.fresh(f"core/{self.name}/{self.life}")
        core = world.protocol.make(self.name, world.names, rng, world.plan)
        machine = world.machine.make()
        most = world.settings.max_sessions
        if world.on_entered:
            hooks = [partial(hook, self) for hook in world.on_entered]
            state: ReplicatedState = WatchedState(machine, most, hooks)
        else:
            state = ReplicatedState(machine, most)
        recorder = WatchedJournal(self, journal)
        extra: dict[str, Any] = {}
        if world.protocol.requests is not None:
            extra["requests"] = world.protocol.requests(world.plan)
        return Replica(
            self.name,
            self.identity,
            core,
            recorder,
            recovered,
            state,
            self.disk,
            newest,
            world.settings,
            **extra,
        )

    def look_after(self) -> None:
        """Start the process again if it has stopped."""
        if self.replica is None and not self.lost:
            self.boot()

    def _lose(self, why: str) -> None:
        self.lost = why
        world = self.world
        if world.trace is not None:
            world.trace.tell(
                world.timeline.now, "event", self.name, name="refuses to start", fields={"why": why}
            )
        for hook in world.on_lost:
            hook(self, why)

    def _gone(self, why: str, lost_bytes: int = 0) -> None:
        self.replica = None
        self.view = None
        self.life += 1
        self.trap = None
        self._inbox = []
        world = self.world
        if world.trace is not None:
            world.trace.tell(world.timeline.now, "down", self.name, why=why, unsynced=lost_bytes)
        for hook in world.on_down:
            hook(self)

    def cut_power(self, by: Running | None = None) -> PowerLoss:
        """The power goes: memory is lost, and of unsynced bytes and names what the disk's law says. What was lost."""
        if self.replica is None:
            return PowerLoss()
        loss = self.disk.cut(self._power_rng)
        if by is not None:
            by.bite("nodes without power")
            for what, count in (
                ("cut with unsynced bytes", loss.unsynced_bytes),
                ("cut that dropped bytes", loss.dropped_bytes),
                ("cut that tore bytes", loss.torn_bytes),
                ("cut that undid names", loss.entries_undone),
            ):
                if count:
                    by.bite(what)
        self._gone("power", loss.unsynced_bytes)
        return loss

    def kill(self, by: Running | None = None) -> None:
        """The process dies at once; what it had written stays in the kernel."""
        if self.replica is None:
            return
        if by is not None:
            by.bite("killed")
        self._gone("kill")

    def leave(self) -> None:
        """Ask the process to leave, as an orderly stop does: it takes no more requests and leads no more."""
        if self.replica is not None:
            now = self._timeline.now
            local = self.clock.read(now)
            self.replica.leave(local)
            self._turn(now, local)

    def pause(self, until: int) -> None:
        """Handle nothing until then; what arrives waits."""
        self.paused_until = self.free_at = max(self.free_at, until)
        if self.world.trace is not None:
            self.world.trace.tell(self.world.timeline.now, "pause", self.name, until=until)

    def resume(self) -> None:
        """Go on at once."""
        now = self.world.timeline.now
        if self.free_at > now:
            self.free_at = self.paused_until = now
            if self._inbox or self._timer_at <= now:
                self._wake_at(now)

    def wipe(self) -> None:
        """The disk is another one, empty. Only while the process does not run."""
        self.disk.wipe()
        for hook in self.world.on_formatted:
            hook(self)

    def sprung(self, moment: str) -> bool:
        """Die if the trap is set for this moment."""
        if self.trap is None or self.trap[0] != moment:
            return False
        _, by, how = self.trap
        by.bite(f"died {moment}")
        if how == "power":
            self.cut_power(by)
        else:
            self.kill(by)
        return True

    # ------------------------------------------------------------------------------------------------------ arrivals

    def listen(self) -> None:
        """Be what the links to this machine deliver to."""
        links = self.world.network.links
        for other in self.world.names:
            if other != self.name:
                links[other, self.name].host = self
                self._to_peers[other] = links[self.name, other]
        for client in self.world.network.clients:
            links[client, self.name].deliver = self.hear_client

    def hear_peer(self, sender: str, message: Any) -> None:
        """A message from another node."""
        if self.replica is None:
            return
        if self.lies is None:
            self.take_in(sender, message)
        else:
            self.lies.hear(sender, message)

    def take_in(self, sender: str, message: Any) -> None:
        """Let its replica have what another node is said to have sent."""
        replica = self.replica
        if replica is None:
            return
        now = self._timeline.now
        if now < self.free_at or self._inbox:
            self._queue((_PEER, sender, message))
            return
        local = now + self._skew if self._skew is not None else self.clock.read(now)
        try:
            replica.receive_peer(sender, message, local)
        except SnapshotError:
            self.world.count(_BAD_PIECE)
        except Exception as error:
            self.world.core_failed(self, error)
            return
        deadline = replica.idle_until(local)
        if not deadline:
            self._turn(now, local)
            return
        due = deadline - self._skew if self._skew is not None else self.clock.when(deadline)
        if due < self._timer_at:
            self._arm(due)

    def hear_client(self, carried: tuple[Connection, Any]) -> None:
        """A message from a client, on a connection."""
        connection, message = carried
        if self.replica is not None and connection.life == self.life:
            # What clients send stays on the socket until the next look at it: those who ask together share an entry.
            self._inbox.append((_CLIENT, connection, message))
            if not self._waking:
                self._wake_at(max(self.free_at, self._timeline.now + TURN))

    def _arrived(self, item: tuple[int, Any, Any]) -> None:
        if self._timeline.now >= self.free_at and not self._waking:
            self._inbox.append(item)
            self._work_off()
        else:
            self._queue(item)

    def _queue(self, item: tuple[int, Any, Any]) -> None:
        self._inbox.append(item)
        if not self._waking:
            self._wake_at(self.free_at)

    def _wake_at(self, when: int) -> None:
        self._waking = True
        self._timeline.at(when, self._wake, self.life)

    def _wake(self, life: int) -> None:
        if life != self.life or self.replica is None:
            return
        if self._timeline.now < self.free_at:  # paused meanwhile
            self._wake_at(self.free_at)
            return
        self._waking = False
        self._work_off()

    def _ring(self, armed: tuple[int, int]) -> None:
        life, when = armed
        if life != self.life or when != self._timer_at or self.replica is None:
            return
        now = self._timeline.now
        due = self._due()
        if due > now:  # it was put off in the meantime, as a follower's time-out is by every heartbeat
            self._arm(due)
        elif now < self.free_at:
            self._timer_at = NEVER
            if not self._waking:
                self._wake_at(self.free_at)
        else:
            self._timer_at = NEVER
            self._work_off()

    def _due(self) -> int:
        """When the replica wants its next turn, in the world's time."""
        assert self.replica is not None
        deadline = self.replica.deadline
        return deadline - self._skew if self._skew is not None else self.clock.when(deadline)

    def _arm(self, due: int) -> None:
        self._timer_at = due
        self._timeline.at(due, self._ring, (self.life, due))

    def rearm(self) -> None:
        """The clock was changed: what the timer was set for is no longer when it was."""
        self._skew = self.clock.skew
        if self.replica is not None:
            self._arm(max(self._due(), self.free_at, self._timeline.now))

    # ---------------------------------------------------------------------------------------------------------- turn

    def _work_off(self) -> None:
        """Handle everything that has come together, in one turn."""
        replica = self.replica
        assert replica is not None
        now = self._timeline.now
        local = self.clock.read(now)
        inbox, self._inbox = self._inbox, []
        try:
            for kind, whom, what in inbox:
                if kind == _PEER:
                    try:
                        replica.receive_peer(whom, what, local)
                    except SnapshotError:
                        self.world.count(_BAD_PIECE)
                elif kind == _DONE:
                    replica.job_done(whom, what, local)
                else:
                    self._from_client(replica, whom, what, local)
        except Exception as error:
            self.world.core_failed(self, error)
            return
        self._turn(now, local)

    def _turn(self, now: int, local: int) -> None:
        replica = self.replica
        assert replica is not None
        world = self.world
        try:
            effects = replica.turn(local)
        except world.verdicts:
            raise  # an oracle was told of records
        except Exception as error:
            world.core_failed(self, error)
            return
        world.turns += 1
        self.free_at = now + self.turn_cost
        if replica.view is not self.view:
            self.view = replica.view
            self._changed()
        applied = replica.state.applied_index
        if applied != self.applied:
            self.applied = applied
            if not self.lied:
                for hook in world.on_applied:
                    hook(self, applied, replica.state.chain)
        if world.trace is not None:
            self._tell_turn()
        if effects.jobs or effects.peers:
            if self.trap is not None and self.sprung("before the messages"):
                return
            if effects.jobs:
                self._lanes.take(effects.jobs)
            if effects.peers and self.replica is not None:
                self._send_peers(effects)
            if self.replica is None:  # a trap was sprung
                return
        if effects.clients:
            self._send_clients(effects)
        if effects.bulk:
            self._send_bulk(effects)
        if effects.events:
            for name, fields in effects.events:
                world.replica_event(self, name, fields)
        if effects.again:
            if not self._waking:
                self._wake_at(self.free_at)
            return
        deadline = replica.deadline
        due = deadline - self._skew if self._skew is not None else self.clock.when(deadline)
        if due < self._timer_at:
            self._arm(due if due > self.free_at else self.free_at)

    def _tell_turn(self) -> None:
        """For a traced run: how far the log is, if that has changed, and which marks were reached."""
        world, replica = self.world, self.replica
        assert world.trace is not None
        assert replica is not None
        view = replica.core.observe()
        reach = (view.last_index, view.durable_index, view.commit_index, replica.state.applied_index)
        now = self._timeline.now
        if reach != self._told:
            self._told = reach
            last, durable, commit, applied = reach
            world.trace.tell(
                now,
                "log",
                self.name,
                last_index=last,
                durable_index=durable,
                commit_index=commit,
                applied_index=applied,
            )
        for name, count in marks.reached().items():
            if world.marks_told.get(name) != count:
                world.marks_told[name] = count
                world.trace.tell(now, "mark", self.name, name=name)

    def _from_client(self, replica: Replica, connection: Connection, what: Any, local: int) -> None:
        if connection.life != self.life:
            return
        if what is HANG_UP:
            replica.client_gone(connection)
        elif what is CONNECT:
            replica.client_connected(connection)
        else:
            replica.receive_client(connection, what, local)

    def _changed(self) -> None:
        world, view = self.world, self.view
        assert view is not None
        if world.trace is not None:
            world.trace.tell(
                world.timeline.now, "role", self.name, role=view.role, term=view.term, leader=view.leader
            )
        for hook in world.on_changed:
            hook(self, view)

    def lie(self, strategy: Any, by: Running) -> None:
        """From now on say what the strategy says."""
        self.lies, self.lied = Lies(self, strategy, by), True
        self.world.liars[self.name] = strategy.name

    def come_clean(self) -> None:
        """Lie no more."""
        if self.lies is not None:
            self.lies.end()
            self.lies = None

    def _send_peers(self, effects: Effects) -> None:
        if self.lies is not None:
            self.lies.to_peers(effects.peers)
            return
        links = self._to_peers
        said = self.world.on_overheard if self.lied else self.world.on_said
        if self.trap is not None and len(effects.peers) > 1:
            first, *rest = effects.peers
            self._say(*first)
            if self.sprung("amid the messages"):
                return
        else:
            rest = effects.peers
        asserted = self.asserted
        for dest, message in rest:
            kind = type(message)
            hooks = said.get(kind)
            if hooks:
                # The same once more, and nothing recorded since: what was true of it then is true now. So are most of them.
                if kind is AppendEntriesReply:
                    assertion = (message.term, message.success, message.index)
                    if asserted.get(dest) == assertion:
                        links[dest].send(message)
                        continue
                    asserted[dest] = assertion
                for hook in hooks:
                    hook(self, dest, message)
            links[dest].send(message)

    def _say(self, dest: str, message: Any) -> None:
        said = self.world.on_overheard if self.lied else self.world.on_said
        for hook in said.get(type(message), ()):
            hook(self, dest, message)
        self._to_peers[dest].send(message)

    def _send_clients(self, effects: Effects) -> None:
        world = self.world
        if self.lies is not None:
            self.lies.to_clients(effects.clients)
            return
        for connection, message in effects.clients:
            kind = type(message)
            if (kind is Outcome or kind is Answer) and not self.lied:
                for hook in world.on_replied:
                    hook(self, message)
            connection.to_client(message)  # type: ignore[attr-defined]

    def _send_bulk(self, effects: Effects) -> None:
        world = self.world
        for dest, message in effects.bulk:
            size = len(getattr(message, "data", b""))
            if size:
                world.count("snapshot pieces")
            if self.lies is not None:
                self.lies.to_peers([(dest, message)])
                continue
            self._to_peers[dest].send(message, size * world.bulk // 1024)

    # ---------------------------------------------------------------------------------------------------------- disk

    def disk_done(self, lane: int, number: int) -> None:
        """The disk has done job `number` of a lane."""
        self._arrived((_DONE, lane, number))

    def unstall(self) -> None:
        """Syncs return again, those that hang first."""
        self.stall = None
        self.stall_journal_only = False
        self._lanes.unstall()
