"""The supervisor as a process: one a cluster folder, answering on a Unix socket.

    python -m sim.local.daemon FOLDER

A request is one line of JSON, {"op": name, "args": {...}}; the answer is one line, {"ok": true, "result":
...} or {"ok": false, "error": text, "code": exit code}. After {"op": "watch"} the connection carries events,
a line each. The socket and the process id stand in the folder's supervisor.json; a lock on `supervisor.lock`,
which the kernel drops with the process, keeps a second supervisor out."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import inspect
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import trio

from sim.local import layout, namespaces, platter
from sim.local.layout import FAILED, RELAY, USAGE, Cluster, ClusterError, Place
from sim.local.links import Links, LinksError
from sim.local.namespaces import NamespaceLinks
from sim.local.process import adopt_orphans, die_with
from sim.local.relay import Relay
from sim.local.supervisor import Command, Supervisor, plain

STATE_FILE: Final = "supervisor.json"
LOCK_FILE: Final = "supervisor.lock"
EVENTS_FILE: Final = "events.jsonl"
LONGEST_SOCKET_PATH: Final = 100
"""Bytes; the kernel's own limit is 107."""
LONGEST_REQUEST: Final = 64 * 1024


class PlatterDisks:
    """`sim.local.supervisor.Disks` by the marks that a node's disk layer keeps."""

    def arm_trap(self, folder: Path) -> None:
        """See `Disks`."""
        platter.arm_trap(folder)

    def is_held(self, folder: Path) -> bool:
        """See `Disks`."""
        return platter.trap_state(folder) == "holding"

    def cut_power(self, data: Path, folder: Path, rng: random.Random, sure: bool) -> dict[str, Any]:
        """See `Disks`."""
        fates = platter.LOST if sure else platter.FATES
        counted = plain(platter.cut_power(data, folder, rng, fates))
        assert isinstance(counted, dict)
        return counted


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises ClusterError naming the process that holds it."""
    with (folder / LOCK_FILE).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                pid = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["pid"]
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                pid = "unknown, just starting or ending"
            raise ClusterError(
                f"{folder}: its cluster is up already (supervisor's pid: {pid}); `status` shows it, `down` stops it"
            ) from None
        yield


@contextlib.contextmanager
def control_socket(folder: Path) -> Iterator[tuple[socket.socket, Path]]:
    """A listening Unix socket in the folder; under the temporary folder where the path would be too long."""
    path, extra = folder / "control.sock", None
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        extra = Path(tempfile.mkdtemp(prefix="ridethrough-"))
        path = extra / "control.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # who can talk to it can kill the cluster
        try:
            listener.bind(os.fsencode(path))
        finally:
            os.umask(before)
        listener.listen(64)
        yield listener, path
    finally:
        listener.close()
        path.unlink(missing_ok=True)
        if extra is not None:
            shutil.rmtree(extra, ignore_errors=True)


class ControlServer:
    """Answers requests with the operations of a `Supervisor`."""

    def __init__(self, supervisor: Supervisor, finished: trio.Event) -> None:
        self._supervisor = supervisor
        self._finished = finished
        names = (
            "status",
            "start",
            "stop",
            "kill",
            "pause",
            "resume",
            "cut",
            "restore",
            "silence",
            "unsilence",
            "down",
        )
        of_links = ("partition", "delay", "rate", "heal", "faults")
        self._operations: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            **{name: getattr(supervisor, name) for name in names},
            **{name: getattr(supervisor.faults, name) for name in of_links},
        }

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one connection until it ends."""
        buffer = bytearray()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with stream:
                while data := await stream.receive_some(LONGEST_REQUEST):
                    buffer += data
                    while (end := buffer.find(b"\n")) >= 0:
                        line = bytes(buffer[:end])
                        del buffer[: end + 1]
                        await self._answer(stream, line)
                    if len(buffer) > LONGEST_REQUEST:
                        return

    async def _answer(self, stream: trio.SocketStream, line: bytes) -> None:
        op = None
        try:
            request = json.loads(line)
            op = request["op"]
            if op == "watch":
                await self._watch(stream)
                return
            operation = self._operations.get(op)
            if operation is None:
                raise ClusterError(
                    f"unknown operation {op!r}; there are: {', '.join(self._operations)}, watch"
                )
            args = request.get("args", {})
            inspect.signature(operation).bind(**args)
            answer = {"ok": True, "result": await operation(**args)}
        except ClusterError as error:
            answer = {"ok": False, "error": str(error), "code": error.code}
        except (ValueError, KeyError, TypeError) as error:
            answer = {"ok": False, "error": f"bad request for {op!r}: {error}", "code": USAGE}
        except Exception as error:
            answer = {"ok": False, "error": f"{op}: {type(error).__name__}: {error}", "code": FAILED}
        await stream.send_all(json.dumps(plain(answer)).encode() + b"\n")
        if op == "down" and answer["ok"]:
            self._finished.set()

    async def _watch(self, stream: trio.SocketStream) -> None:
        async with self._supervisor.subscribe() as events:
            await stream.send_all(b'{"ok": true, "result": {}}\n')
            async for event in events:
                await stream.send_all(json.dumps(plain(event)).encode() + b"\n")
        await stream.aclose()


def make_links(cluster: Cluster) -> Links:
    """The links that a cluster's file asks for. Raises ClusterError for those that cannot be had here."""
    domains = {place.id: place.domain for place in cluster.nodes}
    if cluster.network == RELAY:
        return Relay(cluster.relay_links(), domains)
    try:
        namespaces.require_tools()
        namespaces.clean()
    except LinksError as error:
        raise ClusterError(str(error)) from None
    return NamespaceLinks(domains)


async def run(cluster: Cluster, command: Command, ready: Callable[[dict[str, Any]], None]) -> None:
    """Run a cluster until it is told to go down. The caller holds the folder's lock. Calls `ready` when the
    relay and the control socket stand and the nodes are started. Raises ClusterError."""
    layout.check_ports(cluster)
    with (
        (cluster.folder / EVENTS_FILE).open("a", encoding="utf-8") as events,
        control_socket(cluster.folder) as (listener, path),
    ):
        links = make_links(cluster)
        supervisor = Supervisor(cluster, command, PlatterDisks(), events, links)
        finished = trio.Event()
        server = ControlServer(supervisor, finished)
        state_path = cluster.folder / STATE_FILE
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(supervisor.run)
                handler = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
                nursery.start_soon(trio.serve_listeners, server.serve, [handler])
                nursery.start_soon(_leave_on_signal, supervisor, finished)
                state = {"version": 1, "pid": os.getpid(), "control": str(path), "cluster": cluster.cluster}
                if isinstance(links, NamespaceLinks):
                    state["namespaces"] = links.run_id
                layout.write_text(state_path, json.dumps(state) + "\n")
                supervisor.start_all()
                ready(state)
                await finished.wait()
                nursery.cancel_scope.cancel()
        finally:
            state_path.unlink(missing_ok=True)


async def _leave_on_signal(supervisor: Supervisor, finished: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for _ in signals:
            if not supervisor.stopping.is_set():
                await supervisor.down()
                finished.set()


def node_command(template: list[str], folder: Path) -> Command:
    """A node's command line from a template in which `{config}` and `{node}` are replaced; of one that lies, the adversary's."""

    def command(place: Place) -> list[str]:
        config = str(folder / "nodes" / place.id / "config.toml")
        if place.lies:
            return [*ADVERSARY, "--config", config, "--strategy", place.lies]
        return [part.replace("{config}", config).replace("{node}", place.id) for part in template]

    return command


ADVERSARY: Final = [sys.executable, "-m", "sim.local.adversary"]
DEFAULT_COMMAND: Final = [sys.executable, "-m", "node.io", "--config", "{config}"]


def main() -> None:
    """Entry point; `sim.local.control.start` calls it."""
    parser = argparse.ArgumentParser(description="Supervise one local cluster.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-with-parent", type=int, metavar="PID", help="be killed when this parent dies")
    parser.add_argument(
        "--ready-fd", type=int, help="descriptor that gets one line of JSON: started, or why not"
    )
    parser.add_argument(
        "--node-command", default=json.dumps(DEFAULT_COMMAND), help="JSON list; {config}, {node}"
    )
    args = parser.parse_args()
    if args.die_with_parent is not None:
        die_with(args.die_with_parent)
    adopt_orphans()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    def report(state: dict[str, Any]) -> None:
        if args.ready_fd is not None:
            os.write(args.ready_fd, json.dumps(state).encode() + b"\n")
            os.close(args.ready_fd)

    failure: ClusterError | LinksError | OSError | None = None
    try:
        cluster = layout.load(args.folder)
        with folder_lock(cluster.folder):
            trio.run(run, cluster, node_command(json.loads(args.node_command), cluster.folder), report)
    except* (ClusterError, LinksError, OSError) as group:
        failure = _first(group)
    if failure is not None:
        code = failure.code if isinstance(failure, ClusterError) else FAILED
        code = USAGE if isinstance(failure, LinksError) else code
        print(f"error: {failure}", file=sys.stderr)
        with contextlib.suppress(OSError):
            report({"error": str(failure), "code": code})
        sys.exit(code)


def _first(
    group: BaseExceptionGroup[ClusterError | LinksError | OSError],
) -> ClusterError | LinksError | OSError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


if __name__ == "__main__":
    main()
