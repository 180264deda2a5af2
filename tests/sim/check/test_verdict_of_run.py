from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.raft import records as raft
from sim.check.availability import rank_availability, write_outages
from sim.check.verdict import (
    FAILED,
    PASSED,
    VOID,
    Cut,
    Quality,
    Requirements,
    RunFacts,
    assemble,
    exit_code,
    sentence,
    write_verdict,
)
from sim.check.whole import check_everything

FACTS = RunFacts(
    7, "python scripts/drill.py run quick --seed 7", "quick", 12.5, {"python": "3.11"}, {"cores": 2}
)
EASY = Requirements(min_cuts=1, min_writes_per_s=1.0)
CUT = Cut("east", 1250, True, True, 512, 1, 5000, ["n1"])


def judge(made, folder, required=EASY, cuts=(CUT,), digest=None, logs=None, quality=None):
    records = [*((raft.ENTRY, entry) for entry in made.entries), raft.commit(made.index)]
    folders = {name: folder(name, (logs or {}).get(name, records)) for name in ("n1", "n2", "n3")}
    checked = check_everything(
        made.operations, folders, made.fresh_state(), fresh_limit_us=1000, digests_at=[made.index]
    )
    operations = made.operations
    final = dict.fromkeys(("n1", "n2", "n3"), (made.index, digest or made.state.digest()))
    return assemble(
        facts=FACTS,
        operations=operations,
        findings=checked.findings,
        replay=checked.replay,
        audit=checked.audit,
        final_digests=final,
        availability=rank_availability(operations),
        outages=write_outages(operations, [cut.at_us for cut in cuts]),
        cuts=list(cuts),
        hr_at_10=quality or Quality(0.66, 0.662, 0.6675),
        required=required,
    )


def failed(verdict) -> list[str]:
    return [check["name"] for check in verdict["checks"] if not check["passed"]]


def test_an_honest_run_passes_with_every_field_that_a_reader_looks_for(made, folder, tmp_path: Path) -> None:
    verdict = judge(made, folder)
    assert failed(verdict) == []
    assert verdict["void_reasons"] == []
    assert verdict["passed"] is True
    assert exit_code(verdict) == PASSED
    assert verdict["acked_updates"] == 10
    assert verdict["acked_updates_lost"] == 0
    assert verdict["digests_equal"] is True
    assert verdict["linearizable"] is True
    assert verdict["rank_requests_failed"] == 0
    assert verdict["rank_requests_by_tier"] == {"fresh": 3, "stale": 1}
    assert verdict["unsynced_bytes_dropped"] == 512
    assert len(verdict["write_outage_ms"]) == 1
    assert verdict["hr_at_10"]["with_cuts"] == 0.66
    assert verdict["seed"] == 7
    assert all(check["counted"] for check in verdict["checks"] if check["needs_count"])
    assert json.loads(write_verdict(verdict, tmp_path).read_text()) == json.loads(json.dumps(verdict))
    assert "all 10 acknowledged updates are still there" in sentence(verdict)


def test_a_lost_update_fails_the_run_even_if_it_is_void_too(made, folder) -> None:
    next(o for o in made.operations if o.outcome == "ok" and o.op == "write").seq = 55
    verdict = judge(made, folder, cuts=[])
    assert verdict["acked_updates_lost"] == 1
    assert verdict["linearizable"] is False
    assert verdict["void"]
    assert exit_code(verdict) == FAILED
    assert sentence(verdict).startswith("Failed")


def test_a_replica_without_an_acknowledged_update_fails_the_run(made, folder) -> None:
    short = [*((raft.ENTRY, entry) for entry in made.entries[:-2]), raft.commit(made.index - 2)]
    verdict = judge(made, folder, logs={"n3": short})
    assert failed(verdict) == ["replicas_complete"]
    assert verdict["acked_updates_lost"] == 1


def test_a_replica_with_another_state_fails_the_run(made, folder) -> None:
    verdict = judge(made, folder, digest=b"x" * 32)
    assert verdict["digests_equal"] is False
    assert failed(verdict) == ["digests_equal"]


def test_an_outage_over_the_limit_fails_the_run(made, folder) -> None:
    verdict = judge(made, folder, replace(EASY, max_outage_ms=0.05))
    assert failed(verdict) == ["write_outages"]


def test_an_unanswered_rank_request_fails_the_run(made, folder) -> None:
    query = next(o for o in made.operations if o.op == "query")
    query.outcome = "failed"
    verdict = judge(made, folder)
    assert verdict["rank_requests_failed"] == 1
    assert failed(verdict) == ["rank_requests_answered"]


@pytest.mark.parametrize("quality", [Quality(0.65, 0.66, 0.6675), Quality(0.65, 0.65, 0.6675)])
def test_ranking_that_cuts_or_anything_else_made_worse_fails_the_run(made, folder, quality: Quality) -> None:
    assert failed(judge(made, folder, quality=quality)) == ["hr_at_10"]


@pytest.mark.parametrize(
    ("required", "cuts", "reason"),
    [
        (replace(EASY, min_cuts=2), [CUT], "1 cuts happened, 2 were asked for"),
        (EASY, [replace(CUT, leader_domain=False)], "no cut hit the leader's domain"),
        (EASY, [replace(CUT, between_write_and_fsync=False)], "between a write and its fsync"),
        (EASY, [replace(CUT, unsynced_bytes_dropped=0)], "dropped an unsynced byte"),
        (replace(EASY, min_writes_per_s=1e9), [CUT], "writes a second were offered"),
    ],
)
def test_a_run_in_which_something_did_not_happen_is_void(made, folder, required, cuts, reason: str) -> None:
    verdict = judge(made, folder, required, cuts)
    assert failed(verdict) == []
    assert any(reason in text for text in verdict["void_reasons"])
    assert verdict["passed"] is False
    assert exit_code(verdict) == VOID
    assert sentence(verdict).startswith("Void")


def test_a_check_with_nothing_to_look_at_makes_the_run_void(made, folder) -> None:
    made.operations = [o for o in made.operations if o.op != "query"]
    verdict = judge(made, folder)
    assert failed(verdict) == []
    assert "the check answers_match had nothing to look at" in verdict["void_reasons"]
    assert "the check rank_requests_answered had nothing to look at" in verdict["void_reasons"]
    assert exit_code(verdict) == VOID
