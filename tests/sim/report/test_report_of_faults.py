"""Faults of network and processes in the report: a band each, and a row with what it did."""

from __future__ import annotations

import json

from sim.report.html import render


def test_every_fault_is_a_band_with_its_counts_and_a_row_and_without_faults_there_is_neither(
    invented_run,
) -> None:
    folder = invented_run(seconds=5)
    plain = render(folder).read_text()
    assert 'class="panel faults"' not in plain
    assert "The faults" not in plain
    path = folder / "verdict.json"
    verdict = json.loads(path.read_text())
    begin = verdict["begin_us"]
    fault = {
        "number": 1, "label": "fault 1", "kind": "partition", "what": "leader:out", "leader": "n2", "node": None,
        "pairs": ["n2>n1", "n2>n3"], "progress": True, "bit": True, "at_us": begin + 1_000_000,
        "until_us": begin + 3_000_000, "counts": {"dropped_bytes": 12_345, "dropped_packets": 67}, "by_direction": [],
    }  # fmt: skip
    pause = {
        **fault,
        "number": 2,
        "kind": "pause",
        "what": "leader",
        "pairs": [],
        "node": "n3",
        "counts": {"paused_us": 2_000_000},
    }
    verdict |= {"faults": [fault, pause], "workload": "kv"}
    path.write_text(json.dumps(verdict))
    page = render(folder).read_text()
    # The main picture and the close-ups of cuts that a fault reaches into.
    assert (
        page.count(
            "<title>fault 1, partition leader:out: 1.000 s to 3.000 s; dropped bytes 12,345, dropped packets 67</title>"
        )
        >= 1
    )
    assert "paused us" not in page
    assert "pause leader" in page
    assert "<td>n2&gt;n1, n2&gt;n3</td><td>dropped bytes 12,345, dropped packets 67</td>" in page
    assert "<h2>Reads</h2>" in page
    assert "2 faults bit (24,690 bytes" not in page
    assert "2 faults bit (12,345 bytes never arrived), the power went out" in page
