"""What a campaign can meet: every fault that it may draw, by the label under which it is counted, and every sometimes-mark."""

from __future__ import annotations

from functools import cache

from sim import marks
from sim.faults import catalogue
from sim.faults.fault import Fault
from sim.faults.running import label
from sim.faults.swarm import Options


def folded(name: str) -> str:
    """A label without its direction: `partition bridge:out` counts as `partition bridge`."""
    return name.partition(":")[0]


def counted_as(fault: Fault) -> str:
    """The label of a fault of a schedule."""
    return folded(label(fault))


def menu(options: Options) -> list[str]:
    """Every label that the options can draw: a kind, or a kind and one of its variants."""
    labels: list[str] = []
    for name in options.kinds or catalogue.KINDS:
        if name not in options.without:
            variants = catalogue.KINDS[name].variants
            labels += [f"{name} {variant}" for variant in variants] or [name]
    return labels


@cache
def mark_places() -> dict[str, str]:
    """`sim.marks.places`, read once: not to be changed."""
    return marks.places()
