"""Mutants under the instruments that run cores alone, in lockstep: Twins and ByzzFuzz (`sim.byzantine`).

A focus with `instrument = "twins"` or `"byzzfuzz"` has a table `shape`, the fields of that instrument's `Shape`. Its seed is a
place in the order of scenarios of seed 0, none of them twice, or ByzzFuzz's own seed.

This module imports nothing that a mutant may change before it is asked to play.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sim.explore.mutants import TWINS, MutantError, instrument_of

if TYPE_CHECKING:
    from sim.byzantine.commands import FuzzTask, TwinsTask

    Task = TwinsTask | FuzzTask

_ORDER: Final = 0
"""The seed that shuffles the scenarios of Twins, as it does where `partition.py twins` is told nothing."""
_CRASHED, _STUCK, _OBJECTED, _FINE = "crash", "liveness", "violation", "ok"


def _task(focus: dict[str, Any]) -> Task:
    from sim.byzantine import byzzfuzz, twins
    from sim.byzantine.commands import FuzzTask, TwinsTask

    shape = focus.get("shape", {})
    try:
        if instrument_of(focus) == TWINS:
            return TwinsTask(twins.Shape(**shape), _ORDER)
        return FuzzTask(byzzfuzz.Shape(**shape))
    except TypeError as error:
        raise MutantError(f"shape of {instrument_of(focus)}: {error}") from None


@lru_cache(maxsize=1)
def _player(task: Task) -> Any:
    return task.player()


def play(focus: dict[str, Any], seed: int) -> tuple[str, str, str, dict[str, int]]:
    """(outcome as of a virtual run, who objected, what it said, what happened how often)."""
    from sim.byzantine.lockstep import CRASH, TERMINATION

    task = _task(focus)
    played = _player(task).play(task.number(seed))
    outcome = {"": _FINE, CRASH: _CRASHED, TERMINATION: _STUCK}.get(played.oracle, _OBJECTED)
    details = {
        "lies: somebody lied": int(played.dealt),
        "links: cut": played.counts.cut,
        "run: committed before the links were healed": played.counts.early,
        "run: pieces of evidence": played.evidence,
    }
    return outcome, played.oracle, played.text, details


def words(focus: dict[str, Any], seed: int) -> list[str]:
    """The command of `partition.py` that plays a seed again, and tells all about it."""
    from dataclasses import asdict

    task = _task(focus)
    shape = asdict(task.shape)
    command = [instrument_of(focus)]
    for name in ("nodes", "rounds", "twins", "stop", "lie", "sides", "scope"):
        if name in shape:
            command += [f"--{name}", str(shape[name])]
    if not shape.get("deaf", True):
        command.append("--plain")
    option = "--scenario" if instrument_of(focus) == TWINS else "--seed"
    return [*command, option, str(task.number(seed))]
