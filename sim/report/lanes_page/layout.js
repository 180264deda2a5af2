// Where everything stands: the window of time, the rows from top to bottom, colours of the theme.
const canvas = document.getElementById("lanes"), map = document.getElementById("map");
const GUTTER = 168, AXIS = 26, ARROWS_AT_MOST = 1200, LABELS_AT_MOST = 70, LEAST_SPAN = 50;
const slack = Math.max((run.end - run.begin) * 0.02, 1);
const view = { a: run.window[0], b: run.window[1], scroll: 0, width: 0, height: 0, cursor: null };
const chosen = { hidden: new Set(), dropsOnly: false, allArrows: false, fault: null, hover: null, pins: [] };

const xOf = (t) => GUTTER + (t - view.a) / (view.b - view.a) * (view.width - GUTTER);
const timeAt = (x) => view.a + (x - GUTTER) / (view.width - GUTTER) * (view.b - view.a);

let colour = {};
function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "card", "ink", "muted", "grid", "edge", "bad", "good", "leader", "on-leader", "follower", "on-follower",
    "candidate", "precandidate", "off", "off-stripe", "on-off", "power", "gap", "fresh", "stale", "write", "fault", "fault-ink", "lane",
    "arrow", "log", "durable", "mark", "shade", "disk", "d0", "d1", "d2", "d3", "d4", "d5"];
  colour = Object.fromEntries(names.map((name) => [name, style.getPropertyValue("--" + name).trim()]));
  patterns.clear();
}
const hue = (message) => colour[hueOf.get(message.stem).slice(2)];

const patterns = new Map();
function pattern(g, name) {
  if (!patterns.has(name)) {
    const tile = document.createElement("canvas"), p = tile.getContext("2d");
    tile.width = tile.height = 8;
    if (name === "down") {
      p.fillStyle = colour.off; p.fillRect(0, 0, 8, 8);
      p.strokeStyle = colour["off-stripe"]; p.lineWidth = 2.2;
      for (const at of [-8, 0, 8]) { p.beginPath(); p.moveTo(at, 8); p.lineTo(at + 8, 0); p.stroke(); }
    } else {
      p.fillStyle = colour.muted; p.globalAlpha = 0.75; p.fillRect(0, 1, 8, 1.4); p.fillRect(0, 5, 8, 1.4);
    }
    patterns.set(name, g.createPattern(tile, "repeat"));
  }
  return patterns.get(name);
}

// Rows: {kind, y, h, place}. Node lanes take what room there is, between bounds; then the rest scrolls.
let rows = [], total = 0;
const nodeRow = [], clientRow = [];
function arrange() {
  rows = [];
  let y = AXIS + 2;
  const add = (kind, h, place = 0, gap = 3) => { rows.push({ kind, y, h, place }); y += h + gap; return rows.at(-1); };
  if (phases.length) add("phases", 15);
  run.domains.forEach((_, place) => add("power", 12, place, 2));
  y += 3;
  const faultRows = faults.reduce((most, f) => Math.max(most, f.row + 1), 0);
  if (faultRows) add("faults", faultRows * 18, 0, 5);
  if (points.some((p) => p.node < 0 && p.what !== "bite" && p.what !== "violation")) add("world", 14);
  // A client's rows are as high as the lanes leave them room, up to where they can carry text.
  const stack = run.clients.reduce((sum, c) => sum + c.rows, 0), nodes = Math.max(run.nodes.length, 1);
  const left = view.height - y - 14 - 4 * run.clients.length - 9 * nodes;
  const high = Math.max(8, Math.min(15, (left - 84 * nodes) / Math.max(stack, 1)));
  const tall = (c) => Math.max(c.rows * high, 14);
  // Without positions of logs a lane is its role and its messages.
  const least = run.logs.length ? 62 : 46;
  const lane = Math.max(least, Math.min(150, (left - run.clients.reduce((sum, c) => sum + tall(c), 0)) / nodes));
  run.nodes.forEach((_, place) => { nodeRow[place] = add("node", lane, place, 9); });
  y += 3;
  run.clients.forEach((c, place) => { clientRow[place] = add("client", tall(c), place, 4); });
  total = y + 6;
  view.scroll = Math.max(0, Math.min(view.scroll, total - view.height));
}
const ROLE = 19;
// Where a message touches a node or a client: at the edge of its bar that faces the other end (`way`: 1 down, -1 up).
function touch(end, way) {
  if (isNode(end)) return nodeRow[end].y + (way > 0 ? ROLE : 0);
  const row = clientRow[end - run.nodes.length];
  return row.y + Math.min(row.h / 2, 8);
}

function show(a, b) {
  const least = LEAST_SPAN, most = (run.end - run.begin) + 2 * slack;
  const span = Math.max(least, Math.min(b - a, most));
  const middle = (a + b) / 2;
  a = middle - span / 2;
  a = Math.max(run.begin - slack, Math.min(a, run.end + slack - span));
  view.a = a; view.b = a + span;
  refresh();
}
function goTo(t, span = view.b - view.a) { show(t - span / 2, t + span / 2); }
function zoom(factor, around = (view.a + view.b) / 2) {
  const span = Math.max(LEAST_SPAN, (view.b - view.a) * factor), share = (around - view.a) / (view.b - view.a);
  show(around - span * share, around + span * (1 - share));
}
let waiting = false;
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; paint(); paintMap(); });
}
