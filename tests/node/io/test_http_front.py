"""Health, bounds and errors of the HTTP front, whatever the model."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from http_world import FakeNode, Reply, ask_for, request
from structlog.testing import capture_logs

from node.io.http import Limits, make_app
from node.io.metrics import Metrics
from node.kv import machine as kv
from node.ranking.commands import Status, encode_result

INFER = "/v2/models/feed/infer"


async def test_a_node_without_a_quorum_serves_but_does_not_write() -> None:
    node = FakeNode()
    app = make_app(node)
    assert (await request(app, "GET", "/readyz/write")).status == 200
    node.state |= {"leader": None, "tier": "stale", "age_us": 90_000_000, "role": "precandidate"}
    assert (await request(app, "GET", "/readyz/serve")).status == 200
    assert (await request(app, "GET", "/v2/health/ready")).status == 200
    write = await request(app, "GET", "/readyz/write")
    assert (write.status, write.json["ready"]) == (503, False)
    assert "no leader is known" in write.json["error"]


async def test_a_leader_that_no_quorum_confirms_is_no_reason_to_write() -> None:
    node = FakeNode()
    node.state |= {"tier": "stale", "age_us": 2_500_000}
    write = await request(make_app(node), "GET", "/readyz/write")
    assert write.status == 503
    assert "2500 ms" in write.json["error"]


@pytest.mark.parametrize("wrong", [{"quarantined": "quarantined: n1 differs at 7"}, {"stopping": True}])
async def test_a_quarantined_or_leaving_node_is_not_ready_but_lives(wrong: dict[str, Any]) -> None:
    node = FakeNode()
    node.state |= wrong
    app = make_app(node)
    for path in ("/readyz/serve", "/readyz/write", "/v2/health/ready"):
        assert (await request(app, "GET", path)).status == 503
    for path in ("/livez", "/v2/health/live"):
        assert (await request(app, "GET", path)).status == 200


async def test_a_replica_that_hangs_is_alive_not_ready_and_still_measured(autojump_clock: Any) -> None:
    node = FakeNode()
    node.hold = trio.Event()
    metrics = Metrics()
    metrics.update(node.state)
    app = make_app(node, metrics=metrics)
    assert (await request(app, "GET", "/livez")).status == 200
    assert (await request(app, "GET", "/readyz/serve")).json["code"] == "no_answer"
    shown = await request(app, "GET", "/metrics")
    assert (shown.status, shown.body) == (200, b"a_metric 1\n")
    assert b"applied_index" not in metrics.render(), "old figures would look like new ones"


async def test_status_and_server_metadata_name_the_node() -> None:
    app = make_app(FakeNode())
    status = (await request(app, "GET", "/status")).json
    assert (status["node"], status["cluster"], status["domain"], status["term"]) == (
        "n1",
        "c0ffee01",
        "east",
        3,
    )
    server = (await request(app, "GET", "/v2")).json
    assert (server["name"], server["parameters"]["node"]) == ("ridethrough", "n1")


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/", 404, "there is nothing at /"),
        ("GET", "/livez/", 404, "nothing at /livez/"),
        ("GET", "/v1/kv/a", 404, "nothing at"),
        ("GET", INFER, 405, "possible: POST"),
        ("DELETE", "/livez", 405, "possible: GET, HEAD"),
        ("OPTIONS", "/v2", 405, "possible: GET, HEAD"),
    ],
)
async def test_what_does_not_exist_is_answered_in_json(
    method: str, path: str, status: int, says: str
) -> None:
    reply = await request(make_app(FakeNode()), method, path)
    assert reply.status == status
    assert says in reply.json["error"]
    if status == 405:
        assert reply.json["error"].endswith(reply.headers["allow"])


async def test_a_fault_of_ours_is_logged_and_shows_no_traceback() -> None:
    class Broken(FakeNode):
        async def status(self) -> dict[str, Any]:
            raise RuntimeError("secret detail")

    with capture_logs() as logs:
        reply = await request(make_app(Broken()), "GET", "/status")
    assert (reply.status, reply.json["code"]) == (500, "internal")
    assert b"secret" not in reply.body
    assert [(entry["event"], entry["path"]) for entry in logs] == [("http_handler_failed", "/status")]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"x" * 2000, None),
        ([b"x" * 400] * 5, {"transfer-encoding": "chunked"}),
        (b"x", {"content-length": "9" * 5000}),
        (b"x", {"content-length": "-1"}),
    ],
)
async def test_a_body_that_is_too_long_is_refused(body: Any, headers: dict[str, str] | None) -> None:
    node = FakeNode()
    reply = await request(make_app(node, limits=Limits(body_bytes=1000)), "POST", INFER, body, headers)
    assert (reply.status, reply.json["code"]) == (413, "too_large")
    assert not node.asked


async def test_a_body_that_does_not_arrive_is_given_up(autojump_clock: Any) -> None:
    node = FakeNode()
    reply = await request(make_app(node), "POST", INFER, [b"{", None], {"content-length": "50"})
    assert (reply.status, reply.json["code"], reply.headers["connection"]) == (408, "too_slow", "close")
    assert not node.asked


async def test_a_refusal_leaves_while_a_server_with_a_full_queue_still_has_parts_of_the_body(
    autojump_clock: Any,
) -> None:
    parts, queue = trio.open_memory_channel[Any](2)
    sent: list[dict[str, Any]] = []

    async def feed() -> None:
        while True:
            await parts.send({"type": "http.request", "body": b"x" * 1000, "more_body": True})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        for _ in range(10):
            await trio.lowlevel.checkpoint()  # the queue fills up
        if message["type"] == "http.response.body":
            await parts.send({"type": "http.disconnect"})  # as hypercorn does when a response is complete

    headers = [(b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": INFER, "query_string": b"", "headers": headers}
    app = make_app(FakeNode(), limits=Limits(body_bytes=5000))
    with parts, queue, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            await app(scope, queue.receive, send)
            nursery.cancel_scope.cancel()
    assert sent[0]["status"] == 413


async def _storm(
    app: Any, count: int, body: dict[str, Any], replies: list[Reply], nursery: trio.Nursery
) -> None:
    async def one() -> None:
        replies.append(await request(app, "POST", INFER, body))

    for _ in range(count):
        nursery.start_soon(one)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_storm_beyond_the_bound_is_refused_at_once_and_health_still_answers() -> None:
    node = FakeNode()
    node.hold = trio.Event()
    metrics = Metrics(process=False)
    app = make_app(node, metrics=metrics, limits=Limits(reads=3))
    replies: list[Reply] = []
    async with trio.open_nursery() as nursery:
        await _storm(app, 5, ask_for(1), replies, nursery)
        assert [(reply.status, reply.headers["retry-after"]) for reply in replies] == [(503, "1")] * 2
        assert metrics.registry.get_sample_value("ridethrough_http_requests_in_progress") == 3
        assert (await request(app, "GET", "/livez")).status == 200
        node.hold.set()
    assert sorted(reply.status for reply in replies) == [200] * 3 + [503] * 2
    assert (await request(app, "POST", INFER, ask_for(1))).status == 200, "every place was given back"
    assert metrics.registry.get_sample_value("ridethrough_http_requests_in_progress") == 0


async def test_requests_that_wait_for_a_quorum_leave_room_for_those_that_do_not() -> None:
    node = FakeNode()
    node.hold = trio.Event()
    app = make_app(node, limits=Limits(reads=2, waits=2))
    replies: list[Reply] = []
    async with trio.open_nursery() as nursery:
        await _storm(app, 4, ask_for(1, consistency="linearizable"), replies, nursery)
        assert [reply.status for reply in replies] == [503, 503]
        assert (await request(app, "POST", "/v2/models/feed/freeze")).status == 503, "writes share that bound"
        node.hold, held = None, node.hold
        assert (await request(app, "POST", INFER, ask_for(1))).status == 200
        held.set()
    assert sorted(reply.status for reply in replies) == [200, 200, 503, 503]
    node.result = encode_result(Status.OK, 1)
    assert (await request(app, "POST", "/v2/models/feed/freeze")).status == 200


async def test_requests_are_counted_by_route_and_not_by_what_was_written() -> None:
    metrics = Metrics(process=False)
    app = make_app(FakeNode(), metrics=metrics)
    for path in ("/v2/models/feed", "/v2/models/other", "/nowhere/a", "/nowhere/b"):
        await request(app, "GET", path)
    await request(app, "POST", INFER, ask_for(1, consistency="linearizable"))
    await request(app, "GET", "/metrics")

    def count(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"ridethrough_{name}", labels)

    assert count("http_requests_total", path="/v2/models/{name}", status="200") == 1
    assert count("http_requests_total", path="/v2/models/{name}", status="404") == 1
    assert count("http_requests_total", path="(none)", status="404") == 2
    assert count("queries_total", via="http", consistency="linearizable", outcome="ok") == 1
    assert count("server_applied_index") == 7, "asking for metrics looks at the replica"


async def test_a_key_value_node_reads_and_writes_bytes() -> None:
    import msgpack

    from node.protocol import Answer, Consistency

    machine = kv.KvMachine()
    asked: list[tuple[Consistency, int]] = []

    class KvNode(FakeNode):
        async def query(
            self, query: bytes, consistency: Consistency, max_age_us: int, patience_us: int
        ) -> Any:
            asked.append((consistency, patience_us))
            return Answer(1, 9, b"\2" * 32, 5000, "fresh", machine.query(query))

        async def submit(self, command: bytes, deadline_s: float) -> Any:
            assert msgpack.unpackb(machine.apply([command])[0]) == [kv.OK]
            return await super().submit(command, deadline_s)

    node = KvNode()
    node.machine = "kv"
    app = make_app(node)
    assert (await request(app, "GET", "/v1/kv/a")).status == 404
    assert (await request(app, "PUT", "/v1/kv/a?deadline_ms=100", b"\x00\xff")).json["index"] == 41
    assert node.submitted[0][1] == 0.1
    read = await request(app, "GET", "/v1/kv/a?consistency=linearizable&patience_ms=9")
    assert (read.status, read.body, read.headers["x-applied-index"]) == (200, b"\x00\xff", "9")
    assert asked[-1] == (Consistency.LINEARIZABLE, 9000)
    assert (await request(app, "GET", "/v1/kv/a?patience_ms=-1")).status == 400
    assert (await request(app, "GET", "/v1/kv/a?consistency=some")).status == 400
    missing = await request(app, "POST", INFER, ask_for(1))
    assert "runs the kv machine" in missing.json["error"]
