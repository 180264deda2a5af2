"""Scenarios: what a run is made of and what must hold, as data (TOML files in `sim/scenarios/`)."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from consensus.bft.committee import Committee, CommitteeError
from sim.byzantine import naming
from sim.byzantine.naming import LiarsError
from sim.check.verdict import Requirements
from sim.drawing import committee_counts, deal
from sim.faults import shapes
from sim.faults.shapes import Setting
from sim.scenario_bounds import TABLES, TOP, check_cuts, check_shape, check_words, name_of
from sim.typed_table import ScenarioError as ScenarioError
from sim.typed_table import parse_toml, read_table, read_text, shown

FOLDER: Final = Path(__file__).parent / "scenarios"

MACHINES: Final = ("ranking", "kv")
PROTOCOLS: Final = ("raft", "bft")
ON_LINKS: Final = ("partition", "delay", "rate")
ON_NODES: Final = ("pause", "kill")
KINDS: Final = (*ON_LINKS, *ON_NODES)
OUTSIDE: Final = "outside"
"""In a direction: whoever is no member."""


@dataclass(slots=True, frozen=True)
class ClusterShape:
    """[cluster]"""

    nodes: int = 5
    domains: int = 3
    protocol: str = "raft"
    """`raft` or `bft`."""
    stop: int | None = None
    """Of a BFT cluster: how many nodes may stop; None: (nodes - 1) / 3, rounded down."""
    lie: int | None = None
    """How many of those may lie; None: all."""
    timing: dict[str, int] = field(default_factory=dict)
    """Overrides of a node's [timing]."""
    storage: dict[str, int] = field(default_factory=dict)
    """Overrides of a node's [storage]."""

    @property
    def committee(self) -> Committee | None:
        """Who orders the log; None where that is not a committee's affair. Raises CommitteeError."""
        if self.protocol != "bft":
            return None
        stop, lie = committee_counts(self.nodes, self.stop, self.lie)
        return Committee("", 1, tuple(node_names(self.nodes)), stop, lie)


def node_names(count: int) -> list[str]:
    """What the nodes of a scenario are called."""
    return [f"n{number}" for number in range(1, count + 1)]


@dataclass(slots=True, frozen=True)
class Liar:
    """[[liars]]: a node that lies from the beginning to the end. With `protocol = "bft"` only."""

    node: str
    strategy: str
    """One of `sim.byzantine.client_lies.STRATEGIES`; blanks may be written as hyphens."""


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
    the leader's last; `all`: every one at once. `leader` and `untouched` pass over the domains of liars."""
    trap: bool = False
    """Let the power fail exactly between a write and its fsync."""
    after_recovery: bool = True
    """Wait (up to 20 s) until every node of the domains that have power serves and has caught up, so that this is one outage and
    not the second half of the last one."""


@dataclass(slots=True, frozen=True)
class FaultPlan:
    """[[faults]]: one fault of the network or of a process, its power staying on."""

    at_s: float
    """Seconds after the load began."""
    for_s: float
    kind: str
    """`partition`, `delay`, `rate` (of links); `pause`, `kill` (of a process)."""
    shape: str = ""
    """Of a fault of links: a shape of `sim.faults.shapes`, perhaps with a direction. Without shape and pairs: all links
    between nodes, but a partition needs one of them."""
    pairs: tuple[str, ...] = ()
    """Instead of a shape: directions, `n1>n2`, `outside>n3`, `leader>outside`."""
    node: str = ""
    """Of a fault of a process: a node's name; `leader`; `follower`: one that does not lead; `any`."""
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Of a delay: up to so much more, drawn for each piece."""
    kbytes_per_s: float = 0.0
    """Of a rate: thousands of bytes a second in each direction."""
    progress: bool = True
    """Writes have to go on meanwhile, if some majority stays connected among itself."""

    @property
    def what(self) -> str:
        """Which links or which process, in a word."""
        return self.shape or ", ".join(self.pairs) or self.node or "all links"

    @property
    def quorum(self) -> bool:
        """Whether a majority is left that can talk among itself, whatever is drawn. Nothing is promised for pairs."""
        if self.kind == "rate" or self.pairs:
            return False
        return self.kind != "partition" or shapes.parse(self.shape)[0].quorum

    def leaves_quorum(self, shape: ClusterShape, liars: Collection[str] = ()) -> bool:
        """The same for a cluster: of a committee, whether a quorum of honest members stays where each hears each."""
        committee = shape.committee
        if committee is None or not self.quorum:
            return self.quorum
        honest = [name for name in committee.members if name not in liars]
        if self.kind in ON_NODES:
            return len(honest) - 1 >= committee.quorum
        cut = self.shape if self.kind == "partition" else ""
        domains = deal(shape.nodes, shape.domains)
        return shapes.least_circle(cut, Setting(committee.members, None, domains), honest) >= committee.quorum


@dataclass(slots=True, frozen=True)
class Workload:
    """[workload]: which machine the nodes run, and the load on a key-value machine. (A ranking machine's load stands in
    [writes] and [rank].)"""

    machine: str = "ranking"
    """`ranking` or `kv`."""
    clients: int = 6
    """Each does one operation after the other."""
    per_s: float = 120.0
    """Operations begun a second, over all clients together, as long as the cluster keeps up."""
    keys: int = 4
    """Half of them, rounded up, are registers (put, compare-and-set), the others lists (append)."""
    read: float = 0.45
    """Share of reads."""
    cas: float = 0.5
    """Share of compare-and-set among the writes to registers."""
    linearizable: float = 0.7
    bounded: float = 0.15
    any: float = 0.15
    """Shares among the reads; they make 1."""
    max_age_ms: int = 1000
    """Of the bounded ones."""
    deadline_s: float = 2.0
    """After so long a client gives a write up; its outcome stays unknown."""
    patience_ms: int = 1000
    """After so long without an answer a read has failed."""


@dataclass(slots=True, frozen=True)
class Scenario:
    """One experiment."""

    name: str
    title: str
    cluster: ClusterShape
    writes: Writing
    rank: Ranking
    cuts: tuple[PowerCut, ...]
    faults: tuple[FaultPlan, ...]
    workload: Workload
    require: Requirements
    evaluate_last: int = 50_000
    """Interactions at the end of the replayed stream over which quality is measured."""
    liars: tuple[Liar, ...] = ()
    compare_with_reference: bool = False
    """Hold quality against the published figures; only the whole MovieLens stream may."""
    seconds: float = 0.0
    """The load ends after so many seconds, but not before the last cut and fault have been undone; 0: when the stream ends,
    and a key-value load with the last of them."""


def names() -> list[str]:
    """The scenarios that ship with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name_or_path: str) -> Scenario:
    """A shipped scenario by name, or any file. Raises ScenarioError."""
    path, text = _path(name_or_path), source(name_or_path)
    try:
        values = parse_toml(text)
    except ValueError as error:
        raise ScenarioError(f"{path}: {error}") from None
    return _scenario(values, str(path), path.stem)


def source(name_or_path: str) -> str:
    """The text of a scenario. Raises ScenarioError."""
    path = _path(name_or_path)
    try:
        return read_text(path)
    except FileNotFoundError:
        raise ScenarioError(f"{path}: cannot be read: no such file or directory") from None
    except ValueError as error:
        raise ScenarioError(f"{path}: {error}") from None


def _path(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.suffix == ".toml" or "/" in name_or_path:
        return path
    if name_or_path not in names():
        near = difflib.get_close_matches(name_or_path, names(), 1)
        hint = f"; did you mean {near[0]!r}" if near else ""
        raise ScenarioError(
            f"no scenario {shown(name_or_path)}{hint}. Known: {', '.join(names())}; or give the path of a .toml file"
        )
    return FOLDER / f"{name_or_path}.toml"


def _scenario(values: dict[str, Any], where: str, stem: str) -> Scenario:
    cuts, faults, liars = values.pop("cuts", []), values.pop("faults", []), values.pop("liars", [])
    for name, tables in (("cuts", cuts), ("faults", faults), ("liars", liars)):
        if not isinstance(tables, list):
            raise ScenarioError(f"{where}: {name} must be tables written as [[{name}]]")
    required = values.pop("require", {})
    if (faults or liars) and not cuts and isinstance(required, dict):
        required = {**_NO_CUTS, **required}

    def one(kind: type[Any], name: str, table: Any) -> Any:
        return read_table(kind, table, f"{where}: [{name}]", TABLES[name])

    def each(kind: type[Any], name: str, tables: list[Any]) -> tuple[Any, ...]:
        return tuple(
            read_table(kind, table, f"{where}: [[{name}]] number {place}", TABLES[name])
            for place, table in enumerate(tables, 1)
        )

    parts = {
        "cluster": one(ClusterShape, "cluster", values.pop("cluster", {})),
        "writes": one(Writing, "writes", values.pop("writes", {})),
        "rank": one(Ranking, "rank", values.pop("rank", {})),
        "workload": one(Workload, "workload", values.pop("workload", {})),
        "require": one(Requirements, "require", required),
        "cuts": each(PowerCut, "cuts", cuts),
        "faults": each(FaultPlan, "faults", faults),
        "liars": each(Liar, "liars", liars),
    }
    values.setdefault("name", name_of(stem))
    values.setdefault("title", name_of(stem))
    scenario: Scenario = read_table(Scenario, {**values, **parts}, where, TOP)
    check_words(scenario.name, scenario.title, where)
    check_shape(scenario.cluster, where)
    dealt = deal(scenario.cluster.nodes, scenario.cluster.domains)
    check_cuts(scenario.cuts, list(dict.fromkeys(dealt.values())), where)
    for name, mixture in (("rank", scenario.rank), ("workload", scenario.workload)):
        shares = mixture.any + mixture.bounded + mixture.linearizable
        if not 0.999 < shares < 1.001:
            raise ScenarioError(
                f"{where}: [{name}] any + bounded + linearizable must make 1, they make {shares:g}"
            )
    _check_committee(scenario.cluster, where)
    _check_liars(scenario, where)
    _check_workload(scenario, where)
    for place, fault in enumerate(scenario.faults, 1):
        _check_fault(fault, scenario, f"{where}: [[faults]] number {place}")
        _check_length(fault, scenario, f"{where}: [[faults]] number {place}")
    _check_order(scenario.faults, where)
    return scenario


_NO_CUTS: Final = {
    "min_cuts": 0,
    "leader_cut": False,
    "cut_between_write_and_fsync": False,
    "unsynced_bytes": False,
    "min_writes_per_s": 0,
}
"""What is required of cuts in a scenario that has faults and no cuts."""


def _check_committee(shape: ClusterShape, where: str) -> None:
    if shape.protocol not in PROTOCOLS:
        raise ScenarioError(
            f"{where}: [cluster] protocol must be one of {', '.join(PROTOCOLS)}, not {shown(shape.protocol)}"
        )
    if shape.protocol == "raft":
        if (shape.stop, shape.lie) != (None, None):
            raise ScenarioError(f'{where}: [cluster] stop and lie go with protocol = "bft"')
        return
    try:
        _ = shape.committee
    except CommitteeError as error:
        raise ScenarioError(f"{where}: [cluster] {error}") from None


def _check_liars(scenario: Scenario, where: str) -> None:
    committee = scenario.cluster.committee
    strategies = {liar.node: liar.strategy for liar in scenario.liars}
    try:
        if len(strategies) < len(scenario.liars):
            raise LiarsError("a node lies in one way; `whimsical` takes turns")
        naming.check(strategies, _nodes(scenario), None if committee is None else committee.lie)
    except LiarsError as error:
        raise ScenarioError(f"{where}: [[liars]] {error}") from None
    spared = {deal(scenario.cluster.nodes, scenario.cluster.domains)[node] for node in strategies}
    if any(cut.domain == "untouched" for cut in scenario.cuts) and len(spared) == scenario.cluster.domains:
        raise ScenarioError(
            f"{where}: [[cuts]] of untouched domains pass over those of liars, and there is no other"
        )


def _check_workload(scenario: Scenario, where: str) -> None:
    load = scenario.workload
    if load.machine not in MACHINES:
        raise ScenarioError(
            f"{where}: [workload] machine must be one of {', '.join(MACHINES)}, not {shown(load.machine)}"
        )
    if load.machine == "kv" and not (scenario.seconds or scenario.faults or scenario.cuts):
        raise ScenarioError(
            f"{where}: a key-value load has no end of its own; give `seconds`, [[faults]] or [[cuts]]"
        )


def _nodes(scenario: Scenario) -> list[str]:
    return node_names(scenario.cluster.nodes)


_GOES_WITH: Final = {
    "shape": ON_LINKS,
    "pairs": ON_LINKS,
    "node": ON_NODES,
    "delay_ms": ("delay",),
    "jitter_ms": ("delay",),
    "kbytes_per_s": ("rate",),
}


def _check_fault(fault: FaultPlan, scenario: Scenario, where: str) -> None:
    if fault.kind not in KINDS:
        near = difflib.get_close_matches(fault.kind, KINDS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ScenarioError(f"{where}: unknown kind {shown(fault.kind)}{hint} Known: {', '.join(KINDS)}")
    for key, kinds in _GOES_WITH.items():
        if getattr(fault, key) and fault.kind not in kinds:
            raise ScenarioError(f"{where}: {key} goes with {', '.join(kinds)}, not with {fault.kind}")
    if fault.kind in ON_NODES:
        nodes = _nodes(scenario)
        known = ["leader", *(["follower"] if len(nodes) > 1 else []), "any", *nodes]
        if fault.node not in known:
            raise ScenarioError(f"{where}: node must be one of {', '.join(known)}, not {shown(fault.node)}")
        return
    if fault.shape and fault.pairs:
        raise ScenarioError(f"{where}: shape and pairs exclude each other")
    if fault.kind == "partition" and not (fault.shape or fault.pairs):
        raise ScenarioError(f"{where}: a partition needs a shape ({', '.join(shapes.names())}) or pairs")
    if fault.kind == "delay" and not fault.delay_ms + fault.jitter_ms:
        raise ScenarioError(f"{where}: a delay needs delay_ms or jitter_ms")
    if fault.kind == "rate" and fault.kbytes_per_s < 0.001:
        raise ScenarioError(f"{where}: a rate needs kbytes_per_s, at least 0.001")
    if fault.shape:
        try:
            shapes.parse(fault.shape)
        except shapes.ShapeError as error:
            raise ScenarioError(f"{where}: {error}") from None
    for pair in fault.pairs:
        ends = pair.split(">")
        known = [*_nodes(scenario), "leader", OUTSIDE]
        if len(ends) != 2 or ends[0] == ends[1] or any(end not in known for end in ends):
            raise ScenarioError(
                f"{where}: {shown(pair)} is no direction; write sender>receiver with two of {', '.join(known)}"
            )


def leaves_quorum(fault: FaultPlan, scenario: Scenario) -> bool:
    """Whether a fault leaves a quorum of that scenario's honest nodes, whatever is drawn."""
    return fault.leaves_quorum(scenario.cluster, [liar.node for liar in scenario.liars])


def _check_length(fault: FaultPlan, scenario: Scenario, where: str) -> None:
    if (
        fault.progress
        and leaves_quorum(fault, scenario)
        and fault.for_s * 1000 <= scenario.require.max_progress_ms
    ):
        raise ScenarioError(
            f"{where}: for_s must be longer than [require] max_progress_ms ({scenario.require.max_progress_ms:g} ms), or nothing "
            "is shown by progress meanwhile; make it longer, or say progress = false"
        )


def _check_order(faults: tuple[FaultPlan, ...], where: str) -> None:
    times = [fault.at_s for fault in faults]
    if times != sorted(times):
        raise ScenarioError(f"{where}: [[faults]] must stand in the order of at_s")
    until: dict[str, tuple[float, int]] = {}
    for place, fault in enumerate(faults, 1):
        # Of two at once nobody could say which one lost a byte, or which node was paused by which.
        group = fault.kind if fault.kind in ON_LINKS else "process"
        end, earlier = until.get(group, (0.0, 0))
        if fault.at_s < end:
            raise ScenarioError(
                f"{where}: [[faults]] number {place} begins at {fault.at_s:g} s, before number {earlier} ends at {end:g} s; "
                "two partitions, two delays, two rates, or two faults of processes must not overlap"
            )
        until[group] = (fault.at_s + fault.for_s, place)


def with_protocol(scenario: Scenario, protocol: str) -> Scenario:
    """The same on a cluster with another protocol. Raises ScenarioError if its nodes cannot run that."""
    if protocol == scenario.cluster.protocol:
        return scenario
    shape = dataclasses.replace(scenario.cluster, protocol=protocol, stop=None, lie=None)
    _check_committee(shape, scenario.name)
    changed = dataclasses.replace(scenario, cluster=shape)
    _check_liars(changed, scenario.name)
    return changed


def beyond(scenario: Scenario) -> str:
    """What a cut asks of the cluster that arithmetic rules out: writes within the bound, while too few nodes have power. Empty if
    nothing does."""
    shape, members = scenario.cluster, _nodes(scenario)
    committee = shape.committee
    quorum = len(members) // 2 + 1 if committee is None else committee.quorum
    liars = [liar.node for liar in scenario.liars]
    domains = deal(shape.nodes, shape.domains)
    bound = scenario.require.max_outage_ms
    for cut in scenario.cuts:
        if cut.dark_s * 1000 <= bound or not scenario.require.min_writes_per_s:
            continue
        # What `leader` and `untouched` come to is not known yet: the worst is the largest.
        of = {
            domain: [n for n in members if domains[n] == domain] for domain in sorted(set(domains.values()))
        }
        if cut.domain in of:
            dark = of[cut.domain]
        elif cut.domain == "all":
            dark = members
        else:
            spared = {domains[name] for name in liars}
            dark = max((of[domain] for domain in of if domain not in spared), key=len, default=[])
        left = [name for name in members if name not in dark and name not in liars]
        if len(left) < quorum:
            return (
                f"a cut of {cut.domain!r} may leave {len(left)} honest nodes of {len(members)} with power, and the log needs "
                f"{quorum}: no write can be acknowledged for {cut.dark_s:g} s, and [require] max_outage_ms is {bound:g}"
            )
    return ""


def without_reference(scenario: Scenario) -> Scenario:
    """The same, not held against figures published for other data."""
    return dataclasses.replace(scenario, compare_with_reference=False)
