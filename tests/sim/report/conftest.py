"""A plausible run that never happened, for looking at its report."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from sim.check.audit import AuditReport, NodeLog
from sim.check.availability import rank_availability, write_outages
from sim.check.history import HistoryWriter, Operation
from sim.check.linear import Finding
from sim.check.replay import Replay
from sim.check.verdict import Cut, Quality, Requirements, RunFacts, assemble, write_verdict

NODES = {"n1": "east", "n2": "east", "n3": "west", "n4": "west", "n5": "harbour"}
SECOND = 1_000_000


def invent(folder: Path, seconds: int = 24, seed: int = 3, fault: str = "") -> Path:
    """A run folder: 5 nodes over 3 domains, each domain dark once. `fault`: `lost` or `void` for another verdict."""
    rng = random.Random(seed)
    start = 5_000_000_000
    cuts = [
        Cut("east", start + seconds * 160_000, True, True, 4096, 2, start + seconds * 320_000, ["n1", "n2"]),
        Cut("west", start + seconds * 440_000, True, False, 0, 0, start + seconds * 600_000, ["n3", "n4"]),
        Cut("harbour", start + seconds * 710_000, False, True, 731, 1, start + seconds * 860_000, ["n5"]),
    ]
    outages = {cuts[0].at_us: 142_000, cuts[1].at_us: 118_000, cuts[2].at_us: 3_000}
    leads = [("n1", 2, start), ("n3", 3, cuts[0].at_us + 131_000), ("n5", 4, cuts[1].at_us + 104_000)]
    end = start + seconds * SECOND

    def dark(node: str, t: int) -> bool:
        return any(NODES[node] == cut.domain and cut.at_us <= t < (cut.restored_at_us or end) for cut in cuts)

    def quiet(t: int) -> int:
        """When a write that arrives at `t` can first be acknowledged."""
        return max([at + gap for at, gap in outages.items() if at - 1500 <= t < at + gap], default=t)

    operations: list[Operation] = []
    index = 10
    t = start + 200_000
    seq = 0
    while t < end:
        done = quiet(t) + int(rng.lognormvariate(7.4, 0.4))
        index += rng.random() < 0.5
        seq += 1
        operations.append(
            Operation(
                "write",
                "c1",
                t,
                done,
                "ok",
                session=1,
                seq=seq,
                index=index,
                place=seq % 7,
                command=b"x",
                result=b"y",
            )
        )
        t += int(rng.expovariate(1 / 3300)) + 1
    commits = sorted((o.returned or 0, o.index or 0) for o in operations)
    t = start + 200_000
    while t < end:
        kind = rng.choice(["any", "any", "bounded", "linearizable"])
        begin = quiet(t) if kind == "linearizable" else t
        took = int(rng.lognormvariate(6.7 if kind == "any" else 7.4, 0.5))
        age = int(rng.uniform(2_000, 60_000)) if quiet(t) == t else begin - t + 180_000
        node = rng.choice([n for n in NODES if not dark(n, t)])
        operations.append(
            Operation(
                "query",
                "c2",
                t,
                begin + took,
                "ok",
                index=5,
                query=b"q",
                result=b"r",
                consistency=kind,
                age_us=age,
                max_age_us=500_000,
                tier="fresh" if age <= 150_000 else "stale",
                source="model",
                node=node,
            )
        )
        t += int(rng.expovariate(1 / 9000)) + 1
    if fault == "lost":
        operations[-1].outcome, operations[-1].error = "failed", "deadline <passed>"
    operations.sort(key=lambda o: o.returned or 0)
    folder.mkdir(parents=True, exist_ok=True)
    with HistoryWriter(folder / "history.jsonl") as writer:
        for operation in operations:
            writer.add(operation)
    _metrics(folder, start, end, cuts, leads, commits, dark, quiet, rng)
    (folder / "scenario.toml").write_text("[cluster]\nnodes = 5\ndomains = 3\n# angle <brackets> & such\n")
    judge(folder, operations, cuts, start, seconds, seed, fault)
    return folder


def _metrics(folder, start, end, cuts, leads, commits, dark, quiet, rng) -> None:
    rows = []
    for node, domain in NODES.items():
        applied, place = 0, 0
        for t in range(start, end, 100_000):
            if dark(node, t):
                rows.append({"t": t, "node": node, "domain": domain, "power": "off"})
                continue
            leader, term, _ = [lead for lead in leads if lead[2] <= t][-1]
            while place < len(commits) and commits[place][0] <= t:
                place += 1
            commit = commits[place - 1][1] if place else 0
            applied = min(commit, applied + 400) if applied < commit - 150 else commit
            role = "leader" if node == leader else "follower"
            age = rng.randint(2_000, 55_000) + (quiet(t) - t) * 2
            rows.append(
                {
                    "t": t,
                    "node": node,
                    "domain": domain,
                    "role": role,
                    "term": term,
                    "commit": commit,
                    "applied": applied,
                    "power": "on",
                    "age_us": age,
                    "tier": "fresh",
                }
            )
    for leader, term, at in leads[1:]:
        domain = NODES[leader]
        rows.append(
            {
                "t": at - 24_000,
                "event": "role",
                "node": leader,
                "domain": domain,
                "role": "precandidate",
                "term": term - 1,
            }
        )
        rows.append(
            {
                "t": at - 12_000,
                "event": "role",
                "node": leader,
                "domain": domain,
                "role": "candidate",
                "term": term,
            }
        )
        rows.append(
            {"t": at, "event": "role", "node": leader, "domain": domain, "role": "leader", "term": term}
        )
    for cut in cuts:
        rows.append({"t": cut.at_us, "event": "cut", "domain": cut.domain})
        # A sample that was on its way when the power went.
        late = {
            "t": cut.at_us + 20_000,
            "node": cut.nodes[0],
            "domain": cut.domain,
            "role": "leader",
            "term": 9,
        }
        rows.append(late)
        rows.append({"t": cut.restored_at_us, "event": "restore", "domain": cut.domain})
    rng.shuffle(rows)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def judge(folder, operations, cuts, start, seconds, seed, fault) -> None:
    writes = [o for o in operations if o.op == "write"]
    queries = len(operations) - len(writes)
    last = max(o.index or 0 for o in writes)
    names = {
        "writes_in_log": len(writes),
        "results_match": len(writes),
        "exactly_once": len(writes),
        "refused_stay_out": 0,
        "answers_match": queries,
        "chain_values_match": len(operations),
    }
    findings = [Finding(name, count, 0, []) for name, count in names.items()]
    if fault == "lost":
        findings[0] = Finding(
            "writes_in_log", len(writes), 1, ["write 1:7 of c1 was acknowledged, but <is> not in the log"]
        )
    others = [
        "real_time_order",
        "places_unique",
        "chains_agree",
        "bounded_within_age",
        "ages_true",
        "tiers_true",
    ]
    verdict = assemble(
        facts=RunFacts(
            seed,
            f"python scripts/drill.py run quick --seed {seed}",
            "quick",
            float(seconds),
            {"ridethrough": "0.1.0", "python": "3.11.7"},
            {"cores": 2, "system": "Linux"},
            start,
        ),
        operations=operations,
        findings=[Finding(name, queries, 0, []) for name in others],
        replay=Replay(last, findings, len(writes), int(fault == "lost"), {}, {last: b"d" * 32}),
        audit=AuditReport(
            {node: NodeLog(node, 1, last, last, last, "ab" * 32, last, 3) for node in NODES},
            last,
            last,
            "ab" * 32,
            [],
            [],
            4 * last,
        ),
        final_digests=dict.fromkeys(NODES, (last, b"d" * 32)),
        availability=rank_availability(operations, NODES),
        outages=write_outages(operations, [cut.at_us for cut in cuts]),
        cuts=cuts,
        hr_at_10=Quality(0.6661, 0.6675, 0.6675),
        ndcg_at_10=Quality(0.4068, 0.4076, 0.4076),
        required=Requirements(min_cuts=9 if fault == "void" else 3),
    )
    write_verdict(verdict, folder)


@pytest.fixture(scope="session")
def invented_run(tmp_path_factory: pytest.TempPathFactory):
    """Makes invented runs: `invented_run(fault="lost")`."""

    def make(**wishes) -> Path:
        return invent(tmp_path_factory.mktemp("run") / "folder", **wishes)

    return make
