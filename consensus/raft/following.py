"""A follower's side of replication. What a follower knows is its `PersistentState`; these are functions of it."""

from __future__ import annotations

from consensus.core import NodeId, Out, SnapshotMeta, entry_position
from consensus.marks import sometimes
from consensus.raft.messages import AppendEntries, AppendEntriesReply, InstallSnapshot
from consensus.raft.persistent import PersistentState


def append_entries(
    state: PersistentState, message: AppendEntries, now: int, out: Out
) -> AppendEntriesReply | None:
    """Take in the entries of the leader of this term. None: malformed, and not a word to be said about it."""
    previous, entries = message.prev_index, message.entries
    last = previous + len(entries)
    terms = entry_terms(message) if entries else []
    if terms is None:
        return None
    if last <= state.delivered_index:
        # All of it is committed and durable here; it may even be compacted away.
        if entries:
            sometimes("entries come that are committed here already")
        return AppendEntriesReply(state.term, True, last, 0, 0, message.round)
    log = state.log
    if previous < log.base_index:
        # What the base covers is committed: there the logs agree.
        sometimes("an append begins below what is in memory")
        skip = log.base_index - previous
        previous, entries, terms = log.base_index, entries[skip:], terms[skip:]
    elif not log.agrees(previous, message.prev_term):
        hint = min(log.highest_with_term_at_most(previous, message.prev_term), previous - 1)
        hint = max(hint, state.commit_index)  # what is committed agrees
        if previous > log.last_index:
            sometimes("an append leaves a gap behind this log")
        else:
            sometimes("an append follows an entry that is another one here")
        return AppendEntriesReply(state.term, False, previous, hint, log.term_at(hint), message.round)
    state.accept(previous, entries, terms, now, out)
    commit = message.commit
    if commit > last:
        # Not the end of its own log: behind `last` may stand entries that this leader does not have.
        sometimes("a leader has committed more than its message reaches")
        commit = last
    state.commit_to(commit, out)
    return AppendEntriesReply(state.term, True, last, 0, 0, message.round)


def entry_terms(message: AppendEntries) -> list[int] | None:
    """Terms of the entries of a message; None if they are not what the message says."""
    terms = []
    term = message.prev_term
    try:
        for index, entry in enumerate(message.entries, message.prev_index + 1):
            position, entry_term, _ = entry_position(entry)
            if position != index or not term <= entry_term <= message.term:
                return None
            term = entry_term
            terms.append(term)
    except ValueError:
        return None
    return terms


def install_snapshot(
    state: PersistentState, sender: NodeId, message: InstallSnapshot, out: Out
) -> AppendEntriesReply:
    """Have the offered snapshot fetched, unless the log has come as far already."""
    if message.index > state.delivered_index:
        meta = SnapshotMeta(
            message.index,
            message.index_term,
            message.chain,
            tuple(message.members),
            message.root,
            message.size,
        )
        out.install = (sender, meta)
        sometimes("a follower is told to fetch a snapshot")
    else:
        sometimes("a snapshot is offered that the log has overtaken")
    # What is delivered is committed and durable: that much is always safe to claim.
    return AppendEntriesReply(state.term, True, state.delivered_index, 0, 0, message.round)
