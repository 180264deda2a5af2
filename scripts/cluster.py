"""Run a cluster of real nodes on this machine, cut its power, ask it, check it.

    python scripts/cluster.py up
    python scripts/cluster.py cut A
    python scripts/cluster.py status

Exit codes: 0 done, 1 a check or an operation failed, 2 bad input, 3 the cluster is not running or cannot be
reached."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import trio
from rich.table import Table

from consensus.core import EntryKind
from node.io import config
from node.sessions import SIGNED_COMMANDS, decode_block
from sim.finite import Finite
from sim.local import control, layout, operate, tables
from sim.local.control import Control
from sim.local.layout import FAILED, ClusterError
from sim.local.supervisor import ALL

DEFAULT_FOLDER = "clusters/default"
INTERRUPTED = 130


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command. The command gets `folder` and `as_json`, and returns what --json
    prints."""

    @click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document instead of text for people."
    )
    @click.option(
        "--folder",
        "folder",
        type=click.Path(path_type=Path),
        default=DEFAULT_FOLDER,
        envvar="RIDETHROUGH_CLUSTER",
        show_default=True,
        show_envvar=True,
        help="The cluster's folder.",
    )
    @functools.wraps(command)
    def run(**options: Any) -> None:
        result = command(**options)
        if options["as_json"] and result is not None:
            click.echo(json.dumps(result))

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """A cluster of real nodes on this machine, in power domains that can be cut.

    Exit codes: 0 done, 1 a check or an operation failed, 2 bad input, 3 not running or not reachable.
    """


def _say(as_json: bool, text: str) -> None:
    if not as_json:
        click.echo(text)


# ------------------------------------------------------------------------------------------------ life


def with_protocol(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what orders the log of a cluster to be made."""
    options = (
        click.option(
            "--protocol", type=click.Choice(config.PROTOCOLS), default=config.RAFT, show_default=True,
            help="What orders the log.",
        ),
        click.option("--stop", type=click.IntRange(0), help="bft: how many nodes may stop  [default: (nodes - 1) / 3]"),
        click.option("--lie", type=click.IntRange(0), help="bft: how many of those may lie  [default: all of them]"),
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def shape_of(nodes: int | None, domains: int | None, protocol: str) -> tuple[int, int]:
    """How many nodes over how many domains, where it is not said: 5 over 3 with Raft; with bft, which must stand the loss of a
    domain as of so many nodes, 4, and a domain for each node."""
    count = nodes if nodes is not None else 4 if protocol == config.BFT else 5
    if domains is None:
        domains = count if protocol == config.BFT else 3
    return count, domains


@cli.command()
@click.argument("place", required=False, type=click.Path(path_type=Path), metavar="[FOLDER]")
@click.option("--nodes", type=int, help="How many nodes  [default: 5; with bft 4]")
@click.option("--domains", type=int, help="Over how many power domains  [default: 3; with bft one a node]")
@click.option("--machine", default="ranking", show_default=True, help="What the log drives: ranking or kv.")
@with_protocol
@click.option("--base-port", type=int, help="First of the consecutive ports to use  [default: free ones]")
@click.option("--move", is_flag=True, help="Give an existing cluster, which is down, other ports.")
@common
def init(
    place: Path | None,
    folder: Path,
    nodes: int | None,
    domains: int | None,
    machine: str,
    protocol: str,
    stop: int | None,
    lie: int | None,
    base_port: int | None,
    move: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Make a cluster's folder: certificates, configurations, empty journals."""
    target = place or folder
    if move:
        if Control(target).running:
            raise ClusterError(f"{target}: the cluster is up; `down` first")
        cluster = layout.move_ports(target, base_port)
    else:
        cluster = layout.create(
            target,
            *shape_of(nodes, domains, protocol),
            machine,
            base_port=base_port,
            protocol=protocol,
            stop=stop,
            lie=lie,
        )
    warnings = layout.warnings(cluster)
    _say(
        as_json,
        f"cluster {cluster.cluster} in {target}: {len(cluster.nodes)} nodes, base port {cluster.base_port}",
    )
    _warn(as_json, warnings)
    return {
        "folder": str(cluster.folder),
        "cluster": cluster.cluster,
        "base_port": cluster.base_port,
        "nodes": {p.id: {"domain": p.domain, "http": cluster.http_url(p.id)} for p in cluster.nodes},
        "warnings": warnings,
    }


def _warn(as_json: bool, warnings: list[str]) -> None:
    if not as_json:
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)


@cli.command()
@click.argument("place", required=False, type=click.Path(path_type=Path), metavar="[FOLDER]")
@click.option("--nodes", type=int, help="How many nodes, if the cluster is made  [default: 5; with bft 4]")
@click.option(
    "--domains",
    type=int,
    help="Over how many power domains, if it is made  [default: 3; with bft one a node]",
)
@click.option("--machine", default="ranking", show_default=True, help="ranking or kv, if it is made.")
@with_protocol
@click.option(
    "--byzantine",
    metavar="NODE:STRATEGY[,...]",
    help="bft: who lies from now on, and how, such as 2:equivocate; `none`: nobody  [default: as before]",
)
@click.option("--base-port", type=int, help="First port, if it is made  [default: free ones]")
@click.option(
    "--wait", type=Finite(0), default=operate.UP_SECONDS, show_default=True,
    help="Seconds to wait for a leader; 0: do not wait.",
)  # fmt: skip
@click.option("--die-with-parent", is_flag=True, help="End everything when the calling process ends.")
@click.option("--node-command", hidden=True, help="JSON list; {config} and {node} are replaced.")
@common
def up(
    place: Path | None,
    folder: Path,
    nodes: int | None,
    domains: int | None,
    machine: str,
    protocol: str,
    stop: int | None,
    lie: int | None,
    byzantine: str | None,
    base_port: int | None,
    wait: float,
    die_with_parent: bool,
    node_command: str | None,
    as_json: bool,
) -> dict[str, Any]:
    """Start a cluster (made first if there is none) and wait until a leader serves."""
    count, over = shape_of(nodes, domains, protocol)
    result = operate.up(
        place or folder,
        nodes=count,
        domains=over,
        machine=machine,
        protocol=protocol,
        stop=stop,
        lie=lie,
        byzantine=byzantine,
        base_port=base_port,
        wait=wait,
        die_with_parent=die_with_parent,
        node_command=control.parse_command(node_command) if node_command is not None else None,
    )
    _warn(as_json, result["warnings"])
    if not as_json:
        table = Table(title=f"cluster {result['cluster']} is up", title_justify="left")
        for name in ("node", "domain", "http"):
            table.add_column(name)
        for node in result["nodes"]:
            table.add_row(node["node"], node["domain"], node["http"])
        liars = ", ".join(f"{node['node']} ({node['lies']})" for node in result["nodes"] if node["lies"])
        tables.show(table)
        if liars:
            click.echo(f"Liars: {liars}.")
        url = result["nodes"][0]["http"]
        if result["machine"] == "ranking":
            click.echo("Try:")
            click.echo(f"  curl -s {url}/v2/models/feed/infer -d '{json.dumps(EXAMPLE_REQUEST)}'")
        click.echo(f"Supervisor: pid {result['supervisor']}. Stop everything with `cluster.py down`.")
    return result


EXAMPLE_REQUEST = {"inputs": [{"name": "user", "shape": [1], "datatype": "INT64", "data": [42]}]}


@cli.command()
@common
def down(folder: Path, as_json: bool) -> dict[str, Any]:
    """Let every node leave in order, then end; proves that no process is left."""
    try:
        home = layout.load(folder).folder
    except ClusterError:
        # A cluster that is up must end even if nobody can read its file any more.
        home = folder.resolve()
        if not Control(home).running:
            raise
    result = Control(home).down()
    killed = (
        f"; killed, because they did not leave in time: {', '.join(result['killed'])}"
        if result["killed"]
        else ""
    )
    _say(as_json, f"down: {len(result['pids'])} nodes ended{killed}; no process is left")
    return result


@cli.command()
@click.option("--links", is_flag=True, help="Also what passed each link and what was dropped on it.")
@common
def status(links: bool, folder: Path, as_json: bool) -> dict[str, Any]:
    """Show domains, nodes, roles, how far each is, and whether their states agree."""
    result = operate.status(folder, links)
    if not as_json:
        tables.show(tables.status_table(result))
        for words in tables.evidence(result):
            click.echo(words)
        if links:
            tables.show(tables.link_table(result["links"]))
    return result


# ------------------------------------------------------------------------------------------------ faults


@cli.command()
@click.argument("domain")
@click.option(
    "--trap", is_flag=True, help="Wait up to 300 ms for a node between a write and its fsync, and cut there."
)
@click.option("--seed", type=int, help="Decides what becomes of unsynced bytes  [default: drawn]")
@common
def cut(domain: str, trap: bool, seed: int | None, folder: Path, as_json: bool) -> dict[str, Any]:
    """Cut a domain's power (`all`: every domain's, at once): links fall silent, processes die, unsynced bytes are lost."""
    result = _call(folder, "cut", domain=domain, trap=trap, seed=seed)
    losses = result["losses"].values()
    dead = (result["dead_at"] - result["cut_at"]) / 1000
    what = "every domain" if domain == ALL else f"domain {domain}"
    _say(
        as_json,
        f"{what} is dark: {', '.join(result['losses'])} (dead after {dead:.1f} ms, seed {result['seed']})",
    )
    found, dropped, torn = (
        sum(loss[key] for loss in losses) for key in ("unsynced_bytes", "dropped_bytes", "torn_bytes")
    )
    _say(as_json, f"unsynced bytes: {found} found, {dropped} dropped, {torn} torn")
    if trap:
        _say(as_json, f"between a write and its fsync: {', '.join(result['held']) or 'nobody'}")
    return result


def _call(folder: Path, op: str, **args: Any) -> dict[str, Any]:
    return Control(layout.load(folder).folder).call(op, **args)


@cli.command()
@click.argument("domain")
@click.option(
    "--wait", type=Finite(0), default=10.0, show_default=True, help="Seconds to wait for its nodes."
)
@common
def restore(domain: str, wait: float, folder: Path, as_json: bool) -> dict[str, Any]:
    """Give a domain its power back and start its nodes."""
    result = _call(folder, "restore", domain=domain, wait=wait)
    _say(as_json, f"domain {domain} is lit after {result['dark_us'] / 1e6:.3f} s in the dark")
    for node, ready_at in result["ready_at"].items():
        if ready_at is None:
            _say(as_json, f"{node} does not serve yet; `status` and `logs {node}` tell more")
        else:
            _say(as_json, f"{node} serves after {(ready_at - result['restored_at']) / 1000:.0f} ms")
    return result


@cli.command()
@click.argument("domain")
@common
def silence(domain: str, folder: Path, as_json: bool) -> dict[str, Any]:
    """Cut a domain off from the network; its power stays on."""
    result = _call(folder, "silence", domain=domain)
    _say(as_json, f"domain {domain} is cut off; `unsilence {domain}` undoes it")
    return result


@cli.command()
@click.argument("domain")
@common
def unsilence(domain: str, folder: Path, as_json: bool) -> dict[str, Any]:
    """Undo `silence`."""
    result = _call(folder, "unsilence", domain=domain)
    _say(as_json, f"domain {domain} can be reached again")
    return result


@cli.command()
@click.argument("node")
@common
def kill(node: str, folder: Path, as_json: bool) -> dict[str, Any]:
    """SIGKILL a node's process: a crash, not a power cut."""
    result = _call(folder, "kill", node=node)
    _say(as_json, f"{node} (pid {result['pid']}) is dead; `start {node}` brings it back")
    return result


@cli.command()
@click.argument("node")
@common
def stop(node: str, folder: Path, as_json: bool) -> dict[str, Any]:
    """Let a node leave in order."""
    result = _call(folder, "stop", node=node)
    _say(as_json, f"{node} {'was killed: it did not leave in time' if result['killed'] else 'has left'}")
    return result


@cli.command()
@click.argument("node")
@common
def start(node: str, folder: Path, as_json: bool) -> dict[str, Any]:
    """Start a node that was stopped or killed, or ended by itself."""
    result = _call(folder, "start", node=node)
    _say(as_json, f"{node} is started (pid {result['pid']})")
    return result


# ------------------------------------------------------------------------------------------------ the model


@cli.command()
@click.option("--user", type=click.IntRange(0), required=True)
@click.option("--k", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many items.")
@click.option(
    "--consistency", default="any", show_default=True, help="any, linearizable or bounded:MILLISECONDS."
)
@common
def rank(user: int, k: int, consistency: str, folder: Path, as_json: bool) -> dict[str, Any]:
    """Rank items for a user."""
    result = operate.rank(folder, user, k, consistency)
    if not as_json:
        age = "age unknown" if result["age_us"] is None else f"age {result['age_us'] / 1000:.1f} ms"
        click.echo(
            f"user {user}: {result['source']} of node {result['node']}, {result['tier']}, {age}, index {result['index']}"
        )
        for place, (item, score) in enumerate(zip(result["items"], result["scores"], strict=True), 1):
            click.echo(f"{place:4}. item {item:<10} score {score}")
    return result


@cli.command()
@click.argument("interactions", nargs=-1, metavar="[USER:ITEM[:VALUE]]...")
@click.option("--user", type=click.IntRange(0))
@click.option("--item", "items", type=click.IntRange(0), multiple=True, help="May be given several times.")
@common
def observe(
    interactions: tuple[str, ...], user: int | None, items: tuple[int, ...], folder: Path, as_json: bool
) -> dict[str, Any]:
    """Tell the model that users took items."""
    if (user is None) != (not items):
        raise ClusterError("--user and --item go together")
    rows = [operate.parse_interaction(text) for text in interactions]
    rows += [(user, item, 1) for item in items if user is not None]
    result = operate.observe(folder, rows)
    _say(
        as_json,
        f"{result['observed']} observed, {result['learned']} learned from; durable at index {result['index']}",
    )
    return result


# ------------------------------------------------------------------------------------------------ looking


@cli.command()
@click.argument("node", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="Last lines of each log."
)
@common
def logs(node: str | None, follow: bool, lines: int, folder: Path, as_json: bool) -> None:
    """Show the log of a node, or of all. With --json, one object a line."""

    def show(name: str, line: str) -> None:
        if not as_json:
            click.echo(f"{name} {line}")
            return
        try:
            value = json.loads(line)
        except ValueError:
            value = line
        click.echo(json.dumps({"node": name, "line": value}))

    for name, line in operate.last_lines(folder, node, lines):
        show(name, line)
    if follow:
        trio.run(operate.follow, folder, node, show)


@cli.command()
@click.argument("proof", required=False, type=click.Path(path_type=Path), metavar="[PROOF]")
@click.option("--live", is_flag=True, help="Audit a copy of a cluster that is up.")
@common
def verify(proof: Path | None, live: bool, folder: Path, as_json: bool) -> dict[str, Any] | None:
    """Audit the nodes' folders: do their logs agree, is anything corrupt or missing? Exit 1 if so.

    With PROOF, a file with what a node of a bft cluster answers at /v1/proof?index=N: does it prove that this entry is final?
    Only the committee and the public keys in the cluster's folder are used; no node is asked."""
    if proof is not None:
        return _verify_proof(folder, proof, as_json)
    report = operate.verify(folder, live)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        for name, log in report.nodes.items():
            click.echo(
                f"{name}: entries {log.first_index} to {log.last_index}, agrees up to {log.agreed_index}, "
                f"{log.segments} segments"
            )
            for damage in log.damage:
                click.echo(f"  {damage.kind}: {damage.segment}: {damage.detail}")
            for error in log.errors:
                click.echo(f"  error: {error}")
        for fork in report.forks:
            click.echo(f"FORK at index {fork.index} between {fork.nodes[0]} and {fork.nodes[1]}")
        for first, last in report.missing:
            click.echo(f"MISSING: entries {first} to {last} of the agreed log")
        corrupt = any(damage.kind == "corrupt" for log in report.nodes.values() for damage in log.damage)
        nothing = not (report.compared or corrupt or report.missing)
        verdict = "agreed" if report.passed else "NOTHING TO COMPARE" if nothing else "NOT AGREED"
        click.echo(
            f"{verdict}: {report.compared} chain values compared, log agreed up to {report.agreed_index}, "
            f"chain {report.chain[:16]}"
        )
    if not report.passed:
        sys.exit(FAILED)
    return None


def _verify_proof(folder: Path, proof: Path, as_json: bool) -> dict[str, Any]:
    shown = operate.verify_proof(folder, proof)
    asked = [
        {"session": group[1], "low": group[2], "seqs": group[3], "commands": [c.hex() for c in group[4]], "key": group[5].hex()}
        for group in (decode_block(shown.payload) if shown.kind == EntryKind.BLOCK else [])
        if group[0] == SIGNED_COMMANDS
    ]  # fmt: skip
    _say(
        as_json,
        f"FINAL: entry {shown.index}, in the block of round {shown.round}, by the commit of round {shown.committed_round}; "
        f"the last certificate is signed by {', '.join(shown.signers)}",
    )
    for bundle in asked:
        _say(
            as_json,
            f"  {len(bundle['seqs'])} commands of session {bundle['session']}, key {bundle['key'][:16]}...",
        )
    return {
        "final": True, "index": shown.index, "round": shown.round, "block": shown.block.hex(),
        "committed_round": shown.committed_round, "signers": list(shown.signers), "kind": shown.kind, "bundles": asked,
    }  # fmt: skip


def main() -> None:
    """Run; every error is one line on stderr, and an object on stdout with --json."""
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except ClusterError as error:
        _fail(str(error), error.code)
    except click.ClickException as error:
        _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except OSError as error:
        _fail(f"{type(error).__name__}: {error}", FAILED)


def _fail(text: str, code: int) -> None:
    line = " ".join(text.split())
    click.echo(f"error: {line}", err=True)
    if "--json" in sys.argv[1:]:
        click.echo(json.dumps({"error": line, "code": code}))
    sys.exit(code)


if __name__ == "__main__":
    main()
