"""Clusters of real nodes without a relay between them: folders, processes, and streams to speak to them by hand."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.io import certificates, config, frames, keys
from node.io.disk import FileDisk
from node.journal import Identity, Journal
from sim.local.layout import HOST, find_ports
from sim.local.process import die_with

PATIENCE_S = 20.0


def wait_until(true: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """Poll until `true()` says something true, which is returned."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = true()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s: {what}")


class RealNode:
    """A node's process."""

    def __init__(self, home: Path, most_file_bytes: int | None) -> None:
        self.log = home / "log"
        parent = os.getpid()

        def before() -> None:
            die_with(parent)
            if most_file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))

        with self.log.open("wb") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node.io", "--config", str(home / "config.toml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=before, cwd=Path(__file__).parents[2],
            )  # fmt: skip

    @property
    def words(self) -> str:
        """Everything that the process wrote."""
        return self.log.read_text(encoding="utf-8")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Lines of its log."""
        lines = [json.loads(line) for line in self.words.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def wait_for(self, event: str, **fields: Any) -> dict[str, Any]:
        """Wait for a line in its log with these fields."""

        def found() -> Any:
            hits = [line for line in self.events(event) if fields.items() <= line.items()]
            assert hits or self.process.poll() is None or self.events(event), self.words
            return hits

        return dict(wait_until(found, f"{event} {fields} in {self.words}")[0])

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Its exit code."""
        return self.process.wait(seconds)

    def stop(self) -> tuple[int, float]:
        """SIGTERM: (exit code, seconds it took)."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.wait(), time.monotonic() - began


class RealCluster:
    """The folder of a cluster; `close` kills whatever still runs."""

    def __init__(self, folder: Path, nodes: int, **settings: Any) -> None:
        """`settings`: further keys and tables of every config.toml. HTTP is on."""
        self.folder = folder
        self.cluster = certificates.new_cluster_id()
        self.ca = folder / "ca"
        certificates.create_authority(self.ca, self.cluster)
        certificates.issue_client(self.ca, folder / "client", self.cluster, "test")
        base = find_ports(2 * nodes)
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.ports = {name: base + place for place, name in enumerate(self.names)}
        self.http = {name: base + nodes + place for place, name in enumerate(self.names)}
        self.members = tuple(
            config.Member(name, name.upper(), config.Address(HOST, self.ports[name])) for name in self.names
        )
        self.tls = config.TlsFiles(
            self.ca / "ca.pem", folder / "client" / "cert.pem", folder / "client" / "key.pem"
        )
        self.keys = {name: keys.SigningKey() for name in self.names}
        self._running: list[RealNode] = []
        for name in self.names:
            certificates.issue_node(self.ca, self.home(name), self.cluster, name)
            self.keys[name].save(self.home(name) / "signing.pem")
            self.write_config(name, **settings)
            self.init(name)

    def home(self, name: str) -> Path:
        """A node's folder."""
        return self.folder / name

    def write_config(self, name: str, **settings: Any) -> None:
        """(Over)write a node's config.toml."""
        values: dict[str, Any] = {
            "cluster": self.cluster,
            "node": name,
            "listen": f"{HOST}:{self.ports[name]}",
            "http": f"{HOST}:{self.http[name]}",
            "data": "data",
            "machine": "kv",
            "tls": {"ca": "../ca/ca.pem", "certificate": "cert.pem", "key": "key.pem"},
            "members": [{"id": m.id, "domain": m.domain, "address": str(m.address)} for m in self.members],
            "storage": {"reserve_bytes": 0},
            **settings,
        }
        if values.get("protocol") == "bft":
            values["members"] = [
                {**member, "key": self.keys[member["id"]].public.hex()} for member in values["members"]
            ]
            values = {"committee": {"key": "signing.pem"}, **values}
        (self.home(name) / "config.toml").write_text(config.dump(values), encoding="utf-8")

    def init(self, name: str) -> None:
        """Write the first segment of a node's journal."""
        disk = FileDisk(self.home(name) / "data")
        disk.perform(Journal.create_ops(Identity(self.cluster, name), 0))
        disk.close()

    def load(self, name: str) -> config.NodeConfig:
        """A node's configuration, for a `Node` in this process."""
        return config.load(self.home(name) / "config.toml")[0]

    def start(self, name: str, most_file_bytes: int | None = None) -> RealNode:
        """Start a node; `most_file_bytes`: no file may grow beyond that, as on a full disk."""
        node = RealNode(self.home(name), most_file_bytes)
        self._running.append(node)
        return node

    def close(self) -> None:
        """Kill and reap."""
        for node in self._running:
            if node.process.poll() is None:
                node.process.kill()
            node.process.wait()

    async def connect(self, name: str, who: Path | None = None) -> frames.FrameStream:
        """A stream to a node, as the client or with the certificate in the folder `who`, before Hello."""
        who = who or self.folder / "client"
        context = frames.client_context(self.ca / "ca.pem", who / "cert.pem", who / "key.pem")
        return await frames.connect(HOST, self.ports[name], context, cluster=self.cluster, expect_node=name)
