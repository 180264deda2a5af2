"""The supervisor's operations on links and on single processes: partitions, delays, rates, pauses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sim.local.layout import FAILED, ClusterError
from sim.local.links import Links, LinksError, Pair, total

Emit = Callable[..., None]


class LinkFaults:
    """Faults by label on the links of one cluster. Each operation returns plain data and raises ClusterError."""

    def __init__(self, links: Links, emit: Emit) -> None:
        self._links = links
        self._emit = emit
        self._laid: dict[str, str] = {}
        """Label -> kind, of those in force."""

    async def partition(self, label: str, pairs: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Let nothing pass in the directions (sender, receiver) until `heal`."""
        return self._lay("partition", label, pairs, lambda: self._links.block(label, _pairs(pairs)))

    async def delay(
        self, label: str, pairs: Sequence[Sequence[str]], delay_us: int, jitter_us: int = 0, seed: int = 0
    ) -> dict[str, Any]:
        """Hold back what is sent in the directions until `heal`."""

        def lay() -> int:
            return self._links.delay(label, _pairs(pairs), delay_us, jitter_us, seed)

        return self._lay("delay", label, pairs, lay)

    async def rate(self, label: str, pairs: Sequence[Sequence[str]], bytes_per_s: int) -> dict[str, Any]:
        """Let no more than so much pass in each of the directions until `heal`."""
        return self._lay("rate", label, pairs, lambda: self._links.limit(label, _pairs(pairs), bytes_per_s))

    async def heal(self, label: str) -> dict[str, Any]:
        """Take a fault away; what it did."""
        kind = self._laid.pop(label, None)
        if kind is None:
            raise ClusterError(
                f"no fault {label!r} is in force; there are: {', '.join(self._laid) or 'none'}"
            )
        try:
            at = self._links.lift(label)
        except LinksError as error:
            raise ClusterError(str(error), FAILED) from None
        result = {"label": label, "kind": kind, "healed_at": at, **self._counts(label)}
        self._emit("heal", at, **result)
        return result

    async def faults(self, labels: Sequence[str]) -> dict[str, Any]:
        """What faults did so far, healed or not: a connection that one killed may lose more bytes for a while."""
        return {label: self._counts(label) for label in labels}

    def _lay(
        self, kind: str, label: str, pairs: Sequence[Sequence[str]], lay: Callable[[], int]
    ) -> dict[str, Any]:
        if label in self._laid:
            raise ClusterError(f"fault {label!r} is in force already; `heal` comes first")
        if not pairs:
            raise ClusterError(f"fault {label!r} names no direction")
        try:
            at = lay()
        except (ValueError, LinksError) as error:
            raise ClusterError(str(error)) from None
        self._laid[label] = kind
        self._emit(kind, at, label=label, pairs=[list(pair) for pair in pairs])
        return {"label": label, "laid_at": at}

    def _counts(self, label: str) -> dict[str, Any]:
        tolls = self._links.tolls(label)
        return {
            "counts": total(tolls).as_json(),
            "by_direction": [
                {"sender": a, "receiver": b, **toll.as_json()}
                for (a, b), toll in sorted(tolls.items())
                if toll.as_json()
            ],
        }


def _pairs(pairs: Sequence[Sequence[str]]) -> list[Pair]:
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(end, str) for end in pair):
            raise ValueError(f"{pair!r} is no direction; write [sender, receiver]")
    return [(pair[0], pair[1]) for pair in pairs]
