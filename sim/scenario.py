"""Scenarios: what a run is made of and what must hold, as data (TOML files in `sim/scenarios/`)."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sim.check.verdict import Requirements

FOLDER: Final = Path(__file__).parent / "scenarios"


class ScenarioError(ValueError):
    """A scenario cannot be used; the text names the file, the key and what would be right."""


@dataclass(slots=True, frozen=True)
class ClusterShape:
    """[cluster]"""

    nodes: int = 5
    domains: int = 3
    timing: dict[str, int] = field(default_factory=dict)
    """Overrides of a node's [timing]."""
    storage: dict[str, int] = field(default_factory=dict)
    """Overrides of a node's [storage]."""


@dataclass(slots=True, frozen=True)
class Writing:
    """[writes]: an open loop of OBSERVE commands from the stream."""

    per_s: float = 220.0
    batch: int = 4
    """Interactions in a command."""
    interactions: int = 0
    """How much of the stream is replayed; 0: all of it."""
    deadline_s: float = 30.0


@dataclass(slots=True, frozen=True)
class Ranking:
    """[rank]: an open loop of rank requests, for users whose updates have been acknowledged."""

    per_s: float = 40.0
    k: int = 10
    any: float = 0.5
    bounded: float = 0.3
    linearizable: float = 0.2
    max_age_ms: int = 1000
    """Of the bounded ones."""
    patience_ms: int = 500
    hedge_ms: int = 40
    fallback_after_ms: int = 300
    """After so long without it the consistency asked for is given up for `any`; the reply and the verdict say so."""


@dataclass(slots=True, frozen=True)
class PowerCut:
    """[[cuts]]: one cut of one domain."""

    at_s: float
    """Seconds after the load began."""
    dark_s: float
    domain: str
    """A domain's name; `leader`: the one that the leader is in; `untouched`: one that has not been cut yet,
    the leader's last."""
    trap: bool = False
    """Let the power fail exactly between a write and its fsync."""
    after_recovery: bool = True
    """Wait (up to 20 s) until every node of the domains that have power serves and has caught up, so that this is one outage and
    not the second half of the last one."""


@dataclass(slots=True, frozen=True)
class Scenario:
    """One experiment."""

    name: str
    title: str
    cluster: ClusterShape
    writes: Writing
    rank: Ranking
    cuts: tuple[PowerCut, ...]
    require: Requirements
    evaluate_last: int = 50_000
    """Interactions at the end of the replayed stream over which quality is measured."""
    compare_with_reference: bool = False
    """Hold quality against the published figures; only the whole MovieLens stream may."""
    seconds: float = 0.0
    """The load ends after so many seconds, but not before the last cut has been undone; 0: when the stream ends."""


def names() -> list[str]:
    """The scenarios that ship with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name_or_path: str) -> Scenario:
    """A shipped scenario by name, or any file. Raises ScenarioError."""
    path = Path(name_or_path)
    if path.suffix != ".toml" and "/" not in name_or_path:
        path = FOLDER / f"{name_or_path}.toml"
        if not path.exists():
            near = difflib.get_close_matches(name_or_path, names(), 1)
            hint = f"; did you mean {near[0]!r}" if near else ""
            raise ScenarioError(
                f"no scenario {name_or_path!r}{hint}. Known: {', '.join(names())}; or give the path of a .toml file"
            )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: not TOML: {error}") from None
    return _scenario(values, str(path), path.stem)


def _scenario(values: dict[str, Any], where: str, stem: str) -> Scenario:
    cuts = values.pop("cuts", [])
    if not isinstance(cuts, list):
        raise ScenarioError(f"{where}: cuts must be tables written as [[cuts]]")
    parts = {
        "cluster": _table(ClusterShape, values.pop("cluster", {}), f"{where}: [cluster]"),
        "writes": _table(Writing, values.pop("writes", {}), f"{where}: [writes]"),
        "rank": _table(Ranking, values.pop("rank", {}), f"{where}: [rank]"),
        "require": _table(Requirements, values.pop("require", {}), f"{where}: [require]"),
        "cuts": tuple(
            _table(PowerCut, cut, f"{where}: [[cuts]] number {place}") for place, cut in enumerate(cuts, 1)
        ),
    }
    values.setdefault("name", stem)
    values.setdefault("title", stem)
    scenario: Scenario = _table(Scenario, {**values, **parts}, where)
    times = [cut.at_s for cut in scenario.cuts]
    if times != sorted(times):
        raise ScenarioError(f"{where}: [[cuts]] must stand in the order of at_s")
    shares = scenario.rank.any + scenario.rank.bounded + scenario.rank.linearizable
    if not 0.999 < shares < 1.001:
        raise ScenarioError(f"{where}: [rank] any + bounded + linearizable must make 1, they make {shares:g}")
    return scenario


def _table(kind: type[Any], values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ScenarioError(f"{where} must be a table")
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise ScenarioError(f"{where}: unknown key {key!r}{hint}")
        _check(fields[key].type, value, f"{where}: {key}")
    missing = [
        name
        for name, item in fields.items()
        if name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ScenarioError(f"{where}: missing {', '.join(missing)}")
    return kind(**values)


def _check(hint: Any, value: Any, where: str) -> None:
    wanted: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
    }
    kinds = wanted.get(hint)
    if kinds is None:
        return
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint != "bool"):
        raise ScenarioError(f"{where} must be of type {hint}, not {value!r}")
    if isinstance(value, int | float) and not 0 <= value < 1e12:
        raise ScenarioError(f"{where} must be a number from 0 on, not {value!r}")


def without_reference(scenario: Scenario) -> Scenario:
    """The same, not held against figures published for other data."""
    return dataclasses.replace(scenario, compare_with_reference=False)


def source(name_or_path: str) -> str:
    """The text of a scenario that `load` accepts."""
    path = Path(name_or_path)
    shipped = path.suffix != ".toml" and "/" not in name_or_path
    return (FOLDER / f"{name_or_path}.toml" if shipped else path).read_text(encoding="utf-8")
