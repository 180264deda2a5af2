"""What a virtual run is about: a protocol and a machine, built in or brought along as `module:name`."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from consensus.core import Core, NodeId
from consensus.raft import RaftCore, Timing
from node.kv import KvMachine, append, cas, get, put
from node.machine import Machine
from node.requests import RequestCheck
from sim.oracles.oracle import Oracle
from sim.virtual.streams import below

if TYPE_CHECKING:
    from sim.faults.themes import Themes
    from sim.virtual.plan import Plan


class SubjectError(ValueError):
    """A protocol, machine, fault or oracle that cannot be used; the text says why."""


class Workload(Protocol):
    """What one client asks of a machine."""

    def command(self, session: int, seq: int) -> bytes:
        """The next command; (session, seq) names it for ever."""

    def query(self) -> bytes:
        """The next query."""

    def sizes(self, variant: str) -> None:
        """From now on make commands `huge`, `empty`, or as usual (empty text)."""


def majority_of(nodes: int) -> int:
    """The smallest number of nodes of which any two groups meet."""
    return nodes // 2 + 1


def minority_of(nodes: int) -> int:
    """How many nodes a majority protocol can lose for good."""
    return (nodes - 1) // 2


def _nobody(nodes: int) -> int:
    return 0


def _five(rng: Random) -> int:
    return 5


def raft_draws(rng: Random) -> dict[str, int]:
    """Overrides of Raft's bounds that a seed may draw."""
    return {
        "retain_bytes": rng.choice((300, 1_500, 16 << 20)),
        "uncommitted_bytes": rng.choice((2_000, 64 << 20, 64 << 20)),
    }


@dataclass(slots=True, frozen=True)
class ProtocolSubject:
    """`make(node, members, rng, plan)` gives a fresh core. `oracles`: those that know this protocol's records and messages."""

    name: str
    make: Callable[[NodeId, Sequence[NodeId], Random, Plan], Core]
    oracles: tuple[type[Oracle], ...] = ()
    least: int = 1
    """A run makes no sense with fewer nodes."""
    vital: int = 0
    """The first so many nodes must be there for progress, and keep their disks; the others are any minority's."""
    quorum: Callable[[int], int] = majority_of
    """Of n nodes: how many must be well and connected for progress."""
    budget: Callable[[int], int] = minority_of
    """Of n nodes: how many may be lost for good, liars among them."""
    liars: Callable[[int], int] = _nobody
    """Of n nodes: how many may lie."""
    nodes: Callable[[Random], int] = _five
    """How many nodes a seed has, where nobody says."""
    timing: Callable[[Random], dict[str, int]] = raft_draws
    """What a seed may draw for `Plan.timing`."""
    themes: Themes | None = None
    """What its seeds may play; None: what those of Raft do."""
    client: Callable[[Any, str], Any] | None = None
    """(world, name) -> a client, where the usual one does not do."""
    requests: Callable[[Plan], RequestCheck] | None = None
    """What judges the requests of clients at a replica, where they are signed."""
    leader: Callable[[Any], NodeId | None] | None = None
    """Who leads in a world, where views do not say."""
    liar: Callable[[Any, NodeId, str, Random], Any] | None = None
    """(world, node, name of a strategy, random stream) -> the strategy (`sim.byzantine.strategy.Strategy`)."""
    takes_part: Callable[[Core, int], bool] | None = None
    """(core, highest term when everything was repaired) -> whether this member has had a say since then; where nobody needs a
    member that is well, nothing else shows that it has fallen silent. None: it is not asked."""


@dataclass(slots=True, frozen=True)
class MachineSubject:
    """`make()` gives a fresh machine, `workload(client, rng)` what a client asks of it."""

    name: str
    make: Callable[[], Machine]
    workload: Callable[[str, Random], Workload]


KEYS: int = 5


class KvWorkload:
    """Few keys, so that clients meet; values that tell who wrote them; one long key to which everybody appends tokens. Sizes from
    none to large."""

    def __init__(self, client: str, rng: Random) -> None:
        self._client = client.encode()
        self._rng = rng
        self._sizes = ""

    def command(self, session: int, seq: int) -> bytes:
        """Appends of tokens, puts of unique values, compare-and-sets."""
        rng = self._rng
        token = b"%s.%d.%d" % (self._client, session, seq)
        draw = rng.random()
        key = b"k%d" % below(rng, KEYS)
        if draw < 0.3:
            return append(b"all", token + b";")
        if draw < 0.75:
            if self._sizes == "empty":
                return put(key, b"")
            return put(key, token + bytes(20_000 if self._sizes == "huge" else below(rng, 60)))
        return cas(key, None if draw < 0.85 else token, token) if draw < 0.9 else append(b"a" + key, token)

    def query(self) -> bytes:
        """Reads of the same keys."""
        rng = self._rng
        return get(b"all" if rng.random() < 0.2 else b"k%d" % below(rng, KEYS))

    def sizes(self, variant: str) -> None:
        """See `Workload`."""
        self._sizes = variant


def raft_timing(plan: Plan) -> Timing:
    """The shipped times with the plan's overrides. Raises SubjectError."""
    known = {item.name for item in fields(Timing)}
    unknown = sorted(set(plan.timing) - known)
    if unknown:
        raise SubjectError(f"timing: unknown {unknown[0]!r}; Raft knows {', '.join(sorted(known))}")
    return Timing(**plan.timing)


def _raft(node: NodeId, members: Sequence[NodeId], rng: Random, plan: Plan) -> Core:
    return RaftCore(node, members, rng, raft_timing(plan))


def protocol(spec: str) -> ProtocolSubject:
    """`raft`, `bft`, or `module:Class` with `Class(node, members, rng)`, or a `ProtocolSubject` of that name. A class that needs
    its first members for progress says how many of them in an attribute `vital`. Raises SubjectError."""
    if spec == "raft":
        from sim.oracles.calm import Undisturbed
        from sim.oracles.promises import PROMISES
        from sim.oracles.raft import RaftLog

        return ProtocolSubject("raft", _raft, (RaftLog, *PROMISES, Undisturbed))
    if spec == "bft":
        from sim.virtual.bft_subject import BFT

        return BFT
    found = load(spec, "protocol", "raft")
    if isinstance(found, ProtocolSubject):
        return found
    if not callable(found):
        raise SubjectError(
            f"protocol {spec!r}: `{spec.partition(':')[2]}(node, members, rng)` must give a consensus.core.Core, and this is a "
            f"{type(found).__name__}"
        )

    def make(node: NodeId, members: Sequence[NodeId], rng: Random, plan: Plan) -> Core:
        try:
            core: Core = found(node, members, rng)
        except TypeError as error:
            raise SubjectError(
                f"protocol {spec!r} cannot be made with (node, members, rng): {error}"
            ) from error
        if not hasattr(core, "observe"):
            raise SubjectError(f"protocol {spec!r}: a {type(core).__name__} is no consensus.core.Core")
        return core

    return ProtocolSubject(spec, make, vital=getattr(found, "vital", 0))


def machine(spec: str) -> MachineSubject:
    """`kv`, `ranking`, or `module:Class`, a machine class with a method `workload(client, rng)`, or a `MachineSubject`.

    Raises SubjectError."""
    if spec == "kv":
        return MachineSubject("kv", KvMachine, KvWorkload)
    if spec == "ranking":
        from sim.virtual.ranking_subject import RANKING  # it compiles its loops: only for whoever wants it

        return RANKING
    found = load(spec, "machine", "kv")
    if isinstance(found, MachineSubject):
        return found
    if not callable(found) or not hasattr(found, "workload"):
        raise SubjectError(
            f"{spec}: a machine needs `workload(client: str, rng: Random)` that gives an object with "
            "`command(session, seq)` and `query()`, or must be a sim.virtual.subjects.MachineSubject"
        )
    return MachineSubject(spec, found, found.workload)


def oracle(spec: str) -> type[Oracle]:
    """The oracle that `module:Class` names. Raises SubjectError."""
    found = load(spec, "oracle")
    if not isinstance(found, type) or not issubclass(found, Oracle):
        raise SubjectError(
            f"oracle {spec!r}: it must be a class derived from sim.oracles.oracle.Oracle, not a {type(found).__name__}"
            + (f" {found.__name__}" if isinstance(found, type) else "")
        )
    return found


def bring(module: str, what: str) -> Any:
    """Import a module that somebody has named. Raises SubjectError, whatever it is that goes wrong in it."""
    if not all(part.isidentifier() for part in module.split(".")):
        raise SubjectError(f"{what}: {module!r} is not the name of a module")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SubjectError(f"{what}: cannot import {module}: {error}") from None
    except (Exception, SystemExit) as error:
        raise SubjectError(
            f"{what}: cannot import {module}, it raised {type(error).__name__}: {error}"
        ) from error


def load(spec: str, what: str, builtin: str = "") -> Any:
    """What `module:name` names; modules of the current folder can be named, too. Raises SubjectError."""
    module, colon, name = spec.partition(":")
    also = f"{builtin!r} or " if builtin else ""
    if not colon or not name:
        raise SubjectError(f"no {what} {spec!r}: give {also}module:Class (say examples.counter:Counter)")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    found = bring(module, f"{what} {spec!r}")
    if not hasattr(found, name):
        there = [
            key for key, value in vars(found).items() if inspect.isclass(value) and value.__module__ == module
        ]
        raise SubjectError(
            f"{what} {spec!r}: {module} has no {name!r}; it has {', '.join(there) or 'no classes'}"
        )
    return getattr(found, name)
