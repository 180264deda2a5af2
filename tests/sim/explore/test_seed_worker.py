"""Same seed, same trace: traced or not, alone or after others in a worker, whatever the process hashes strings with."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.explore import request as requests
from sim.explore import worker
from sim.explore.request import HARNESS, Request, check, play
from sim.explore.sources import OtherSources, fingerprint
from sim.faults import catalogue
from sim.faults.kind import FaultError
from sim.faults.swarm import Options
from sim.virtual import plan as plans
from sim.virtual.subjects import SubjectError
from sim.virtual.trace import Trace
from sim.virtual.world import CRASH, World

ROOT = Path(__file__).parents[3]
FIRST, COUNT = 40, 8
PROGRAM = f"""
from sim.explore.request import Request
from sim.explore.worker import run_batch
for result in run_batch(Request(), range({FIRST}, {FIRST + COUNT})).results:
    print(result.trace_hash or result.text)
"""


def hashes_of_a_fresh_process(hash_seed: str) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=True
    )  # fmt: skip
    return done.stdout.splitlines()


def test_a_seed_has_one_trace_hash_in_any_process_alone_or_after_others_traced_or_not() -> None:
    here = hashes_of_a_fresh_process("1")
    assert len(set(here)) == COUNT
    assert hashes_of_a_fresh_process("4711") == here
    request, last = Request(), FIRST + COUNT - 1
    plan = request.plan(last)
    assert play(request, plan)[0].trace_hash == here[-1]
    trace = Trace()
    assert play(request, plan, trace)[0].trace_hash == here[-1]
    assert len(trace.moments) > 1000
    assert play(request, plans.loads(plans.dumps(plan)))[0].trace_hash == here[-1]


def test_another_seed_has_another_trace_hash() -> None:
    request = Request(Options(nodes=3, clients=1))
    plan = request.plan(3)
    assert play(request, plan)[0].trace_hash != play(request, requests.with_seed(plan, 4))[0].trace_hash


def test_an_exception_of_the_harness_is_a_result_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(self: World) -> None:
        raise ZeroDivisionError("tripped")

    monkeypatch.setattr(World, "run", trip)
    (result,) = worker.run_batch(Request(), range(5, 6)).results
    assert (result.outcome, result.oracle) == (CRASH, HARNESS)
    assert "ZeroDivisionError: tripped" in result.text
    assert result.plan.seed == 5


@pytest.fixture
def no_collections() -> Iterator[None]:
    """As in a campaign's processes: an alarm that falls into a callback of the collector is not raised (Hypothesis has one)."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collections")
def test_a_run_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(self: World) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                sum(range(1000))
            except Exception:
                continue

    monkeypatch.setattr(World, "run", hang)
    monkeypatch.setattr(worker, "LIMIT_S", 0.2)
    (result,) = worker.run_batch(Request(), range(5, 6)).results
    assert result.outcome == CRASH
    assert "given up after" in result.text


def test_a_worker_that_runs_other_code_refuses() -> None:
    code = fingerprint()
    assert len(worker.run_batch(Request(), range(0), code).results) == 0
    with pytest.raises(OtherSources, match="other code"):
        worker.run_batch(Request(), range(0), "0" * 16)


def test_modules_that_are_brought_along_belong_to_the_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    module = tmp_path / "brought_along_here.py"
    module.write_text("A = 1\n")
    before = fingerprint(["brought_along_here"])
    assert before == fingerprint(["brought_along_here"])
    module.write_text("A = 2\n")
    assert fingerprint(["brought_along_here"]) != before


@pytest.mark.parametrize(
    ("request_", "error", "words"),
    [
        (Request(Options(protocol="paxos")), SubjectError, "paxos"),
        (Request(Options(machine="nowhere:Machine")), SubjectError, "cannot import nowhere"),
        (Request(Options(kinds=("flood",))), FaultError, "no fault 'flood'"),
        (Request(Options(kinds=("kill",), without=("kill",))), FaultError, "--without takes away"),
        (Request(Options(oracles=("sim.oracles.standard:Nothing",))), SubjectError, "Nothing"),
        (Request(plugins=("nowhere_at_all",)), SubjectError, "--plugin nowhere_at_all"),
        (Request(faults=("picky_oracle:NobodyDies",)), SubjectError, "expected a sim.faults.kind.Kind"),
        (Request(Options(protocol="bft", nodes=1)), SubjectError, "bft takes at least 2 nodes, not 1"),
        (Request(Options(protocol="os:path")), SubjectError, "this is a module"),
        (
            Request(Options(protocol="json:JSONDecoder")),
            SubjectError,
            r"cannot be made with \(node, members, rng\)",
        ),
        (
            Request(Options(protocol="collections:namedtuple")),
            SubjectError,
            "protocol 'collections:namedtuple'",
        ),
        (Request(Options(protocol="..:x")), SubjectError, "'..' is not the name of a module"),
        (
            Request(Options(oracles=("json:JSONDecoder",))),
            SubjectError,
            "derived from sim.oracles.oracle.Oracle",
        ),
        (Request(Options(oracles=("sim.virtual.plan:Plan",))), SubjectError, "not a type Plan"),
        (Request(Options(machine="brought_badly:Machine")), SubjectError, "it raised ZeroDivisionError"),
        (
            Request(plugins=("brought_badly",)),
            SubjectError,
            "--plugin brought_badly: .*it raised ZeroDivisionError",
        ),
        (Request(plugins=("..",)), SubjectError, r"--plugin \.\.: '\.\.' is not the name of a module"),
        (Request(plugins=("",)), SubjectError, "--plugin: '' is not the name of a module"),
        (
            Request(Options(oracles=("brought_badly_too:Unmade",))),
            SubjectError,
            "no world can be made with what was brought",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(
    request_: Request, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check(request_)


def test_a_fault_that_is_brought_along_is_drawn_and_stands_in_the_replay_line() -> None:
    request = Request(Options(kinds=("idle",)), faults=("picky_oracle:IDLE",))
    try:
        check(request)
        assert {fault.kind for fault in request.plan(1).schedule} == {"idle"}
        assert request.drawing() == ["--fault", "idle", "--plugin-fault", "picky_oracle:IDLE"]
    finally:
        catalogue.KINDS.pop("idle", None)
        requests._prepared.clear()
