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

_PACKAGES: Final = {
    "consensus": "core marks quorum",
    "consensus.raft": (
        "core electing following leading log messages persistent progress reads records timing"
    ),
    "consensus.bft": (
        "base block certificates chain checkpoints committee core messages ordering pacemaker payload reads "
        "receiving records recovery rules signing states sync tree votes voting"
    ),
    "node": (
        "compaction digests disk effects gate held journal protocol queries replica requests segment "
        "sessions signed snapshot state writes"
    ),
    "node.kv": "machine",
    "sim.check": "claims history linear replay replicated",
    "sim.faults": "running",
    "sim.oracles": (
        "bft bft_reader bft_reads bft_rules bft_words calm committed oracle promises raft standard"
    ),
    "sim.virtual": (
        "bft_client client clock disk disk_file disk_lanes disk_rot healing host keys loss network power "
        "streams timeline trace watched world"
    ),
}
MODULES: Final = tuple(f"{package}.{name}" for package, names in _PACKAGES.items() for name in names.split())
"""What is compiled. Of what judges a run when it is over, the checks by log index; the general checker and `sim.virtual.judge`
stay what Python makes of them. No module in it may ask for the identity of a tuple, or use a slice that has a name: compiled code
keeps neither."""

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
