"""What numbers and names a scenario may hold, so that a run of it begins and ends: bounds of keys, and checks of several."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sim.drawing import ALL
from sim.typed_table import Bounds, ScenarioError, check_number, shown

if TYPE_CHECKING:
    from sim.scenario import ClusterShape, PowerCut

MAX_NODES: Final = 25
"""As many as a local cluster takes."""
DAY: Final = 86_400.0
HOUR: Final = 3_600.0
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 86_400_000

TOP: Final[Mapping[str, Bounds]] = {"evaluate_last": (1, 100_000_000), "seconds": (0, DAY)}
TABLES: Final[Mapping[str, Mapping[str, Bounds]]] = {
    "cluster": {"nodes": (1, MAX_NODES), "domains": (1, MAX_NODES), "stop": (0, MAX_NODES), "lie": (0, MAX_NODES)},
    "workload": {
        "clients": (1, 256), "per_s": (0.1, 10_000), "keys": (1, 10_000), "read": (0, 1), "cas": (0, 1),
        "linearizable": (0, 1), "bounded": (0, 1), "any": (0, 1), "max_age_ms": (0, HOUR_MS), "deadline_s": (0.01, HOUR),
        "patience_ms": (1, HOUR_MS),
    },
    "writes": {"per_s": (0.1, 10_000), "batch": (1, 256), "interactions": (0, 100_000_000), "deadline_s": (0.01, HOUR)},
    "rank": {
        "per_s": (0, 10_000), "k": (1, 1000), "any": (0, 1), "bounded": (0, 1), "linearizable": (0, 1),
        "max_age_ms": (0, HOUR_MS), "patience_ms": (1, HOUR_MS), "hedge_ms": (0, HOUR_MS), "fallback_after_ms": (0, HOUR_MS),
    },
    "cuts": {"at_s": (0, DAY), "dark_s": (0.01, HOUR)},
    "faults": {
        "at_s": (0, DAY), "for_s": (0.01, HOUR), "delay_ms": (0, 60_000), "jitter_ms": (0, 60_000),
        "kbytes_per_s": (0, 1_000_000_000),
    },
    "liars": {},
    "require": {
        "min_cuts": (0, 10_000), "min_writes_per_s": (0, 10_000), "max_outage_ms": (0, DAY_MS), "max_progress_ms": (0, DAY_MS),
        "rank_requests_may_fail": (0, 100_000_000), "max_quality_change": (0, 1), "max_quality_below_reference": (0, 1),
    },
}  # fmt: skip
"""Of every number of a scenario. docs/how-to/write-a-scenario.md is held against them by a test."""

_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}")
_LONGEST_TITLE: Final = 200


def name_of(stem: str) -> str:
    """A scenario's name, made of that of its file."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", stem).lstrip(".")[:80] or "scenario"


def check_words(name: str, title: str, where: str) -> None:
    """Name and title. The name stands in that of a run's folder, and must not lead out of it. Raises ScenarioError."""
    if not _NAME.fullmatch(name):
        raise ScenarioError(
            f"{where}: name must be at most 80 letters (a to z), digits, dots, dashes and underscores, the first of them no dot, "
            f"not {shown(name)}"
        )
    if not title.isprintable() or len(title) > _LONGEST_TITLE:
        raise ScenarioError(
            f"{where}: title must be one line of at most {_LONGEST_TITLE} characters, not {shown(title)}"
        )


def check_shape(shape: ClusterShape, where: str) -> None:
    """The numbers of [cluster] beside one another, and what it overrides in a node's configuration. Raises ScenarioError."""
    if shape.domains > shape.nodes:
        raise ScenarioError(
            f"{where}: [cluster] domains must be from 1 to the number of nodes, {shape.nodes}, not {shape.domains}"
        )
    if shape.timing or shape.storage:
        # Here, because it is slow to import, and few who import scenarios need it.
        from node.io import config

        _check_numbers(shape.timing, config.Timing(), f"{where}: [cluster] timing")
        _check_numbers(shape.storage, config.Storage(), f"{where}: [cluster] storage")


def _check_numbers(given: Mapping[str, int], defaults: Any, where: str) -> None:
    known = {item.name: item.metadata for item in dataclasses.fields(defaults) if "low" in item.metadata}
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key[:80], known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ScenarioError(f"{where}: unknown key {shown(key)}{hint}")
        check_number(value, (known[key]["low"], known[key]["high"]), f"{where}: {key}")


def check_cuts(cuts: Sequence[PowerCut], domains: Sequence[str], where: str) -> None:
    """What each cut falls on, and that none falls on what is dark by then. Of `leader` and `untouched` that is not known before
    their time comes. Raises ScenarioError."""
    times = [cut.at_s for cut in cuts]
    if times != sorted(times):
        raise ScenarioError(f"{where}: [[cuts]] must stand in the order of at_s")
    known = ["leader", "untouched", ALL, *domains]
    until: dict[str, tuple[float, int]] = {}
    for place, cut in enumerate(cuts, 1):
        if cut.domain not in known:
            raise ScenarioError(
                f"{where}: [[cuts]] number {place}: domain must be one of {', '.join(known)}, not {shown(cut.domain)}"
            )
        named = [ALL, cut.domain] if cut.domain in domains else [ALL]
        rivals = list(until) if cut.domain == ALL else named
        for rival in rivals:
            end, earlier = until.get(rival, (0.0, 0))
            if cut.at_s < end:
                raise ScenarioError(
                    f"{where}: [[cuts]] number {place} of {cut.domain!r} begins at {cut.at_s:g} s, before number {earlier} of "
                    f"{rival!r} ends at {end:g} s; a domain that is dark cannot be cut again"
                )
        until[cut.domain] = max(until.get(cut.domain, (0.0, 0)), (cut.at_s + cut.dark_s, place))
