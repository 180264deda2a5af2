"""Reads a run's folder into what the report draws. Formats: docs/reference/run-folder.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sim.check.history import Operation, read_history

EVERY: Final = "all"
"""Instead of a domain: a cut of all of them at once."""


class RunFolderError(ValueError):
    """A run's folder that no report can be made of; names the file and what is wrong."""


@dataclass(slots=True)
class Stretch:
    """A node in one state from `begin` to `end` (us)."""

    begin: int
    end: int
    role: str
    term: int


@dataclass(slots=True)
class Samples:
    """What one node showed of itself, in the order of time."""

    node: str
    domain: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)


@dataclass(slots=True)
class Run:
    """A run as the report sees it. Times in microseconds of the history's clock."""

    folder: Path
    verdict: dict[str, Any]
    operations: list[Operation]
    nodes: list[Samples]
    """By domain, then by name."""
    domains: list[str]
    dark: dict[str, list[tuple[int, int]]]
    """Domain -> stretches without power."""
    begin_us: int
    end_us: int
    scenario: str
    """The scenario's text; empty if the folder has none."""
    faults: list[dict[str, Any]] = field(default_factory=list)
    """Faults of network and processes, as in the verdict."""


_SILENCE_US = 1_000_000
"""Longer without a sample, and what the node did in between is not drawn."""


def load_run(folder: Path) -> Run:
    """Read `verdict.json` and `history.jsonl`, and `metrics.jsonl` and `scenario.toml` where there are any.

    Raises RunFolderError; HistoryError for a broken history."""
    verdict_path, history_path = folder / "verdict.json", folder / "history.jsonl"
    for path in (verdict_path, history_path):
        if not path.is_file():
            raise RunFolderError(f"{path} is missing; a report needs the folder of a finished run")
    try:
        verdict = json.loads(verdict_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunFolderError(f"{verdict_path} is no JSON: {error}") from None
    lacking = {"passed", "checks", "cuts", "write_outages", "acked_updates"} - set(verdict)
    if lacking:
        raise RunFolderError(
            f"{verdict_path} has no {sorted(lacking)[0]!r}; was it made by an older version?"
        )
    operations = read_history(history_path)
    rows = _metrics(folder / "metrics.jsonl")
    times = [o.invoke for o in operations] + [o.returned for o in operations if o.returned is not None]
    times += [row["t"] for row in rows]
    begin = verdict.get("begin_us") or min(times, default=0)
    end = max(times, default=begin + 1)
    nodes, domains = _nodes(rows)
    for cut in verdict["cuts"]:
        if cut["domain"] not in (*domains, EVERY):
            domains.append(cut["domain"])
    dark = _dark(verdict["cuts"], domains, end)
    for samples in nodes:
        samples.stretches = _stretches(samples, dark[samples.domain], end)
    scenario_path = folder / "scenario.toml"
    scenario = scenario_path.read_text(encoding="utf-8") if scenario_path.is_file() else ""
    faults = verdict.get("faults", [])
    return Run(
        folder, verdict, operations, nodes, domains, dark, begin, max(end, begin + 1), scenario, faults
    )


def _metrics(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if type(row) is not dict or type(row.get("t")) is not int:
                    raise ValueError("expected an object with an integer 't' (microseconds)")
            except ValueError as error:
                raise RunFolderError(f"{path}, line {number}: {error}") from None
            rows.append(row)
    rows.sort(key=lambda row: row["t"])
    return rows


def _nodes(rows: list[dict[str, Any]]) -> tuple[list[Samples], list[str]]:
    found: dict[str, Samples] = {}
    for row in rows:
        node = row.get("node")
        if node is None or row.get("event", "role") != "role":
            continue
        samples = found.setdefault(node, Samples(node, ""))
        samples.domain = row.get("domain") or samples.domain
        samples.rows.append(row)
    nodes = sorted(found.values(), key=lambda samples: (samples.domain, samples.node))
    return nodes, list(dict.fromkeys(samples.domain for samples in nodes))


def _dark(cuts: list[Mapping[str, Any]], domains: list[str], end: int) -> dict[str, list[tuple[int, int]]]:
    dark: dict[str, list[tuple[int, int]]] = {domain: [] for domain in domains}
    for cut in cuts:
        restored = cut.get("restored_at_us")
        for domain in domains if cut["domain"] == EVERY else (cut["domain"],):
            dark[domain].append((cut["at_us"], end if restored is None else restored))
    return dark


def _stretches(samples: Samples, dark: list[tuple[int, int]], end: int) -> list[Stretch]:
    found: list[Stretch] = []
    term = 0
    for row in samples.rows:
        t, role = row["t"], row.get("role")
        if role is None or any(begin <= t < stop for begin, stop in dark):
            continue
        term = row.get("term", term)
        if found:
            last = found[-1]
            # A node holds its role until it shows another one, its power goes, or it has been silent for long.
            cut = next((begin for begin, _ in dark if last.end <= begin <= t), None)
            last.end = cut if cut is not None else (t if t - last.end <= _SILENCE_US else last.end)
            if (last.role, last.term) == (role, term) and last.end == t:
                continue
        found.append(Stretch(t, t, role, term))
    if found:
        last = found[-1]
        cut = next((begin for begin, _ in dark if begin >= last.end), end)
        last.end = min(cut, last.end + _SILENCE_US, end)
    return found
