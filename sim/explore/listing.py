"""What there is to ask for: shapes, faults, oracles, marks, protocols, machines, scenarios."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sim import marks, scenario
from sim.faults import catalogue, shapes
from sim.oracles.oracle import Oracle
from sim.oracles.standard import STANDARD
from sim.virtual import subjects


def _faults() -> dict[str, str]:
    found = {}
    for name, kind in catalogue.KINDS.items():
        variants = f" ({', '.join(kind.variants)})" if kind.variants else ""
        found[name] = kind.title + variants + ("; may cost a node its disk" if kind.damages else "")
    return found


def _first_line(kind: type[Oracle]) -> str:
    return " ".join((kind.__doc__ or "").split())


def _oracles() -> dict[str, str]:
    own = [kind for name in ("raft", "bft") for kind in subjects.protocol(name).oracles]
    return {kind.name: _first_line(kind) for kind in (*STANDARD, *own)}


def _protocols() -> dict[str, str]:
    bring = "a class `Class(node, members, rng)` that meets consensus.core.Core, or a sim.virtual.subjects.ProtocolSubject"
    return {
        "raft": "the shipped Raft with its default timers",
        "bft": "the shipped BFT log, with signed requests and nodes that lie",
        "module:Class": bring,
    }


def _machines() -> dict[str, str]:
    bring = "a machine class with `workload(client, rng)`, or a sim.virtual.subjects.MachineSubject"
    return {"kv": "registers with compare-and-set, and lists that are appended to", "module:Class": bring}


def _scenarios() -> dict[str, str]:
    return {name: scenario.load(name).title for name in scenario.names()}


TOPICS: Final[dict[str, Callable[[], dict[str, str]]]] = {
    "shapes": shapes.titles,
    "faults": _faults,
    "oracles": _oracles,
    "marks": marks.places,
    "protocols": _protocols,
    "machines": _machines,
    "scenarios": _scenarios,
}
"""Topic -> gives name -> what it is (of a mark: its place in the code)."""
