"""The times and bounds of a server, and the error that stops it."""

from __future__ import annotations

from dataclasses import dataclass


class SafetyViolation(Exception):
    """Something happened that Raft makes impossible. The node must stop: going on could lose data."""


@dataclass(slots=True, frozen=True)
class Timing:
    """Times in microseconds. Raises ValueError where they leave no room for an election."""

    heartbeat: int = 50_000
    election: int = 120_000
    """Lowest election time-out; each one is drawn from [election, 2 * election)."""
    stall: int = 500_000
    """A leader whose own records have waited this long for the disk steps down: its heartbeats must not hide
    a dead disk (the zombie leader). So does one whose entries have waited three times as long without any of them being
    committed: others who answer heartbeats may have dead disks, too."""
    retain_bytes: int = 16 << 20
    """Entries kept in memory behind a snapshot for peers that lag a little."""
    uncommitted_bytes: int = 64 << 20
    """Proposals are refused while this much is appended and not committed."""

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat < self.election:
            raise ValueError(
                f"heartbeat {self.heartbeat} us and election time-out {self.election} us: the heartbeat must be "
                "above 0 and below the time-out, or every follower would depose its leader"
            )
        if min(self.stall, self.uncommitted_bytes) <= 0 or self.retain_bytes < 0:
            raise ValueError(f"stall and uncommitted_bytes must be above 0, retain_bytes not below: {self}")
