"""Batches come to the same on processes and on a dask.distributed cluster; an engine that cannot be used says so."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from sim.explore import engine as engines
from sim.explore.campaign import Campaign, run
from sim.explore.engine import EngineError
from sim.explore.request import Request
from sim.explore.sources import OtherSources
from sim.explore.summary import Summary
from sim.faults.swarm import Options

CAMPAIGN = Campaign(Request(Options(nodes=3, clients=2)), 6, first=200)


def quiet(_now: Any) -> None:
    """Nobody watches."""


def outcome(summary: Summary) -> tuple[Any, ...]:
    return summary.hashes, summary.faults(), summary.marks, summary.operations


@pytest.fixture(scope="module")
def by_processes() -> tuple[Any, ...]:
    with engines.processes(2, CAMPAIGN.request) as engine:
        return outcome(run(CAMPAIGN, engine, quiet))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed", reason="the optional extra `cluster` is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another project's
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster:
            yield cluster.scheduler_address


def test_one_process_and_two_come_to_the_same(by_processes: tuple[Any, ...]) -> None:
    with engines.processes(1, CAMPAIGN.request) as engine:
        assert outcome(run(CAMPAIGN, engine, quiet)) == by_processes
    assert len(by_processes[0]) == CAMPAIGN.seeds


@pytest.mark.filterwarnings("default")
def test_a_cluster_comes_to_the_same_as_processes(by_processes: tuple[Any, ...], scheduler: str) -> None:
    with engines.cluster(scheduler, CAMPAIGN.request) as engine:
        assert engine.slots == 2
        assert outcome(run(CAMPAIGN, engine, quiet)) == by_processes


@pytest.mark.filterwarnings("default")
def test_a_cluster_whose_workers_run_other_code_is_refused(scheduler: str) -> None:
    with engines.cluster(scheduler, CAMPAIGN.request) as engine:
        engine.code = "0" * 16
        with pytest.raises(OtherSources, match="bring it to the same commit"):
            run(CAMPAIGN, engine, quiet)


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(EngineError, match="extra `cluster`"), engines.cluster("tcp://127.0.0.1:1", Request()):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense://x"])
@pytest.mark.filterwarnings("default")
def test_an_address_where_no_scheduler_answers_is_named(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="the optional extra `cluster` is not installed")
    monkeypatch.setattr(engines, "PATIENCE", "300ms")
    with pytest.raises(EngineError, match="no scheduler answers"), engines.cluster(address, Request()):
        pass
