"""What a replica shows of itself to operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.replica import Replica


def status(replica: Replica, now: int) -> dict[str, Any]:
    """See `Replica.status`."""
    core, state, desk, digests = replica.core.observe(), replica.state, replica.desk, replica.digests
    own = digests.own
    fields = {
        "node": replica.node,
        "role": core.role,
        "term": core.term,
        "leader": core.leader,
        "commit_index": core.commit_index,
        "applied_index": state.applied_index,
        "durable_index": core.durable_index,
        "first_index": core.first_index,
        "last_index": core.last_index,
        "chain": state.chain.hex(),
        "digest": own.digest.hex() if own else None,
        "digest_index": own.index if own else None,
        "digest_agreed_index": digests.agreed_index,
        "age_us": desk.age(now),
        "tier": desk.tier(now),
        "quarantined": replica.quarantined or None,
        "sessions": len(state.sessions),
        "commands_applied": state.commands_applied,
        "snapshot_index": replica.snapshot_index,
        "journal_bytes": replica.journal_bytes,
        "queries_waiting": len(desk),
        "match_index": core.match_index,
        "storage_stalled": core.storage_stalled,
        "uptime_us": now - replica.started_at,
        "stopping": replica.stopping,
    }
    if core.facts:
        fields["facts"] = core.facts
    return fields
