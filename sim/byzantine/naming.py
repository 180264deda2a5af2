"""Who lies, and how, as people write it: `2:equivocate,n4:slow-leader`; and whether a committee stands that."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from consensus.core import NodeId
from sim.byzantine.client_lies import STRATEGIES


class LiarsError(ValueError):
    """These nodes cannot lie in this way; the text says why, and what there is."""


def strategy_name(text: str) -> str:
    """A strategy by its name, blanks written as such or as hyphens. Raises LiarsError."""
    name = text.strip().replace("-", " ")
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise LiarsError(f"no strategy {text!r}{hint} There are: {', '.join(STRATEGIES)}")
    return name


def parse(text: str, nodes: Sequence[NodeId]) -> dict[NodeId, str]:
    """`NODE:STRATEGY[,NODE:STRATEGY...]` -> strategies by node; a node is written with its name or its number, the first is 1.
    `none`: nobody. Raises LiarsError."""
    found: dict[NodeId, str] = {}
    if text.strip() == "none":
        return found
    for part in text.split(","):
        who, colon, how = part.strip().partition(":")
        if not colon or not who:
            raise LiarsError(
                f"{part!r}: write NODE:STRATEGY, such as 2:equivocate; several with commas between"
            )
        number = int(who) if who.isascii() and who.isdigit() else 0
        node = nodes[number - 1] if 1 <= number <= len(nodes) else who
        if node not in nodes:
            raise LiarsError(f"{part!r}: there is no node {who!r}; there are: {', '.join(nodes)}")
        if node in found:
            raise LiarsError(
                f"{part!r}: {node} is named twice; a node lies in one way (`whimsical` takes turns)"
            )
        found[node] = strategy_name(how)
    return found


def check(liars: Mapping[NodeId, str], nodes: Sequence[NodeId], lie: int | None) -> None:
    """Whether these nodes may lie so. `lie`: how many the committee stands; None: nodes are believed. Raises LiarsError."""
    if not liars:
        return
    if lie is None:
        raise LiarsError("with the raft protocol nodes are believed, and one that lies harms all; take bft")
    for node, strategy in liars.items():
        if node not in nodes:
            raise LiarsError(f"there is no node {node!r}; there are: {', '.join(nodes)}")
        strategy_name(strategy)
    if len(liars) > lie:
        raise LiarsError(
            f"{len(liars)} liars ({', '.join(liars)}) among {len(nodes)} nodes: this committee stands {lie}. A committee of "
            f"3r + 1 nodes stands r of them, one of n nodes that stands s stopped ones stands n - 2s - 1"
        )
