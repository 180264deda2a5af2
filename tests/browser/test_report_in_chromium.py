"""Looks at a report in a real browser. Run by `make test-browser`; needs Debian's package `chromium`."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from PIL import Image

from sim.report.html import render

pytestmark = pytest.mark.browser

SECTIONS = ["verdict", "timeline", "cuts", "checks", "ranking", "quality", "replay"]

PROBE = """
<script>
addEventListener("load", () => {
  const svg = document.querySelector("#main-timeline svg"), area = svg.getBoundingClientRect();
  svg.dispatchEvent(new PointerEvent("pointermove", {clientX: area.left + area.width / 2, clientY: area.top + 40}));
  const seen = {};
  for (const part of document.querySelectorAll("header[id], section[id]")) {
    const box = part.getBoundingClientRect(), style = getComputedStyle(part);
    seen[part.id] = style.visibility === "visible" && box.width > 200 && box.height > 60;
  }
  document.documentElement.dataset.probe = JSON.stringify({
    seen, readout: document.getElementById("readout").textContent,
    overflow: document.documentElement.scrollWidth - innerWidth,
    loads: performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:")),
  });
});
</script>
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).parents[1] / "sim" / "report" / "conftest.py"
    spec = importlib.util.spec_from_file_location("invented_run_for_browser", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return render(module.invent(tmp_path_factory.mktemp("run") / "folder", seconds=12))


def chromium(page: Path, profile: Path, *arguments: str, size: str = "1300,3600") -> tuple[str, list[str]]:
    """(what it printed, messages on its console)."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail(
            "there is no chromium on this machine; install Debian's package: apt-get install chromium"
        )
    command = [
        program,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        f"--window-size={size}",
        *arguments,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [row for row in done.stderr.splitlines() if "CONSOLE" in row]


def probe(report: Path, tmp_path: Path, size: str) -> dict:
    page = tmp_path / "probed.html"
    page.write_text(report.read_text().replace("</body>", PROBE + "</body>"))
    dom, console = chromium(page, tmp_path / "profile", "--dump-dom", size=size)
    assert console == []
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found, "the probe did not run"
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize("size", ["1300,3600", "500,2000"])
def test_every_section_is_visible_and_nothing_is_loaded_or_overflows(
    report: Path, tmp_path: Path, size: str
) -> None:
    found = probe(report, tmp_path, size)
    assert found["seen"] == dict.fromkeys(SECTIONS, True)
    assert found["loads"] == []
    assert found["overflow"] <= 0


def test_pointing_at_the_timeline_reads_out_time_leader_and_writes(report: Path, tmp_path: Path) -> None:
    readout = probe(report, tmp_path, "1300,3600")["readout"]
    assert re.fullmatch(r"[\d.]+ s\nn\d leads, term \d\n[\d,]+ writes/s", readout)


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_painted_in_both_themes(report: Path, tmp_path: Path, dark: bool) -> None:
    picture = tmp_path / "report.png"
    theme = (
        ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    )
    _, console = chromium(report, tmp_path / "profile", f"--screenshot={picture}", *theme)
    assert console == []
    image = Image.open(picture).convert("RGB")
    assert image.size[0] == 1300
    corner = image.getpixel((3, 3))
    assert (sum(corner) < 200) == dark
    # Something is drawn in every band of the page that the window shows, down to its end.
    bands = [image.crop((0, top, 1300, top + 300)) for top in range(0, 3000, 300)]
    assert all(len(band.getcolors(1 << 20) or ()) > 20 for band in bands)


def test_this_look_would_notice_a_broken_page(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text("<title>x</title><script src='missing.js'></script><script>nothing.here()</script>")
    _, console = chromium(broken, tmp_path / "profile", "--dump-dom")
    assert any("nothing is not defined" in row for row in console)
