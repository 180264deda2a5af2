"""A run's folder as one page: `render` makes `report.html`, `render_picture` its timeline as a picture alone.

The page loads nothing: styles, drawings and the few lines of script stand in it. Without script only the crosshair is
missing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from sim.check.availability import rates
from sim.check.verdict import sentence
from sim.report.data import Run, load_run
from sim.report.svg import duration
from sim.report.timeline import CLOSE_PANELS, fault_counts, timeline

_HERE: Final = Path(__file__).parent
_CLOSE_BEFORE_US: Final = 300_000
_CLOSE_AFTER_US: Final = 900_000


def render(run_folder: Path) -> Path:
    """Write `report.html` into the folder of a finished run; its path. Raises RunFolderError, HistoryError, OSError."""
    run = load_run(run_folder)
    path = run_folder / "report.html"
    path.write_text(page(run), encoding="utf-8")
    return path


def render_picture(run_folder: Path, out: Path) -> Path:
    """Write the main timeline as a standalone SVG file, light or dark as its viewer prefers. Raises as `render`."""
    run = load_run(run_folder)
    out.write_text(timeline(run, style=_style()), encoding="utf-8")
    return out


def _style() -> str:
    return (_HERE / "style.css").read_text(encoding="utf-8")


def page(run: Run) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    verdict = run.verdict
    failed = any(not check["passed"] for check in verdict["checks"])
    return environment.get_template("report.html.j2").render(
        run=run,
        v=verdict,
        state="Failed" if failed else "Void" if verdict["void"] else "Passed",
        sentence=sentence(verdict),
        style=Markup(_style()),
        cards=_cards(verdict),
        timeline=Markup(timeline(run)),
        cuts=_cuts(run),
        faults=_faults(run),
        asked="Reads" if verdict.get("workload") == "kv" else "Rank requests",
        latencies=_latencies(verdict["availability"]),
        shares=_shares(verdict["availability"]),
        quality=_quality(verdict),
        series=_series(run),
    )


def _card(name: str, value: str, note: str, good: bool = True) -> dict[str, Any]:
    return {"name": name, "value": value, "note": note, "good": good}


def _cards(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    checks = {check["name"]: check["passed"] for check in verdict["checks"]}
    lost = verdict["acked_updates_lost"]
    outages = [outage["gap_us"] / 1000 for outage in verdict["write_outages"]]
    latency = verdict["availability"]["latency_us"]
    cards = [
        _card("Acknowledged updates lost", f"{lost:,}", f"of {verdict['acked_updates']:,}", lost == 0),
        _card(
            "Longest write outage",
            f"{max(outages):.0f} ms" if outages else "none",
            f"after {len(outages)} cuts: {', '.join(f'{gap:.0f}' for gap in outages)} ms"
            if outages
            else "no cut",
            checks.get("write_outages", True),
        ),
        _asked_card(verdict, checks),
        _card(
            "Rank latency, p99",
            duration(latency["p99"]) if latency else "none",
            f"median {duration(latency['p50'])}, slowest {duration(latency['max'])}"
            if latency
            else "no answers",
        ),
        _card(
            "History linearizable",
            "yes" if verdict["linearizable"] else "no",
            "order, results and answers, by log index",
            verdict["linearizable"],
        ),
        _card(
            "Replicas equal",
            "yes" if verdict["digests_equal"] else "no",
            "state digests against the log run again",
            verdict["digests_equal"],
        ),
        _card(
            "Unsynced bytes dropped",
            f"{verdict['unsynced_bytes_dropped']:,}",
            "by the cuts; none of them had been acknowledged",
        ),
    ]
    if verdict["hr_at_10"]:
        quality = verdict["hr_at_10"]
        cards.append(
            _card(
                "HR@10 with cuts",
                f"{quality['with_cuts']:.4f}",
                f"{quality['without_cuts']:.4f} without",
                checks.get("hr_at_10", True),
            )
        )
    return cards


def _asked_card(verdict: Mapping[str, Any], checks: Mapping[str, bool]) -> dict[str, Any]:
    failed, asked = verdict["rank_requests_failed"], f"of {verdict['rank_requests']:,}"
    if verdict.get("workload") == "kv":
        # A read that must not be stale may have to wait for the end of a fault; the check knows which may not.
        return _card("Reads late or unanswered", f"{failed:,}", asked, checks.get("reads_answered", True))
    return _card("Rank requests failed", f"{failed:,}", asked, failed == 0)


def _faults(run: Run) -> list[dict[str, str]]:
    return [
        {
            "number": str(fault["number"]),
            "kind": fault["kind"],
            "what": fault["node"] or fault["what"],
            "at": f"{(fault['at_us'] - run.begin_us) / 1e6:.2f} s",
            "lasted": "to the end"
            if fault["until_us"] is None
            else duration(fault["until_us"] - fault["at_us"]),
            "leader": fault["leader"] or "none known",
            "directions": ", ".join(fault["pairs"]),
            "counts": fault_counts(fault),
        }
        for fault in run.faults
    ]


def _cuts(run: Run) -> list[dict[str, Any]]:
    rows = []
    outages = run.verdict["write_outages"]
    for place, cut in enumerate(run.verdict["cuts"]):
        outage = outages[place] if place < len(outages) else None
        at, restored = cut["at_us"], cut.get("restored_at_us")
        reach = at + _CLOSE_AFTER_US
        if outage and outage["begin_us"] < reach:
            # The whole gap is wanted, unless it is so long that the moment of the cut would shrink to nothing.
            reach = min(max(reach, outage["end_us"] + 300_000), at + 4_000_000)
        gap = "not measured"
        if outage:
            gap = f"{outage['gap_us'] / 1000:.0f} ms{'' if outage['ended'] else ' or more'}"
        rows.append(
            {
                "domain": cut["domain"],
                "at": f"{(at - run.begin_us) / 1e6:.2f} s",
                "dark": "to the end" if restored is None else f"{(restored - at) / 1e6:.2f} s",
                "leader": cut["leader_domain"],
                "between": cut["between_write_and_fsync"],
                "dropped": f"{cut['unsynced_bytes_dropped']:,}",
                "torn": cut.get("torn", 0),
                "outage": gap,
                "offered": f"{outage['offered_per_s']:.0f}/s" if outage else "",
                "picture": Markup(
                    timeline(
                        run,
                        at - _CLOSE_BEFORE_US,
                        reach,
                        panels=CLOSE_PANELS,
                        width=590,
                        origin_us=at,
                        label=f"Close-up of cut {place + 1}",
                    )
                ),
            }
        )
    return rows


def _latencies(availability: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [("all", availability["requests"], availability["latency_us"])]
    for name, figures in availability["latency_by_consistency_us"].items():
        rows.append((name, availability["by_consistency"].get(name, 0), figures))
    return [
        {
            "name": name,
            "count": f"{count:,}",
            "figures": [duration(figures[key]) if figures else "" for key in ("p50", "p99", "p999", "max")],
        }
        for name, count, figures in rows
    ]


def _shares(availability: Mapping[str, Any]) -> list[dict[str, str]]:
    total = max(availability["requests"], 1)
    groups = (("tier", "by_tier"), ("domain", "by_domain"), ("node", "by_node"))
    return [
        {"name": f"{kind} {name}", "count": f"{count:,}", "share": f"{count / total:.1%}"}
        for kind, key in groups
        for name, count in availability[key].items()
    ]


def _quality(verdict: Mapping[str, Any]) -> list[dict[str, str]]:
    rows = []
    for name, key in (("HR@10", "hr_at_10"), ("NDCG@10", "ndcg_at_10")):
        quality = verdict.get(key)
        if quality:
            reference = quality["reference"]
            rows.append(
                {
                    "name": name,
                    "with_cuts": f"{quality['with_cuts']:.4f}",
                    "without": f"{quality['without_cuts']:.4f}",
                    "change": f"{quality['with_cuts'] - quality['without_cuts']:+.4f}",
                    "reference": "none" if reference is None else f"{reference:.4f}",
                }
            )
    return rows


def _series(run: Run) -> Markup:
    """What the crosshair reads out, as JSON that is safe inside a script element."""
    bin_us = max(100_000, (run.end_us - run.begin_us) // 600)
    times = [
        o.returned for o in run.operations if o.op == "write" and o.outcome == "ok" and o.returned is not None
    ]
    _, rate = rates(times, run.begin_us, run.end_us, bin_us)
    leaders: list[tuple[int, int, str, int]] = [
        (stretch.begin, stretch.end, samples.node, stretch.term)
        for samples in run.nodes
        for stretch in samples.stretches
        if stretch.role == "leader"
    ]
    leaders.sort(key=lambda row: (-row[3], row[0]))
    data = {
        "begin": run.begin_us,
        "bin": bin_us,
        "rate": [round(value) for value in rate],
        "leaders": leaders,
    }
    return Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
