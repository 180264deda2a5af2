"""Looks at the page of a virtual run in a real browser. Run by `make test-browser`; needs Debian's package `chromium`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from PIL import Image
from trace_maker import Made, make

from sim.report.lanes import render

pytestmark = pytest.mark.browser

# The page draws at the next frame; for the probe the next frame is now, so that it can look after every step.
AT_ONCE = "<script>window.requestAnimationFrame = (draw) => { draw(performance.now()); return 0; };</script>"
PROBE = """
<script>
addEventListener("load", () => {
  const lanes = document.getElementById("lanes"), by = (id) => document.getElementById(id).textContent;
  const at = (x, y) => {
    const box = lanes.getBoundingClientRect();
    return { clientX: box.left + x, clientY: box.top + y, bubbles: true, cancelable: true };
  };
  const point = (kind, x, y) => lanes.dispatchEvent(new PointerEvent(kind, { ...at(x, y), pointerId: 1 }));
  const press = (key) => { dispatchEvent(new KeyboardEvent("keydown", { key })); return { ...lanes.dataset }; };
  const state = () => ({ ...lanes.dataset });
  lanes.setPointerCapture = () => {};
  const found = { first: state() };
  let y = 30;
  for (; y < 300; y += 4) { point("pointermove", 180, y); if (by("tip").startsWith("n1")) break; }
  found.tip = by("tip");
  point("pointerdown", 180, y); point("pointerup", 180, y);
  found.pinned = by("pins");
  found.whole = press("0");
  found.statusOfWhole = by("status");
  found.all = press("m"); press("m");
  found.drops = press("d"); press("d");
  found.closer = press("+");
  found.again = press("v");
  point("pointerdown", 600, 300); point("pointermove", 700, 300); point("pointerup", 700, 300);
  found.dragged = state();
  lanes.dispatchEvent(new WheelEvent("wheel", { deltaY: 300, ...at(700, 400) }));
  found.wheeled = state();
  press("v");
  found.next = press("n");
  document.querySelector("button.chip").click();
  found.hidden = state();
  document.querySelector("tr[data-fault]").click();
  found.fault = state();
  const pixels = lanes.getContext("2d").getImageData(0, 0, lanes.width, lanes.height).data, seen = new Set();
  for (let n = 0; n < pixels.length; n += 40) seen.add(pixels[n] << 16 | pixels[n + 1] << 8 | pixels[n + 2]);
  found.colours = seen.size;
  found.still = getComputedStyle(document.getElementById("still")).display;
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  const loads = performance.getEntriesByType("resource").map((entry) => entry.name);
  found.loads = loads.filter((name) => !name.startsWith("data:"));
  document.documentElement.dataset.probe = JSON.stringify(found);
});
</script>
"""


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture(scope="module")
def report(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lanes") / "run.html"
    return render(path, made.trace, made.history, made.schedule, made.facts)


def chromium(page: str, profile: Path, *arguments: str, size: str = "1500,950") -> tuple[str, list[str]]:
    """(what it printed, messages on its console)."""
    program = shutil.which("chromium")
    if program is None:
        pytest.fail(
            "there is no chromium on this machine; install Debian's package: apt-get install chromium"
        )
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += ["--enable-logging=stderr", "--hide-scrollbars", f"--user-data-dir={profile}"]
    command += [f"--window-size={size}", *arguments, page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [row for row in done.stderr.splitlines() if "CONSOLE" in row]


def probe(report: Path, tmp_path: Path, size: str) -> dict:
    page = tmp_path / "probed.html"
    page.write_text(
        report.read_text("utf-8").replace("<body>", "<body>" + AT_ONCE).replace("</body>", PROBE + "</body>"),
        "utf-8",
    )
    dom, console = chromium(page.as_uri(), tmp_path / "profile", "--dump-dom", size=size)
    assert console == []
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found, "the probe did not run"
    return json.loads(unescape(found[1]))


@pytest.fixture(scope="module")
def found(report: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return probe(report, tmp_path_factory.mktemp("probe"), "1500,950")


def window(state: dict) -> tuple[int, int]:
    return int(state["from"]), int(state["to"])


def test_the_page_opens_at_the_violation_with_all_lanes_and_arrows_drawn(found: dict, made: Made) -> None:
    assert made.facts.violation is not None
    begin, end = window(found["first"])
    assert begin < made.facts.violation.at < end
    assert int(found["first"]["lanes"]) == 5
    assert 20 < int(found["first"]["arrows"]) == int(found["first"]["messages"])
    assert found["colours"] > 30
    assert found["still"] == "none"
    assert found["loads"] == []
    assert found["overflow"] <= 0


def test_the_whole_run_counts_its_messages_and_draws_them_all_on_demand(found: dict) -> None:
    assert int(found["whole"]["arrows"]) == 0
    assert int(found["whole"]["messages"]) > 6_000
    assert "zoom in to see them as arrows" in found["statusOfWhole"]
    assert int(found["all"]["arrows"]) == int(found["whole"]["messages"])
    assert 0 < int(found["drops"]["arrows"]) == int(found["drops"]["messages"]) < 400
    assert float(found["whole"]["took"]) < 2_000  # about 15 ms on an idle machine


def test_keys_wheel_and_drag_move_the_window(found: dict) -> None:
    whole, closer = window(found["whole"]), window(found["closer"])
    assert whole[0] < closer[0] < closer[1] < whole[1]
    again, dragged, wheeled = (window(found[name]) for name in ("again", "dragged", "wheeled"))
    assert again == window(found["first"])
    assert dragged[0] < again[0]
    assert abs((dragged[1] - dragged[0]) - (again[1] - again[0])) <= 1
    assert wheeled[1] - wheeled[0] > 1.5 * (dragged[1] - dragged[0])
    assert window(found["next"]) != again


def test_hiding_a_kind_of_message_and_choosing_a_fault_change_what_is_shown(found: dict, made: Made) -> None:
    assert int(found["hidden"]["messages"]) < int(found["next"]["messages"])
    begin, end = window(found["fault"])
    assert begin < made.schedule[0].at < made.schedule[0].until < end


def test_pointing_tells_and_clicking_pins_what_is_there(found: dict) -> None:
    assert found["tip"].startswith("n1: follower in term 3")
    assert found["pinned"].startswith(found["tip"])


def test_a_narrow_window_has_the_panel_below_and_nothing_overflows(report: Path, tmp_path: Path) -> None:
    narrow = probe(report, tmp_path, "520,1400")
    assert narrow["overflow"] <= 0
    assert int(narrow["first"]["lanes"]) == 5


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_painted_in_both_themes(report: Path, tmp_path: Path, dark: bool) -> None:
    picture = tmp_path / "page.png"
    theme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _, console = chromium(report.as_uri(), tmp_path / "profile", f"--screenshot={picture}", theme)
    assert console == []
    image = Image.open(picture).convert("RGB")
    assert (sum(image.getpixel((1490, 3))) < 200) == dark
    lanes = image.crop((200, 250, 1100, 700))
    # The bar of the leader and the red line of the violation are there.
    wanted = {(86, 180, 233), (255, 138, 122)} if dark else {(0, 114, 178), (179, 38, 30)}
    assert wanted <= {colour for _, colour in lanes.getcolors(1 << 20) or ()}


def test_without_script_the_overview_is_there(report: Path, tmp_path: Path) -> None:
    page = tmp_path / "bare.html"
    page.write_text(re.sub(r"<script>.*?</script>", "", report.read_text("utf-8"), flags=re.S), "utf-8")
    picture = tmp_path / "bare.png"
    _, console = chromium(page.as_uri(), tmp_path / "profile", f"--screenshot={picture}")
    assert console == []
    still = Image.open(picture).convert("RGB").crop((0, 60, 1150, 420))
    assert len(still.getcolors(1 << 20) or ()) > 20
