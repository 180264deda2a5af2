"""All checks of one run in one call: what a drill does at its end, and what can be repeated from a folder any time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.check.audit import ArchivedLog, AuditReport
from sim.check.claims import check_ages_true, check_bounded, check_sessions, check_tiers
from sim.check.folders import Source
from sim.check.history import Operation
from sim.check.linear import Finding, check_chains_agree, check_real_time, check_unique_places
from sim.check.replay import Replay, ReplayState, replay_history


@dataclass(slots=True)
class Checked:
    """Everything that `sim.check.verdict.assemble` wants to know of the history and the folders."""

    audit: AuditReport
    log: ArchivedLog
    """The agreed log, for whoever runs it once more."""
    replay: Replay
    findings: list[Finding]


def check_everything(
    operations: Sequence[Operation],
    folders: Mapping[str, Path],
    state: ReplayState,
    *,
    fresh_limit_us: int,
    age_slack_us: int = 0,
    digests_at: Sequence[int] = (),
    members: int | None = None,
    source: Source | None = None,
) -> Checked:
    """Audit the folders of nodes that are down, run their agreed log through `state` (fresh, made as the nodes made theirs)
    and hold the history against both.

    `fresh_limit_us`: up to which age the nodes call an answer fresh; `age_slack_us`: see `check_ages_true`;
    `digests_at`: indexes at which nodes reported their digests; `members`, `source`: as for `ArchivedLog`.
    Raises OSError."""
    archived = ArchivedLog(folders, source, members)
    replay = replay_history(archived, state, operations, digests_at)
    findings = [
        check_real_time(operations, replay.positions),
        check_unique_places(operations),
        check_chains_agree(operations),
        check_bounded(operations),
        check_ages_true(operations, age_slack_us),
        check_tiers(operations, fresh_limit_us),
        check_sessions(operations),
    ]
    return Checked(archived.report, archived, replay, findings)
