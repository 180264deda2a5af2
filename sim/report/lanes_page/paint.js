// Draws the window. `areas` and `arrows` remember where items stand, for pointing at them.
let areas = [], arrows = [], taken = [];
const SMALL = "10.5px system-ui, -apple-system, 'Segoe UI', sans-serif", BOLD = "600 12.5px system-ui, -apple-system, 'Segoe UI', sans-serif";

function surface(target, width, height) {
  const scale = window.devicePixelRatio || 1;
  if (target.width !== Math.round(width * scale) || target.height !== Math.round(height * scale)) {
    target.width = Math.round(width * scale); target.height = Math.round(height * scale);
  }
  const g = target.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  return g;
}
const seen = (item) => (item.end ?? item.at) >= view.a && item.at <= view.b;
function write(g, text, x, y, fill, halo = "") {
  if (halo) { g.lineJoin = "round"; g.lineWidth = 3; g.strokeStyle = halo; g.strokeText(text, x, y); }
  g.fillStyle = fill; g.fillText(text, x, y);
}
// Text that gives way: not drawn where it would cover text drawn before it. Whether it was drawn.
function tuck(g, text, x, y, fill, halo) {
  const w = g.measureText(text).width + 4, box = [x - 2, y - 10, w, 13];
  if (x + w > view.width || x < GUTTER) return false;
  if (taken.some((t) => t[0] < box[0] + w && box[0] < t[0] + t[2] && t[1] < box[1] + 13 && box[1] < t[1] + t[3])) return false;
  taken.push(box);
  write(g, text, x, y, fill, halo);
  return true;
}
// A block of time with a label that stays in sight; its pixels [left, right).
function block(g, item, y, h, fill, label = "", ink = colour.ink, most = Infinity) {
  const left = Math.max(xOf(item.at), GUTTER - 2), right = Math.max(Math.min(xOf(item.end), view.width + 2), left + 1);
  g.fillStyle = fill; g.fillRect(left, y, right - left, h);
  areas.push({ x: left - 1, y, w: right - left + 2, h, item });
  const room = Math.min(right, most) - left - 8;
  if (label && room > 14) fit(g, label, Math.max(left, GUTTER) + 5, y + h / 2 + 4, room, ink);
  return [left, right];
}
function fit(g, text, x, y, room, ink) {
  while (text.length > 2 && g.measureText(text).width > room) text = text.slice(0, -2).trimEnd() + "…";
  if (text.length <= 2 && g.measureText(text).width > room) return;
  hold(g, text, x, y);
  write(g, text, x, y, ink);
}
// Keep later labels off this text.
const hold = (g, text, x, y) => taken.push([x - 2, y - 10, g.measureText(text).width + 4, 13]);

function steps() {
  const rough = (view.b - view.a) / Math.max((view.width - GUTTER) / 105, 1), power10 = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max([1, 2, 5, 10].map((f) => f * power10).find((s) => s >= rough), 1);
  const values = [];
  for (let t = Math.ceil(view.a / step) * step; t <= view.b; t += step) values.push(t);
  return { values, digits: Math.max(0, Math.min(6, Math.ceil(6 - Math.log10(step) - 1e-9))) };
}

function paint() {
  const began = performance.now(), g = surface(canvas, view.width, view.height), axis = steps();
  areas = []; arrows = []; taken = [];
  g.fillStyle = colour.card; g.fillRect(0, 0, view.width, view.height);
  g.save();
  g.beginPath(); g.rect(0, AXIS, view.width, view.height - AXIS); g.clip();
  g.translate(0, -view.scroll);
  g.font = SMALL;
  g.save();
  g.beginPath(); g.rect(GUTTER, 0, view.width - GUTTER, total + view.height); g.clip();
  for (const row of nodeRow) { g.fillStyle = colour.lane; g.fillRect(GUTTER, row.y, view.width, row.h); }
  g.fillStyle = colour.grid;
  for (const t of axis.values) g.fillRect(Math.round(xOf(t)), 0, 1, total);
  const shaded = chosen.fault ?? (chosen.hover?.kind === "fault" ? chosen.hover : null);
  if (shaded) { g.fillStyle = colour.shade; g.fillRect(xOf(shaded.at), 0, xOf(shaded.end) - xOf(shaded.at), total); }
  paintBands(g);
  run.nodes.forEach((_, place) => paintNode(g, place));
  const clients = paintOps(g), sent = paintMessages(g);
  paintPoints(g);
  // Nothing is known beyond the run's ends.
  g.fillStyle = colour.card;
  g.fillRect(0, 0, xOf(run.begin) - 0.5, total); g.fillRect(xOf(run.end), 0, view.width, total);
  paintEmphasis(g);
  g.restore();
  paintGutter(g);
  g.restore();
  paintAxis(g, axis);
  report(sent, clients, performance.now() - began);
}

function paintBands(g) {
  for (const row of rows) {
    if (row.kind === "phases") {
      phases.filter(seen).forEach((p, n) => block(g, p, row.y, row.h, n % 2 ? colour.follower : colour.grid, p.text || p.name, colour.ink));
    } else if (row.kind === "power") {
      g.fillStyle = colour.power; g.fillRect(GUTTER, row.y, view.width, row.h);
      for (const dark of power) {
        if (dark.domain !== row.place || !seen(dark)) continue;
        const [left, right] = block(g, dark, row.y, row.h, dark.whole ? pattern(g, "down") : colour.gap);
        if (right - left > 70) { g.font = "600 " + SMALL; write(g, "no power", left + 6, row.y + 10, colour["on-off"], colour.off); g.font = SMALL; }
      }
    } else if (row.kind === "faults") paintFaults(g, row);
  }
}

function paintFaults(g, row) {
  for (const f of faults) {
    if (f.at > view.b) continue;
    const y = row.y + f.row * 18, next = faults.find((o) => o.row === f.row && o.at > f.at);
    const most = next ? xOf(next.at) - 4 : view.width, label = `#${f.number} ${f.name}${f.bites ? "" : " (never bit)"}`;
    const x = xOf(f.at), right = Math.max(xOf(f.end), x + 2), from = Math.max(x, GUTTER);
    const w = g.measureText(label).width;
    if (right < GUTTER) continue;
    g.globalAlpha = f.bites ? 0.5 : 0.16;
    g.fillStyle = colour.fault; g.fillRect(x, y, right - x, 14);
    g.globalAlpha = 1;
    if (!f.bites) { g.strokeStyle = colour.fault; g.setLineDash([3, 2]); g.lineWidth = 1; g.strokeRect(x + 0.5, y + 0.5, right - x - 1, 13); g.setLineDash([]); }
    // A band too short for its name has the name beside it.
    const inside = right - from > w + 8;
    fit(g, label, inside ? from + 4 : Math.max(right, GUTTER) + 3, y + 11, inside ? w + 2 : most - right - 4, inside ? colour["fault-ink"] : colour.ink);
    areas.push({ x, y, w: right - x, h: 16, item: f });
  }
  g.fillStyle = colour.bad;
  for (const p of points) {
    if (p.what !== "bite" || !seen(p)) continue;
    const f = faults.find((one) => one.number === p.fault);
    if (f) g.fillRect(xOf(p.at) - 0.7, row.y + f.row * 18 + 10, 1.4, 5);
  }
}

const ROLE_INK = { leader: ["leader", "on-leader"], candidate: ["candidate", null], precandidate: ["precandidate", null] };
function paintNode(g, place) {
  const row = nodeRow[place], top = row.y + ROLE + 8, bottom = row.y + row.h - 9;
  if (row.y - view.scroll > view.height || row.y + row.h - view.scroll < 0) return;
  paintLog(g, place, top, bottom);
  g.fillStyle = colour.disk;
  for (const d of disks) {
    if (d.node !== place || !seen(d)) continue;
    const x = xOf(d.at), w = Math.max(d.sync ? xOf(d.end) - x : 1, 1);
    g.globalAlpha = d.sync ? 0.75 : 1;
    g.fillRect(x, d.sync ? bottom + 4 : bottom + 2, w, d.sync ? 3 : 5);
    if (w > 3) areas.push({ x, y: bottom + 1, w, h: 7, item: d });
  }
  g.globalAlpha = 1;
  for (const s of spans) {
    if (s.node !== place || !seen(s)) continue;
    if (s.kind === "role") {
      const [fill, ink] = ROLE_INK[s.name] || ["follower", "on-follower"];
      const word = s.name === "follower" ? "" : (s.name === "precandidate" ? "pre-candidate" : s.name) + ", ";
      block(g, s, row.y, ROLE, colour[fill], `${word}term ${s.term}`, ink ? colour[ink] : "#1b2430");
      g.fillStyle = colour.card; g.fillRect(xOf(s.at) - 0.5, row.y, 1, ROLE);
    } else if (s.kind === "down") {
      const [left, right] = block(g, s, row.y, row.h, pattern(g, "down"));
      const label = `down: ${s.name}`;
      g.font = "600 " + SMALL;
      if (right - left > g.measureText(label).width + 12) hold(g, label, left + 6, row.y + row.h / 2 + 4), write(g, label, left + 6, row.y + row.h / 2 + 4, colour["on-off"], colour.off);
      g.font = SMALL;
    } else {
      const [left, right] = block(g, s, row.y, row.h, pattern(g, "pause"));
      if (right - left > 50) write(g, "paused", left + 6, row.y + row.h / 2 + 4, colour.ink, colour.card);
    }
  }
}

// The first entry of a list ordered by `at` that is later than t.
function after(list, t) {
  let low = 0, high = list.length;
  while (low < high) { const middle = (low + high) >> 1; if (list[middle].at <= t) low = middle + 1; else high = middle; }
  return low;
}
let scale = { low: 0, high: 1, key: "" };
function logScale() {
  const key = view.a + " " + view.b;
  if (scale.key === key) return scale;
  let low = Infinity, high = 0;
  for (const list of logs) {
    for (let n = Math.max(after(list, view.a) - 1, 0); n < list.length && list[n].at <= view.b; n++) {
      low = Math.min(low, list[n].applied, list[n].commit); high = Math.max(high, list[n].last);
    }
  }
  if (low > high) low = high;
  return (scale = { low: low - 0.5, high: Math.max(high, low + 4) + 0.5, key });
}
function paintLog(g, place, top, bottom) {
  const list = logs[place], { low, high } = logScale();
  const y = (value) => bottom - (Math.max(value, low) - low) / (high - low) * (bottom - top);
  const first = Math.max(after(list, view.a) - 1, 0);
  const trace = (field) => {
    const path = [];
    let x = -1;
    for (let n = first; n < list.length && list[n].at <= view.b; n++) {
      const at = Math.max(xOf(list[n].at), GUTTER - 2);
      if (path.length && at - x < 0.4) path[path.length - 1][1] = y(list[n][field]);
      else { path.push([at, y(list[n][field])]); x = at; }
    }
    if (path.length) path.push([view.width + 2, path.at(-1)[1]]);
    return path;
  };
  const draw = (path) => { g.beginPath(); path.forEach(([x, at], n) => { if (n) g.lineTo(x, path[n - 1][1]); g[n ? "lineTo" : "moveTo"](x, at); }); };
  const durable = trace("durable");
  if (!durable.length) return;
  draw(durable); g.lineTo(view.width + 2, bottom); g.lineTo(durable[0][0], bottom); g.closePath();
  g.fillStyle = colour.durable; g.fill();
  for (const [field, ink, width, dash] of [["last", "muted", 1, [2, 2]], ["applied", "mark", 1, []], ["commit", "log", 1.8, []]]) {
    draw(trace(field)); g.strokeStyle = colour[ink]; g.lineWidth = width; g.setLineDash(dash); g.stroke();
  }
  g.setLineDash([]);
}

function paintMessages(g) {
  const inView = messages.filter((m) => seen(m) && !chosen.hidden.has(m.stem) && (!chosen.dropsOnly || m.outcome === "dropped"));
  const dropped = inView.filter((m) => m.outcome === "dropped");
  const drawn = chosen.allArrows || inView.length <= ARROWS_AT_MOST;
  if (drawn) {
    const alpha = inView.length > 400 ? 0.5 : 0.9;
    for (const m of inView) if (m.outcome !== "dropped") paintArrow(g, m, alpha);
    for (const m of dropped) paintArrow(g, m, 1);
    if (inView.length <= LABELS_AT_MOST) {
      // Why something was dropped comes before what was sent.
      for (const a of arrows) if (a.item.outcome === "dropped") tuck(g, a.item.why, a.x2 + 6, a.y2 + 4, colour.bad, colour.card);
      for (const a of arrows) {
        // Beside a steep arrow a name could belong to any.
        if (Math.abs(a.x2 - a.x1) < 16) continue;
        for (const share of [0.5, 0.3, 0.7]) {
          if (tuck(g, a.item.name, a.x1 + (a.x2 - a.x1) * share + 4, a.y1 + (a.y2 - a.y1) * share + 3, hue(a.item), colour.card)) break;
        }
      }
    }
  } else paintDensity(g, inView, dropped);
  return { count: inView.length, dropped: dropped.length, drawn };
}

function paintArrow(g, m, alpha) {
  if (m.from === m.to) return;
  const down = m.to > m.from ? 1 : -1, x1 = xOf(m.at), y1 = touch(m.from, down);
  let x2 = xOf(m.end), y2 = touch(m.to, -down);
  if (m.outcome !== "delivered") y2 = y1 + (y2 - y1) * (m.end > m.at ? 0.94 : 0.28);
  if (m.outcome === "open") { y2 = y1 + down * 14; x2 = x1 + 8; }
  g.globalAlpha = alpha; g.lineWidth = 1.15; g.strokeStyle = g.fillStyle = m.outcome === "dropped" ? colour.bad : hue(m);
  g.setLineDash(m.outcome === "open" ? [1, 3] : (m.stem === CLIENTS ? isNode(m.to) : m.stem === m.name) ? [] : [4, 3]);
  g.beginPath(); g.moveTo(x1, y1); g.lineTo(x2, y2); g.stroke();
  g.setLineDash([]);
  if (m.outcome === "dropped") {
    g.lineWidth = 1.8; g.beginPath();
    g.moveTo(x2 - 3.5, y2 - 3.5); g.lineTo(x2 + 3.5, y2 + 3.5); g.moveTo(x2 + 3.5, y2 - 3.5); g.lineTo(x2 - 3.5, y2 + 3.5); g.stroke();
  } else if (m.outcome === "delivered") {
    const turn = Math.atan2(y2 - y1, x2 - x1);
    g.beginPath(); g.moveTo(x2, y2);
    g.lineTo(x2 - 6.5 * Math.cos(turn - 0.36), y2 - 6.5 * Math.sin(turn - 0.36));
    g.lineTo(x2 - 6.5 * Math.cos(turn + 0.36), y2 - 6.5 * Math.sin(turn + 0.36));
    g.fill();
  }
  g.globalAlpha = 1;
  arrows.push({ x1, y1, x2, y2, item: m });
}

// Too many for arrows: under each role bar how many its node sent, in shades, and every drop as a red tick.
function paintDensity(g, inView, dropped) {
  const wide = 2, columns = Math.ceil((view.width - GUTTER) / wide) + 1, most = Math.max(4, 3 * inView.length / columns);
  const counts = run.nodes.map(() => new Uint32Array(columns));
  for (const m of inView) {
    const place = Math.floor((xOf(m.at) - GUTTER) / wide);
    if (isNode(m.from) && place >= 0 && place < columns) counts[m.from][place]++;
  }
  g.fillStyle = colour.arrow;
  counts.forEach((row, node) => row.forEach((count, place) => {
    if (!count) return;
    g.globalAlpha = 0.25 + 0.75 * Math.min(count / most, 1);
    g.fillRect(GUTTER + place * wide, nodeRow[node].y + ROLE + 1, wide, 4);
  }));
  g.globalAlpha = 1; g.fillStyle = colour.bad;
  for (const m of dropped) {
    const x = xOf(m.end), y = touch(m.from, 1) + 1;
    g.fillRect(x - 0.7, y, 1.4, 7);
    areas.push({ x: x - 3, y: y - 1, w: 6, h: 9, item: m });
  }
}

const OP_INK = { ok: { write: "write", query: "fresh", open: "d3" }, unknown: "stale", failed: "gap", refused: "muted" };
function paintOps(g) {
  let count = 0;
  for (const o of ops) {
    if (o.at > view.b || (o.end !== null && o.end < view.a) || (o.end === null && xOf(o.at) < GUTTER - 60)) continue;
    count++;
    const row = clientRow[o.client], high = row.h / Math.max(run.clients[o.client].rows, 1), y = row.y + o.row * high;
    const left = xOf(o.at), right = Math.max(o.end === null ? left + 4 : xOf(o.end), left + 1.5), h = high - 2;
    const ink = colour[o.outcome === "ok" ? OP_INK.ok[o.op] || "write" : OP_INK[o.outcome] || "muted"];
    g.fillStyle = g.strokeStyle = ink;
    if (o.outcome === "refused") { g.lineWidth = 1.2; g.strokeRect(left + 0.6, y + 0.6, Math.max(right - left - 1.2, 0.5), h - 1.2); }
    else { g.globalAlpha = 0.62; g.fillRect(left, y, right - left, h); g.globalAlpha = 1; }
    if (o.outcome === "unknown") {
      // It may still take effect: a tail that fades, for ever.
      const fade = g.createLinearGradient(right, 0, right + 46, 0);
      fade.addColorStop(0, ink); fade.addColorStop(1, "transparent");
      g.globalAlpha = 0.6; g.fillStyle = fade; g.fillRect(right, y + h / 3, 46, h / 3); g.globalAlpha = 1;
    }
    if (o.point >= 0 && right - left > 9) {
      g.beginPath(); g.arc(xOf(o.point), y + h / 2, Math.min(h / 2, 3.6), 0, 7);
      g.lineWidth = 1.4; g.strokeStyle = colour.card; g.fillStyle = o.outside ? colour.card : colour.ink;
      if (o.outside) g.strokeStyle = colour.bad;
      g.fill(); g.stroke();
    }
    if (h > 10 && right - left > 34) {
      const from = Math.max(left, GUTTER) + 3, dot = o.point >= 0 ? xOf(o.point) - 5 : Infinity;
      const label = o.index < 0 ? o.outcome : `${o.op[0]} ${o.index}${o.place > 0 ? ":" + o.place : ""}`;
      if (Math.min(right, dot > from + 18 ? dot : right) - from > g.measureText(label).width + 2 && dot > from + g.measureText(label).width)
        write(g, label, from, y + h / 2 + 3.8, colour.ink);
    }
    areas.push({ x: left - 2, y: y - 1, w: right - left + 4, h: h + 2, item: o });
  }
  return count;
}

const GLYPH = { mark: "★", event: "◆", boot: "▲" };
function paintPoints(g) {
  const inView = points.filter((p) => seen(p) && p.what !== "bite" && p.what !== "violation");
  const world = rows.find((row) => row.kind === "world");
  g.textAlign = "center";
  const places = [];
  for (const p of inView) {
    const row = p.node < 0 ? world : nodeRow[p.node];
    if (!row) continue;
    const x = xOf(p.at), y = p.node < 0 ? row.y + 11 : row.y + 1;
    write(g, GLYPH[p.what] || "◆", x, y + 2, p.what === "mark" ? colour.mark : colour.ink, colour.card);
    areas.push({ x: x - 6, y: y - 8, w: 12, h: 13, item: p, first: true });
    places.push([p, x, y]);
  }
  g.textAlign = "start";
  if (inView.length <= LABELS_AT_MOST) for (const [p, x, y] of places) if (p.node < 0) tuck(g, p.name, x + 7, y + 1, colour.muted, colour.card);
}

function paintEmphasis(g) {
  for (const area of areas) {
    if (area.item.kind === "op" && area.item.illegal) {
      g.strokeStyle = colour.bad; g.lineWidth = 2; g.strokeRect(area.x, area.y, Math.max(area.w, 6), area.h);
      g.font = "600 " + SMALL; tuck(g, "✕ illegal", area.x + Math.max(area.w, 6) + 4, area.y + area.h / 2 + 4, colour.bad, colour.card); g.font = SMALL;
    }
  }
  if (run.violation && run.violation.at >= view.a && run.violation.at <= view.b) {
    const x = Math.round(xOf(run.violation.at));
    g.fillStyle = g.strokeStyle = colour.bad; g.lineWidth = 2; g.fillRect(x - 0.75, 0, 1.5, total);
    for (const node of run.violation.nodes) if (node >= 0) g.strokeRect(x - 5, nodeRow[node].y - 2, 10, nodeRow[node].h + 4);
  }
  g.lineWidth = 2.4; g.strokeStyle = colour.ink;
  for (const item of [...chosen.pins, chosen.hover]) {
    if (!item) continue;
    for (const a of arrows) if (a.item === item) { g.beginPath(); g.moveTo(a.x1, a.y1); g.lineTo(a.x2, a.y2); g.stroke(); }
    for (const a of areas) if (a.item === item && item.kind !== "down" && item.kind !== "pause") { g.lineWidth = 1.5; g.strokeRect(a.x, a.y, a.w, a.h); g.lineWidth = 2.4; }
  }
}

function paintGutter(g) {
  g.fillStyle = colour.card; g.fillRect(0, 0, GUTTER, total + view.height);
  g.fillStyle = colour.edge; g.fillRect(GUTTER - 1, 0, 1, total + view.height);
  let firstPower = true;
  for (const row of rows) {
    if (row.kind === "phases") write(g, "phase", 8, row.y + 11, colour.muted);
    else if (row.kind === "faults") write(g, "faults", 8, row.y + 11, colour.muted);
    else if (row.kind === "world") write(g, "marks, events", 8, row.y + 11, colour.muted);
    else if (row.kind === "power") {
      if (firstPower) write(g, "power", 8, row.y + 10, colour.muted);
      firstPower = false;
      fit(g, run.domains[row.place], 48, row.y + 10, GUTTER - 54, colour.ink);
    } else if (row.kind === "client") {
      const client = run.clients[row.place];
      fit(g, client.name, 8, row.y + 11, 84, colour.ink);
      if (client.at_once > client.rows) { g.textAlign = "end"; write(g, `${client.at_once} at once`, GUTTER - 7, row.y + 11, colour.muted); g.textAlign = "start"; }
    } else if (row.kind === "node") gutterOfNode(g, row);
  }
}
function gutterOfNode(g, row) {
  const node = run.nodes[row.place], list = logs[row.place];
  g.font = BOLD; fit(g, node.name, 8, row.y + 14, 80, colour.ink); g.font = SMALL;
  g.textAlign = "end";
  if (node.domain >= 0) fit(g, run.domains[node.domain], GUTTER - 7, row.y + 14, 60, colour.muted);
  g.textAlign = "start";
  const held = run.violation && run.violation.at >= view.a && run.violation.at <= view.b ? run.violation.at : view.b;
  const log = list[after(list, view.cursor ?? held) - 1];
  if (!log) return;
  const y = row.y + ROLE + 17, rows2 = [["log", log.last, "durable", log.durable], ["commit", log.commit, "applied", log.applied]];
  rows2.forEach(([one, value, two, other], n) => {
    write(g, `${one} ${value}`, 8, y + n * 13, n ? colour.log : colour.muted);
    g.textAlign = "end"; write(g, `${two} ${other}`, GUTTER - 7, y + n * 13, n ? colour.mark : colour.muted); g.textAlign = "start";
  });
}

function paintAxis(g, axis) {
  g.fillStyle = colour.card; g.fillRect(0, 0, view.width, AXIS);
  g.fillStyle = colour.edge; g.fillRect(0, AXIS - 1, view.width, 1);
  g.font = SMALL; g.textAlign = "center";
  const flag = run.violation && run.violation.at >= view.a && run.violation.at <= view.b ? xOf(run.violation.at) : null;
  let busy = [Infinity, -Infinity];
  if (flag !== null) {
    const label = `✕ ${run.violation.oracle}`;
    g.font = "600 " + SMALL;
    const w = g.measureText(label).width + 12, left = Math.max(GUTTER + 2, Math.min(flag - w / 2, view.width - w - 2));
    g.fillStyle = colour.bad; g.fillRect(left, 4, w, 16); g.textAlign = "start"; write(g, label, left + 6, 16, colour.card); g.textAlign = "center";
    g.font = SMALL; busy = [left - 4, left + w + 4];
  }
  for (const t of axis.values) {
    const x = xOf(t), label = seconds(t, axis.digits), w = g.measureText(label).width / 2;
    if (x - w < GUTTER + 2 || x + w > view.width || (x + w > busy[0] && x - w < busy[1])) continue;
    write(g, label, x, 16, colour.muted);
    g.fillStyle = colour.muted; g.fillRect(Math.round(x), AXIS - 5, 1, 5);
  }
  g.textAlign = "start";
  write(g, lasting(view.b - view.a) + " wide", 8, 16, colour.muted);
  if (view.cursor !== null) { g.fillStyle = colour.ink; g.globalAlpha = 0.45; g.fillRect(Math.round(xOf(view.cursor)), AXIS, 1, view.height); g.globalAlpha = 1; }
  if (total > view.height) {
    const room = view.height - AXIS, high = Math.max(24, room * room / (total - AXIS));
    g.fillStyle = colour.muted; g.globalAlpha = 0.5;
    g.fillRect(view.width - 6, AXIS + view.scroll / (total - view.height) * (room - high), 4, high); g.globalAlpha = 1;
  }
}

// The whole run, small: roles, faults, drops, the violation, and where the window is.
function paintMap() {
  const width = map.clientWidth, height = map.clientHeight, g = surface(map, width, height);
  const x = (t) => (t - run.begin) / (run.end - run.begin) * width, high = (height - 8) / Math.max(run.nodes.length, 1);
  g.fillStyle = colour.card; g.fillRect(0, 0, width, height);
  for (const f of faults) { g.fillStyle = colour.shade; g.fillRect(x(f.at), 0, Math.max(x(f.end) - x(f.at), 1), height); }
  for (const s of spans) {
    if (s.node < 0) continue;
    g.fillStyle = s.kind === "role" ? colour[(ROLE_INK[s.name] || ["follower"])[0]] : s.kind === "down" ? colour.off : colour.muted;
    g.fillRect(x(s.at), 4 + s.node * high, Math.max(x(s.end) - x(s.at), 0.6), high - 1.5);
  }
  g.fillStyle = colour.bad;
  for (const m of messages) if (m.outcome === "dropped" && isNode(m.from)) g.fillRect(x(m.end), 4 + m.from * high + high / 3, 1, high / 3);
  if (run.violation) g.fillRect(x(run.violation.at) - 1, 0, 2, height);
  const left = x(view.a), right = Math.max(x(view.b), left + 3);
  g.fillStyle = colour.ink; g.globalAlpha = 0.1; g.fillRect(0, 0, left, height); g.fillRect(right, 0, width - right, height); g.globalAlpha = 1;
  g.strokeStyle = colour.ink; g.lineWidth = 1.5; g.strokeRect(left, 0.75, right - left, height - 1.5);
}
