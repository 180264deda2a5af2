"""Which domain a cut of a scenario falls on where some nodes lie."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from sim.local import layout, outages
from sim.local.layout import Cluster, ClusterError
from sim.local.live import Live
from sim.local.outages import Outages
from sim.scenario import PowerCut


class Switch:
    """Stands for the supervisor: notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    async def acall(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.told.append((op, arguments["domain"]))
        now = int(trio.current_time() * 1e6)
        return {"cut_at": now, "restored_at": now, "held": [], "losses": {}}


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """n2, in B, lies."""
    settings = {"storage": {"reserve_bytes": 0}}
    return layout.create(tmp_path / "c", 4, 4, "kv", settings=settings, protocol="bft", liars={"n2": "late"})


def carried(cluster: Cluster, switch: Switch, leaders: list[str], monkeypatch: pytest.MonkeyPatch) -> Outages:
    """`leaders`: one after the other, the last one for ever."""
    names: Iterator[str] = iter(leaders)

    async def leader_of(client: Any) -> str:
        return next(names, leaders[-1])

    monkeypatch.setattr(outages, "leader_of", leader_of)
    return Outages(cluster, switch, None, Live(), random.Random(1))  # type: ignore[arg-type]


def cut(domain: str) -> PowerCut:
    return PowerCut(at_s=0, dark_s=1, domain=domain, after_recovery=False)


async def test_a_cut_of_the_leader_waits_for_one_that_does_not_lie(
    cluster: Cluster, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Switch()
    made = carried(cluster, switch, ["n2", "n2", "n3"], monkeypatch)
    await made.run(cut("leader"))
    assert switch.told == [("cut", "C"), ("restore", "C")]
    assert made.records[0]["leader_domain"] is True
    with pytest.raises(ClusterError, match="nobody but liars has led"):
        await carried(cluster, switch, ["n2"], monkeypatch).run(cut("leader"))


async def test_untouched_domains_are_those_of_honest_nodes_and_a_name_means_what_it_says(
    cluster: Cluster, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Switch()
    made = carried(cluster, switch, ["n1"], monkeypatch)
    for domain in ("untouched", "untouched", "untouched", "B"):
        await made.run(cut(domain))
    assert [domain for op, domain in switch.told if op == "cut"] == ["C", "D", "A", "B"]


async def test_a_cut_of_all_is_one_cut_and_as_many_restores(
    cluster: Cluster, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = Switch()
    made = carried(cluster, switch, ["n2"], monkeypatch)
    await made.run(cut("all"))
    assert switch.told == [("cut", "all"), *(("restore", domain) for domain in "ABCD")]
    assert made.records[0]["nodes"] == ["n1", "n2", "n3", "n4"]
    assert len(made.undone) == 1
