// The run as the page carries it, decoded into objects once. Times are integer microseconds.
const run = JSON.parse(document.getElementById("run").textContent);
const nameOf = (place) => run.names[place];
const nodeName = (place) => (place < 0 ? "?" : run.nodes[place].name);
// Messages go between nodes and clients: places of clients follow those of nodes.
const isNode = (end) => end < run.nodes.length;
const endName = (end) => (isNode(end) ? run.nodes[end].name : run.clients[end - run.nodes.length].name);

const messages = run.messages.map((r) => ({
  kind: "message", at: r[0], end: r[0] + r[1], from: r[2], to: r[3], name: nameOf(r[4]), outcome: run.outcomes[r[5]],
  why: nameOf(r[6]), fault: r[7], note: r[8], copy: r[9] === 1,
}));
const spans = run.roles.map((r) => ({
  kind: ["role", "down", "pause"][r[0]], node: r[1], at: r[2], end: r[3], name: nameOf(r[4]), term: r[5], text: r[6],
}));
const logs = run.nodes.map(() => []);
for (const r of run.logs) if (r[0] >= 0) logs[r[0]].push({ at: r[1], last: r[2], durable: r[3], commit: r[4], applied: r[5] });
const disks = run.disks.map((r) => ({ kind: "disk", node: r[0], at: r[1] - r[2], end: r[1], took: r[2], sync: r[3] === 1, text: r[4] }));
const points = run.points.map((r) => ({ kind: "point", at: r[0], what: nameOf(r[1]), node: r[2], name: r[3], text: r[4], fault: r[5] }));
const faults = run.faults.map((r) => ({
  kind: "fault", number: r[0], name: r[1], text: r[2], at: r[3], end: r[4], bites: r[5], happened: r[6] === 1, row: r[7],
}));
const phases = run.phases.map((r) => ({ kind: "phase", at: r[0], end: r[1], name: r[2], text: r[3] }));
const power = run.power.map((r) => ({ kind: "power", domain: r[0], at: r[1], end: r[2], whole: r[3] === 1 }));
const ops = run.ops.map((r) => ({
  kind: "op", client: r[0], row: r[1], at: r[2], end: r[3] < 0 ? null : r[3], op: nameOf(r[4]), outcome: nameOf(r[5]), index: r[6],
  place: r[7], point: r[8], outside: r[9] === 1, illegal: r[10] === 1, text: r[11],
}));

// Kinds of messages: a reply shares the hue of what it answers; all those with clients are one kind.
const CLIENTS = "clients";
const stem = (name) => name.replace(/(Reply|Response|Ack)$/, "");
for (const m of messages) m.stem = isNode(m.from) && isNode(m.to) ? stem(m.name) : CLIENTS;
const stems = [];
{
  const counts = new Map();
  for (const m of messages) counts.set(m.stem, (counts.get(m.stem) || 0) + 1);
  const order = (name) => (name === CLIENTS ? -1 : counts.get(name));
  stems.push(...[...counts.keys()].sort((a, b) => order(b) - order(a) || (a < b ? -1 : 1)));
}
const hueOf = new Map(stems.map((name, place) => [name, name === CLIENTS ? "--arrow" : "--d" + (place % 6)]));

// The instants that `n` and `p` step through.
const stops = [...new Set([
  ...messages.filter((m) => m.outcome === "dropped").map((m) => m.end),
  ...spans.map((s) => s.at), ...points.filter((p) => p.what !== "bite").map((p) => p.at),
  ...faults.flatMap((f) => [f.at, f.end]), ...ops.filter((o) => o.illegal).map((o) => o.at),
  ...(run.violation ? [run.violation.at] : []),
])].sort((a, b) => a - b);

const seconds = (us, digits = 6) => (us / 1e6).toFixed(digits) + " s";
function lasting(us) {
  if (us >= 1e6) return +(us / 1e6).toPrecision(3) + " s";
  if (us >= 1000) return +(us / 1000).toPrecision(3) + " ms";
  return Math.round(us) + " µs";
}

// An item in words, for the tip and for pins.
function tell(item) {
  const when = `${seconds(item.at)}`;
  switch (item.kind) {
    case "message": {
      const fate = { open: "still under way at the end of the run", delivered: `delivered after ${lasting(item.end - item.at)}`,
        dropped: `DROPPED${item.end > item.at ? " after " + lasting(item.end - item.at) : ""}: ${item.why || "no reason told"}` }[item.outcome];
      const by = item.fault >= 0 ? ` (fault #${item.fault})` : "";
      return `${endName(item.from)} → ${endName(item.to)}  ${item.name}${item.copy ? " (another copy)" : ""}\nsent ${when}, ${fate}${by}${item.note ? "\n" + item.note : ""}`;
    }
    case "role": return `${nodeName(item.node)}: ${item.name} in term ${item.term}\nfrom ${when} for ${lasting(item.end - item.at)}${item.text ? "\n" + item.text : ""}`;
    case "down": return `${nodeName(item.node)} down: ${item.name}\nfrom ${when} for ${lasting(item.end - item.at)}${item.text ? "\n" + item.text : ""}`;
    case "pause": return `${nodeName(item.node)} paused\nfrom ${when} for ${lasting(item.end - item.at)}`;
    case "disk": return `${nodeName(item.node)} ${item.sync ? `fsync, ${lasting(item.took)}, durable at ${seconds(item.end)}` : "write at " + when}${item.text ? "\n" + item.text : ""}`;
    case "point": return `${item.node >= 0 ? nodeName(item.node) + " " : ""}${item.what === "boot" || item.what === "bite" ? "" : item.what + " "}${item.name}\nat ${when}${item.text ? "\n" + item.text : ""}`;
    case "fault": return `fault #${item.number} ${item.name}\n${item.text}\n${item.happened ? `bit ${item.bites.toLocaleString("en")} times` : "scheduled, never began"}`;
    case "phase": return `phase ${item.name}\nfrom ${when} for ${lasting(item.end - item.at)}${item.text ? "\n" + item.text : ""}`;
    case "power": return `${run.domains[item.domain]}: ${item.whole ? "no power" : "some nodes without power"}\nfrom ${when} for ${lasting(item.end - item.at)}`;
    case "op": {
      const took = item.end === null ? "never returned" : `returned after ${lasting(item.end - item.at)}`;
      const place = item.index < 0 ? "" : `\nentry ${item.index}${item.place >= 0 ? ", place " + item.place : ""}`
        + (item.point >= 0 ? (item.outside ? "; took effect outside of its own time" : `; takes effect at ${seconds(item.point)}`) : "");
      return `${run.clients[item.client].name} ${item.op}: ${item.outcome}${item.illegal ? ": CANNOT BE PUT IN ORDER" : ""}\ninvoked ${when}, ${took}${place}${item.text ? "\n" + item.text : ""}`;
    }
  }
  return "";
}
