"""Which modules are compiled, where to, and the key that says whether what was compiled is still of these sources."""

from __future__ import annotations

import hashlib
import importlib.metadata
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
HOME: Final = Path(".cache") / "native"
"""Below the checkout: a folder for each key, of which `build` leaves only the newest."""

MODULES: Final = (
    *("consensus.core", "consensus.marks", "consensus.quorum"),
    *("consensus.raft.core", "consensus.raft.electing", "consensus.raft.following", "consensus.raft.leading"),
    *(
        "consensus.raft.log",
        "consensus.raft.messages",
        "consensus.raft.persistent",
        "consensus.raft.progress",
        "consensus.raft.reads",
    ),
    *("consensus.raft.records", "consensus.raft.timing"),
    *("consensus.bft.base", "consensus.bft.block", "consensus.bft.certificates", "consensus.bft.chain"),
    *("consensus.bft.checkpoints", "consensus.bft.committee", "consensus.bft.core", "consensus.bft.ordering"),
    *("consensus.bft.pacemaker", "consensus.bft.payload", "consensus.bft.reads", "consensus.bft.receiving"),
    *("consensus.bft.records", "consensus.bft.recovery", "consensus.bft.rules", "consensus.bft.signing"),
    *("consensus.bft.states", "consensus.bft.sync", "consensus.bft.tree"),
    *("consensus.bft.votes", "consensus.bft.voting"),
    *("node.compaction", "node.digests", "node.disk", "node.effects", "node.gate", "node.journal"),
    *("node.held", "node.kv.machine", "node.queries", "node.replica", "node.requests", "node.segment"),
    *("node.sessions", "node.signed", "node.snapshot", "node.state", "node.writes"),
    *("sim.check.history", "sim.faults.running"),
    *("sim.oracles.calm", "sim.oracles.committed", "sim.oracles.oracle", "sim.oracles.promises"),
    *("sim.oracles.raft", "sim.oracles.standard"),
    *("sim.oracles.bft", "sim.oracles.bft_reader", "sim.oracles.bft_reads", "sim.oracles.bft_rules"),
    *("sim.oracles.bft_words",),
    *("sim.virtual.bft_client", "sim.virtual.keys"),
    *("sim.virtual.client", "sim.virtual.clock", "sim.virtual.disk", "sim.virtual.disk_file"),
    *("sim.virtual.disk_lanes", "sim.virtual.healing", "sim.virtual.host", "sim.virtual.loss"),
    *("sim.virtual.network", "sim.virtual.power", "sim.virtual.streams", "sim.virtual.timeline"),
    *("sim.virtual.trace", "sim.virtual.watched", "sim.virtual.world"),
)
"""What is compiled. Not in it, because they must stay what Python makes of them: messages whose hints the wire format reads
(those of Raft, most of the traffic, tell it what it needs); and whatever judges a run when it is over (`sim.check`,
`sim.virtual.judge`), which holds a run against the log by rules that compiled code does not keep, such as the identity of a
tuple."""

WATCHED: Final = (
    *("consensus", "consensus/raft", "consensus/bft", "node", "node/kv"),
    *("sim/check", "sim/faults", "sim/native", "sim/oracles", "sim/virtual"),
)
"""Folders whose modules make up the key. More than what is compiled: the compiler copies constants of the modules that
compiled ones import into them, and reads those modules' types."""

TOOLS: Final = ("mypy", "setuptools")


def source(module: str) -> str:
    """The file of a module, relative to the checkout."""
    return module.replace(".", "/") + ".py"


@cache
def _toolchain() -> bytes:
    try:
        versions = [importlib.metadata.version(name) for name in TOOLS]
    except importlib.metadata.PackageNotFoundError:
        versions = []  # what was compiled while they were there cannot be told from what a newer one would make
    return repr((sys.version, sysconfig.get_config_var("EXT_SUFFIX"), versions, MODULES)).encode()


def key(root: Path = ROOT) -> str:
    """Of the sources below `root` as they are now, of Python with its binary interface, and of the compiler."""
    digest = hashlib.sha256(_toolchain())
    for folder in WATCHED:
        for path in sorted((root / folder).glob("*.py")):
            digest.update(f"{folder}/{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:24]
