"""Four nodes that order their log by BFT, as processes: one may be dark, all may lose power, and what was final stays."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from real_node import RealCluster, wait_until

from consensus.bft.committee import Committee
from node import finality
from node.io import keys
from node.io.client import BadCommand, Client, Settings, Signing, open_client
from node.io.config import EPOCH
from node.kv import get, put
from node.protocol import Consistency
from sim.local.layout import HOST

TIMING = {"round_ms": 100, "idle_ms": 50}


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[RealCluster]:
    made = RealCluster(folder, 4, protocol="bft", timing=TIMING)
    try:
        yield made
    finally:
        made.close()


@contextlib.asynccontextmanager
async def client_of(made: RealCluster) -> AsyncIterator[Client]:
    async with open_client(
        made.members, made.tls, cluster=made.cluster, settings=Settings(answer_ms=500), signing=Signing(1)
    ) as client:
        await client.wait_connected(3, timeout_s=20)
        yield client


def ask(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


async def value_of(client: Client, key: bytes) -> bytes:
    answer = await client.query(get(key), Consistency.LINEARIZABLE, patience_ms=10_000)
    return answer.result


def test_a_write_is_final_proven_and_survives_a_dark_node_and_then_the_power_cut_of_all(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path) as made:
        nodes = {name: made.start(name) for name in made.names}

        async def first() -> int:
            async with client_of(made) as client:
                done = await client.submit(put(b"key", b"one"))
                assert await value_of(client, b"key")
                os.kill(nodes["n2"].process.pid, signal.SIGSTOP)  # dark: nothing tells the others
                for number in range(20):
                    done = await client.submit(put(b"key", b"%d" % number))
                status = await client.status("n1")
                assert status["facts"]["round"] > 0
                assert status["facts"]["evidence"] == []
                return done.index

        index = trio.run(first)

        status, text = ask(made.http["n1"], f"/v1/proof?index={index}")
        assert status == 200, text
        assert text["unverified"] is True
        committee = Committee(made.cluster, EPOCH, tuple(made.names), 1, 1)
        ring = keys.MemberKeyring(keys.SigningKey(), {name: key.public for name, key in made.keys.items()})
        shown = finality.verify(finality.from_json(json.dumps(text)), committee, ring)
        assert shown.index == index
        strangers = keys.MemberKeyring(
            keys.SigningKey(), {name: keys.SigningKey().public for name in made.names}
        )
        with pytest.raises(finality.NoProof):
            finality.verify(finality.from_json(json.dumps(text)), committee, strangers)

        for node in nodes.values():
            node.process.kill()
        for name, node in nodes.items():
            node.wait()
            nodes[name] = made.start(name)

        async def second() -> None:
            async with client_of(made) as client:
                before = await value_of(client, b"key")
                assert b"19" in before
                again = await client.submit(put(b"key", b"after"))
                assert again.index > index
                with pytest.raises(BadCommand):
                    await client.submit(b"no command")
                async with open_client(made.members, made.tls, cluster=made.cluster) as unsigned:
                    await unsigned.wait_connected(4)
                    with pytest.raises(Exception, match="signed requests"):
                        await unsigned.submit(put(b"key", b"unsigned"), deadline_s=1.5)

        trio.run(second)
        wait_until(
            lambda: len({ask(made.http[name], "/status")[1]["applied_index"] for name in made.names}) == 1,
            "all four have applied the same",
        )
        for node in nodes.values():
            code, _ = node.stop()
            assert code == 0, node.words
