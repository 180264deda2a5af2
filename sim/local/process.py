"""A node's process: how it is started, so that it can never outlive its supervisor, and how its end is
learnt."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from sim.local.links import now_us

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_libc: Final = ctypes.CDLL(None, use_errno=True)
_POLL_SECONDS: Final = 0.01
TAIL_LINES: Final = 5


def die_with(parent: int) -> None:
    """Ask the kernel to SIGKILL this process when its parent dies. Ends the process if `parent` is gone
    already.

    The kernel means the *thread* that forked, so a child must be started from a thread that lives as long as
    the process: the main thread, never a worker of `trio.to_thread`."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
        os._exit(111)


def adopt_orphans() -> None:
    """Let orphaned descendants come to this process, which then can reap them, instead of to process 1."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tie_to_this_process() -> Callable[[], None]:
    """A `preexec_fn` that ties a child to the process that calls this now."""
    parent = os.getpid()
    return lambda: die_with(parent)


class NodeProcess:
    """A child with a session and process group of its own; stdout and stderr are appended to `log`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Start it. Raises OSError if the program or the log cannot be opened."""
        with log.open("ab") as output:
            self.log = log
            self.log_start = output.tell()
            self.started_at = now_us()
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=tie_to_this_process(),
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        self.pid = self._child.pid
        self._read = self.log_start

    async def wait(self) -> int:
        """Wait for its end. The exit code; minus the signal's number if it was killed."""
        descriptor = os.pidfd_open(self.pid)
        try:
            while self._child.poll() is None:
                await trio.lowlevel.wait_readable(descriptor)
        finally:
            trio.lowlevel.notify_closing(descriptor)
            os.close(descriptor)
        return self._child.returncode

    @property
    def alive(self) -> bool:
        """Whether the child itself has not ended."""
        return self._child.poll() is None

    def signal_group(self, number: int) -> None:
        """Send a signal to the child and all processes in its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    async def group_gone(self, seconds: float = 5) -> bool:
        """Wait until no process of the group is left; False if some still are after the time. Kills
        stragglers."""
        with trio.move_on_after(seconds):
            while True:
                try:
                    os.killpg(self.pid, signal.SIGKILL)
                    os.waitpid(-self.pid, os.WNOHANG)  # orphans of the group come to a subreaper
                except ProcessLookupError:
                    return True
                except ChildProcessError:
                    pass
                await trio.sleep(_POLL_SECONDS)
        return False

    def kill_and_reap(self) -> None:
        """Kill the group and wait, blocking: for the end of the supervisor."""
        self.signal_group(signal.SIGKILL)
        self._child.wait()

    def new_lines(self) -> list[dict[str, Any]]:
        """Structured lines (JSON objects) that the log gained since the last call."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            data = log.read()
        whole = data.rfind(b"\n") + 1
        self._read += whole
        found = []
        for line in data[:whole].splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found

    def tail(self, lines: int = TAIL_LINES) -> list[str]:
        """The last lines that this process wrote."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self.log_start, end - 16_384))
            text = log.read().decode("utf-8", "replace")
        return text.splitlines()[-lines:]


def is_alive(pid: int) -> bool:
    """Whether a process exists that is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def is_stopped(pid: int) -> bool:
    """Whether a process stands still because of a signal."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"


def wait_gone(pid: int, seconds: float) -> bool:
    """Wait, blocking, until a process that need not be a child is gone. False after the time."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(int(seconds * 1000))) or not is_alive(pid)
    finally:
        os.close(descriptor)
