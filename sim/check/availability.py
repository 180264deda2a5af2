"""How long writes stood still after a cut, and whether rank requests were answered: from the client history alone."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from sim.check.history import Operation

RANK_LIMIT_US: Final = 500_000
"""A rank request with no answer from a node's model within this time has failed."""


NEXT_CUTS_US: Final = 50_000
"""A gap shorter than this when the next cut comes is counted to that cut alone."""


@dataclass(slots=True)
class Outage:
    """What a cut did to writes."""

    at_us: int
    """The cut."""
    until_us: int
    """Gaps that begin before this instant count to this cut."""
    gap_us: int
    """The longest gap."""
    begin_us: int
    end_us: int
    """The longest gap lies between these instants."""
    ended: bool
    """False: no acknowledgement came any more before the load ended; the gap is at least this long."""
    offered_per_s: float
    """Writes invoked a second from the cut until `until_us`: without load no gap means anything."""

    @property
    def gap_ms(self) -> float:
        """The longest gap in milliseconds, to the microsecond."""
        return self.gap_us / 1000


def write_outages(
    operations: Sequence[Operation], cuts_us: Sequence[int], end_us: int | None = None
) -> list[Outage]:
    """For each cut the longest gap between consecutive acknowledgements of writes from the cut on.

    Acknowledgements are ordered by `returned`. Counted to a cut are the gaps that overlap [cut, next cut), the last one
    [cut, end of load]; the part of a gap before the cut is not counted, the part behind the next cut is (a gap that
    spans two cuts counts to both, from each of them on), unless it had lasted less than `NEXT_CUTS_US` by then. A restore
    is no new beginning: what it disturbs belongs to its outage. The load ends at `end_us`, by default with the last
    write invoked. With no acknowledgement after the cut the gap lasts until the load ends. Raises ValueError if cuts are
    not in order.
    """
    if list(cuts_us) != sorted(cuts_us):
        raise ValueError("cuts must come in the order of time")
    invoked = np.sort(np.array([o.invoke for o in operations if o.op == "write"], dtype=np.int64))
    acks = sorted(
        o.returned for o in operations if o.op == "write" and o.outcome == "ok" and o.returned is not None
    )
    end = end_us if end_us is not None else (int(invoked[-1]) if len(invoked) else 0)
    outages = []
    for number, cut in enumerate(cuts_us):
        until = cuts_us[number + 1] if number + 1 < len(cuts_us) else max(end, cut)
        begin, best, ended = cut, (0, cut, cut), True
        for ack in acks[bisect_right(acks, cut) :]:
            if begin >= until:
                break
            # A pause that had hardly begun when the power went out again is the next cut's.
            end_here = until if ack > until and until - begin < NEXT_CUTS_US else ack
            if end_here - begin > best[0]:
                best = (end_here - begin, begin, end_here)
            begin = ack
        # Whatever was still open when the load ended: a silence, too.
        if begin < until and end - begin > best[0]:
            best, ended = (end - begin, begin, end), False
        offered = int(np.searchsorted(invoked, until) - np.searchsorted(invoked, cut))
        rate = offered * 1e6 / (until - cut) if until > cut else 0.0
        outages.append(Outage(cut, until, best[0], best[1], best[2], ended, round(rate, 1)))
    return outages


@dataclass(slots=True)
class Availability:
    """Rank requests: how many, by what, how fast."""

    requests: int
    failed: int
    """No answer from a node's model within `RANK_LIMIT_US`."""
    by_tier: dict[str, int]
    """Answers by tier; `none` counts requests without any answer."""
    by_source: dict[str, int]
    by_consistency: dict[str, int]
    by_node: dict[str, int]
    by_domain: dict[str, int]
    """Answers by the power domain of the node that answered."""
    failed_by_reason: dict[str, int]
    latency_us: dict[str, int]
    """p50, p90, p99, p999, max over all requests that were answered."""
    latency_by_consistency_us: dict[str, dict[str, int]]
    examples: list[str]
    """The first few failures in words."""

    def as_json(self) -> dict[str, Any]:
        """Plain data for a JSON file."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def failure(operation: Operation, limit_us: int = RANK_LIMIT_US) -> str | None:
    """Why a rank request counts as failed; None if it does not."""
    if operation.outcome != "ok":
        return operation.outcome
    if operation.source != "model":
        return f"answered by {operation.source}"
    assert operation.returned is not None
    if operation.returned - operation.invoke > limit_us:
        return f"slower than {limit_us // 1000} ms"
    return None


def percentiles(values: Iterable[int]) -> dict[str, int]:
    """p50, p90, p99, p999 and max of some integers: the smallest value that so many percent do not exceed."""
    data = np.sort(np.fromiter(values, dtype=np.int64))
    if not len(data):
        return {}
    ranks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: int(data[min(len(data) - 1, int(np.ceil(q * len(data))) - 1)]) for name, q in ranks.items()}


def rank_availability(
    operations: Sequence[Operation], domains: Mapping[str, str] | None = None, limit_us: int = RANK_LIMIT_US
) -> Availability:
    """Availability of rank requests. `domains`: node -> power domain; `limit_us`: the time an answer may take."""
    queries = [o for o in operations if o.op == "query"]
    answered = [o for o in queries if o.outcome == "ok"]
    failures: Counter[str] = Counter()
    examples: list[str] = []
    for operation in queries:
        reason = failure(operation, limit_us)
        if reason is not None:
            failures[reason] += 1
            if len(examples) < 5:
                examples.append(
                    f"{operation.consistency} query of {operation.client} invoked at {operation.invoke} us: {reason}"
                    + (f" ({operation.error})" if operation.error else "")
                )
    kinds = sorted({o.consistency or "?" for o in answered})
    latencies = {
        kind: [(o.returned or 0) - o.invoke for o in answered if o.consistency == kind] for kind in kinds
    }
    where = domains or {}
    return Availability(
        requests=len(queries),
        failed=failures.total(),
        by_tier=_count(o.tier or "none" if o.outcome == "ok" else "none" for o in queries),
        by_source=_count(o.source or "none" if o.outcome == "ok" else "none" for o in queries),
        by_consistency=_count(o.consistency or "?" for o in queries),
        by_node=_count(o.node or "?" for o in answered),
        by_domain=_count(where.get(o.node or "", "?") for o in answered),
        failed_by_reason=dict(sorted(failures.items())),
        latency_us=percentiles((o.returned or 0) - o.invoke for o in answered),
        latency_by_consistency_us={kind: percentiles(values) for kind, values in latencies.items()},
        examples=examples,
    )


def _count(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def rates(times_us: Iterable[int], begin_us: int, end_us: int, bin_us: int) -> tuple[list[int], list[float]]:
    """Events a second: the begin of each bin (us), and the rate within it. For plots."""
    edges = np.arange(begin_us, max(end_us, begin_us + 1) + bin_us, bin_us, dtype=np.int64)
    counts, _ = np.histogram(np.fromiter(times_us, dtype=np.int64), bins=edges)
    return edges[:-1].tolist(), (counts * (1e6 / bin_us)).tolist()
