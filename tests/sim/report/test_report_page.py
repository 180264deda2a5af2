from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sim.report.data import RunFolderError, load_run
from sim.report.html import render, render_picture
from sim.report.svg import Scale, compact, decades, dots, duration, ticks

VOID_TAGS = {"meta", "link", "br", "hr", "img", "input"}


class Balanced(HTMLParser):
    """Follows the tags; `problems` says where they do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")


@pytest.fixture(scope="module")
def run_folder(invented_run) -> Path:
    return invented_run(seconds=8)


@pytest.fixture(scope="module")
def page(run_folder) -> str:
    return render(run_folder).read_text()


def test_the_page_names_verdict_cuts_outages_and_every_check(page, run_folder) -> None:
    verdict = json.loads((run_folder / "verdict.json").read_text())
    assert "✓ Passed" in page
    assert f"all {verdict['acked_updates']:,} acknowledged updates are still there" in page
    assert verdict["command"] in page
    for check in verdict["checks"]:
        assert check["name"].replace("_", " ") in page
        assert f"{check['counted']:,}" in page
    for outage in verdict["write_outages"]:
        assert (
            page.count(f"{outage['gap_us'] / 1000:.0f} ms") >= 3
        )  # in the timeline, the table, and over the close-up
    for section in ("verdict", "timeline", "cuts", "checks", "ranking", "quality", "replay"):
        assert f'id="{section}"' in page


def test_the_page_loads_nothing_from_anywhere(page) -> None:
    without_namespace = page.replace("http://www.w3.org/2000/svg", "")
    assert "http" not in without_namespace
    assert re.findall(r'\bsrc="', page) == []
    assert set(re.findall(r'href="([^"]*)"', page)) == {"data:,"}
    assert set(re.findall(r"url\(([^)]*)\)", page)) == {"#hatch"}
    assert "@import" not in page


def test_the_tags_nest_and_what_came_from_files_is_escaped(page) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.problems == []
    assert parser.open == []
    assert "angle &lt;brackets&gt; &amp; such" in page


def test_a_failed_run_says_so_and_tells_the_counterexample(invented_run) -> None:
    page = render(invented_run(seconds=5, fault="lost")).read_text()
    assert "✕ Failed" in page
    assert "was acknowledged, but &lt;is&gt; not in the log" in page
    assert 'class="failed"' in page
    assert "Passed" not in page.split("<main>")[1].split("</header>")[0]


def test_a_void_run_says_so_and_why(invented_run) -> None:
    page = render(invented_run(seconds=5, fault="void")).read_text()
    assert "○ Void" in page
    assert "3 cuts happened, 9 were asked for" in page


def test_the_picture_stands_alone_as_well_formed_svg(run_folder, tmp_path: Path) -> None:
    picture = render_picture(run_folder, tmp_path / "timeline.svg").read_text()
    root = ET.fromstring(picture)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in picture
    panels = [group.get("class") for group in root.findall("{http://www.w3.org/2000/svg}g")]
    names = [f"panel {name}" for name in ("power", "nodes", "log", "writes", "ranking", "age")]
    assert panels == [*names, "legend"]
    words = "".join(root.itertext())
    assert all(word in words for word in ("leader", "no power", "no write acknowledged", "stale answer"))


def test_every_drawing_stays_within_its_frame(run_folder, page) -> None:
    for drawing in re.findall(r"<svg.*?</svg>", page, re.S):
        root = ET.fromstring(drawing)
        _, _, width, height = map(float, root.get("viewBox", "").split())
        for box in root.iter("{http://www.w3.org/2000/svg}rect"):
            if box.get("x") is not None:
                assert 0 <= float(box.get("x", "")) <= width
                assert float(box.get("x", "")) + float(box.get("width", "")) <= width + 1
                assert float(box.get("y", "")) + float(box.get("height", "")) <= height


def test_a_node_shows_no_role_while_its_domain_is_dark(run_folder) -> None:
    run = load_run(run_folder)
    assert [samples.node for samples in run.nodes] == ["n1", "n2", "n5", "n3", "n4"]
    for samples in run.nodes:
        assert samples.stretches
        for stretch in samples.stretches:
            assert stretch.begin <= stretch.end
            assert not any(
                stretch.begin < end and begin < stretch.end for begin, end in run.dark[samples.domain]
            )
    roles = [stretch.role for samples in run.nodes for stretch in samples.stretches]
    assert {"leader", "follower", "candidate", "precandidate"} == set(roles)


def test_a_run_without_metrics_or_cuts_still_has_a_page(invented_run) -> None:
    folder = invented_run(seconds=5)
    (folder / "metrics.jsonl").unlink()
    (folder / "scenario.toml").unlink()
    verdict = json.loads((folder / "verdict.json").read_text())
    verdict |= {"cuts": [], "write_outages": [], "write_outage_ms": [], "hr_at_10": None, "ndcg_at_10": None}
    (folder / "verdict.json").write_text(json.dumps(verdict))
    page = render(folder).read_text()
    assert "No cut happened." in page
    assert "Not measured in this run." in page


def test_a_folder_of_no_finished_run_is_refused_by_name(tmp_path: Path, invented_run) -> None:
    with pytest.raises(RunFolderError, match=r"verdict.json is missing"):
        render(tmp_path)
    folder = invented_run(seconds=5)
    (folder / "metrics.jsonl").write_text('{"t": 1}\n{"t": "late"}\n')
    with pytest.raises(RunFolderError, match=r"metrics.jsonl, line 2"):
        render(folder)
    (folder / "verdict.json").write_text("{}")
    with pytest.raises(RunFolderError, match="has no 'acked_updates'"):
        render(folder)


def test_scales_and_ticks_are_round_and_within_range() -> None:
    assert ticks(0, 24, 10) == [0, 5, 10, 15, 20]
    assert ticks(-0.3, 0.9, 6) == [-0.2, 0, 0.2, 0.4, 0.6, 0.8]
    assert decades(100, 800_000) == [100, 1000, 10_000, 100_000]
    scale = Scale(1, 100, 0, 200, logarithmic=True)
    assert scale(10) == pytest.approx(100)
    assert (scale(0.001), scale(1e9)) == (0, 200)
    assert [compact(value) for value in (0, 950, 1500, 2_000_000)] == ["0", "950", "1.5k", "2M"]
    assert [duration(us) for us in (7, 1500, 2_500_000)] == ["7 µs", "1.5 ms", "2.5 s"]


def test_dots_that_cover_one_another_are_drawn_once() -> None:
    assert dots([(1, 1), (1.1, 1.1), (5, 5)], "dot").count("M") == 2
