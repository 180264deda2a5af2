"""Whether a command line can run on compiled modules: decided before anything that is compiled is imported, by its words alone.

Only what is compiled runs compiled: as soon as code is brought along that may build on the simulator's classes or replace them
(a protocol, machine, oracle, fault or plugin of one's own, a mutant), or the runs happen in processes that were started
elsewhere (`--engine`), everything is interpreted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sim import native
from sim.edited import read_text

COMMANDS: Final = ("explore", "replay", "shrink")
SWITCH: Final = "--interpreted"
STOCK: Final = {"--protocol": ("raft", "bft"), "--machine": ("kv", "ranking")}
"""Options that name code, and the names for which nothing is brought along."""
BRINGING: Final = ("--oracle", "--plugin", "--plugin-fault", "--mutant", "--engine")

_chosen = "interpreted: nobody has asked for the native build"


def reason(words: Sequence[str]) -> str:
    """Why a command line (without its script) must run interpreted; empty: nothing speaks against compiled modules."""
    if not words or words[0] not in COMMANDS:
        return "this command needs no speed"
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == SWITCH:
            return "as asked for"
        if option in BRINGING:
            return f"{option} was given"
        if option in STOCK:
            value = value if equals else next(iter(words[place + 1 :]), "")
            if value not in STOCK[option]:
                return f"{option} brings code along"
        if place and word.endswith(".json") and _plan_brings(Path(word)):
            return f"{word} brings code along"
    return ""


def _plan_brings(path: Path) -> bool:
    """Whether a saved plan names code of one's own. One that cannot be read, which its reader will say, counts as such."""
    try:
        plan = json.loads(read_text(path))
        protocol, machine = plan.get("protocol", "raft"), plan.get("machine", "kv")
        stock = protocol in STOCK["--protocol"] and machine in STOCK["--machine"]
        return not stock or bool(plan.get("oracles"))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return True


def choose(words: Sequence[str]) -> str:
    """Take the compiled modules if this command line can; what was chosen, as `chosen` tells it from now on."""
    global _chosen
    why = reason(words)
    _chosen = f"interpreted: {why}" if why else native.use()
    return _chosen


def chosen() -> str:
    """`native`, or `interpreted: ` and why, as of this process."""
    return _chosen
