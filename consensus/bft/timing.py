"""Paces and bounds of the BFT core. Those marked (*) must be the same at all members: votes depend on them."""

from __future__ import annotations

from dataclasses import dataclass


class SafetyViolation(AssertionError):
    """The core was about to break one of its own invariants. Never caught: the process stops."""


@dataclass(slots=True, frozen=True)
class Timing:
    """Times in microseconds, sizes in bytes."""

    round: int = 300_000
    """How long a leader may take before a round is given up, while something waits to be ordered."""
    idle: int = 150_000
    """How long a leader waits before it proposes a block with nothing in it, once everything is committed."""
    backoff_most: int = 5_000_000
    """The longest round: each round given up since the last commit doubles it."""
    resend: int = 200_000
    """After this long without an answer, or in the same round, what is missing is asked for and what was said is said again."""
    stall: int = 1_000_000
    """A write under way for longer counts as a stalled disk."""
    mark_heights: int = 32
    """(*) Fewest blocks from one mark to the next."""
    snapshot_bytes: int = 8 << 20
    """(*) Bytes of blocks and payload after which a mark asks for a snapshot."""
    idle_heights: int = 4096
    """(*) Blocks without a mark after which there is one that asks for a snapshot, so that an idle chain is cut off, too."""
    block_bytes: int = 2 << 20
    """(*) Most payload bytes in a block (one batch may be longer)."""
    batch_bytes: int = 4 << 20
    """(*) Longest payload of a batch."""
    turns: int = 16
    """(*) Heights from one change of the schedule to the next; a turn that is passed over changes it at once."""
    exile: int = 64
    """(*) Heights for which a member whose turn was passed over has none."""
    served_bytes: int = 8 << 20
    """After so many bytes of blocks and batches a peer is given no more in the time `resend`."""
    author_bytes: int = 32 << 20
    """Most payload bytes of one member that wait to be ordered; more is dropped, and comes again."""
