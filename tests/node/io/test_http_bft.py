"""The HTTP front of a node of a BFT cluster: all that it says is one node's word and says so; and proofs, which say more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from http_world import FakeNode, ask_for, request

from node.io.http import make_app, plain


def bft_node() -> FakeNode:
    node = FakeNode()
    node.protocol = "bft"
    return node


PATHS: list[tuple[str, str, Any]] = [
    ("GET", "/livez", None),
    ("GET", "/readyz/serve", None),
    ("GET", "/readyz/write", None),
    ("GET", "/status", None),
    ("GET", "/v2", None),
    ("GET", "/v2/models/feed", None),
    ("POST", "/v2/models/feed/infer", ask_for(1)),
    ("POST", "/v2/models/feed/observe", {"interactions": [{"user": 1, "item": 2}]}),
    ("POST", "/v2/models/feed/observe", {"interactions": 7}),
    ("GET", "/nothing/here", None),
    ("GET", "/v1/proof?index=3", None),
]


@pytest.mark.parametrize(("method", "path", "body"), PATHS, ids=[f"{m} {p}" for m, p, _ in PATHS])
async def test_every_answer_of_a_node_that_may_lie_calls_itself_unverified_and_no_other_does(
    method: str, path: str, body: Any
) -> None:
    said = await request(make_app(bft_node()), method, path, body)
    assert said.json["unverified"] is True
    assert said.headers["x-unverified"] == "true"
    assert int(said.headers["content-length"]) == len(said.body)
    believed = await request(make_app(FakeNode()), method, path, body)
    assert "unverified" not in believed.json
    assert "x-unverified" not in believed.headers
    if not path.startswith("/v1/proof") and path != "/status":
        assert {key for key in said.json if key != "unverified"} == set(believed.json)


async def test_bytes_that_are_no_json_are_left_alone_but_for_a_header() -> None:
    shown = await request(make_app(bft_node()), "GET", "/metrics")
    assert shown.body == b"a_metric 1\n"
    assert shown.headers["x-unverified"] == "true"


async def test_a_proof_is_given_for_an_entry_that_is_final_and_refused_in_words_for_another() -> None:
    node = bft_node()
    node.proofs[3] = {"version": 1, "index": 3, "blocks": ["00"]}
    app = make_app(node)
    given = await request(app, "GET", "/v1/proof?index=3")
    assert (given.status, given.json["blocks"]) == (200, ["00"])
    missing = await request(app, "GET", "/v1/proof?index=4")
    assert (missing.status, missing.json["code"]) == (404, "no_proof")
    assert "not committed here yet" in missing.json["error"]
    for wrong in ("", "?index=", "?index=0", "?index=-1", "?index=x", "?index=" + "9" * 30):
        refused = await request(app, "GET", f"/v1/proof{wrong}")
        assert (refused.status, refused.json["code"]) == (400, "bad_request"), wrong


async def test_a_node_that_is_believed_gives_no_proofs() -> None:
    assert (await request(make_app(FakeNode()), "GET", "/v1/proof?index=3")).status == 404


async def test_the_status_shows_what_the_core_has_to_tell_with_bytes_in_hexadecimal() -> None:
    node = bft_node()
    evidence = [{"node": "n2", "round": 7, "kind": "vote", "first": b"\x01", "second": b"\xff"}]
    node.state["facts"] = {"round": 9, "schedule": ["n1", "n3"], "evidence": evidence}
    shown = (await request(make_app(node), "GET", "/status")).json
    assert shown["protocol"] == "bft"
    assert shown["facts"]["schedule"] == ["n1", "n3"]
    assert shown["facts"]["evidence"] == [{**evidence[0], "first": "01", "second": "ff"}]
    json.dumps(plain({"a": (b"x", {1: b""})}))
