"""Writes over HTTP: each POST is one command; what became of it is told apart."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from http_world import FakeNode, request

from node.io.client_types import BadCommand, NotDone, OutcomeUnknown, Overloaded, SessionLost
from node.io.http import make_app
from node.ranking import commands
from node.ranking.commands import Status, encode_result

FEED = "/v2/models/feed"


async def test_observations_become_one_command_and_say_where_they_stand() -> None:
    node = FakeNode()
    node.result = encode_result(Status.OK, 2, 0, 1, 9)
    rows = [{"user": 42, "item": 7, "value": 3}, {"user": 43, "item": 8}]
    reply = await request(
        make_app(node), "POST", f"{FEED}/observe", {"interactions": rows, "deadline_ms": 300}
    )
    assert reply.status == 200
    assert reply.json == {
        "index": 41,
        "place": 2,
        "chain": "ab" * 32,
        "attempts": 1,
        "node": "n1",
        "result": {"recorded": 2, "learned": 0, "frozen": True, "total": 9},
    }
    assert node.submitted == [(commands.observe_columns([42, 43], [7, 8], [3, 1]), 0.3)]


@pytest.mark.parametrize(
    ("page", "body", "command", "result", "shown"),
    [
        (
            "publish",
            {"version": "v2"},
            commands.publish("v2"),
            ("v2", None),
            {"serving": "v2", "dropped": None},
        ),
        ("publish", {"version": "v2", "expected": "v1"}, commands.publish("v2", "v1"), ("v2", "v0"), None),
        ("rollback", {"version": "live"}, commands.rollback("live"), ("live",), {"serving": "live"}),
        ("freeze", None, commands.freeze(), (1,), {"changed": True}),
        ("unfreeze", {}, commands.unfreeze(), (0,), {"changed": False}),
        (
            "items",
            {"items": [{"item": 7, "bias": -5, "title": "Brazil"}, {"item": 8}]},
            commands.upsert_items([(7, -5, "Brazil"), (8, None, None)]),
            (2,),
            {"new_items": 2},
        ),
    ],
)
async def test_every_command_has_a_page(
    page: str, body: Any, command: bytes, result: Any, shown: Any
) -> None:
    node = FakeNode()
    node.result = encode_result(Status.OK, *result)
    reply = await request(make_app(node), "POST", f"{FEED}/{page}", body)
    assert reply.status == 200
    assert node.submitted == [(command, 2.0)]
    if shown is not None:
        assert reply.json["result"] == shown


def _row(**values: Any) -> dict[str, Any]:
    return {"interactions": [{"user": 1, "item": 1}, {"user": 1, "item": 1, **values}]}


@pytest.mark.parametrize(
    ("page", "body", "says"),
    [
        ("observe", {}, "interactions must be a list"),
        ("observe", {"interactions": []}, "1 to 256 interactions, not 0 of them"),
        ("observe", {"interactions": [{"user": 1, "item": 1}] * 257}, "not 257 of them"),
        ("observe", {"interactions": [1]}, "interactions[0] must be an object"),
        (
            "observe",
            _row(value=float("nan")),
            "interactions[1].value must be an integer from 1 to 1000000, not nan",
        ),
        ("observe", _row(value=float("inf")), "interactions[1].value"),
        ("observe", _row(value=-1), "interactions[1].value must be an integer from 1 to 1000000, not -1"),
        ("observe", _row(value=0), "interactions[1].value"),
        ("observe", _row(value=1.0), "interactions[1].value"),
        ("observe", _row(value=None), "interactions[1].value"),
        ("observe", _row(value=10**400), "interactions[1].value"),
        (
            "observe",
            _row(user="1"),
            'interactions[1].user must be an integer from 0 to 9007199254740991, not "1"',
        ),
        ("observe", _row(user=True), "interactions[1].user"),
        ("observe", _row(item=-1), "interactions[1].item"),
        ("observe", _row(rating=5), 'unknown key "interactions[1].rating"'),
        ("observe", _row(**{"\ud800": 5}), "unknown key"),
        ("observe", {**_row(), "deadline_ms": 0}, "deadline_ms must be an integer from 1 to 10000"),
        ("observe", {**_row(), "deadline": 5}, 'unknown key "deadline"'),
        ("publish", {}, "version must be a text"),
        ("publish", {"version": "é"}, "printable ASCII"),
        ("publish", {"version": "\ud800"}, "printable ASCII"),
        ("rollback", {"version": "v1", "expected": 3}, "expected must be a text"),
        ("freeze", {"now": True}, 'unknown key "now"'),
        ("items", {"items": [{"item": 1, "title": "\ud800"}]}, "items[0].title"),
        ("items", {"items": [{"item": 1, "title": "a" * 513}]}, "items[0].title"),
        ("items", {"items": [{"item": 1, "bias": 0.5}]}, "items[0].bias"),
        ("items", {"items": [{"title": "x"}]}, "items[0].item"),
    ],
)
async def test_a_malformed_command_is_told_what_is_wrong_where_and_goes_nowhere(
    page: str, body: Any, says: str
) -> None:
    node = FakeNode()
    reply = await request(make_app(node), "POST", f"{FEED}/{page}", body)
    assert reply.status == 400
    assert says in reply.json["error"]
    assert not node.submitted


@pytest.mark.parametrize(
    ("failure", "status", "code", "says"),
    [
        (NotDone("no leader is known"), 503, "not_done", "not applied, and it will not be"),
        (Overloaded("too many wait"), 503, "busy", "not applied"),
        (BadCommand("version cannot be 'live'"), 400, "bad_command", "cannot be 'live'"),
        (
            OutcomeUnknown("no answer, 2 copies sent"),
            504,
            "outcome_unknown",
            "Read the state before you send it again",
        ),
        (SessionLost("session 5 is gone"), 504, "session_lost", "Read the state before you send it again"),
    ],
)
async def test_what_was_surely_not_done_and_what_nobody_knows_are_told_apart(
    failure: Exception, status: int, code: str, says: str
) -> None:
    node = FakeNode()
    node.failure = failure
    reply = await request(make_app(node), "POST", f"{FEED}/freeze")
    assert (reply.status, reply.json["code"]) == (status, code)
    assert says in reply.json["error"]
    assert ("retry-after" in reply.headers) == (status == 503), (
        "an unknown outcome is no invitation to try again"
    )


@pytest.mark.parametrize(
    ("status", "http"),
    [
        (Status.CONFLICT, 409),
        (Status.EXISTS, 409),
        (Status.UNKNOWN, 404),
        (Status.FULL, 507),
        (Status.MALFORMED, 400),
    ],
)
async def test_a_command_that_the_model_declined_says_so_and_where_that_stands(
    status: Status, http: int
) -> None:
    node = FakeNode()
    node.result = encode_result(status, "version 'v3' is serving")
    reply = await request(make_app(node), "POST", f"{FEED}/publish", {"version": "v4", "expected": "v1"})
    assert reply.status == http
    assert reply.json["error"] == "version 'v3' is serving"
    assert (reply.json["code"], reply.json["index"]) == (status.name.lower(), 41)


async def test_a_command_without_any_answer_has_an_unknown_outcome(autojump_clock: Any) -> None:
    node = FakeNode()
    node.hold = trio.Event()
    reply = await request(make_app(node), "POST", f"{FEED}/freeze", {"deadline_ms": 100})
    assert (reply.status, reply.json["code"]) == (504, "outcome_unknown")


async def test_other_models_take_no_commands() -> None:
    node = FakeNode()
    reply = await request(make_app(node), "POST", "/v2/models/food/freeze")
    assert reply.status == 404
    assert not node.submitted


async def test_what_a_real_model_observed_it_ranks() -> None:
    from node.protocol import Answer
    from node.ranking import RankingMachine, RankingSettings

    machine = RankingMachine(RankingSettings(max_users=10, max_items=10))

    class RealNode(FakeNode):
        async def query(self, query: bytes, *how: Any) -> Any:
            return Answer(1, 5, b"\1" * 32, 0, "fresh", machine.query(query))

        async def submit(self, command: bytes, deadline_s: float) -> Any:
            assert machine.check(command) is None
            self.result = machine.apply([command])[0]
            return await super().submit(command, deadline_s)

    app = make_app(RealNode())
    rows = [{"user": 1, "item": item} for item in (11, 12, 13)]
    observed = await request(app, "POST", f"{FEED}/observe", {"interactions": rows})
    assert observed.json["result"] == {"recorded": 3, "learned": 3, "frozen": False, "total": 3}
    assert (await request(app, "POST", f"{FEED}/publish", {"version": "v1"})).json["result"][
        "serving"
    ] == "v1"
    assert (await request(app, "POST", f"{FEED}/publish", {"version": "v1"})).status == 409
    tensor = {"name": "user", "shape": [1], "datatype": "INT64", "data": [1]}
    body = {"inputs": [tensor], "parameters": {"k": 5}}
    ranked = (await request(app, "POST", f"{FEED}/infer", body)).json
    assert sorted(ranked["outputs"][0]["data"]) == [-1, -1, 11, 12, 13]
    assert (ranked["model_version"], ranked["parameters"]["source"]) == ("v1", "model")
