"""What the commands of `scripts/cluster.py` show of a cluster, for people."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH: Final = 130
"""Least width of tables, in characters."""


def show(table: Table) -> None:
    console = Console()
    # A cell broken over lines cannot be read or searched; a line that is too long can.
    Console(width=max(console.width, WIDTH)).print(table)


def link_table(links: list[dict[str, Any]]) -> Table:
    table = Table(title="links", title_justify="left")
    for name in links[0]:
        if name not in ("source", "target"):
            table.add_column(name, justify="left" if name == "link" else "right")
    for link in links:
        row = {**link, "silent": "silent" if link["silent"] else "open"}
        table.add_row(*(str(value) for name, value in row.items() if name not in ("source", "target")))
    return table


def status_table(result: dict[str, Any]) -> Table:
    table = Table(title=f"cluster {result['cluster']}", title_justify="left")
    lying = any(node["lies"] for node in result["nodes"].values())
    for name in (
        "node",
        *(("lies",) if lying else ()),
        "domain",
        "power",
        "pid",
        "role",
        "term",
        "commit",
        "applied",
        "lag",
        "digest",
        "tier",
        "age",
    ):
        table.add_column(
            name, justify="right" if name in ("pid", "term", "commit", "applied", "lag", "age") else "left"
        )
    for name, node in result["nodes"].items():
        power = "dark" if node["power"] == "dark" else "lit"
        if result["domains"][node["domain"]]["silenced"]:
            power += ", silenced"
        said = node["status"]
        row = [name, node["domain"], power, str(node["pid"] or "-")]
        if lying:
            row.insert(1, _lies(node))
        if said is None:
            row += [node["phase"] if node["pid"] is None else "no answer", *["-"] * 7]
        else:
            age = "-" if said["age_us"] is None else f"{said['age_us'] / 1000:.0f} ms"
            row += [
                str(said["role"]) + (" QUARANTINED" if said["quarantined"] else ""),
                str(said["term"]),
                str(said["commit_index"]),
                str(said["applied_index"]),
                str(node["lag"]),
                f"{_short(said['digest'])}@{said['digest_index']}",
                str(said["tier"]),
                age,
            ]
        table.add_row(*(Text(cell) for cell in row), style="dim" if said is None else None)
    return table


def _short(digest: Any) -> str:
    return (digest.hex() if isinstance(digest, bytes) else str(digest))[:8] or "-"


def _lies(node: dict[str, Any]) -> str:
    return f"{node['lies']}: {sum(node['lies_told'].values()):,}" if node["lies"] else ""


def evidence(result: dict[str, Any]) -> list[str]:
    """What nodes hold against one another, a line each who is blamed."""
    held: dict[str, dict[str, list[str]]] = {}
    for name, node in result["nodes"].items():
        for piece in ((node["status"] or {}).get("facts") or {}).get("evidence", ()):
            words = f"two {piece['kind']}s in round {piece['round']}"
            held.setdefault(piece["node"], {}).setdefault(words, []).append(name)
    lines = []
    for blamed, pieces in sorted(held.items()):
        words, holders = next(iter(pieces.items()))
        more = f", and {len(pieces) - 1} more such pairs are known" if len(pieces) > 1 else ""
        lines.append(f"evidence against {blamed}: {words}, both signed (held by {', '.join(holders)}){more}")
    return lines
