"""Ranking over HTTP: what is asked of the replica, what is answered, what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest
from http_world import FakeNode, ask_for, request

from node.io.http import Limits, make_app
from node.protocol import Code, Consistency, QueryRefused

INFER = "/v2/models/feed/infer"


async def test_a_ranking_says_from_which_state_it_was_made() -> None:
    node = FakeNode()
    reply = await request(make_app(node), "POST", INFER, {"id": "a", **ask_for(5, k=2)})
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    body = reply.json
    assert (body["model_name"], body["model_version"], body["id"]) == ("feed", "v1", "a")
    assert body["parameters"] == {
        "applied_index": 8,
        "chain": "08" * 32,
        "tier": "fresh",
        "node_tier": "fresh",
        "source": "model",
        "node": "n1",
        "domain": "east",
        "version": "v1",
        "age_ms": 12.345,
    }
    outputs = {output["name"]: output for output in body["outputs"]}
    assert outputs["items"] == {"name": "items", "shape": [1, 2], "datatype": "INT64", "data": [30, 20]}
    assert outputs["scores"]["data"] == [25 << 32, 15 << 32]
    assert outputs["scores"]["parameters"]["model_scale"] == 1 << 32
    assert list(outputs) == ["items", "scores", "count", "source", "applied_index"]


async def test_rows_are_in_the_order_of_users_padded_to_k_and_of_one_version() -> None:
    node = FakeNode()
    reply = await request(make_app(node), "POST", INFER, ask_for(1, 2, 3, k=4, candidates=[10, 30]))
    outputs = {output["name"]: output for output in reply.json["outputs"]}
    assert outputs["items"]["shape"] == [3, 4]
    assert outputs["items"]["data"] == [30, 10, -1, -1] * 3
    least = -(1 << 63)
    assert outputs["scores"]["data"] == [
        score for user in (1, 2, 3) for score in [(30 - user) << 32, (10 - user) << 32, least, least]
    ]
    assert outputs["count"]["data"] == [2, 2, 2]
    assert sorted(outputs["applied_index"]["data"]) == [8, 9, 10]
    assert reply.json["parameters"]["applied_index"] == 8, "what all rows hold is what the oldest holds"
    asked = [wanted for wanted, *_ in node.asked if wanted is not None]
    assert [wanted.version for wanted in asked] == ["serving", "v1", "v1"]


@pytest.mark.parametrize(
    ("consistency", "expected"),
    [
        ("any", (Consistency.ANY, 0)),
        ("bounded(500)", (Consistency.BOUNDED, 500_000)),
        ("bounded:20", (Consistency.BOUNDED, 20_000)),
        ("linearizable", (Consistency.LINEARIZABLE, 0)),
    ],
)
async def test_consistency_and_patience_reach_the_replica(
    consistency: str, expected: tuple[Consistency, int]
) -> None:
    node = FakeNode()
    body = ask_for(1, consistency=consistency, patience_ms=70, exclude_seen=True, strict=True)
    assert (await request(make_app(node), "POST", INFER, body)).status == 200
    wanted, *rest = node.asked[0]
    assert tuple(rest) == (*expected, 70_000)
    assert wanted is not None
    assert (wanted.exclude_seen, wanted.strict, wanted.k) == (True, True, 10)


@pytest.mark.parametrize(
    ("source", "tier", "shown"),
    [
        ("model", "fresh", "fresh"),
        ("model", "stale", "stale"),
        ("popularity", "stale", "popularity"),
        ("static", "fresh", "static"),
    ],
)
async def test_the_tier_is_the_nodes_if_the_model_answered_and_else_the_fallbacks(
    source: str, tier: str, shown: str
) -> None:
    node = FakeNode()
    node.source, node.tier, node.age = source, tier, None
    parameters = (await request(make_app(node), "POST", INFER, ask_for(1))).json["parameters"]
    assert (parameters["tier"], parameters["node_tier"], parameters["source"]) == (shown, tier, source)
    assert "age_ms" not in parameters, "an age that is not known is not made up"


_TENSOR = {"name": "user", "shape": [1], "datatype": "INT64", "data": [1]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"inputs": [], "inputs": []}', "'inputs' stands twice"),
        (b"[" * 100_000, "nested too deeply"),
        ({}, "inputs must be a list"),
        ({"inputs": []}, "input user is missing"),
        ({"inputs": [_TENSOR], "input": 1}, 'unknown key "input"'),
        ({"inputs": [_TENSOR, _TENSOR]}, "user stands twice"),
        ({"inputs": [{**_TENSOR, "name": "item"}]}, 'inputs[0].name is "item"'),
        ({"inputs": [{**_TENSOR, "name": ["user"]}]}, "inputs[0].name is"),
        ({"inputs": [{**_TENSOR, "datatype": "FP32"}]}, "datatype must be INT64"),
        ({"inputs": [{**_TENSOR, "shape": [2]}]}, "shape must be [1]"),
        ({"inputs": [{**_TENSOR, "shape": [True]}]}, "shape must be [1]"),
        ({"inputs": [{**_TENSOR, "data": [-1]}]}, "inputs[0].data[0] must be an integer from 0"),
        ({"inputs": [{**_TENSOR, "data": [1.0]}]}, "inputs[0].data[0] must be an integer"),
        ({"inputs": [{**_TENSOR, "data": [True]}]}, "inputs[0].data[0] must be an integer"),
        ({"inputs": [{**_TENSOR, "data": [float("nan")]}]}, "not nan"),
        ({"inputs": [{**_TENSOR, "data": [1 << 53]}]}, "inputs[0].data[0] must be an integer"),
        ({"inputs": [{**_TENSOR, "data": [[1]]}]}, "inputs[0].data[0]"),
        (ask_for(*range(65)), "at most 64"),
        (ask_for(*range(20), k=501), "more than 10000"),
        (ask_for(1, candidates=[4, 5, 4]), "item 4 twice"),
        (ask_for(1, k=0), "parameters.k must be an integer from 1 to 1000, not 0"),
        (ask_for(1, k=1001), "parameters.k"),
        (ask_for(1, consistency="bounded"), "parameters.consistency"),
        (ask_for(1, consistency="bounded(-5)"), "parameters.consistency"),
        (ask_for(1, consistency=["any"]), "parameters.consistency"),
        (ask_for(1, patience_ms=0), "patience_ms"),
        (ask_for(1, exclude_seen=1), "parameters.exclude_seen must be true or false"),
        (ask_for(1, excludeSeen=True), 'unknown key "parameters.excludeSeen"'),
        ({"inputs": [_TENSOR], "outputs": [{"name": "item"}]}, 'outputs[0] names "item"'),
        ({"inputs": [_TENSOR], "outputs": []}, "outputs must be a list"),
    ],
)
async def test_a_malformed_request_is_told_what_is_wrong_and_where(body: Any, says: str) -> None:
    node = FakeNode()
    reply = await request(make_app(node), "POST", INFER, body)
    assert reply.status == 400
    assert says in reply.json["error"]
    assert reply.json["code"] == "bad_request"
    assert not node.asked


async def test_only_the_outputs_asked_for_are_sent() -> None:
    body = {**ask_for(1), "outputs": [{"name": "items"}, {"name": "items"}]}
    reply = await request(make_app(FakeNode()), "POST", INFER, body)
    assert [output["name"] for output in reply.json["outputs"]] == ["items"]


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (Code.BAD_QUERY, 400, "bad_query"),
        (Code.NO_QUORUM, 503, "no_quorum"),
        (Code.TOO_OLD, 503, "too_old"),
        (Code.BUSY, 503, "busy"),
        (Code.QUARANTINED, 503, "quarantined"),
        (Code.STOPPING, 503, "stopping"),
    ],
)
async def test_a_refusal_keeps_the_replicas_words(code: Code, status: int, name: str) -> None:
    node = FakeNode()
    node.refusal = QueryRefused(1, int(code), "because of this", "n2")
    reply = await request(make_app(node), "POST", INFER, ask_for(1, 2))
    assert (reply.status, reply.json["error"], reply.json["code"]) == (status, "because of this", name)
    assert ("retry-after" in reply.headers) == (status == 503)


async def test_unknown_models_and_versions_are_not_found() -> None:
    node = FakeNode()
    app = make_app(node)
    other = await request(app, "POST", "/v2/models/other/infer", ask_for(1))
    assert (other.status, other.json["error"]) == (404, "there is no model 'other'; there is feed")
    node.refusal = QueryRefused(1, int(Code.BAD_QUERY), "no such version", None)
    missing = await request(app, "POST", "/v2/models/feed/versions/v9/infer", ask_for(1))
    assert missing.status == 404
    assert "live, v1" in missing.json["error"]
    known = await request(app, "POST", "/v2/models/feed/versions/v1/infer", ask_for(1))
    assert known.status == 400, "the version exists, so something else was wrong"


async def test_a_named_version_is_the_one_that_answers() -> None:
    node = FakeNode()
    reply = await request(make_app(node), "POST", "/v2/models/feed/versions/live/infer", ask_for(1))
    assert reply.json["model_version"] == "live"
    assert node.asked[0][0] is not None
    assert node.asked[0][0].version == "live"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/feed", 200),
        ("/v2/models/feed/ready", 200),
        ("/v2/models/feed/versions/v1", 200),
        ("/v2/models/feed/versions/live/ready", 200),
        ("/v2/models/feed/versions/v2", 404),
        ("/v2/models/feed/versions/v2/ready", 404),
        ("/v2/models/food", 404),
    ],
)
async def test_metadata_names_versions_and_tensors(path: str, status: int) -> None:
    reply = await request(make_app(FakeNode()), "GET", path)
    assert reply.status == status
    if status == 200 and not path.endswith("ready"):
        assert reply.json["versions"] == ["live", "v1"]
        assert [tensor["name"] for tensor in reply.json["inputs"]] == ["user", "candidates"]
    if status == 404:
        assert reply.json["code"] == "not_found"


async def test_a_replica_that_does_not_answer_is_given_up(autojump_clock: Any) -> None:
    import trio

    node = FakeNode()
    node.hold = trio.Event()
    began = trio.current_time()
    reply = await request(make_app(node, limits=Limits()), "POST", INFER, ask_for(1, patience_ms=500))
    assert (reply.status, reply.json["code"]) == (503, "no_answer")
    assert trio.current_time() - began == pytest.approx(1.5)
