"""From what a client of a node was told to a line of the history: the same for real and for virtual clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from node.io.client_types import ClientError, OutcomeUnknown, QueryResult
from node.protocol import Consistency
from node.ranking import queries
from sim.check.history import Operation

if TYPE_CHECKING:
    from node.io.client_pending import Pending

NAMES: Final = {
    Consistency.ANY: "any",
    Consistency.BOUNDED: "bounded",
    Consistency.LINEARIZABLE: "linearizable",
}


def write_settled(operation: Operation, pending: Pending, now_us: int) -> None:
    """A write has its outcome at `now_us`: `ok`, `refused` (nothing was done and nothing will be), or `unknown`."""
    operation.session, operation.seq = pending.session, getattr(pending, "seq", None)
    operation.attempts = max(pending.attempts, 1)
    try:
        outcome = pending.outcome()
    except OutcomeUnknown as error:
        operation.outcome, operation.error = "unknown", str(error)
    except ClientError as error:
        operation.outcome, operation.returned, operation.error = "refused", now_us, str(error)
    else:
        operation.outcome, operation.returned = "ok", now_us
        operation.index, operation.place = outcome.index, outcome.place
        operation.chain, operation.result = outcome.chain, outcome.result


def query_of(client: str, query: bytes, consistency: Consistency, max_age_us: int, now_us: int) -> Operation:
    """A query that is asked at `now_us`; without an answer so far."""
    bounded = consistency == Consistency.BOUNDED
    return Operation(
        "query", client, now_us, None, "failed", query=query, consistency=NAMES[consistency],
        max_age_us=max_age_us if bounded else None,
    )  # fmt: skip


def query_answered(operation: Operation, answer: QueryResult, now_us: int) -> None:
    """A query has its answer at `now_us`. If less was granted than was asked for, the history holds what was granted."""
    operation.outcome, operation.returned = "ok", now_us
    operation.index, operation.chain, operation.age_us = answer.index, answer.chain, answer.age_us
    operation.result, operation.node, operation.hedged = answer.result, answer.node, answer.hedged
    operation.tier, operation.source = answer.tier, "model"
    if NAMES[answer.consistency] != operation.consistency:
        operation.consistency, operation.max_age_us = NAMES[answer.consistency], None


def ranking_answered(operation: Operation, answer: QueryResult, now_us: int) -> None:
    """The same for a rank request, whose answer says itself whether a model gave it or a fallback within the node."""
    query_answered(operation, answer, now_us)
    operation.source = queries.decode_ranking(answer.result).source
    operation.tier = answer.tier if operation.source == "model" else operation.source


def query_failed(operation: Operation, why: str, now_us: int) -> None:
    """A query will have no answer."""
    operation.outcome, operation.returned, operation.error = "failed", now_us, why
