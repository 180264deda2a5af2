"""Power domains as a tree: a node has power while nothing above it is cut.

A path names a place in the tree: `site/feed-1/rack-2`; nodes hang from the leaves. Cutting a place darkens everything
below it. Cuts are counted, so that two outages that overlap do not end with the first restore.
"""

from __future__ import annotations

from collections.abc import Mapping


class PowerTree:
    """`paths`: node -> the path that it hangs from."""

    def __init__(self, paths: Mapping[str, str]) -> None:
        self.paths = dict(paths)
        self._cuts: dict[str, int] = {}

    def places(self) -> list[str]:
        """Every place that can be cut, from the root down, in the order of the nodes."""
        found: dict[str, None] = {}
        for path in self.paths.values():
            parts = path.split("/")
            for depth in range(len(parts)):
                found["/".join(parts[: depth + 1])] = None
        return sorted(found, key=lambda place: place.count("/"))

    def below(self, place: str) -> list[str]:
        """The nodes that hang from `place`; a node's own name stands for the node alone."""
        if place in self.paths:
            return [place]
        return [node for node, path in self.paths.items() if path == place or path.startswith(place + "/")]

    def powered(self, node: str) -> bool:
        """Whether nothing above the node is cut, nor the node itself."""
        return not any(node in self.below(place) for place in self._cuts)

    def cut(self, place: str) -> list[str]:
        """Cut a place; the nodes that lose their power by that."""
        lost = [node for node in self.below(place) if self.powered(node)]
        self._cuts[place] = self._cuts.get(place, 0) + 1
        return lost

    def restore(self, place: str) -> list[str]:
        """Undo one cut of a place; the nodes that have power again by that."""
        count = self._cuts.get(place, 0)
        dark = [node for node in self.below(place) if not self.powered(node)]
        if count > 1:
            self._cuts[place] = count - 1
        else:
            self._cuts.pop(place, None)
        return [node for node in dark if self.powered(node)]

    def restore_all(self) -> None:
        """Undo every cut."""
        self._cuts.clear()
