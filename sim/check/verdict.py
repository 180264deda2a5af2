"""The verdict of a run: what was checked, how much of it there was, how often each fault really happened, how to replay.

Exit codes: `PASSED` 0, every check passed; `FAILED` 1, at least one did not; `BAD_INPUT` 2, there was nothing to judge
because of the input; `VOID` 4, nothing failed but something that had to happen did not, so the run proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from sim.check.audit import AuditReport
from sim.check.availability import Availability, Outage
from sim.check.history import Operation
from sim.check.linear import Finding
from sim.check.replay import Replay

PASSED: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2
VOID: Final = 4


@dataclass(slots=True)
class Check:
    """One line of a verdict. A check that must count something and counted nothing is no pass: it makes the run void."""

    name: str
    passed: bool
    detail: str
    counted: int
    needs_count: bool = True
    """False for a check whose subject may rightly not occur (refused writes, say)."""


@dataclass(slots=True)
class Cut:
    """A power cut as it happened."""

    domain: str
    at_us: int
    leader_domain: bool
    """The leader's process was in the domain."""
    between_write_and_fsync: bool
    """At least one node had written bytes to its journal that it had not yet synced."""
    unsynced_bytes_dropped: int
    torn: int = 0
    """Files left with a torn end: some of the unsynced bytes kept."""
    restored_at_us: int | None = None
    nodes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Quality:
    """Ranking quality of one measure, the same stream each time."""

    with_cuts: float
    without_cuts: float
    reference: float | None = None


@dataclass(slots=True)
class Requirements:
    """What a scenario asks of a run. A count below `min_*` makes it void; a bound broken makes it fail."""

    min_cuts: int = 3
    leader_cut: bool = True
    cut_between_write_and_fsync: bool = True
    unsynced_bytes: bool = True
    min_writes_per_s: float = 200.0
    """Offered in every cut's window; 0 if outages are not measured."""
    max_outage_ms: float = 1000.0
    max_progress_ms: float = 3000.0
    """Longest time without an acknowledged write after a fault was healed, and during one that leaves a quorum."""
    rank_requests_may_fail: int = 0
    max_quality_change: float = 0.005
    max_quality_below_reference: float = 0.01


@dataclass(slots=True)
class RunFacts:
    """What is not computed by checks: how the run was made."""

    seed: int
    command: str
    """The command line that makes this run again."""
    scenario: str
    duration_s: float
    versions: dict[str, str]
    machine: dict[str, Any]
    begin_us: int = 0
    """Instant, on the clock of the history, from which the report counts its seconds."""


_EXPLAINED: Final = {
    "writes_in_log": "acknowledged writes stand in the agreed log where their replies said, with their own bytes",
    "results_match": "results told to clients equal those of the log run again",
    "exactly_once": "commands took effect once each",
    "refused_stay_out": "refused writes took no effect",
    "answers_match": "answers to queries equal, byte for byte, those of the log run again to the index they claim",
    "chain_values_match": "chain values told to clients are those of the log",
    "real_time_order": "operations stand in the log in an order that real time allows",
    "places_unique": "acknowledged writes have a place of their own",
    "chains_agree": "chain values agree with every other reply for the same entry: no fork",
    "bounded_within_age": "bounded answers are no older than was asked for",
    "ages_true": "answers hold every write acknowledged before the age they claim",
    "tiers_true": "answers call themselves fresh or stale as their age says",
    "sessions_true": "sessions belong to one client each, and their writes stand behind their opening",
}

_MAY_BE_EMPTY: Final = ("refused_stay_out", "bounded_within_age")


def check_of(finding: Finding) -> Check:
    """A finding of the history as a line of the verdict."""
    explained = _EXPLAINED.get(finding.name, finding.name.replace("_", " "))
    detail = f"{finding.counted:,} {explained}" if finding.passed else "; ".join(finding.examples)
    if finding.problems > len(finding.examples):
        detail += f"; and {finding.problems - len(finding.examples):,} more"
    return Check(finding.name, finding.passed, detail, finding.counted, finding.name not in _MAY_BE_EMPTY)


def check_audit(report: AuditReport) -> Check:
    """The audit of the nodes' folders as a line of the verdict."""
    problems = [
        f"fork at entry {fork.index}: {fork.nodes[0]} has {fork.chains[0][:16]}... ({fork.entries[0]}), {fork.nodes[1]} "
        f"has {fork.chains[1][:16]}... ({fork.entries[1]})"
        for fork in report.forks
    ]
    for name, log in report.nodes.items():
        problems += [f"{name}: {error}" for error in log.errors]
        problems += [f"{name}: {d.segment} is corrupt: {d.detail}" for d in log.damage if d.kind == "corrupt"]
    problems += [f"entries {first}..{last} are in no folder" for first, last in report.missing]
    torn = sum(damage.kind == "torn" for log in report.nodes.values() for damage in log.damage)
    detail = (
        f"{report.compared:,} chain values compared between {len(report.nodes)} nodes' folders; logs agree up to entry "
        f"{report.agreed_index:,} ({torn} torn tails, none of them promised)"
    )
    return Check(
        "folders_agree", report.passed or not problems, "; ".join(problems) or detail, report.compared
    )


def check_replicas_complete(operations: Sequence[Operation], report: AuditReport) -> Check:
    """Every acknowledged write stands in every replica's own log."""
    indexes = [o.index for o in operations if o.op == "write" and o.outcome == "ok" and o.index is not None]
    lacking = []
    for name, log in report.nodes.items():
        lost = sum(index > log.agreed_index for index in indexes)
        if lost:
            lacking.append(
                f"{name} lacks {lost:,} acknowledged writes: its log agrees up to entry {log.agreed_index:,}"
            )
    detail = f"{len(indexes):,} acknowledged writes on each of {len(report.nodes)} replicas"
    return Check(
        "replicas_complete", not lacking, "; ".join(lacking) or detail, len(indexes) * len(report.nodes)
    )


def check_digests(final: Mapping[str, tuple[int, bytes]], replayed: Mapping[int, bytes]) -> Check:
    """State digests that the nodes reported at the end, (index, digest) by node, are equal to the replay's at the same
    index (`replayed`), and so to one another."""
    problems = []
    counted = 0
    for name, (index, digest) in sorted(final.items()):
        expected = replayed.get(index)
        if expected is None:
            problems.append(f"{name} reports the state at entry {index:,}, which the log does not reach")
            continue
        counted += 1
        if digest != expected:
            problems.append(
                f"{name} has digest {digest.hex()[:16]}... at entry {index:,}, the log gives {expected.hex()[:16]}..."
            )
    detail = f"{counted} replicas hold the state that the log gives, digest for digest"
    return Check("digests_equal", not problems, "; ".join(problems) or detail, counted)


def check_outages(outages: Sequence[Outage], required: Requirements) -> Check:
    """No cut stopped writes for longer than allowed."""
    problems = [
        f"cut {number}: no acknowledgement for {outage.gap_ms:.0f} ms{'' if outage.ended else ' or more'}"
        for number, outage in enumerate(outages, 1)
        if outage.gap_ms >= required.max_outage_ms or not outage.ended
    ]
    worst = max((outage.gap_ms for outage in outages), default=0.0)
    detail = f"longest of {len(outages)} gaps {worst:.0f} ms, allowed below {required.max_outage_ms:.0f} ms"
    loaded = sum(outage.offered_per_s >= required.min_writes_per_s for outage in outages)
    return Check("write_outages", not problems, "; ".join(problems) or detail, loaded)


def check_ranking(availability: Availability, required: Requirements) -> Check:
    """Rank requests were answered in time by a node's model."""
    passed = availability.failed <= required.rank_requests_may_fail
    tiers = ", ".join(f"{count:,} {tier}" for tier, count in availability.by_tier.items())
    detail = f"{availability.failed:,} of {availability.requests:,} rank requests failed (answers: {tiers})"
    if not passed:
        detail += "; " + "; ".join(availability.examples)
    return Check("rank_requests_answered", passed, detail, availability.requests)


def check_quality(name: str, quality: Quality, required: Requirements) -> Check:
    """The cuts did not change how well the model ranks."""
    change = abs(quality.with_cuts - quality.without_cuts)
    passed = change <= required.max_quality_change
    detail = f"{quality.with_cuts:.4f} with cuts, {quality.without_cuts:.4f} without"
    if quality.reference is not None:
        passed = passed and quality.with_cuts >= quality.reference - required.max_quality_below_reference
        detail += f", reference {quality.reference:.4f}"
    return Check(name, passed, detail, 1)


def _voids(
    cuts: Sequence[Cut], outages: Sequence[Outage], checks: Sequence[Check], required: Requirements
) -> list[str]:
    reasons = [
        f"the check {c.name} had nothing to look at" for c in checks if c.needs_count and c.counted == 0
    ]
    if len(cuts) < required.min_cuts:
        reasons.append(f"{len(cuts)} cuts happened, {required.min_cuts} were asked for")
    if required.leader_cut and not any(cut.leader_domain for cut in cuts):
        reasons.append("no cut hit the leader's domain")
    if required.cut_between_write_and_fsync and not any(cut.between_write_and_fsync for cut in cuts):
        reasons.append("no cut fell between a write and its fsync")
    if required.unsynced_bytes and not any(cut.unsynced_bytes_dropped for cut in cuts):
        reasons.append("no cut dropped an unsynced byte")
    for number, outage in enumerate(outages, 1):
        if outage.offered_per_s < required.min_writes_per_s:
            reasons.append(
                f"only {outage.offered_per_s:.0f} writes a second were offered around cut {number}, "
                f"{required.min_writes_per_s:.0f} were asked for"
            )
    return reasons


def assemble(
    *,
    facts: RunFacts,
    operations: Sequence[Operation],
    findings: Sequence[Finding],
    replay: Replay,
    audit: AuditReport,
    final_digests: Mapping[str, tuple[int, bytes]],
    availability: Availability,
    outages: Sequence[Outage],
    cuts: Sequence[Cut],
    hr_at_10: Quality | None = None,
    ndcg_at_10: Quality | None = None,
    required: Requirements | None = None,
    more: Sequence[Check] = (),
    reads: Check | None = None,
    faults: Sequence[Mapping[str, Any]] = (),
    void_reasons: Sequence[str] = (),
) -> dict[str, Any]:
    """The verdict as plain data, from everything that was found. Pure.

    `findings`: the checks of the history besides the replay's own; `more`: further checks of the caller; `reads`: takes the
    place of the check on rank requests, where the load was another one; `faults`: what befell network and processes, with
    counts, as plain data; `void_reasons`: further ones, of the caller. `passed` is true only if every check passed and nothing
    makes the run void.
    """
    required = required or Requirements()
    checks: list[Check | None] = [check_of(finding) for finding in [*replay.findings, *findings]]
    checks += [
        check_audit(audit),
        check_replicas_complete(operations, audit),
        check_digests(final_digests, replay.digests),
        check_outages(outages, required) if required.min_writes_per_s else None,
        reads if reads is not None else check_ranking(availability, required),
        check_quality("hr_at_10", hr_at_10, required) if hr_at_10 else None,
        check_quality("ndcg_at_10", ndcg_at_10, required) if ndcg_at_10 else None,
        *more,
    ]
    held = [check for check in checks if check is not None]
    by_name = {check.name: check for check in held}
    void = _voids(cuts, outages if required.min_writes_per_s else (), held, required) + list(void_reasons)
    behind = max((_lacking(operations, log.agreed_index) for log in audit.nodes.values()), default=0)
    order = [check for check in held if check.name in _LINEAR]
    return {
        "passed": all(check.passed for check in held) and not void,
        "void": bool(void),
        "void_reasons": void,
        "acked_updates": replay.acked_updates,
        "acked_updates_lost": max(replay.acked_updates_lost, behind),
        "digests_equal": by_name["digests_equal"].passed and by_name["digests_equal"].counted > 0,
        "linearizable": all(check.passed for check in order) and replay.acked_updates > 0,
        "rank_requests": availability.requests,
        "rank_requests_failed": availability.failed,
        "rank_requests_by_tier": availability.by_tier,
        "cuts": [asdict(cut) for cut in cuts],
        "faults": [dict(fault) for fault in faults],
        "unsynced_bytes_dropped": sum(cut.unsynced_bytes_dropped for cut in cuts),
        "write_outage_ms": [round(outage.gap_ms, 1) for outage in outages],
        "write_outages": [asdict(outage) for outage in outages],
        "hr_at_10": asdict(hr_at_10) if hr_at_10 else None,
        "ndcg_at_10": asdict(ndcg_at_10) if ndcg_at_10 else None,
        "checks": [asdict(check) for check in held],
        "availability": availability.as_json(),
        "log": {
            "agreed_index": audit.agreed_index,
            "chain": audit.chain,
            "replayed_to": replay.last_index,
        },
        **asdict(facts),
    }


_LINEAR: Final = (
    "writes_in_log",
    "results_match",
    "exactly_once",
    "refused_stay_out",
    "answers_match",
    "chain_values_match",
    "real_time_order",
    "places_unique",
    "chains_agree",
)


def _lacking(operations: Sequence[Operation], held: int) -> int:
    return sum(o.op == "write" and o.outcome == "ok" and (o.index or 0) > held for o in operations)


def exit_code(verdict: Mapping[str, Any]) -> int:
    """`FAILED` if a check failed, void or not: a counterexample stays one. Else `VOID` or `PASSED`."""
    if not all(check["passed"] for check in verdict["checks"]):
        return FAILED
    return VOID if verdict["void"] else PASSED


def write_verdict(verdict: Mapping[str, Any], folder: Path) -> Path:
    """Write `verdict.json` into a run's folder. Raises OSError."""
    path = folder / "verdict.json"
    path.write_text(json.dumps(verdict, indent=2) + "\n", encoding="utf-8")
    return path


def sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    cuts, writes, asked = len(verdict["cuts"]), verdict["acked_updates"], verdict["rank_requests"]
    failed = [check["name"] for check in verdict["checks"] if not check["passed"]]
    if failed:
        return f"Failed: {len(failed)} of {len(verdict['checks'])} checks did not hold ({', '.join(failed)})."
    if verdict["void"]:
        return (
            f"Void: nothing failed, but the run proves nothing, because {'; '.join(verdict['void_reasons'])}."
        )
    if verdict.get("faults"):
        return _sentence_of_faults(verdict)
    unanswered = verdict["rank_requests_failed"]
    ranked = "every one" if not unanswered else f"all but {unanswered:,}"
    power = f"he power went out {cuts} time{'s' if cuts != 1 else ''}"
    lies = [
        f"{liar['node']} lied {sum(liar['lies'].values()):,} times ({liar['strategy']})"
        for liar in verdict.get("liars", ())
    ]
    happened = (
        f"Although {' and '.join([*lies, *([f't{power}'] if cuts else [])])}," if lies else f"T{power};"
    )
    return (
        f"{happened} all {writes:,} acknowledged updates are still there, and {ranked} of {asked:,} rank requests was answered "
        "by a live model."
    )


def _sentence_of_faults(verdict: Mapping[str, Any]) -> str:
    faults, cuts = verdict["faults"], len(verdict["cuts"])
    lost = ""
    for unit in ("messages", "packets", "bytes"):  # a virtual network counts messages, a real one bytes
        dropped = sum(fault["counts"].get(f"dropped_{unit}", 0) for fault in faults)
        lost = f" ({dropped:,} {unit} never arrived)" if dropped else lost
    power = f", the power went out {cuts} time{'s' if cuts != 1 else ''}" if cuts else ""
    return (
        f"{len(faults)} fault{'s' if len(faults) != 1 else ''} bit{lost}{power}; all "
        f"{verdict['acked_updates']:,} acknowledged writes are still there, and {verdict['rank_requests']:,} reads were "
        "answered as the log has it or not at all."
    )
