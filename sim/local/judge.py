"""From a run's folder to its verdict: every check there is, repeatable any time after the run."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from node.io import keys
from node.io.config import EPOCH
from node.kv import KvMachine
from node.ranking import RankingMachine, RankingSettings, commands
from node.state import ReplicatedState
from sim.check.audit import ArchivedLog
from sim.check.availability import rank_availability, write_outages
from sim.check.bft_log import read_bft_folder
from sim.check.bft_words import Verify, check_evidence, check_words
from sim.check.folders import read_folder
from sim.check.formats import convert
from sim.check.general import Outcome, check_kv, describe
from sim.check.healing import Window, check_progress_after, check_progress_during
from sim.check.history import Operation, read_history
from sim.check.replicated import NodeState
from sim.check.verdict import Check, Cut, Quality, Requirements, RunFacts, assemble, write_verdict
from sim.check.whole import check_everything
from sim.local.folder import load as load_cluster
from sim.local.lies import LIES_FILE, read_lies
from sim.scenario import Scenario
from sim.workload.quality import Questions, evaluate, prequential
from sim.workload.stream import Stream

Pair = tuple[int, int]

REFERENCE: Final = {"hr_at_10": 0.6675, "ndcg_at_10": 0.4076}
"""Published for this model on MovieLens ml-latest-small, floating point, updated after every interaction."""

GENERAL_S: Final = 20.0
"""Seconds for the general checker; a history of a few thousand operations on a few keys takes far less."""

Progress = Callable[[str], None]


@dataclass(slots=True, frozen=True)
class Signatures:
    """What is needed to judge what members of a committee have signed: names that their statements begin with, and whoever knows
    their keys."""

    cluster: str
    epoch: int
    verify: Verify


class _Recorder:
    """Stands where the machine stands, and notes the commands that take effect, in order."""

    def __init__(self) -> None:
        self.commands: list[bytes] = []

    def check(self, command: bytes) -> str | None:
        return None

    def apply(self, batch: Sequence[bytes]) -> list[bytes]:
        self.commands += batch
        return [b""] * len(batch)

    def query(self, query: bytes) -> bytes:
        return b""

    def digest(self) -> bytes:
        return b""

    def snapshot(self) -> list[bytes]:
        return []

    def restore(self, chunks: Sequence[bytes]) -> None:
        self.commands = []


def effective_commands(log: ArchivedLog) -> list[bytes]:
    """The commands that took effect, in the order of the log: sessions have taken out the repeats."""
    recorder = _Recorder()
    state = ReplicatedState(recorder)
    for entry in log:
        state.apply(entry)
    return recorder.commands


def observed_batches(effective: Sequence[bytes]) -> list[list[Pair]]:
    """The interactions of the OBSERVE commands among them, command by command."""
    settings = RankingSettings()
    batches: list[list[Pair]] = []
    for command in effective:
        fields = commands.decode(command, settings)
        if fields[0] == commands.Kind.OBSERVE:
            batches.append(list(zip(fields[1], fields[2], strict=True)))
    return batches


def measure_quality(
    log: ArchivedLog, stream: Stream, scenario: Scenario, sent: int
) -> tuple[Quality, Quality]:
    """HR@10 and NDCG@10 of what the cluster learned, in the order in which it learned it, beside the same `sent`
    interactions of the stream in their own order and the same batches."""
    head = stream.head(sent)
    questions = Questions(head, last=scenario.evaluate_last)
    machine = RankingMachine()
    machine.apply(head.catalogue_commands())
    with_cuts = prequential(machine, observed_batches(effective_commands(log)), questions)
    without = evaluate(RankingMachine(), head, questions, batch=scenario.writes.batch)
    compare = scenario.compare_with_reference
    return (
        Quality(with_cuts.hr_at_10, without.hr_at_10, REFERENCE["hr_at_10"] if compare else None),
        Quality(with_cuts.ndcg_at_10, without.ndcg_at_10, REFERENCE["ndcg_at_10"] if compare else None),
    )


def judge(
    run: Path,
    scenario: Scenario,
    stream: Stream | None,
    say: Progress = lambda words: None,
    signatures: Signatures | None = None,
) -> dict[str, Any]:
    """Check a finished run whose nodes are down; writes and returns the verdict. `stream`: what a ranking machine learned
    from; `signatures`: of a committee; None: those of the keys in the cluster's folder. Raises OSError, HistoryError,
    ClusterError."""
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    domains = {node: place["domain"] for node, place in facts["nodes"].items()}
    liars = {node: str(place["lies"]) for node, place in facts["nodes"].items() if place.get("lies")}
    # What a liar has on its disk is its own affair.
    folders = {node: run / place["data"] for node, place in facts["nodes"].items() if node not in liars}
    source = read_bft_folder if facts.get("protocol") == "bft" else read_folder
    say("reading the history")
    operations = read_history(run / "history.jsonl")
    final = {
        node: (int(index), bytes.fromhex(digest))
        for node, (index, digest) in facts["digests"].items()
        if node not in liars
    }
    say(f"checking {len(operations):,} operations against the archived logs of {len(folders)} nodes")
    fresh_ms = scenario.cluster.timing.get("fresh_ms", 1000)
    checked = check_everything(
        operations,
        folders,
        NodeState(RankingMachine() if stream is not None else KvMachine()),
        fresh_limit_us=fresh_ms * 1000,
        digests_at=sorted({index for index, _ in final.values()}),
        members=len(domains),
        source=source,
    )
    cuts = [Cut(**cut) for cut in facts["cuts"]]
    qualities: tuple[Quality | None, Quality | None] = (None, None)
    more = _more(facts)
    if scenario.faults:
        more += _progress(operations, facts, scenario.require)
    if facts.get("protocol") == "bft":
        say("reading what the nodes have signed")
        signatures = signatures or signatures_of(run / "cluster")
        more += committee_checks(signatures, folders, liars, facts.get("evidence", {}))
    told = {node: read_lies((run / facts["nodes"][node]["data"]).parent / LIES_FILE) for node in liars}
    if stream is not None:
        say("measuring what was learned, with and without cuts")
        qualities = measure_quality(checked.log, stream, scenario, facts["interactions_sent"])
    else:
        say("searching for an order of the operations on each key")
        more += general_checks(operations)
    verdict = assemble(
        facts=RunFacts(
            seed=facts["seed"],
            command=facts["command"],
            scenario=scenario.name,
            duration_s=facts["duration_s"],
            versions=versions(),
            machine=machine(),
            begin_us=facts["begin_us"],
        ),
        operations=operations,
        findings=checked.findings,
        replay=checked.replay,
        audit=checked.audit,
        final_digests=final,
        availability=rank_availability(operations, domains),
        outages=write_outages(
            _observes(operations, facts["load_begin_us"]), [cut.at_us for cut in cuts], facts["load_end_us"]
        ),
        cuts=cuts,
        hr_at_10=qualities[0],
        ndcg_at_10=qualities[1],
        required=scenario.require,
        more=more,
        reads=None if stream is not None else check_reads(operations, scenario.require),
        faults=facts["faults"],
        void_reasons=unbitten(facts["faults"], scenario) + honest_liars(liars, told),
    )
    verdict["quality_command"] = facts["command"]
    verdict["workload"] = facts["machine"]
    verdict["links"] = facts["links"]
    verdict["protocol"] = facts.get("protocol", "raft")
    verdict["liars"] = [
        {
            "node": node,
            "strategy": strategy,
            "lies": told[node],
            "evidence": {
                holder: [piece for piece in held if piece["node"] == node]
                for holder, held in facts.get("evidence", {}).items()
                if holder not in liars
            },
        }
        for node, strategy in liars.items()
    ]
    write_verdict(verdict, run)
    return verdict


def signatures_of(folder: Path) -> Signatures:
    """Those of a local cluster's keys. Raises ClusterError."""
    cluster = load_cluster(folder)
    publics = cluster.public_keys()

    def verify(node: str, data: bytes, signature: bytes) -> bool:
        return node in publics and keys.verify(publics[node], data, signature)

    return Signatures(cluster.cluster, EPOCH, verify)


def committee_checks(
    signatures: Signatures,
    folders: Mapping[str, Path],
    liars: Mapping[str, str],
    evidence: Mapping[str, list[dict[str, Any]]],
) -> list[Check]:
    """What members of a committee have signed, and whom they blame. Raises OSError."""
    cluster, epoch, verify = signatures.cluster, signatures.epoch, signatures.verify
    return [
        *check_words(folders, cluster, epoch, verify, liars),
        check_evidence(evidence, cluster, epoch, verify, liars),
    ]


def honest_liars(liars: Mapping[str, str], told: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Why a run proves nothing: nodes that were to lie and did not."""
    return [
        f"{node} was to lie ({strategy}) and said nothing that an honest node would not have said"
        for node, strategy in liars.items()
        if not sum(told[node].values())
    ]


def general_checks(operations: Sequence[Operation]) -> list[Check]:
    """What a general checker says of a key-value history by itself, without the log: its replies name an order, and this one
    believes none of them. The one place where it is called. Raises ValueError for a history of another machine."""
    ops = convert(operations)
    verdict = check_kv(ops, GENERAL_S)
    decided = [cell for cell in verdict.cells if cell.outcome is not Outcome.UNDECIDED]
    undecided = [cell for cell in verdict.cells if cell.outcome is Outcome.UNDECIDED]
    counted = sum(cell.operations for cell in decided)
    detail = f"{counted:,} operations on {len(decided)} keys have an order that real time allows, whatever the log says"
    for cell in undecided:
        detail += f"; undecided on key {_key(cell.key)} ({cell.operations:,} operations): {cell.reason}"
    failed = verdict.failure
    if failed is not None and failed.failed is not None:
        detail = f"key {_key(failed.key)}: no order explains {describe(ops[failed.failed])} of {ops[failed.failed].process}"
    return [Check("general_linearizable", failed is None, detail, counted)]


def _key(key: object) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def _progress(operations: Sequence[Operation], facts: dict[str, Any], required: Requirements) -> list[Check]:
    windows = [
        Window(
            f"{fault['label']} ({fault['kind']} {fault['what']})",
            fault["at_us"],
            fault["until_us"],
            fault["progress"],
        )
        for fault in facts["faults"]
    ]
    dark = [(cut["at_us"], cut.get("restored_at_us") or facts["load_end_us"]) for cut in facts["cuts"]]
    bound = int(required.max_progress_ms * 1000)
    return [
        check_progress_during(operations, windows, bound, dark),
        check_progress_after(operations, windows, bound, facts["load_end_us"], dark),
    ]


def unbitten(faults: Sequence[dict[str, Any]], scenario: Scenario) -> list[str]:
    """Why a run proves nothing: faults that were asked for and left no trace."""
    reasons = [
        f"{fault['label']} ({fault['kind']} {fault['what']}) bit nothing: no byte or packet of any direction was "
        + ("dropped" if fault["kind"] == "partition" else "held up")
        for fault in faults
        if not fault["bit"]
    ]
    if len(faults) < len(scenario.faults):
        reasons.append(f"{len(faults)} faults happened, {len(scenario.faults)} were asked for")
    return reasons


def check_reads(operations: Sequence[Operation], required: Requirements) -> Check:
    """Reads that take any state are answered while a node lives; the others may have to wait out a fault."""
    reads = [o for o in operations if o.op == "query"]
    anyhow = [o for o in reads if o.consistency == "any"]
    lost = [o for o in anyhow if o.outcome != "ok"]
    answered = sum(o.outcome == "ok" for o in reads)
    detail = (
        f"{len(lost):,} of {len(anyhow):,} reads that take any state got no answer; of all reads {answered:,} of "
        f"{len(reads):,} were answered"
    )
    passed = len(lost) <= required.rank_requests_may_fail
    return Check("reads_answered", passed, detail if passed else f"{detail}; {lost[0].error}", len(anyhow))


def _observes(operations: Sequence[Operation], begin_us: int) -> list[Operation]:
    """The open loop's writes, without the catalogue that was loaded before."""
    return [o for o in operations if o.op == "write" and o.invoke >= begin_us]


def _more(facts: dict[str, Any]) -> list[Check]:
    settled = facts["writes_unsettled"] == 0
    caught_up = facts["caught_up"]
    return [
        Check(
            "writes_settled",
            settled,
            "every update has its outcome"
            if settled
            else f"{facts['writes_unsettled']} updates are open still",
            facts["writes_begun"],
        ),
        Check(
            "all_recovered",
            caught_up,
            "every node came back and caught up" if caught_up else f"not caught up: {facts['behind']}",
            len(facts["digests"]),
        ),
        Check(
            "no_surprise",
            not facts["surprises"],
            "no node ended by itself, none was quarantined"
            if not facts["surprises"]
            else "; ".join(facts["surprises"]),
            len(facts["cuts"]) + len(facts["faults"]) + 1,
        ),
        *_watched(facts.get("oracles")),
    ]


def _watched(oracles: dict[str, Any] | None) -> list[Check]:
    """What watched from within: only a virtual world can be watched so."""
    if oracles is None:
        return []
    names = oracles["names"]
    detail = (
        oracles["violation"] or f"{len(names)} oracles watched every turn of every node: {', '.join(names)}"
    )
    return [Check("oracles_silent", not oracles["violation"], detail, len(names))]


def versions() -> dict[str, str]:
    """Of everything that has a say in the figures."""
    packages = ("trio", "msgpack", "cryptography", "numpy", "numba")
    return {"python": sys.version.split()[0], **{name: metadata.version(name) for name in packages}}


def machine() -> dict[str, Any]:
    """The machine that the run was made on."""
    import os

    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
