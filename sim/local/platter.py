"""Power loss on a real folder: run once the processes that wrote it are dead, it takes away what no fsync had covered.

`node.io.disk.FileDisk` keeps the marks that say what that is (`node.io.marks`); `sim.virtual.loss` says what may become of it.
The trap stops a node exactly between a write and its fsync, so that a cut can be made to land there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from random import Random

from node.io.marks import (
    NAME,
    TRAP,
    TRAP_ARMED,
    TRAP_HOLDING,
    Extent,
    MarkState,
    Pending,
    read_marks,
    remove_unneeded,
    write_marks,
)
from sim.virtual.loss import FATES, LOST, PowerLoss, lose, overlay, undone

__all__ = ["FATES", "LOST", "PowerLoss", "arm_trap", "cut_power", "trap_state"]


def cut_power(data: Path, platter: Path, rng: Random, fates: Sequence[str] = FATES) -> PowerLoss:
    """Make the folder `data` what the disk would show after a power cut at the moment its process died.

    The same marks, bytes and `rng` give the same loss. `fates`: what may become of unsynced bytes. Afterwards the marks
    say that all that is there is durable. Run it
    only when nothing has the folder open. Raises ValueError if the marks make no sense, OSError."""
    loss = PowerLoss(in_trap=trap_state(platter) == "holding")
    state = read_marks(data, platter)
    seed = rng.getrandbits(64)
    pending = list(state.pending)
    for place in undone(Random(f"{seed}/"), [op.names for op in pending]):
        _take_back(data, platter, pending[place])
        state.take_back(pending[place])
        loss.entries_undone += 1
    for name in sorted(state.files):
        path = data / name
        if path.exists():
            _lose_bytes(path, platter, state.files[name], Random(f"{seed}/{name}"), loss, fates)
    truth = MarkState(number=state.number)
    for entry in sorted(data.iterdir()):
        if NAME.fullmatch(entry.name) and entry.is_file():
            size = entry.stat().st_size
            truth.files[entry.name] = Extent(size, size)
    write_marks(platter, truth)
    remove_unneeded(platter, truth)
    (platter / TRAP).write_bytes(b"0")
    return loss


def _take_back(data: Path, platter: Path, op: Pending) -> None:
    if op.kind == "c":
        (data / op.name).unlink()
        return
    if op.kind == "r":
        os.rename(data / op.new, data / op.name)
    if op.kept != "-":
        os.rename(platter / op.kept, data / (op.new if op.kind == "r" else op.name))


def _lose_bytes(
    path: Path, platter: Path, extent: Extent, rng: Random, loss: PowerLoss, fates: Sequence[str]
) -> None:
    whole = path.read_bytes()
    synced, durable, size = extent.synced, extent.durable, len(whole)
    # Behind the last byte that is not zero there is nothing to lose: reserved space, or zeros that look like it.
    written = whole[: max(synced, len(whole.rstrip(b"\0")))]
    for cut in reversed(extent.cuts):
        if rng.random() >= 0.5:
            break
        tail = overlay(rng, cut.size, (platter / cut.kept).read_bytes(), written[cut.size :], loss)
        written = written[: cut.size].ljust(cut.size, b"\0") + tail
        synced, durable = cut.synced, cut.durable
        size = max(durable, len(written))
        loss.entries_undone += 1
    written = written.ljust(synced, b"\0")
    after, size = lose(rng, written, synced, durable, size, loss, fates)
    after = after.ljust(size, b"\0")
    if after != whole:
        path.write_bytes(after)


def arm_trap(platter: Path) -> None:
    """Let the next sync of unsynced bytes stop between the write and the fsync. The node lets go after two seconds if no cut
    comes. Raises FileNotFoundError if no node ever ran with this platter folder."""
    with open(platter / TRAP, "r+b") as file:
        file.write(bytes([TRAP_ARMED]))


def trap_state(platter: Path) -> str:
    """`off`, `armed`, or `holding`: a process stands (or, if it is dead, stood) between a write and its fsync."""
    try:
        state = (platter / TRAP).read_bytes()[:1]
    except FileNotFoundError:
        return "off"
    return {bytes([TRAP_ARMED]): "armed", bytes([TRAP_HOLDING]): "holding"}.get(state, "off")
