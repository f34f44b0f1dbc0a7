// What people do: filters, zoom, hover, selection.
const tip = document.getElementById("tip"), side = document.getElementById("side");
const element = (name, words, cls) => {
  const made = document.createElement(name);
  if (words !== undefined) made.textContent = words;
  if (cls) made.className = cls;
  return made;
};
let waiting = false, busiest = null;

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

// The whole run at a glance: how much is said when, faults, and what is in view.
function drawOverview() {
  const p = overview.getContext("2d"), w = overview.clientWidth, h = overview.clientHeight;
  const place = (at) => at / Math.max(DATA.end, 1) * w;
  if (!busiest || busiest.length !== w) {
    busiest = new Array(w).fill(0);
    for (const message of messages) busiest[Math.min(w - 1, Math.floor(place(message.at)))]++;
  }
  p.fillStyle = colours.lane;
  p.fillRect(0, 0, w, h);
  const most = busiest.reduce((a, b) => Math.max(a, b), 1);
  p.fillStyle = colours.beat;
  busiest.forEach((n, px) => { const tall = Math.sqrt(n / most) * (h - 12); p.fillRect(px, h - tall, 1, tall); });
  p.fillStyle = colours.fault;
  p.globalAlpha = 0.5;
  for (const fault of faults) p.fillRect(place(fault.from), 2, Math.max(1.5, place(fault.to) - place(fault.from)), 4);
  p.globalAlpha = 1;
  for (const event of events) if (event.what === "phase") { p.fillStyle = colours.accent; p.fillRect(place(event.at), 0, 1, h); }
  if (failure) { p.fillStyle = colours.bad; p.fillRect(Math.min(place(failure.at), w - 2) - 1, 0, 3, h); }
  p.fillStyle = colours.back;
  p.globalAlpha = 0.62;
  p.fillRect(0, 0, place(view.from), h);
  p.fillRect(place(view.to), 0, w, h);
  p.globalAlpha = 1;
  p.strokeStyle = colours.accent;
  p.lineWidth = 1.5;
  p.strokeRect(place(view.from) + 0.75, 0.75, Math.max(3, place(view.to) - place(view.from)) - 1.5, h - 1.5);
}

function show(from, to) {
  const least = 200, whole = Math.max(DATA.end, 1000) * 1.02;
  const long = Math.min(Math.max(to - from, least), whole), middle = (from + to) / 2;
  view.from = Math.max(-whole * 0.01, Math.min(middle - long / 2, whole - long));
  view.to = view.from + long;
  redraw();
}

const zoom = (factor, at) => {
  const around = at === undefined ? (view.from + view.to) / 2 : at;
  show(around - (around - view.from) * factor, around + (view.to - around) * factor);
};
const whole = () => show(0, DATA.end);

// So much time that what is said in it can be read.
function around(at, count) {
  const told = events.filter((event) => tells(event) && event.at <= at);
  const first = told[Math.max(0, told.length - count)];
  const long = Math.max(at - (first ? first.at : 0), 5000);
  show(at - long, at + long * 0.15);
}

function toFailure() {
  if (!failure) return;
  around(failure.at, 40);
  select(failure.id);
}

// What is under the pointer: marks and lines first, then bars.
function under(px, py) {
  if (py < AXIS) return null;
  if (px < GUTTER) {
    const lane = Math.floor((py - AXIS + stage.scrollTop) / laneHeight);
    return lane < lanes.length ? { node: lanes[lane], tip: "Click to see only this node and the coordinator" } : null;
  }
  const hits = targets.filter((t) => px >= t.x && px <= t.x + t.w && py >= t.y && py <= t.y + t.h);
  const marked = hits.filter((t) => t.event !== undefined).pop();
  if (marked) return marked;
  let best = null, least = 6;
  for (const message of visibleMessages()) {
    for (const [x1, y1, x2, y2] of lines(message)) {
      const dx = x2 - x1, dy = y2 - y1;
      const part = Math.max(0, Math.min(1, ((px - x1) * dx + (py - y1) * dy) / (dx * dx + dy * dy || 1)));
      const away = Math.hypot(px - x1 - part * dx, py - y1 - part * dy);
      if (away < least) { least = away; best = message; }
    }
  }
  if (best) return { message: best.id, tip: describe(best) };
  return hits.pop() || null;
}

function describe(message) {
  const arrived = message.arrivals.map((one) => `arrives ${time(one.at)}${one.how === "in place" ? "" : ", " + one.how}`);
  const said = message.says.slice(0, 8).concat(message.says.length > 8 ? [`and ${message.says.length - 8} more`] : []);
  return [`${DATA.nodes[message.from]} → ${DATA.nodes[message.to]}, ${message.bytes} bytes on connection ${message.conn}`]
    .concat([`sent ${time(message.at)}`], arrived, message.arrivals.length ? [] : [message.fate], [""], said).join("\n");
}

function select(id) {
  view.selected = id;
  view.slice = id === null ? null : sliceOf(id);
  view.sliceTasks = new Set([...view.slice || []].flatMap((n) => events[n].tasks));
  fillSide();
  redraw();
}

function fillSide() {
  side.replaceChildren();
  if (view.selected === null) {
    side.append(element("h2", "How to look at it"));
    for (const words of [
      "Point at anything to read it. Click it to see what led to it.",
      "Turn the wheel to zoom, drag to move, drag in the strip above to go elsewhere.",
      "Click a node's name to see only what it says and hears.",
      "n and p go to the next and the previous event, f to the failure, 0 shows everything, Esc lets go.",
    ]) side.append(element("p", words, "dim"));
    if (failure) { side.append(element("h2", "What failed"), element("p", failure.text)); }
    side.append(element("h2", "Faults"));
    const list = element("ol");
    if (faults.length === 0) side.append(element("p", "There is none.", "dim"));
    for (const fault of faults.slice(0, 300)) list.append(entry(events[fault.event]));
    side.append(list);
    return;
  }
  const event = events[view.selected];
  side.append(element("h2", event.node === null ? "failure" : DATA.nodes[event.node] + ", " + event.what), element("p", time(event.at), "dim"));
  if (event.message === null) side.append(element("p", event.text));
  else {
    const message = messages[event.message], said = element("ul");
    describe(message).split("\n").slice(0, 3 + message.arrivals.length).filter(Boolean).forEach((words) => side.append(element("p", words, "dim")));
    message.says.forEach((words) => said.append(element("li", words, "said")));
    side.append(said);
  }
  const steps = [...view.slice].sort((a, b) => a - b);
  side.append(element("h2", `What led to it: ${steps.length - 1} events` + (steps.length >= SLICE_MAX ? ", the nearest" : "")));
  const list = element("ol");
  steps.forEach((id) => list.append(entry(events[id])));
  side.append(list);
  const here = list.querySelector(".here");
  if (here) here.scrollIntoView({ block: "nearest" });
}

function entry(event) {
  const line = element("li", undefined, "step" + (event.id === view.selected ? " here" : ""));
  line.append(element("span", time(event.at), "time"), element("span", event.node === null ? "" : DATA.nodes[event.node], "who"), event.text);
  line.onclick = () => { bring(event); select(event.id); };
  return line;
}

function bring(event) {
  const long = view.to - view.from;
  if (event.at < view.from || event.at > view.to) show(event.at - long / 2, event.at + long / 2);
  const lane = event.node === null ? -1 : laneOf(event.node);
  if (lane >= 0 && (top(lane) < AXIS || top(lane) + laneHeight > height)) stage.scrollTop = AXIS + lane * laneHeight - height / 2;
}

function go(way) {
  const from = view.selected === null ? firstFrom(events, (view.from + view.to) / 2) - (way > 0 ? 1 : 0) : view.selected;
  for (let n = from + way; n >= 0 && n < events.length; n += way) {
    if (tells(events[n])) { bring(events[n]); select(n); return; }
  }
}

function chooseNode(node) {
  if (view.nodes.has(node)) view.nodes.delete(node); else view.nodes.add(node);
  document.getElementById("nodes").style.display = view.nodes.size ? "" : "none";
  layOut();
  redraw();
}

function point(where, moved) {
  const box = canvas.getBoundingClientRect();
  const found = under(where.clientX - box.left, where.clientY - box.top);
  const before = view.hover;
  view.hover = found;
  if (found && found.tip && !moved) {
    tip.textContent = found.tip;
    tip.style.display = "block";
    const w = tip.offsetWidth, h = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(where.clientX + 14, innerWidth - w - 6)) + "px";
    tip.style.top = (where.clientY + 18 + h > innerHeight ? where.clientY - h - 10 : where.clientY + 18) + "px";
  } else tip.style.display = "none";
  if ((found && found.message) !== (before && before.message)) redraw();
}

let held = null;
canvas.onpointerdown = (e) => { held = { x: e.clientX, y: e.clientY, from: view.from, to: view.to, scroll: stage.scrollTop, moved: false }; canvas.setPointerCapture(e.pointerId); };
canvas.onpointermove = (e) => {
  if (!held) return point(e);
  if (Math.abs(e.clientX - held.x) + Math.abs(e.clientY - held.y) > 4) held.moved = true;
  if (!held.moved) return;
  const away = (e.clientX - held.x) / (width - GUTTER) * (held.to - held.from);
  stage.scrollTop = held.scroll - (e.clientY - held.y);
  tip.style.display = "none";
  show(held.from - away, held.to - away);
};
canvas.onpointerup = (e) => {
  const moved = held && held.moved;
  held = null;
  if (moved) return;
  point(e);
  const found = view.hover;
  if (found && found.node !== undefined) chooseNode(found.node);
  else if (found && found.event !== undefined) select(found.event);
  else if (found && found.message !== undefined) select(messages[found.message].arrivals.length ? messages[found.message].arrivals[0].event : messages[found.message].sent);
  else if (found && found.task !== undefined) { document.getElementById("task").value = found.task; chooseTask(); }
  else select(null);
};
canvas.onpointerleave = () => { view.hover = null; tip.style.display = "none"; redraw(); };
canvas.addEventListener("wheel", (e) => {
  e.preventDefault();
  const long = view.to - view.from, sideways = e.shiftKey ? e.deltaY || e.deltaX : e.deltaX;
  if (Math.abs(sideways) > Math.abs(e.shiftKey ? 0 : e.deltaY)) return show(view.from + sideways / 800 * long, view.to + sideways / 800 * long);
  zoom(Math.exp(Math.max(-1, Math.min(1, e.deltaY / 300))), atX(Math.max(GUTTER, e.offsetX)));
}, { passive: false });
stage.onscroll = redraw;
const centre = (e) => {
  if (e.buttons === 0) return;
  const at = (e.clientX - overview.getBoundingClientRect().left) / overview.clientWidth * DATA.end, long = view.to - view.from;
  show(at - long / 2, at + long / 2);
};
overview.onpointerdown = (e) => { overview.setPointerCapture(e.pointerId); centre(e); };
overview.onpointermove = centre;

function chooseTask() {
  const words = document.getElementById("task").value.trim();
  view.task = words === "" || Number.isNaN(Number(words)) ? null : Number(words);
  redraw();
}
const taskInput = document.getElementById("task");
taskInput.oninput = chooseTask;
taskInput.onkeydown = (e) => {
  if (e.key !== "Enter" || view.task === null) return;
  const mine = events.filter((event) => event.tasks.includes(view.task));
  if (mine.length) { const first = mine[0].at, last = mine[mine.length - 1].at, edge = Math.max(1000, (last - first) * 0.05); show(first - edge, last + edge); }
};
const press = (id, what) => { document.getElementById(id).onclick = what; };
press("all", whole);
press("in", () => zoom(0.5));
press("out", () => zoom(2));
press("next", () => go(1));
press("before", () => go(-1));
press("failure", toFailure);
press("nodes", () => { view.nodes.clear(); document.getElementById("nodes").style.display = "none"; layOut(); redraw(); });
press("theme", () => { setTheme(dark ? "light" : "dark"); });
document.onkeydown = (e) => {
  if (e.target.tagName === "INPUT" && e.target.type !== "checkbox" || e.ctrlKey || e.metaKey || e.altKey) return;
  const long = view.to - view.from;
  const keys = { n: () => go(1), p: () => go(-1), f: toFailure, 0: whole, "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2),
    Escape: () => select(null), ArrowLeft: () => show(view.from - long / 4, view.to - long / 4), ArrowRight: () => show(view.from + long / 4, view.to + long / 4) };
  if (keys[e.key]) { e.preventDefault(); keys[e.key](); }
};

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  readColours();
  fillLegend();
  redraw();
}

function fillLegend() {
  const legend = document.getElementById("legend");
  legend.replaceChildren();
  const item = (words, paint) => {
    const box = element("canvas"), entry = element("span"), scale = window.devicePixelRatio || 1;
    [box.width, box.height, box.style.width, box.style.height] = [20 * scale, 14 * scale, "20px", "14px"];
    const p = box.getContext("2d");
    p.scale(scale, scale);
    paint(p);
    entry.append(box, words);
    legend.append(entry);
  };
  const line = (name) => (p) => { p.strokeStyle = colours[name]; p.lineWidth = 2; p.beginPath(); p.moveTo(1, 7); p.lineTo(19, 7); p.stroke(); };
  const block = (name, alpha) => (p) => { p.globalAlpha = alpha; p.fillStyle = colours[name]; p.fillRect(1, 2, 18, 10); };
  item("task", line("task")); item("session", line("session")); item("output", line("output")); item("heartbeat, ack", line("beat"));
  for (const fate of ["lost", "altered", "duplicated", "out of place"]) item(fate, (p) => glyph(fate, 10, 7, p));
  item("session, by colour", (p) => { p.fillStyle = `hsl(${HUES[0]} 55% 55%)`; p.fillRect(1, 2, 9, 10); p.fillStyle = `hsl(${HUES[1]} 55% 55%)`; p.fillRect(10, 2, 9, 10); });
  item("succeeded", block("good", 0.85)); item("failed", block("bad", 0.85)); item("fault", block("fault", 0.3)); item("not alive", block("down", 0.8));
  for (const [words, what] of [["dial", "dialled"], ["open", "opened"], ["closed here", "closed"], ["gone", "gone"], ["begins", "started"], ["ends", "died"], ["task step", "task"]]) {
    item(words, (p) => mark(MARKS[what][1], 10, 7, p, colours[MARKS[what][0]]));
  }
}

function start() {
  document.querySelector("h1").textContent = DATA.title;
  const verdict = document.getElementById("verdict");
  verdict.textContent = failure ? failure.text : "everything held";
  verdict.title = verdict.textContent;
  verdict.className = failure ? "failed" : "";
  verdict.onclick = toFailure;
  const cut = [DATA.before && `${DATA.before} earlier events`, DATA.after && `${DATA.after} later events`].filter(Boolean);
  document.getElementById("cut").textContent = `${events.length} events` + (cut.length ? `, ${cut.join(" and ")} are left out` : "");
  document.getElementById("failure").style.display = failure ? "" : "none";
  document.getElementById("nodes").style.display = "none";
  for (const [kind, words] of KINDS) {
    const label = element("label"), box = element("input");
    box.type = "checkbox";
    box.checked = view.kinds.has(kind);
    box.onchange = () => { if (box.checked) view.kinds.add(kind); else view.kinds.delete(kind); redraw(); };
    label.append(box, words);
    document.getElementById("kinds").append(label);
  }
  const numbers = [...new Set(events.flatMap((event) => event.tasks))].sort((a, b) => a - b).slice(0, 1000);
  document.getElementById("tasks").append(...numbers.map((n) => { const one = element("option"); one.value = n; return one; }));
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  layOut();
  fillSide();
  if (failure) toFailure(); else whole();
  // At once: a canvas that has changed its size is empty.
  new ResizeObserver(() => { layOut(); draw(); }).observe(stage);
}
start();
