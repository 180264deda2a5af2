"""The supervisor of a local cluster: it owns the relay and the nodes' processes, and it is the power switch.

A cut has three steps, in this order:

1. Every link of the domain falls silent (`sim.local.relay`). This is the instant `cut_at`.
2. Every process of the domain gets SIGKILL, and all of them are waited for.
3. What was not durable at that moment is dropped or torn, by a seeded choice (`sim.local.platter`).

With a trap, the switch first waits (`TRAP_SECONDS` at most) until a node of the domain stands between a write
and its fsync, and cuts there. Nodes that end by themselves are reported and stay down: a crash that is healed
silently would hide a fault from whoever watches.

Instants are microseconds of CLOCK_MONOTONIC (`sim.local.relay.now_us`), comparable between processes of the
machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

import trio

from sim.drawing import ALL
from sim.local.layout import FAILED, Cluster, ClusterError, Place
from sim.local.links import Links
from sim.local.netfaults import LinkFaults
from sim.local.process import NodeProcess, is_stopped
from sim.local.relay import Relay, now_us

STOP_SECONDS: Final = 5.0
"""How long a node may take to leave in order before it is killed."""
TRAP_SECONDS: Final = 0.3
READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01
_ELECTION_SECONDS: Final = 0.5
_TRAP_POLL_SECONDS: Final = 0.001
_BACKLOG: Final = 4096
"""Events that a watcher may lag behind before it is cut off."""

PARTITION: Final = "partition"
"""The relay's cause of silence for a domain that is cut off from the network with its power on."""


class Disks(Protocol):
    """What a power cut does to disks. `sim.local.platter` is the real one."""

    def arm_trap(self, platter: Path) -> None:
        """Ask the node to stop between its next write and the fsync behind it. A new process of the node forgets it."""

    def is_held(self, platter: Path) -> bool:
        """Whether the node stands between a write and its fsync now."""

    def cut_power(self, data: Path, platter: Path, rng: random.Random, sure: bool) -> dict[str, Any]:
        """Drop or tear what is not durable in `data` (`sure`: some of it is lost for certain); counts of what
        was found and done."""


Command = Callable[[Place], Sequence[str]]
"""The command line of a node's process."""


@dataclass(slots=True)
class Node:
    """What the supervisor knows of a node."""

    place: Place
    phase: str = "stopped"
    """`starting`, `serving`, `paused`, `stopped` (asked to), `exited` (by itself), `dark` (its domain has no power)."""
    process: NodeProcess | None = None
    ready_at: int | None = None
    last_exit: dict[str, Any] | None = None
    expected: bool = False
    """The end of the process was asked for."""
    cuts: int = 0
    gone: trio.Event = field(default_factory=trio.Event)


class Supervisor:
    """Operations on a running cluster. Each returns plain data; each raises ClusterError with a clear
    text."""

    def __init__(
        self,
        cluster: Cluster,
        command: Command,
        disks: Disks,
        events: TextIO | None = None,
        links: Links | None = None,
    ) -> None:
        """`links`: a relay of its own, unless others are given."""
        self.cluster = cluster
        self.links: Links = links or Relay(
            cluster.relay_links(), {place.id: place.domain for place in cluster.nodes}
        )
        self.faults = LinkFaults(self.links, self._emit)
        self.stopping = trio.Event()
        self.nodes = {place.id: Node(place) for place in cluster.nodes}
        self._command = command
        self._disks = disks
        self._events = events
        self._started_at = now_us()
        self._dark: dict[str, int] = {}
        self._locks = {domain: trio.Lock() for domain in cluster.domains}
        self._watchers: dict[trio.MemorySendChannel[dict[str, Any]], None] = {}
        self._nursery: trio.Nursery | None = None

    # ------------------------------------------------------------------------------------------ life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Relay and watch processes until cancelled. No node runs until `start_all`; none runs after it
        returns."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self.links.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            for node in self.nodes.values():
                if node.process is not None:
                    node.process.kill_and_reap()

    def start_all(self) -> None:
        """Start every node."""
        for node in self.nodes.values():
            self._spawn(node)

    def subscribe(self) -> trio.MemoryReceiveChannel[dict[str, Any]]:
        """A channel with all events from now on. Ends when the reader lags `_BACKLOG` events behind."""
        send, receive = trio.open_memory_channel[dict[str, Any]](_BACKLOG)
        self._watchers[send] = None
        return receive

    def _emit(self, event: str, at: int | None = None, **fields: Any) -> None:
        record = {"event": event, "at_us": now_us() if at is None else at, **fields}
        if self._events is not None:
            self._events.write(json.dumps(record) + "\n")
            self._events.flush()
        for channel in list(self._watchers):
            try:
                channel.send_nowait(record)
            except (trio.WouldBlock, trio.BrokenResourceError):
                channel.close()
                del self._watchers[channel]

    # ------------------------------------------------------------------------------------------ processes

    def _spawn(self, node: Node) -> NodeProcess:
        assert self._nursery is not None
        log = self.cluster.node_folder(node.place.id) / "log.jsonl"
        try:
            process = NodeProcess([*self.links.prefix(node.place.id), *self._command(node.place)], log)
        except OSError as error:
            raise ClusterError(f"node {node.place.id} cannot be started: {error}", FAILED) from None
        node.process, node.phase, node.ready_at, node.expected = process, "starting", None, False
        node.gone = trio.Event()
        self._emit("spawn", node=node.place.id, domain=node.place.domain, pid=process.pid)
        self._nursery.start_soon(self._watch, node, process)
        self._nursery.start_soon(self._await_ready, node, process)
        return process

    async def _watch(self, node: Node, process: NodeProcess) -> None:
        code = await process.wait()
        at = now_us()
        gone = await process.group_gone()
        node.process, node.ready_at = None, None
        node.last_exit = {"code": code, "at_us": at, "expected": node.expected, "tail": [], "all_gone": gone}
        if not node.expected:
            node.last_exit["tail"] = process.tail()
        dark = node.place.domain in self._dark
        node.phase = "dark" if dark else "stopped" if node.expected else "exited"
        self._emit("exit", node=node.place.id, domain=node.place.domain, pid=process.pid, **node.last_exit)
        node.gone.set()

    async def _await_ready(self, node: Node, process: NodeProcess) -> None:
        with trio.move_on_after(READY_SECONDS) as patience:
            while not any(line.get("event") == "serving" for line in process.new_lines()):
                await trio.sleep(_POLL_SECONDS)
                if not process.alive:
                    return
        if patience.cancelled_caught:
            self._emit("not_ready", node=node.place.id, seconds=READY_SECONDS, tail=process.tail())
        elif process.alive:
            node.ready_at = now_us()
            node.phase = "serving" if node.phase == "starting" else node.phase
            self._emit("ready", node.ready_at, node=node.place.id, domain=node.place.domain)

    def _node(self, name: str) -> Node:
        return self.nodes[self.cluster.node(name).id]

    def _of(self, domain: str) -> list[Node]:
        return [self.nodes[place.id] for place in self.cluster.of_domain(domain)]

    async def start(self, node: str) -> dict[str, Any]:
        """Start a node that is not running."""
        state = self._node(node)
        async with self._locks[state.place.domain]:
            self._refuse_if_stopping()
            if state.process is not None:
                raise ClusterError(f"node {node} runs already (pid {state.process.pid})")
            if state.place.domain in self._dark:
                raise ClusterError(
                    f"node {node}: domain {state.place.domain} is dark; `restore {state.place.domain}` first"
                )
            process = self._spawn(state)
            return {"node": node, "pid": process.pid, "started_at": process.started_at}

    async def stop(self, node: str) -> dict[str, Any]:
        """Let a node leave in order (SIGTERM); kill it after `STOP_SECONDS`."""
        state = self._node(node)
        async with self._locks[state.place.domain]:
            killed = await self._stop([state])
            return {"node": node, "killed": bool(killed), "exit": state.last_exit}

    async def kill(self, node: str) -> dict[str, Any]:
        """SIGKILL a node's process. A crash, not a power cut: its kernel lives, closes its connections and
        keeps what it wrote."""
        state = self._node(node)
        async with self._locks[state.place.domain]:
            process = self._running(state)
            state.expected = True
            at = now_us()
            process.signal_group(signal.SIGKILL)
            await state.gone.wait()
            return {"node": node, "pid": process.pid, "killed_at": at}

    async def pause(self, node: str) -> dict[str, Any]:
        """Stop a node's process where it stands (SIGSTOP): its connections stay open and silent, its clock goes on."""
        state = self._node(node)
        async with self._locks[state.place.domain]:
            self._refuse_if_stopping()
            process = self._running(state)
            if state.phase == "paused":
                raise ClusterError(f"node {node} is paused already; `resume {node}` comes first")
            process.signal_group(signal.SIGSTOP)
            while process.alive and not is_stopped(process.pid):
                await trio.sleep(_TRAP_POLL_SECONDS)
            at = now_us()
            state.phase = "paused"
            self._emit("pause", at, node=node, domain=state.place.domain)
            return {"node": node, "pid": process.pid, "paused_at": at}

    async def resume(self, node: str) -> dict[str, Any]:
        """Let a paused node go on."""
        state = self._node(node)
        async with self._locks[state.place.domain]:
            if state.phase != "paused":
                raise ClusterError(f"node {node} is not paused ({state.phase})")
            self._running(state).signal_group(signal.SIGCONT)
            state.phase = "starting" if state.ready_at is None else "serving"
            at = now_us()
            self._emit("resume", at, node=node, domain=state.place.domain)
            return {"node": node, "resumed_at": at}

    def _running(self, state: Node) -> NodeProcess:
        if state.process is None:
            raise ClusterError(f"node {state.place.id} does not run ({state.phase})")
        return state.process

    async def _stop(self, states: Sequence[Node]) -> list[str]:
        """SIGTERM to all, then SIGKILL to those that are left; names of the latter."""
        for state in states:
            state.expected = True
            self._running(state).signal_group(signal.SIGTERM)
            self._running(state).signal_group(signal.SIGCONT)  # a paused one would not hear it
        with trio.move_on_after(STOP_SECONDS):
            for state in states:
                await state.gone.wait()
        late = [state for state in states if state.process is not None]
        for state in late:
            self._running(state).signal_group(signal.SIGKILL)
        for state in late:
            await state.gone.wait()
        return [state.place.id for state in late]

    def _refuse_if_stopping(self) -> None:
        if self.stopping.is_set():
            raise ClusterError("the cluster is going down", FAILED)

    # ------------------------------------------------------------------------------------------ power

    async def cut(self, domain: str, trap: bool = False, seed: int | None = None) -> dict[str, Any]:
        """Cut a domain's power, or with `ALL` that of every domain at once. Returns everything counted; `seed` decides what
        happens to unsynced bytes."""
        domains = self.cluster.domains if domain == ALL else (domain,)
        nodes = [node for name in domains for node in self._of(name)]
        async with contextlib.AsyncExitStack() as held_locks:
            for name in domains:  # in their order, so that no two wait for each other
                await held_locks.enter_async_context(self._locks[name])
            self._refuse_if_stopping()
            for name in domains:
                if name in self._dark:
                    raise ClusterError(f"domain {name} is dark already; `restore {name}` comes first")
            chosen = secrets.randbits(32) if seed is None else seed
            running = [node for node in nodes if node.process is not None]
            if trap:
                await self._spring_trap(running)
            dropped_before = sum(map(self.links.dropped, domains))
            for name in domains:
                self._dark[name] = self.links.silence(name)
            cut_at = self._dark[domains[0]]
            killed = {node.place.id: node.process.pid for node in running if node.process is not None}
            for node in running:
                node.expected = True
                if node.process is not None:
                    node.process.signal_group(signal.SIGKILL)
            for node in running:
                await node.gone.wait()
            dead_at = now_us()
            # The survivors elect a leader now, over this process's links: no heavy work in it until they have.
            await trio.sleep(_ELECTION_SECONDS)
            # Asked of the dead: one that walked into the trap in the last moment counts as well.
            held = self._held(running) if trap else []
            losses: dict[str, Any] = {}
            for node in nodes:
                node.phase = "dark"
                node.cuts += 1
                if node in running and node.last_exit is not None and not node.last_exit["all_gone"]:
                    raise ClusterError(
                        f"domain {node.place.domain} is dark, but a process of node {node.place.id} does not die; "
                        "its disk was left as it is",
                        FAILED,
                    )
                # One that died with unsynced bytes in the kernel alone has lost them; for the others it is drawn.
                sure = node.place.id in held[:1]
                losses[node.place.id] = await self._lose_power(node, chosen, sure)
            result = {
                "domain": domain,
                "cut_at": cut_at,
                "dead_at": dead_at,
                "seed": chosen,
                "pids": killed,
                "trap": trap,
                "held": held,
                "losses": losses,
                "relay_bytes_dropped": sum(map(self.links.dropped, domains)) - dropped_before,
            }
            self._emit("cut", cut_at, **result)
            return result

    async def _spring_trap(self, nodes: Sequence[Node]) -> None:
        """Wait until a node stands between a write and its fsync, but not for ever."""
        for node in nodes:
            self._disks.arm_trap(self._platter(node))
        with trio.move_on_after(TRAP_SECONDS):
            while not self._held(nodes):
                await trio.sleep(_TRAP_POLL_SECONDS)

    def _held(self, nodes: Sequence[Node]) -> list[str]:
        return [node.place.id for node in nodes if self._disks.is_held(self._platter(node))]

    def _platter(self, node: Node) -> Path:
        return self.cluster.node_folder(node.place.id) / "platter"

    async def _lose_power(self, node: Node, seed: int, sure: bool) -> dict[str, Any]:
        data = self.cluster.node_folder(node.place.id) / "data"
        rng = random.Random(f"{seed}/{node.place.id}/{node.cuts}")
        return await trio.to_thread.run_sync(self._disks.cut_power, data, self._platter(node), rng, sure)

    async def restore(self, domain: str, wait: float = 0.0) -> dict[str, Any]:
        """Give a domain its power back and start its nodes. With `wait` (seconds): until each serves or has
        ended."""
        nodes = self._of(domain)
        async with self._locks[domain]:
            self._refuse_if_stopping()
            if domain not in self._dark:
                hint = f"; its network is silenced: `unsilence {domain}`" if self._partitioned(domain) else ""
                raise ClusterError(f"domain {domain} has power; nothing to restore{hint}")
            restored_at = self.links.restore(domain)
            dark_for = restored_at - self._dark.pop(domain)
            for node in nodes:
                node.phase = "stopped"
            self._emit("restore", restored_at, domain=domain, dark_us=dark_for)
            pids = {node.place.id: self._spawn(node).pid for node in nodes}
        with trio.move_on_after(wait):
            while any(node.phase == "starting" for node in nodes):
                await trio.sleep(_POLL_SECONDS)
        ready = {node.place.id: node.ready_at for node in nodes}
        return {
            "domain": domain,
            "restored_at": restored_at,
            "dark_us": dark_for,
            "pids": pids,
            "ready_at": ready,
        }

    async def silence(self, domain: str) -> dict[str, Any]:
        """Cut a domain off from all others, from its clients, and its nodes from each other; their power
        stays on."""
        self._of(domain)
        async with self._locks[domain]:
            if self._partitioned(domain):
                raise ClusterError(f"domain {domain} is silenced already; `unsilence {domain}` comes first")
            at = self.links.silence(domain, PARTITION)
            self._emit("silence", at, domain=domain)
            return {"domain": domain, "silenced_at": at}

    async def unsilence(self, domain: str) -> dict[str, Any]:
        """Undo `silence`. Connections from before stay dead."""
        self._of(domain)
        async with self._locks[domain]:
            if not self._partitioned(domain):
                hint = f"; it is dark: `restore {domain}`" if domain in self._dark else ""
                raise ClusterError(f"domain {domain} is not silenced{hint}")
            at = self.links.restore(domain, PARTITION)
            self._emit("unsilence", at, domain=domain)
            return {"domain": domain, "unsilenced_at": at}

    def _partitioned(self, domain: str) -> bool:
        return self.links.is_silent(domain, PARTITION)

    # ------------------------------------------------------------------------------------------ the whole

    async def status(self, links: bool = False) -> dict[str, Any]:
        """Domains and nodes as they are now; with `links` also the relay's counts."""
        result: dict[str, Any] = {
            "cluster": self.cluster.cluster,
            "machine": self.cluster.machine,
            "started_at": self._started_at,
            "now": now_us(),
            "domains": {
                domain: {
                    "power": "dark" if domain in self._dark else "lit",
                    "since": self._dark.get(domain),
                    "silenced": self._partitioned(domain),
                    "nodes": [place.id for place in self.cluster.of_domain(domain)],
                }
                for domain in self.cluster.domains
            },
            "nodes": {name: self._describe(node) for name, node in self.nodes.items()},
        }
        if links:
            result["links"] = self.links.describe()
        return result

    def _describe(self, node: Node) -> dict[str, Any]:
        process = node.process
        return {
            "domain": node.place.domain,
            "power": "dark" if node.place.domain in self._dark else "lit",
            "phase": node.phase,
            "pid": None if process is None else process.pid,
            "started_at": None if process is None else process.started_at,
            "ready_at": node.ready_at,
            "cuts": node.cuts,
            "last_exit": node.last_exit,
        }

    async def down(self) -> dict[str, Any]:
        """Let every node leave in order, kill those that do not, then end the supervisor."""
        self._refuse_if_stopping()
        self.stopping.set()
        pids = [node.process.pid for node in self.nodes.values() if node.process is not None]
        for lock in self._locks.values():
            await lock.acquire()  # a cut or restore under way is carried through; no other will begin
        try:
            running = [node for node in self.nodes.values() if node.process is not None]
            killed = await self._stop(running)
        finally:
            for lock in self._locks.values():
                lock.release()
        exits = {name: node.last_exit["code"] for name, node in self.nodes.items() if node.last_exit}
        self._emit("down", killed=killed)
        return {"pids": pids, "killed": killed, "exit_codes": exits}


def plain(value: Any) -> Any:
    """Data for JSON: dataclasses as objects, paths as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
