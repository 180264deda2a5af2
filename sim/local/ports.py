"""Ports of this machine: which are free, and where so many free ones stand in a row."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"
FIRST_PORT: Final = 10_000
LAST_PORT: Final = 65_535


class NoPorts(Exception):
    """There are none in the whole range."""


def ephemeral() -> tuple[int, int]:
    """The range from which the kernel takes ports for outgoing connections: a listener there can find its
    port taken by somebody's connection."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32_768, 60_999


def is_free(port: int) -> bool:
    """Whether a listener can take this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)  # with SO_REUSEADDR two may bind, one may listen
        except OSError:
            return False
    return True


def first_taken(ports: Iterable[int]) -> int | None:
    """The first of some ports that is not free."""
    return next((port for port in ports if not is_free(port)), None)


def find_row(count: int) -> int:
    """First of `count` consecutive free ports, outside the range of outgoing connections where there is room.

    Starts at a random place, so that clusters made at the same time rarely meet. Raises NoPorts."""
    low, high = ephemeral()
    spans = [(FIRST_PORT, low), (high + 1, LAST_PORT + 1)]
    first, end = max(spans, key=lambda span: span[1] - span[0])
    if end - first < 4 * count:
        first, end = FIRST_PORT, LAST_PORT + 1
    room = end - first - count
    start = secrets.randbelow(room)
    step = 0
    while step < room:
        base = first + (start + step) % room
        taken = first_taken(range(base + count - 1, base - 1, -1))
        if taken is None:
            return base
        step += taken - base + 1
    raise NoPorts(f"no {count} consecutive ports are free between {first} and {end - 1}")
