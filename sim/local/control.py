"""Talk to a local cluster's supervisor, and start one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from sim.local.daemon import STATE_FILE
from sim.local.layout import FAILED, NOT_RUNNING, ClusterError
from sim.local.process import is_alive, wait_gone
from sim.typed_table import shown

START_SECONDS: Final = 20.0
DOWN_SECONDS: Final = 20.0

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Supervisors that this process started, so that their ends are reaped."""


def start(folder: Path, *, die_with_parent: bool = False, node_command: Sequence[str] | None = None) -> int:
    """Start the supervisor of a cluster as a process of its own; returns its id once relay, control socket
    and nodes' processes stand (the nodes do not serve yet).

    `die_with_parent`: it is killed, with all nodes, when this process dies however it dies; then call from
    the main thread. `node_command`: instead of the real node; `{config}` and `{node}` are replaced. Raises
    ClusterError."""
    read_end, write_end = os.pipe()
    command = [sys.executable, "-m", "sim.local.daemon", str(folder), "--ready-fd", str(write_end)]
    if die_with_parent:
        command += ["--die-with-parent", str(os.getpid())]
    if node_command is not None:
        command += ["--node-command", json.dumps(list(node_command))]
    if not folder.is_dir():
        raise ClusterError(f"{folder}: no such folder")
    try:
        with (folder / "supervisor.log").open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                start_new_session=True,
            )
    finally:
        os.close(write_end)
    _children[child.pid] = child
    with open(read_end, "rb") as answer:
        line = answer.readline()  # ends when the child says something or dies
    try:
        state = json.loads(line)
    except ValueError:
        child.wait()
        raise ClusterError(
            f"the supervisor ended with code {child.returncode}; see {folder / 'supervisor.log'}", FAILED
        ) from None
    if "error" in state:
        child.wait()
        raise ClusterError(state["error"], state["code"])
    return child.pid


def parse_command(text: str) -> list[str]:
    """A node's command line, for `start`, from JSON. Raises ClusterError."""
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        words = None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise ClusterError(f"a node's command must be a JSON list of texts, not {shown(text)}")
    return words


class Control:
    """The control socket of the cluster in a folder. Every operation of `sim.local.supervisor.Supervisor` by
    name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _state(self) -> dict[str, Any]:
        try:
            state = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
            # Who edits it must not have another process, or a group of them, killed as the supervisor.
            whole = type(state["pid"]) is int and state["pid"] > 1 and isinstance(state["control"], str)
            if whole and is_alive(state["pid"]):
                return dict(state)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        raise ClusterError(f"no cluster is running in {self.folder}; start one with `up`", NOT_RUNNING)

    @property
    def pid(self) -> int:
        """The supervisor's process id. Raises ClusterError if none runs."""
        return int(self._state()["pid"])

    @property
    def running(self) -> bool:
        """Whether a supervisor runs."""
        with contextlib.suppress(ClusterError):
            return bool(self._state())
        return False

    @property
    def namespaces(self) -> str | None:
        """What the cluster's network namespaces are named after; None if its links are a relay's. Raises ClusterError."""
        found = self._state().get("namespaces")
        return None if found is None else str(found)

    def call(self, op: str, timeout: float = 60.0, **args: Any) -> dict[str, Any]:
        """Do an operation; blocks. Raises ClusterError: refused, or nobody there."""
        state = self._state()
        try:
            with socket.socket(socket.AF_UNIX) as end:
                end.settimeout(timeout)
                end.connect(state["control"])
                end.sendall(_request(op, args))
                with end.makefile("rb") as answers:
                    return _result(op, answers.readline())
        except OSError as error:
            raise ClusterError(
                f"the supervisor (pid {state['pid']}) does not answer: {error}", NOT_RUNNING
            ) from None

    async def acall(self, op: str, **args: Any) -> dict[str, Any]:
        """`call` for trio; takes as long as it takes."""
        state = self._state()
        try:
            async with await trio.open_unix_socket(state["control"]) as stream:
                await stream.send_all(_request(op, args))
                return _result(op, await _Lines(stream).next())
        except (OSError, trio.BrokenResourceError) as error:
            raise ClusterError(
                f"the supervisor (pid {state['pid']}) does not answer: {error}", NOT_RUNNING
            ) from None

    def watch(self) -> Iterator[dict[str, Any]]:
        """Events from now on, until the supervisor ends; blocks between them."""
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(self._state()["control"])
            end.sendall(_request("watch", {}))
            with end.makefile("rb") as lines:
                _result("watch", lines.readline())
                for line in lines:
                    yield json.loads(line)

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[trio.MemoryReceiveChannel[dict[str, Any]]]:
        """`watch` for trio: a channel of events. It stands when this is entered, so that nothing done inside
        is missed; it ends with the supervisor."""
        async with await trio.open_unix_socket(self._state()["control"]) as stream:
            await stream.send_all(_request("watch", {}))
            lines = _Lines(stream)
            _result("watch", await lines.next())
            send, receive = trio.open_memory_channel[dict[str, Any]](4096)

            async def pump() -> None:
                async with send:
                    with contextlib.suppress(trio.BrokenResourceError):
                        while line := await lines.next():
                            await send.send(json.loads(line))

            async with trio.open_nursery() as nursery, receive:
                nursery.start_soon(pump)
                yield receive
                nursery.cancel_scope.cancel()

    def down(self) -> dict[str, Any]:
        """Let the cluster go down in order and prove that no process is left. Raises ClusterError if one
        is."""
        state = self._state()
        pid = int(state["pid"])
        result = self.call("down", DOWN_SECONDS)
        self._await_end(pid)
        left = [left for left in result["pids"] if is_alive(left)]
        if left:
            raise ClusterError(f"processes are left behind: {', '.join(map(str, left))}", FAILED)
        return result

    def _await_end(self, pid: int) -> None:
        if not wait_gone(pid, DOWN_SECONDS):
            os.kill(pid, signal.SIGKILL)  # its nodes die with it
            wait_gone(pid, DOWN_SECONDS)
        child = _children.pop(pid, None)
        if child is not None:
            child.wait()


class _Lines:
    """Lines from a stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self) -> bytes:
        """The next line with its end; empty at the end of the stream."""
        while (end := self._buffer.find(b"\n")) < 0:
            data = await self._stream.receive_some()
            if not data:
                return b""
            self._buffer += data
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        return line


def _request(op: str, args: dict[str, Any]) -> bytes:
    return json.dumps({"op": op, "args": args}).encode() + b"\n"


def _result(op: str, line: bytes) -> dict[str, Any]:
    if not line:
        raise ClusterError(f"the supervisor ended while it did `{op}`", NOT_RUNNING)
    answer = json.loads(line)
    if not answer["ok"]:
        raise ClusterError(answer["error"], answer["code"])
    result: dict[str, Any] = answer["result"]
    return result
