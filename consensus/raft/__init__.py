"""Raft (Ongaro and Ousterhout 2014; Ongaro's thesis): elections with pre-vote and check-quorum, pipelined
replication, read barriers, snapshots."""

from consensus.raft.core import RaftCore
from consensus.raft.timing import SafetyViolation, Timing

__all__ = ["RaftCore", "SafetyViolation", "Timing"]
