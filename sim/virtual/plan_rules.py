"""What the fields of a plan may be: a table of checks, by the path of the field, for plans that a person may have edited."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from consensus.bft.timing import Timing as BftTiming
from consensus.raft import Timing as RaftTiming
from node.replica import Settings
from sim.edited import SHARE, Check, flag, pair, shown, texts, whole, word
from sim.faults.rules import LEAST_PACE, MOST_US

MOST_NODES: Final = 31
MOST_CLIENTS: Final = 64
MOST_SEED: Final = (1 << 64) - 1
MOST_BYTES: Final = 1 << 40

_TIME: Final = whole(0, MOST_US)
_SPAN: Final = whole(1, MOST_US)
_COUNT: Final = whole(1, 1_000_000)
_SIZE: Final = whole(0, MOST_BYTES)
_ROOM: Final = whole(1, MOST_BYTES)


def _domains(value: Any) -> str:
    if texts(value) or not value or any("" in path.split("/") for path in value):
        return f"{shown(value)} is not a list of paths such as site/A/1, at least one"
    return ""


def _committee(value: Any) -> str:
    if value is None:
        return ""
    good = isinstance(value, list | tuple) and len(value) == 2
    if good and not any(map(whole(0, MOST_NODES), value)) and value[1] <= value[0]:
        return ""
    return f"{shown(value)} is neither null nor [how many may stop, how many of those may lie]"


PLAN: Final[Mapping[str, Check]] = {
    "seed": whole(0, MOST_SEED),
    "protocol": word,
    "machine": word,
    "nodes": whole(1, MOST_NODES),
    "clients": whole(1, MOST_CLIENTS),
    "domains": _domains,
    "duration": _TIME,
    "quorum": _TIME,
    "patience": _SPAN,
    "operations": whole(0, 1_000_000),
    "drift": whole(0, 500_000),
    "coded": flag,
    "committee": _committee,
    "over_budget": flag,
    "oracles": texts,
}
"""Those that are one value."""
WEATHER: Final[Mapping[str, Check]] = {
    "low": _TIME,
    "spread": _TIME,
    "tail": SHARE,
    "loss": SHARE,
    "ordered": flag,
    "bulk": _TIME,
}
LOAD: Final[Mapping[str, Check]] = {
    "pause": pair(LEAST_PACE, MOST_US),
    "beat": _TIME,
    "batch": whole(1, 10_000),
    "window": whole(1, 100_000),
    "patience": pair(LEAST_PACE, MOST_US),
    "patience_most": whole(LEAST_PACE, MOST_US),
    "queries": SHARE,
    "wander": SHARE,
    "hang_ups": SHARE,
    "sleep": SHARE,
}
SETTINGS: Final[Mapping[str, Check]] = {
    "barrier": _SPAN,
    "fresh": _TIME,
    "digest": _SPAN,
    "session_ttl": _SPAN,
    "max_command_bytes": _ROOM,
    "max_sessions": _COUNT,
    "queries_in_queue": _COUNT,
    "snapshot_bytes": _ROOM,
}
RAFT: Final[Mapping[str, Check]] = {
    "heartbeat": _SPAN,
    "election": _SPAN,
    "stall": _SPAN,
    "retain_bytes": _SIZE,
    "uncommitted_bytes": _ROOM,
}
BFT: Final[Mapping[str, Check]] = {
    "round": _SPAN,
    "idle": _SPAN,
    "backoff_most": _SPAN,
    "resend": _SPAN,
    "stall": _SPAN,
    "mark_heights": _COUNT,
    "snapshot_bytes": _ROOM,
    "idle_heights": _COUNT,
    "block_bytes": _ROOM,
    "batch_bytes": _ROOM,
    "turns": _COUNT,
    "exile": _COUNT,
    "served_bytes": _ROOM,
    "author_bytes": _ROOM,
}
TIMINGS: Final[Mapping[str, tuple[type[Any], Mapping[str, Check]]]] = {
    "raft": (RaftTiming, RAFT),
    "bft": (BftTiming, BFT),
}
"""Of a protocol of one's own nothing is known but that its values are numbers."""


def objection(values: Mapping[str, Any]) -> str:
    """The first thing that is wrong with the fields of a plan but its schedule, with its place; empty: nothing is."""
    for name, check in PLAN.items():
        if name in values and (wrong := check(values[name])):
            return f"{name}: {wrong}"
    nodes, committee = values.get("nodes", 5), values.get("committee")
    if committee is not None and committee[0] >= nodes:
        return f"committee: {shown(committee)}: of {nodes} nodes at most {nodes - 1} may stop"
    return (
        _table(values, "weather", WEATHER)
        or _table(values, "load", LOAD)
        or _table(values, "settings", SETTINGS, Settings)
        or _timing(values)
    )


def _timing(values: Mapping[str, Any]) -> str:
    kind, checks = TIMINGS.get(values.get("protocol", "raft"), (None, None))
    return _table(values, "timing", checks, kind)


def _table(
    values: Mapping[str, Any], name: str, checks: Mapping[str, Check] | None, kind: type[Any] | None = None
) -> str:
    """Of an object of fields; `kind` is made of them, to hear what it says. Without checks any integer will do."""
    rows = values.get(name, {})
    if not isinstance(rows, dict):
        return f"{name}: {shown(rows)} is not an object"
    for key, value in rows.items():
        if checks is not None and key not in checks:
            near = difflib.get_close_matches(key, checks, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(checks)}"
            return f"{name}: unknown {shown(key)}; {hint}"
        wrong = (checks[key] if checks is not None else whole(-MOST_BYTES, MOST_BYTES))(value)
        if wrong:
            return f"{name}.{key}: {wrong}"
    if kind is not None:
        try:
            kind(**rows)
        except (TypeError, ValueError) as error:
            return f"{name}: {error}"
    return ""
