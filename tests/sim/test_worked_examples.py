"""The worked examples of the documents: short, and they do what the page says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.core import Out
from docs.examples.bank import Bank
from docs.examples.brown_out import BROWN_OUT
from docs.examples.fixed_leader import FixedLeader
from sim.faults import catalogue
from sim.faults.fault import Fault
from sim.faults.swarm import Options, draw
from sim.virtual.plan import Plan
from sim.virtual.world import OK, VIOLATION, World

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("*.py"))
PAGE = (ROOT / "docs/how-to/bring-your-own.md").read_text(encoding="utf-8")
LEADER = "docs.examples.fixed_leader:FixedLeader"
BANK = {"machine": "docs.examples.bank:Bank", "oracles": ("docs.examples.bank_total:BankTotal",)}


@pytest.fixture
def brown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.KINDS, BROWN_OUT.name, BROWN_OUT)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_at_most_100_lines_and_stands_in_the_page(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 100
    assert f"(../examples/{path.name})" in PAGE
    assert path.stem in PAGE


def test_the_protocol_survives_what_seeds_draw() -> None:
    for seed in range(8):
        result = World(replace(draw(seed, Options(protocol=LEADER)), duration=4_000_000, operations=60)).run()
        assert result.outcome == OK, f"{seed}: {result.text}"
        assert result.notes["leaders"] >= 1


def test_the_protocol_without_rule_1_loses_what_its_leader_had_not_synced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The page's broken one: what the leader tells its followers does not wait."""
    plain = FixedLeader.timeout

    def hasty(self: FixedLeader, now: int, out: Out) -> None:
        plain(self, now, out)
        out.now += out.wait
        out.wait.clear()

    monkeypatch.setattr(FixedLeader, "timeout", hasty)
    outcomes = {
        World(draw(seed, Options(protocol=LEADER, kinds=("trap", "outage")))).run().outcome
        for seed in range(35, 41)
    }
    assert VIOLATION in outcomes


@pytest.mark.usefixtures("brown_out")
def test_machine_oracle_and_fault_go_together() -> None:
    options = Options(kinds=("brown-out", "partition", "kill"), **BANK)  # type: ignore[arg-type]
    bites: dict[str, int] = {}
    for seed in range(5):
        result = World(replace(draw(seed, options), duration=4_000_000, operations=60)).run()
        assert result.outcome == OK, f"{seed}: {result.text}"
        bites |= result.details
    assert bites["brown-out: nodes dimmed"]


def test_the_oracle_sees_money_that_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Bank._pay

    def generous(self: Bank, command: bytes) -> bytes:
        said = plain(self, command)
        self.accounts[0] += said == b"not enough money"
        return said

    monkeypatch.setattr(Bank, "_pay", generous)
    result = World(Plan(1, **BANK, nodes=3, duration=6_000_000)).run()  # type: ignore[arg-type]
    assert (result.outcome, result.oracle) == (VIOLATION, "bank total")
    assert "not 1200" in result.text


@pytest.mark.usefixtures("brown_out")
def test_a_brown_out_leaves_the_nodes_as_it_found_them() -> None:
    world = World(Plan(3, clients=2, operations=1, drift=100))
    world.begin()
    world.timeline.run(600_000)

    def look() -> list[Any]:
        return [
            (host.turn_cost, host.slowness, host.clock.drift, host.running) for host in world.hosts.values()
        ]

    before = look()
    params = {"place": "site/A", "cost": 900, "times": 5, "ppm": 5_000, "restart": 1}
    running = world.inject(Fault(1, "brown-out", 0, 0, params))
    assert look() != before
    world.timeline.run(1_400_000)
    world.calm(running)
    assert look() == before
    assert running.bites == {"nodes dimmed": 2, "nodes without power": 2}
    world.settle()


def test_the_properties_hold_and_an_example_is_found_from_the_current_folder() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "docs/examples/bank_properties.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout
    command = [
        "scripts/partition.py",
        "explore",
        "--protocol",
        LEADER,
        "--seeds",
        "3",
        "--jobs",
        "1",
        "--json",
    ]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
