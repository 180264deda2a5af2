"""Links through network namespaces: every node has a network of its own, and packets between them really vanish.

One namespace a node, one for whoever is outside, and a hub that routes between them; all of them private, named
`ridethrough-PID-START-NAME` after the process that made them, so that nothing of the machine's own network is touched
and what a dead process left behind can be told from what is in use. A node has the address 10.77.N.2 in its
namespace, its port of the hub 10.77.N.1. A fault is a chain of nftables rules in the hub's forward path, a rule with a
counter for each direction.

"One way" here is a direction of packets: a receiver's acknowledgements take the other direction, so that cutting one of
them starves both of TCP's, and a connection that outlives the fault goes on where it stopped, after TCP's own pauses.
Delay is not to be had: it would take the kernel's netem. A rate drops what is above it, as a policer does.

Needs root, `ip` (iproute2), `nft` (nftables) and `nsenter` (util-linux)."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import trio

from sim.local.links import OUTSIDE, LinksError, Pair, Toll, now_us, total

FOLDER: Final = Path("/run/netns")
HUB: Final = "hub"
COMMANDS: Final = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux"}
"""Programs, and the Debian packages that have them."""
SMALLEST_BURST: Final = 4096
"""Bytes that pass above a rate at once, if a tenth of a second's worth is less: two or three packets, so that TCP, which
tries smaller and smaller ones, is slowed and not stopped."""

_NAME: Final = re.compile(r"ridethrough-(\d+)-(\d+)-([a-z0-9]+)")
_TABLE: Final = "ip ridethrough"
_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def address(number: int) -> str:
    """Address of the node that is the `number`-th of its cluster, counted from 1."""
    return f"10.77.{number}.2"


# ------------------------------------------------------------------------------------------------ names


def _started(pid: int) -> str | None:
    """When a process was started (clock ticks since boot), which tells it from a later one with its number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    words = stat.rpartition(")")[2].split()
    return None if words[0] in ("Z", "X") else words[19]


def own_id() -> str:
    """What the namespaces of this process are named after."""
    return f"{os.getpid()}-{_started(os.getpid())}"


def path_of(run_id: str, name: str) -> Path:
    """Where the kernel shows a namespace as a file."""
    return FOLDER / f"ridethrough-{run_id}-{name}"


def _existing() -> list[tuple[str, str]]:
    """(run's id, whole name) of every namespace of this project's on the machine."""
    try:
        names = sorted(os.listdir(FOLDER))
    except OSError:
        return []
    return [(f"{m[1]}-{m[2]}", m[0]) for name in names if (m := _NAME.fullmatch(name))]


def leftovers() -> list[str]:
    """Names of namespaces whose makers are dead."""
    dead = []
    for run_id, name in _existing():
        pid, _, started = run_id.partition("-")
        if _started(int(pid)) != started:
            dead.append(name)
    return dead


def clean() -> list[str]:
    """Remove the namespaces of dead runs; their names. Raises LinksError."""
    names = leftovers()
    if names:
        require_tools()
        _ip(*[f"netns del {name}" for name in names])
    return names


def remove(run_id: str) -> None:
    """Remove every namespace of a run; nothing happens if there is none. Raises LinksError."""
    names = [name for owner, name in _existing() if owner == run_id]
    if names:
        _ip(*[f"netns del {name}" for name in names])


# ------------------------------------------------------------------------------------------------ tools


def require_tools() -> None:
    """Raises LinksError if this process is not root or a program is missing."""
    if os.geteuid() != 0:
        raise LinksError("links through network namespaces need root; run it as root, or take --links relay")
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        packages = " ".join(COMMANDS[command] for command in missing)
        raise LinksError(
            f"links through network namespaces need the command{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"on Debian: apt-get install {packages}; or take --links relay"
        )


def check() -> None:
    """Try out everything that links through namespaces need, and leave nothing behind. Raises LinksError."""
    require_tools()
    probe = NamespaceLinks({"n1": "A"}, suffix="probe")
    try:
        probe.build()
        probe.block("probe", [("n1", OUTSIDE)])
    finally:
        probe.remove()


def _run(command: Sequence[str], text: str = "") -> str:
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LinksError(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        reason = words[0] if words else f"exit code {done.returncode}"
        raise LinksError(
            f"the kernel does not do what `{' '.join(command)}` asks for ({reason}); links through network namespaces "
            "need CONFIG_NET_NS, CONFIG_VETH and CONFIG_NF_TABLES and the right to use them; or take --links relay"
        )
    return done.stdout


def _ip(*lines: str, inside: str | None = None) -> None:
    where = ["-n", inside] if inside else []
    _run(["ip", *where, "-batch", "-"], "\n".join(lines) + "\n")


@contextlib.contextmanager
def entered(namespace: Path) -> Iterator[None]:
    """Have the calling thread make its sockets in a namespace meanwhile; those that it has stay where they are. Threads
    that it starts meanwhile begin there, too. Raises LinksError."""
    with open("/proc/thread-self/ns/net", "rb") as home, namespace.open("rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise LinksError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")


# ------------------------------------------------------------------------------------------------ links


class NamespaceLinks:
    """Meets `sim.local.links.Links`. `build` makes the namespaces, `remove` takes them away; `run` does both."""

    def __init__(self, domains: Mapping[str, str], run_id: str | None = None, suffix: str = "") -> None:
        """`domains`: node -> power domain, in the nodes' order; `suffix` tells several of a process's apart."""
        self.run_id = run_id or own_id()
        self._suffix = suffix
        self._domains: dict[str, str | None] = {**domains, OUTSIDE: None}
        self._numbers = {name: number for number, name in enumerate(self._domains, 1)}
        self._chains: dict[str, str] = {}
        """Label -> chain, in the order in which they were laid: packets are counted to the first that drops them."""
        self._finished: dict[str, dict[Pair, Toll]] = {}
        self._made = 0

    def namespace(self, name: str) -> str:
        """Name of a node's namespace, of `OUTSIDE`'s, or of the hub's."""
        return path_of(self.run_id, name + self._suffix).name

    def path(self, name: str) -> Path:
        """The namespace as a file."""
        return FOLDER / self.namespace(name)

    def prefix(self, node: str) -> Sequence[str]:
        """Words before a command line that run it in a node's namespace; the process is the same one."""
        return ["nsenter", f"--net={self.path(node)}", "--"]

    def build(self) -> None:
        """Make namespaces, wires and routes. Raises LinksError; then nothing is left."""
        hub = self.namespace(HUB)
        try:
            _ip(*[f"netns add {self.namespace(name)}" for name in [HUB, *self._numbers]])
            plug = ["link set lo up"]
            for name, number in self._numbers.items():
                plug += [
                    f"link add {name} type veth peer name eth0 netns {self.namespace(name)}",
                    f"addr add 10.77.{number}.1/30 dev {name}",
                    f"link set {name} up",
                ]
            _ip(*plug, inside=hub)
            for name, number in self._numbers.items():
                _ip(
                    "link set lo up",
                    f"addr add {address(number)}/30 dev eth0",
                    "link set eth0 up",
                    f"route add default via 10.77.{number}.1",
                    inside=self.namespace(name),
                )
            # The path names the network of whoever opens it, so the hub's own process must.
            _run([*self.prefix(HUB), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
            self._nft(
                f"add table {_TABLE}",
                f"add chain {_TABLE} forward {{ type filter hook forward priority 0; policy accept; }}",
            )
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take the namespaces away, with everything in them. Raises LinksError."""
        mine = [self.namespace(name) for name in [*self._numbers, HUB]]
        _ip(*[f"netns del {name}" for name in mine if (FOLDER / name).exists()])

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Have the links until cancelled."""
        self.build()
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            self.remove()

    # ------------------------------------------------------------------------------------------ faults

    def silence(self, domain: str, cause: str = "power") -> int:
        """See `Links.silence`."""
        return self.block(f"{cause} {domain}", self._of_domain(domain))

    def restore(self, domain: str, cause: str = "power") -> int:
        """See `Links.restore`."""
        self._of_domain(domain)
        return self.lift(f"{cause} {domain}")

    def is_silent(self, domain: str, cause: str = "power") -> bool:
        """See `Links.is_silent`."""
        self._of_domain(domain)
        return f"{cause} {domain}" in self._chains

    def dropped(self, domain: str) -> int:
        """See `Links.dropped`."""
        ends = self._of_domain(domain)
        labels = dict.fromkeys([*self._finished, *self._chains])
        return sum(
            toll.dropped_bytes for label in labels for pair, toll in self.tolls(label).items() if pair in ends
        )

    def block(self, label: str, pairs: Iterable[Pair]) -> int:
        """Drop every packet in these directions. Raises ValueError for an unknown endpoint, LinksError."""
        return self._lay(label, pairs, "counter drop")

    def limit(self, label: str, pairs: Iterable[Pair], bytes_per_s: int) -> int:
        """Drop what is above the rate in each of these directions. Raises ValueError, LinksError."""
        if bytes_per_s < 1:
            raise ValueError(f"{bytes_per_s} bytes a second: at least 1 must pass; `block` lets none through")
        burst = max(SMALLEST_BURST, bytes_per_s // 10)
        above = f"limit rate over {bytes_per_s} bytes/second burst {burst} bytes"
        return self._lay(label, pairs, f"{above} counter drop")

    def delay(
        self, label: str, pairs: Iterable[Pair], delay_us: int, jitter_us: int = 0, seed: int = 0
    ) -> int:
        """Raises LinksError."""
        raise LinksError(
            "delay needs the kernel's netem, which links through namespaces do without; take --links relay"
        )

    def lift(self, label: str) -> int:
        """See `Links.lift`."""
        chain = self._chains.pop(label, None)
        if chain is None:
            return now_us()
        self._nft(*self._jumps())
        at = now_us()
        earlier = self._finished.setdefault(label, {})
        for pair, toll in self._read(chain).items():
            earlier.setdefault(pair, Toll()).add(toll)
        self._nft(f"flush chain {_TABLE} {chain}", f"delete chain {_TABLE} {chain}")
        return at

    def tolls(self, label: str) -> dict[Pair, Toll]:
        """See `Links.tolls`."""
        result = {pair: Toll() for pair in self._finished.get(label, {})}
        for pair, toll in self._finished.get(label, {}).items():
            result[pair].add(toll)
        if label in self._chains:
            for pair, toll in self._read(self._chains[label]).items():
                result.setdefault(pair, Toll()).add(toll)
        return result

    def describe(self) -> list[dict[str, Any]]:
        """Labels in force and what they dropped, as data."""
        return [{"label": label, **total(self.tolls(label)).as_json()} for label in self._chains]

    # ------------------------------------------------------------------------------------------ nftables

    def _of_domain(self, domain: str) -> list[Pair]:
        members = [name for name, of in self._domains.items() if of == domain]
        if not members:
            known = dict.fromkeys(name for name in self._domains.values() if name is not None)
            raise ValueError(f"no link has an end in a domain {domain!r}; there are: {', '.join(known)}")
        return [
            (a, b) for a in self._domains for b in self._domains if a != b and (a in members or b in members)
        ]

    def _lay(self, label: str, pairs: Iterable[Pair], verdict: str) -> int:
        wanted = list(pairs)
        for end in [end for pair in wanted for end in pair]:
            if end not in self._numbers:
                raise ValueError(
                    f"no link joins {end} to another; endpoints are: {', '.join(sorted(self._numbers))}"
                )
        self.lift(label)
        self._made += 1
        chain = f"fault{self._made}"
        rules = [
            f"add rule {_TABLE} {chain} ip saddr {address(self._numbers[a])} ip daddr {address(self._numbers[b])} "
            f'{verdict} comment "{a}>{b}"'
            for a, b in wanted
        ]
        self._chains[label] = chain
        try:
            # One transaction: all directions fall silent between two packets.
            self._nft(f"add chain {_TABLE} {chain}", *rules, *self._jumps())
        except LinksError:
            del self._chains[label]
            raise
        return now_us()

    def _jumps(self) -> list[str]:
        jumps = [f"add rule {_TABLE} forward jump {chain}" for chain in self._chains.values()]
        return [f"flush chain {_TABLE} forward", *jumps]

    def _read(self, chain: str) -> dict[Pair, Toll]:
        listed = json.loads(self._nft_output("-j", "list", "chain", *_TABLE.split(), chain))
        found: dict[Pair, Toll] = {}
        for item in listed["nftables"]:
            rule = item.get("rule")
            if rule is None:
                continue
            sender, _, receiver = rule["comment"].partition(">")
            for part in rule["expr"]:
                if "counter" in part:
                    counter = part["counter"]
                    found[sender, receiver] = Toll(
                        dropped_bytes=counter["bytes"], dropped_packets=counter["packets"]
                    )
        return found

    def _nft(self, *lines: str) -> None:
        _run([*self.prefix(HUB), "nft", "-f", "-"], "\n".join(lines) + "\n")

    def _nft_output(self, *arguments: str) -> str:
        return _run([*self.prefix(HUB), "nft", *arguments])
