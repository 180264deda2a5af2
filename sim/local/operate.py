"""What `scripts/cluster.py` does, as functions from plain values to plain data. All raise ClusterError."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

import trio

from node import finality
from node.finality import Proven
from node.io import keys
from node.io.certificates import CertificateError
from node.io.client import Client, open_client
from node.io.client_types import BadCommand, BadQuery, ClientError, NodeUnavailable
from node.io.config import BFT, RAFT
from node.protocol import Consistency
from node.ranking import commands, queries
from sim.byzantine import naming
from sim.local import control, layout
from sim.local.control import Control
from sim.local.layout import FAILED, NOT_RUNNING, USAGE, Cluster, ClusterError
from sim.local.lies import LIES_FILE, read_lies

if TYPE_CHECKING:
    from sim.check.audit import AuditReport

UP_SECONDS: Final = 30.0
STATUS_SECONDS: Final = 0.7
COPY_ATTEMPTS: Final = 5


@contextlib.asynccontextmanager
async def connected(cluster: Cluster) -> AsyncIterator[Client]:
    """A client of a running cluster; its errors become ClusterErrors."""
    control_of_cluster = Control(cluster.folder)
    if not control_of_cluster.running:
        raise ClusterError(f"no cluster is running in {cluster.folder}; start one with `up`", NOT_RUNNING)
    try:
        async with open_client(
            cluster.members(), cluster.client_tls(), cluster=cluster.cluster, name=layout.DEFAULT_CLIENT,
            signing=cluster.signing,
        ) as client:  # fmt: skip
            yield client
    except (BadCommand, BadQuery) as error:
        raise ClusterError(str(error), USAGE) from None
    except ClientError as error:
        raise ClusterError(str(error), NOT_RUNNING) from None
    except CertificateError as error:
        raise ClusterError(str(error), FAILED) from None


# ------------------------------------------------------------------------------------------------ up and
# status


def up(
    folder: Path,
    *,
    nodes: int = 5,
    domains: int = 3,
    machine: str = "ranking",
    protocol: str = RAFT,
    stop: int | None = None,
    lie: int | None = None,
    byzantine: str | None = None,
    base_port: int | None = None,
    wait: float = UP_SECONDS,
    die_with_parent: bool = False,
    node_command: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Start a cluster, made first if there is none, and wait until a leader serves (`wait` 0: do not). `byzantine`: which nodes
    lie from now on, and how, as `sim.byzantine.naming.parse` reads it; None: as the folder says.

    If it does not come up in time, or a node ends, everything is stopped again and the error has its last
    words."""
    made = not (folder / layout.CLUSTER_FILE).exists()
    if made:
        liars = _liars(byzantine, [f"n{number}" for number in range(1, nodes + 1)])
        cluster = layout.create(
            folder, nodes, domains, machine, base_port=base_port, protocol=protocol, stop=stop, lie=lie, liars=liars
        )  # fmt: skip
    else:
        cluster = layout.load(folder)
        if byzantine is not None:
            if Control(cluster.folder).running:
                raise ClusterError(f"{folder}: the cluster is up; `down` first, then say who is to lie")
            liars = _liars(byzantine, [place.id for place in cluster.nodes])
            cluster = layout.set_liars(cluster.folder, liars)
    pid = control.start(cluster.folder, die_with_parent=die_with_parent, node_command=node_command)
    if wait > 0:
        try:
            trio.run(_await_leader, cluster, wait)
        except BaseException:
            with contextlib.suppress(ClusterError):
                Control(cluster.folder).down()
            raise
    return {
        "folder": str(cluster.folder),
        "cluster": cluster.cluster,
        "machine": cluster.machine,
        "protocol": cluster.protocol,
        "made": made,
        "supervisor": pid,
        "warnings": layout.warnings(cluster),
        "nodes": [
            {
                "node": place.id,
                "domain": place.domain,
                "http": cluster.http_url(place.id),
                "lies": place.lies or None,
            }
            for place in cluster.nodes
        ],
    }


def _liars(byzantine: str | None, nodes: Sequence[str]) -> dict[str, str]:
    try:
        return {} if byzantine is None else naming.parse(byzantine, nodes)
    except naming.LiarsError as error:
        raise ClusterError(str(error)) from None


async def _await_leader(cluster: Cluster, seconds: float) -> None:
    client_of_switch = Control(cluster.folder)
    problem = "nothing was heard of any node"
    with trio.move_on_after(seconds):
        async with connected(cluster) as client:
            while True:
                for name, node in (await client_of_switch.acall("status"))["nodes"].items():
                    if node["phase"] == "exited":
                        last = node["last_exit"]
                        words = " | ".join(last["tail"]) or "it said nothing"
                        raise ClusterError(f"node {name} ended with code {last['code']}: {words}", FAILED)
                try:
                    await client.wait_connected(len(cluster.nodes), leader=True, timeout_s=0.2)
                    return
                except NodeUnavailable as error:
                    problem = str(error)
    raise ClusterError(f"no leader served within {seconds:g} s: {problem}", NOT_RUNNING)


def status(folder: Path, links: bool = False) -> dict[str, Any]:
    """The supervisor's view of domains and processes joined with each lit node's own account of itself
    (`status`; None where it did not answer, with `error`). `lies`, `lies_told`: of a node that lies the
    strategy, and how often it did by kind of message. `lag`: entries between the highest known commit and
    what the node applied. With `links` also the relay's counts."""
    cluster = layout.load(folder)
    result = Control(cluster.folder).call("status", links=links)
    answers: dict[str, dict[str, Any] | str] = {}

    async def ask(client: Client, name: str) -> None:
        try:
            answers[name] = await client.status(name, timeout_s=STATUS_SECONDS)
        except NodeUnavailable as error:
            answers[name] = str(error)

    async def ask_all() -> None:
        async with connected(cluster) as client, trio.open_nursery() as nursery:
            for name, node in result["nodes"].items():
                if node["pid"] is not None:
                    nursery.start_soon(ask, client, name)

    trio.run(ask_all)
    known = [answer["commit_index"] for answer in answers.values() if isinstance(answer, dict)]
    for name, node in result["nodes"].items():
        answer = answers.get(name)
        node["http"] = cluster.http_url(name)
        node["status"] = answer if isinstance(answer, dict) else None
        node["error"] = answer if isinstance(answer, str) else None
        strategy = cluster.node(name).lies
        node["lies"] = strategy or None
        node["lies_told"] = read_lies(cluster.node_folder(name) / LIES_FILE) if strategy else None
        node["lag"] = max(known) - answer["applied_index"] if isinstance(answer, dict) else None
    result["folder"] = str(cluster.folder)
    return result


# ------------------------------------------------------------------------------------------------ the model


def parse_consistency(text: str) -> tuple[Consistency, int]:
    """`any`, `linearizable` or `bounded:MILLISECONDS`; the consistency and the greatest age in
    milliseconds."""
    if text == "any":
        return Consistency.ANY, 0
    if text == "linearizable":
        return Consistency.LINEARIZABLE, 0
    kind, _, age = text.partition(":")
    if kind == "bounded" and age.isascii() and age.isdigit() and int(age) > 0:
        return Consistency.BOUNDED, int(age)
    raise ClusterError(
        f"consistency {text!r}: write any, linearizable or bounded:MILLISECONDS (for example bounded:500)"
    )


def parse_interaction(text: str) -> tuple[int, int, int]:
    """`USER:ITEM` or `USER:ITEM:VALUE`, non-negative integers; the value is 1 if left out."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(part.isascii() and part.isdigit() for part in parts):
        raise ClusterError(
            f"{text!r} is no interaction; write USER:ITEM or USER:ITEM:VALUE with non-negative integers, for example 42:7"
        )
    user, item, *value = map(int, parts)
    return user, item, value[0] if value else 1


def _ranking(folder: Path) -> Cluster:
    cluster = layout.load(folder)
    if cluster.machine != "ranking":
        raise ClusterError(
            f"{folder}: this cluster's machine is {cluster.machine!r}; this needs a ranking model"
        )
    return cluster


def rank(
    folder: Path, user: int, k: int = 10, consistency: str = "any", patience_ms: int = 2000
) -> dict[str, Any]:
    """Rank all items for a user; whichever node answers first."""
    wanted, max_age = parse_consistency(consistency)
    cluster = _ranking(folder)

    async def ask() -> dict[str, Any]:
        async with connected(cluster) as client:
            answer = await client.query(
                queries.rank(user, k), wanted, max_age_ms=max_age, patience_ms=patience_ms
            )
        found = queries.decode_ranking(answer.result)
        return {
            "user": user,
            "items": found.items,
            "scores": found.scores,
            "source": found.source,
            "version": found.version,
            "node": answer.node,
            "tier": answer.tier,
            "age_us": answer.age_us,
            "index": answer.index,
            "chain": answer.chain.hex(),
            "consistency": answer.consistency.name.lower(),
        }

    return trio.run(ask)


def observe(
    folder: Path, interactions: Sequence[tuple[int, int, int]], deadline_s: float = 3.0
) -> dict[str, Any]:
    """Have the model learn from interactions, in order, exactly once. Acknowledged when durable on a
    quorum."""
    if not interactions:
        raise ClusterError("no interaction was given; write USER:ITEM, or --user and --item")
    cluster = _ranking(folder)
    rows = [
        commands.observe(interactions[start : start + commands.MAX_ROWS])
        for start in range(0, len(interactions), commands.MAX_ROWS)
    ]

    async def submit() -> dict[str, Any]:
        async with connected(cluster) as client:
            results = await client.submit_many(rows, deadline_s=deadline_s)
        done = [commands.decode_result(result.result) for result in results]
        for result in done:
            if not result.ok:
                raise ClusterError(f"the model refused: {result.text}", FAILED)
        return {
            "observed": sum(result.fields[0] for result in done),
            "learned": sum(result.fields[1] for result in done),
            "index": results[-1].index,
            "chain": results[-1].chain.hex(),
        }

    return trio.run(submit)


# ------------------------------------------------------------------------------------------------ logs,
# verify


def last_lines(folder: Path, node: str | None, count: int) -> Iterator[tuple[str, str]]:
    """(node, line): the last lines of a node's log, or of each node's."""
    cluster = layout.load(folder)
    for place in [cluster.node(node)] if node else cluster.nodes:
        path = cluster.node_folder(place.id) / "log.jsonl"
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as log:
                for line in deque(log, count):
                    yield place.id, line.rstrip("\n")


async def follow(folder: Path, node: str | None, show: Any) -> None:
    """Call `show(node, line)` for every line that is added, until cancelled."""
    cluster = layout.load(folder)
    open_logs: dict[str, TextIO] = {}
    with contextlib.ExitStack() as stack:
        for place in [cluster.node(node)] if node else cluster.nodes:
            path = cluster.node_folder(place.id) / "log.jsonl"
            path.touch()
            open_logs[place.id] = stack.enter_context(path.open(encoding="utf-8", errors="replace"))
            open_logs[place.id].seek(0, 2)
        part = dict.fromkeys(open_logs, "")
        while True:
            for name, log in open_logs.items():
                *whole, part[name] = (part[name] + log.read()).split("\n")
                for line in whole:
                    show(name, line)
            await trio.sleep(0.1)


def verify(folder: Path, live: bool = False) -> AuditReport:
    """Audit the folders of the nodes that do not lie against each other. `live`: of a running cluster, on a copy, in which each
    node's last entries may be cut short; without it the cluster must be down."""
    from sim.check.audit import audit_folders  # numpy with it; the other commands start faster without
    from sim.check.bft_log import read_bft_folder
    from sim.check.folders import read_folder

    cluster = layout.load(folder)
    switch = Control(cluster.folder)
    if switch.running and not live:
        raise ClusterError(
            f"{cluster.folder}: the cluster is up (supervisor's pid: {switch.pid}); `down` first, or --live for a copy"
        )
    folders = {name: path for name, path in cluster.data_folders().items() if name not in cluster.liars}
    missing = [name for name, path in folders.items() if not path.is_dir()]
    if missing:
        raise ClusterError(f"{cluster.folder}: no data folder for {', '.join(missing)}", FAILED)
    source = read_bft_folder if cluster.protocol == BFT else read_folder
    if not live:
        return audit_folders(folders, source, len(cluster.nodes))
    with tempfile.TemporaryDirectory(prefix="ridethrough-verify-") as copy:
        for name, path in folders.items():
            _copy(path, Path(copy) / name)
        return audit_folders({name: Path(copy) / name for name in folders}, source, len(cluster.nodes))


def verify_proof(folder: Path, proof: Path) -> Proven:
    """Check a finality proof against the committee and the keys in a cluster's folder; no node is asked."""
    cluster = layout.load(folder)
    committee = cluster.committee()
    keyring = keys.MemberKeyring(keys.SigningKey(), cluster.public_keys())
    try:
        return finality.verify(finality.from_json(proof.read_bytes()), committee, keyring)
    except OSError as error:
        raise ClusterError(f"{proof}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except finality.NoProof as error:
        raise ClusterError(f"{proof}: {error}", FAILED) from None


def _copy(source: Path, target: Path) -> None:
    """Copy a folder whose files are appended to, renamed and removed meanwhile."""
    for attempt in range(COPY_ATTEMPTS):
        try:
            shutil.copytree(source, target)
            return
        except (shutil.Error, FileNotFoundError) as error:
            shutil.rmtree(target, ignore_errors=True)
            if attempt == COPY_ATTEMPTS - 1:
                raise ClusterError(f"{source} changes too fast to copy: {error}", FAILED) from None
