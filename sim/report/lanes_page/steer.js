// Pointer, keys, buttons, pins.
const tip = document.getElementById("tip"), status_ = document.getElementById("status"), range = document.getElementById("range");
const button = (id, act) => document.getElementById(id)?.addEventListener("click", act);

function report(sent, clients, took) {
  range.textContent = `${seconds(Math.max(view.a, run.begin))} to ${seconds(Math.min(view.b, run.end))}`;
  const all = sent.drawn ? "" : `; zoom in to see them as arrows (from ${ARROWS_AT_MOST.toLocaleString("en")} on): shades count what a node sent`;
  status_.textContent = `${sent.count.toLocaleString("en")} messages in view, ${sent.dropped.toLocaleString("en")} of them dropped${all} · ${clients.toLocaleString("en")} operations`;
  // What a test, or a person with a console, may want to know of the last drawing.
  Object.assign(canvas.dataset, { lanes: nodeRow.length, messages: sent.count, arrows: arrows.length, operations: clients,
    from: Math.round(view.a), to: Math.round(view.b), took: took.toFixed(1) });
}

function itemAt(px, py) {
  if (py < AXIS || px < GUTTER) return null;
  const y = py + view.scroll;
  const inside = (a) => px >= a.x && px <= a.x + a.w && y >= a.y && y <= a.y + a.h;
  const point = areas.find((a) => a.first && inside(a));
  if (point) return point.item;
  let best = null, least = 5;
  for (const a of arrows) {
    const dx = a.x2 - a.x1, dy = a.y2 - a.y1, share = Math.max(0, Math.min(1, ((px - a.x1) * dx + (y - a.y1) * dy) / (dx * dx + dy * dy || 1)));
    const off = Math.hypot(px - a.x1 - share * dx, y - a.y1 - share * dy) - (a.item.outcome === "dropped" ? 1.5 : 0);
    if (off < least) { least = off; best = a.item; }
  }
  if (best) return best;
  for (let n = areas.length - 1; n >= 0; n--) if (inside(areas[n])) return areas[n].item;
  return null;
}

function showTip(item, event) {
  tip.style.display = item ? "block" : "none";
  if (!item) return;
  tip.textContent = tell(item);
  const w = tip.offsetWidth, h = tip.offsetHeight;
  tip.style.left = Math.max(4, event.clientX + 16 + w > innerWidth ? event.clientX - w - 12 : event.clientX + 16) + "px";
  tip.style.top = Math.max(4, event.clientY + 16 + h > innerHeight ? event.clientY - h - 12 : event.clientY + 16) + "px";
}

let drag = null;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  drag = { x: event.offsetX, y: event.offsetY, a: view.a, b: view.b, scroll: view.scroll, moved: false };
});
canvas.addEventListener("pointermove", (event) => {
  if (drag) {
    const dx = event.offsetX - drag.x, dy = event.offsetY - drag.y;
    if (Math.abs(dx) + Math.abs(dy) > 4) { drag.moved = true; canvas.classList.add("dragging"); showTip(null); }
    if (!drag.moved) return;
    const by = dx / (view.width - GUTTER) * (drag.b - drag.a);
    scrollTo_(drag.scroll - dy);
    show(drag.a - by, drag.b - by);
    return;
  }
  const item = itemAt(event.offsetX, event.offsetY);
  chosen.hover = item;
  view.cursor = event.offsetX >= GUTTER ? timeAt(event.offsetX) : null;
  showTip(item, event);
  refresh();
});
canvas.addEventListener("pointerup", (event) => {
  if (drag && !drag.moved) { const item = itemAt(event.offsetX, event.offsetY); if (item) pin(item); }
  drag = null; canvas.classList.remove("dragging");
});
canvas.addEventListener("pointercancel", () => { drag = null; canvas.classList.remove("dragging"); });
canvas.addEventListener("pointerleave", () => { chosen.hover = null; view.cursor = null; showTip(null); refresh(); });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
  if (event.offsetX < GUTTER || event.altKey) { scrollTo_(view.scroll + event.deltaY * unit); refresh(); return; }
  if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
    const by = (event.deltaX || event.deltaY) * unit / (view.width - GUTTER) * (view.b - view.a);
    show(view.a + by, view.b + by);
  } else zoom(Math.exp(Math.max(-240, Math.min(240, event.deltaY * unit)) * 0.0022), timeAt(event.offsetX));
}, { passive: false });
function scrollTo_(y) { view.scroll = Math.max(0, Math.min(y, Math.max(0, total - view.height))); }

function mapMove(event) { goTo(run.begin + event.offsetX / map.clientWidth * (run.end - run.begin)); }
map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); mapMove(event); });
map.addEventListener("pointermove", (event) => { if (event.buttons) mapMove(event); });

const toAll = () => show(run.begin - slack, run.end + slack);
const toViolation = () => show(...run.window);
function nextStop(way) {
  const middle = (view.a + view.b) / 2, near = Math.max((view.b - view.a) * 1e-4, 0.5);
  const stop = way > 0 ? stops.find((t) => t > middle + near) : stops.findLast((t) => t < middle - near);
  if (stop !== undefined) goTo(stop, Math.min(view.b - view.a, 400_000));
}
function flip(id, field) {
  chosen[field] = !chosen[field];
  document.getElementById(id).setAttribute("aria-pressed", chosen[field]);
  refresh();
}
const KEYS = {
  ArrowLeft: () => show(view.a - (view.b - view.a) * 0.2, view.b - (view.b - view.a) * 0.2),
  ArrowRight: () => show(view.a + (view.b - view.a) * 0.2, view.b + (view.b - view.a) * 0.2),
  ArrowUp: () => { scrollTo_(view.scroll - 60); refresh(); }, ArrowDown: () => { scrollTo_(view.scroll + 60); refresh(); },
  "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), _: () => zoom(1 / 0.6),
  0: toAll, Home: toAll, v: toViolation, n: () => nextStop(1), p: () => nextStop(-1),
  d: () => flip("drops-only", "dropsOnly"), m: () => flip("all-arrows", "allArrows"),
  Escape: () => { chosen.pins = []; chosen.fault = null; listPins(); refresh(); },
};
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  if (event.target instanceof HTMLButtonElement && (event.key === "Enter" || event.key === " ")) return;
  event.preventDefault();
  KEYS[event.key]();
});
button("to-violation", toViolation); button("to-all", toAll);
button("closer", () => zoom(0.6)); button("wider", () => zoom(1 / 0.6));
button("drops-only", () => flip("drops-only", "dropsOnly")); button("all-arrows", () => flip("all-arrows", "allArrows"));

function pin(item) {
  const place = chosen.pins.indexOf(item);
  if (place >= 0) chosen.pins.splice(place, 1); else chosen.pins.push(item);
  listPins(); refresh();
}
function listPins() {
  document.getElementById("pinned").style.display = chosen.pins.length ? "block" : "none";
  document.getElementById("pins").replaceChildren(...chosen.pins.map((item) => {
    const row = document.createElement("div"), off = document.createElement("button");
    row.className = "pin"; row.textContent = tell(item);
    row.addEventListener("click", () => goTo(item.at));
    off.textContent = "×"; off.setAttribute("aria-label", "unpin");
    off.addEventListener("click", (event) => { event.stopPropagation(); pin(item); });
    row.append(off);
    return row;
  }));
}
for (const row of document.querySelectorAll("tr[data-fault]")) {
  const fault = faults.find((f) => f.number === +row.dataset.fault);
  row.addEventListener("mouseenter", () => { chosen.fault = fault; refresh(); });
  row.addEventListener("mouseleave", () => { chosen.fault = null; refresh(); });
  row.addEventListener("click", () => show(fault.at - (fault.end - fault.at) * 0.1 - 20_000, fault.end + (fault.end - fault.at) * 0.1 + 20_000));
}

const chips = document.getElementById("chips");
for (const name of stems) {
  const chip = document.createElement("button"), swatch = document.createElement("i");
  chip.className = "chip"; chip.setAttribute("aria-pressed", "true"); chip.title = name === CLIENTS ? "show or hide messages to and from clients" : `show or hide ${name} and its replies`;
  swatch.style.borderColor = `var(${hueOf.get(name)})`;
  chip.append(swatch, name);
  chip.addEventListener("click", () => {
    if (!chosen.hidden.delete(name)) chosen.hidden.add(name);
    chip.setAttribute("aria-pressed", !chosen.hidden.has(name));
    refresh();
  });
  chips.append(chip);
}

button("copy", async (event) => {
  const text = document.getElementById("command").textContent, said = (word) => { event.target.textContent = word; setTimeout(() => { event.target.textContent = "copy"; }, 1500); };
  try { await navigator.clipboard.writeText(text); said("copied"); } catch {
    // A page from a file may not reach the clipboard: select the line instead.
    const marked = document.createRange();
    marked.selectNodeContents(document.getElementById("command"));
    getSelection().removeAllRanges(); getSelection().addRange(marked);
    said(document.execCommand("copy") ? "copied" : "selected: press Ctrl+C");
  }
});

function fitPage() {
  document.documentElement.style.setProperty("--head", document.querySelector("header").offsetHeight + "px");
  view.width = canvas.clientWidth; view.height = canvas.clientHeight;
  arrange(); refresh();
}
document.documentElement.classList.add("live");
readTheme();
// page.html#10230000-10350000 opens at that window.
function followHash() {
  const found = /^#(\d+)-(\d+)$/.exec(location.hash);
  if (found && +found[2] > +found[1]) show(+found[1], +found[2]);
}
addEventListener("hashchange", followHash);
followHash();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); refresh(); });
const watch = new ResizeObserver(fitPage);
for (const part of [document.querySelector("header"), map, canvas]) watch.observe(part);
// Twice: the first drawing writes the status lines, which may move the canvas.
for (const _ of [1, 2]) { fitPage(); paint(); }
