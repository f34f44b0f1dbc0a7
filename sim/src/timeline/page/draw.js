// Drawing: what is visible of the model, on a canvas of the size of its window.
const GUTTER = 92, AXIS = 26, LANE_MIN = 52, LANE_MAX = 190, LABELS_MAX = 70, HEADS_MAX = 1500;
const HUES = [212, 28, 145, 285, 55, 345, 180, 250];
const stage = document.getElementById("stage"), canvas = document.getElementById("canvas");
const pen = canvas.getContext("2d"), overview = document.getElementById("overview");
let colours = {}, dark = false, lanes = [], laneHeight = LANE_MIN, width = 0, height = 0;
// What the pointer can meet, as it was drawn.
let targets = [];

function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["back", "lane", "line", "text", "dim", "task", "session", "output", "beat", "lost", "altered",
    "duplicated", "place", "fault", "down", "good", "bad", "other", "accent"]) {
    colours[name] = style.getPropertyValue("--" + name).trim();
  }
  dark = document.documentElement.dataset.theme === "dark";
}

const x = (at) => GUTTER + (at - view.from) / (view.to - view.from) * (width - GUTTER);
const atX = (px) => view.from + (px - GUTTER) / (width - GUTTER) * (view.to - view.from);
const top = (lane) => AXIS + lane * laneHeight - stage.scrollTop;
const base = (lane) => top(lane) + 22;
const laneOf = (node) => lanes.indexOf(node);
const inView = (from, to) => to >= view.from && from <= view.to;
const sessionColour = (session) => {
  const hue = HUES[(sessions.get(session) || 0) % HUES.length];
  return `hsl(${hue} 55% ${dark ? 48 : 62}%)`;
};

function layOut() {
  const all = DATA.nodes.map((_, node) => node);
  const coordinator = DATA.nodes.indexOf("coordinator");
  lanes = view.nodes.size === 0 ? all : all.filter((node) => view.nodes.has(node) || node === coordinator);
  width = stage.clientWidth;
  height = stage.clientHeight;
  laneHeight = Math.max(LANE_MIN, Math.min(LANE_MAX, Math.floor((height - AXIS) / lanes.length)));
  const scale = window.devicePixelRatio || 1;
  for (const [surface, w, h] of [[canvas, width, height], [overview, overview.clientWidth, overview.clientHeight]]) {
    surface.width = w * scale;
    surface.height = h * scale;
    surface.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
  }
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  document.getElementById("rail").style.height = Math.max(0, AXIS + lanes.length * laneHeight - height) + "px";
}

function text(words, px, py, colour, font) {
  pen.font = font || "11px system-ui, sans-serif";
  pen.fillStyle = colour;
  pen.fillText(words, px, py);
}

// Words in a bar, as far as they fit.
function inBar(words, from, to, py, colour) {
  const left = Math.max(from, GUTTER) + 4, room = Math.min(to, width) - left - 3;
  if (room < 12) return;
  pen.font = "10px system-ui, sans-serif";
  if (pen.measureText(words).width <= room) text(words, left, py, colour, pen.font);
}

function bar(from, to, py, h, fill, target) {
  const left = Math.max(x(from), GUTTER), right = Math.min(Math.max(x(to), x(from) + 1.5), width);
  if (right < GUTTER || left > width) return false;
  pen.fillStyle = fill;
  pen.fillRect(left, py, right - left, h);
  if (target) targets.push({ x: left, y: py, w: right - left, h, ...target });
  return true;
}

function drawLanes() {
  for (let lane = 0; lane < lanes.length; lane++) {
    if (lane % 2 === 0) { pen.fillStyle = colours.lane; pen.fillRect(0, top(lane), width, laneHeight); }
    pen.fillStyle = colours.line;
    pen.fillRect(GUTTER, base(lane), width - GUTTER, 1);
  }
  for (const [node, from, to] of DATA.downs) {
    const lane = laneOf(node);
    if (lane < 0 || !inView(from, to) || !view.kinds.has("process")) continue;
    pen.globalAlpha = 0.55;
    bar(from, to, top(lane) + 1, laneHeight - 2, colours.down, { tip: `${DATA.nodes[node]} is not alive\n${time(from)} to ${time(to)}` });
    pen.globalAlpha = 1;
    inBar("not alive", x(from), x(to), base(lane) + 14, colours.text);
  }
}

function visibleFaults() {
  if (!view.kinds.has("fault")) return [];
  return faults.filter((fault) => laneOf(fault.node) >= 0 && inView(fault.from, fault.to));
}

function drawFaultBands(found) {
  for (const fault of found) {
    if (fault.to === fault.from) continue;
    const lane = laneOf(fault.node);
    pen.globalAlpha = 0.14;
    bar(fault.from, fault.to, top(lane) + 1, laneHeight - 2, colours.fault);
    pen.globalAlpha = 1;
    bar(fault.from, fault.to, top(lane) + laneHeight - 4, 3, colours.fault);
  }
}

// Names of faults that are close together would cover each other: then the first has its name.
function drawFaultNames(found) {
  const ends = new Map();
  pen.font = "10px system-ui, sans-serif";
  for (const fault of found) {
    const lane = laneOf(fault.node), px = x(fault.from), left = Math.max(px + 5, GUTTER + 4);
    const bottom = top(lane) + laneHeight, w = pen.measureText(fault.kind).width;
    const tip = `${events[fault.event].text}\n${fault.says}\n${time(fault.from)}` + (fault.to > fault.from ? ` to ${time(fault.to)}` : "");
    const room = Math.min(x(fault.to), width) - Math.max(px, GUTTER);
    targets.push({ x: Math.max(px - 5, GUTTER), y: bottom - 13, w: Math.max(10, room), h: 13, tip, event: fault.event, wide: true });
    if (px >= GUTTER - 1) {
      pen.fillStyle = colours.fault;
      pen.beginPath();
      pen.moveTo(px - 4, bottom - 1); pen.lineTo(px + 4, bottom - 1); pen.lineTo(px, bottom - 9);
      pen.fill();
    }
    if (left <= (ends.get(lane) || 0) || left + w > width) continue;
    pen.globalAlpha = 0.75;
    pen.fillStyle = colours.back;
    pen.fillRect(left - 1, bottom - 14, w + 2, 10);
    pen.globalAlpha = 1;
    text(fault.kind, left, bottom - 5, colours.fault, pen.font);
    ends.set(lane, left + w + 8);
  }
}

function drawLinks() {
  if (!view.kinds.has("session")) return;
  for (const link of links) {
    if (link.peer === undefined) continue;
    const lane = laneOf(link.peer);
    const from = link.opened === undefined ? link.dialled : link.opened;
    const [to, why] = link.peerEnd || [DATA.end, "open at the end"];
    const far = link.coordinatorEnd;
    if (lane < 0 || !inView(Math.min(link.dialled, from), Math.max(to, far ? far[0] : DATA.end))) continue;
    const y = top(lane) + 4, session = link.session === undefined ? "no session" : "session " + link.session;
    const how = link.generation === undefined ? "no welcome" : (link.resumed ? "resumed" : "opened") + ", generation " + link.generation;
    const tip = `connection ${link.conn}: ${session}, ${how}\n${DATA.nodes[link.peer]}'s end: ${time(from)} to ${time(to)}, ${why}`
      + `\ncoordinator's end: ` + (far ? `${time(far[0])}, ${far[1]}` : link.opened === undefined ? "never opened" : "open at the end");
    const colour = link.session === undefined ? colours.other : sessionColour(link.session);
    pen.globalAlpha = 0.4;
    bar(link.dialled, from, y + 3, 4, colour);
    // The coordinator may believe in it for longer.
    if (far && far[0] > to) bar(to, far[0], y + 3, 4, colour, { tip, conn: link.conn });
    pen.globalAlpha = 1;
    bar(from, to, y, 11, colour, { tip, conn: link.conn });
    const label = link.generation === undefined ? "…" : (link.resumed ? "resumed " : "opened ") + "g" + link.generation;
    inBar(link.session === undefined ? label : label + "  " + link.session, x(from), x(to), y + 9, dark ? "#0c0f14" : "#10151f");
  }
}

function drawRuns() {
  if (!view.kinds.has("run")) return;
  for (const run of runs) {
    const lane = laneOf(run.node);
    if (lane < 0 || !inView(run.from, run.to) || (view.task !== null && run.task !== view.task)) continue;
    const deep = Math.max((rows.get(run.node) || []).length, 1);
    const h = Math.max(3, Math.min(12, Math.floor((laneHeight - 42) / deep) - 1));
    const good = run.ended === "succeeded", bad = run.ended.startsWith("failed") || run.ended.startsWith("its worker");
    const colour = good ? colours.good : bad ? colours.bad : colours.other;
    const y = base(lane) + 5 + run.row * (h + 1);
    if (y + h > top(lane) + laneHeight - 10) continue;
    const tip = `task ${run.task}, attempt ${run.attempt}: ${run.ended || "runs at the end"}\n${time(run.from)} to ${time(run.to)}, ${span(run.to - run.from)}`;
    pen.globalAlpha = view.slice !== null && !view.sliceTasks.has(run.task) ? 0.2 : 0.85;
    bar(run.from, run.to, y, h, colour, { tip, task: run.task });
    pen.globalAlpha = 1;
    if (h >= 9) inBar("task " + run.task, x(run.from), x(run.to), y + h - 2, dark ? "#0c0f14" : "#ffffff");
  }
}

const FATE_COLOUR = { lost: "lost", altered: "altered", duplicated: "duplicated", "out of place": "place" };

// Where a message is drawn: a line for each arrival, or as far as a lost one came.
function lines(message) {
  const y1 = base(laneOf(message.from)), y2 = base(laneOf(message.to));
  if (message.arrivals.length > 0) return message.arrivals.map((one) => [x(message.at), y1, x(one.at), y2, one]);
  const part = message.fate === "lost" ? 0.55 : 0.8;
  return [[x(message.at), y1, x(message.at + usual * part), y1 + (y2 - y1) * part, null]];
}

function head(x1, y1, x2, y2) {
  const angle = Math.atan2(y2 - y1, x2 - x1);
  pen.beginPath();
  pen.moveTo(x2, y2);
  pen.lineTo(x2 - 7 * Math.cos(angle - 0.4), y2 - 7 * Math.sin(angle - 0.4));
  pen.lineTo(x2 - 7 * Math.cos(angle + 0.4), y2 - 7 * Math.sin(angle + 0.4));
  pen.fill();
}

// What has befallen a message, at a place on its line.
function glyph(fate, px, py, p) {
  p.lineWidth = 1.8;
  p.strokeStyle = p.fillStyle = colours[FATE_COLOUR[fate]];
  p.beginPath();
  if (fate === "lost") { p.moveTo(px - 4, py - 4); p.lineTo(px + 4, py + 4); p.moveTo(px + 4, py - 4); p.lineTo(px - 4, py + 4); p.stroke(); }
  if (fate === "altered") { p.moveTo(px + 2, py - 6); p.lineTo(px - 4, py + 1); p.lineTo(px, py + 1); p.lineTo(px - 2, py + 6); p.lineTo(px + 4, py - 1); p.lineTo(px, py - 1); p.fill(); }
  if (fate === "duplicated") { p.arc(px - 2, py, 3.5, 0, 7); p.moveTo(px + 5.5, py); p.arc(px + 2, py, 3.5, 0, 7); p.stroke(); }
  if (fate === "out of place") { p.moveTo(px - 5, py - 2.5); p.lineTo(px + 4, py - 2.5); p.lineTo(px + 1, py - 5.5); p.moveTo(px + 5, py + 2.5); p.lineTo(px - 4, py + 2.5); p.lineTo(px - 1, py + 5.5); p.stroke(); }
}

function visibleMessages() {
  const found = [];
  for (let n = firstFrom(messages, view.from - Math.max(longest, usual)); n < messages.length && messages[n].at <= view.to; n++) {
    const message = messages[n];
    const shown = seesMessage(message) || (view.slice !== null && view.slice.has(message.sent));
    if (shown && laneOf(message.from) >= 0 && laneOf(message.to) >= 0 && message.from !== message.to
      && (message.until >= view.from || message.at >= view.from)) found.push(message);
  }
  return found;
}

function drawMessages(found) {
  const many = found.length > HEADS_MAX;
  // Words do not cover the bars of connections.
  const placed = lanes.map((_, lane) => [GUTTER, top(lane) + 3, width, top(lane) + 16]);
  const faint = found.length > 400 ? Math.max(0.25, 0.75 - found.length / 6000) : 0.85;
  for (const message of found) {
    const sliced = view.slice !== null && view.slice.has(message.sent);
    const hot = view.hover && view.hover.message === message.id;
    const odd = FATE_COLOUR[message.fate];
    const colour = colours[odd || message.cls];
    pen.globalAlpha = hot ? 1 : view.slice !== null ? (sliced ? 1 : 0.07) : odd ? 0.9 : faint;
    pen.lineWidth = hot ? 2.6 : sliced ? 2 : 1;
    for (const [x1, y1, x2, y2, arrival] of lines(message)) {
      if (Math.max(x1, x2) < GUTTER || Math.min(x1, x2) > width) continue;
      pen.strokeStyle = pen.fillStyle = colour;
      pen.setLineDash(arrival === null || arrival.how === "again" ? [4, 3] : []);
      pen.beginPath();
      pen.moveTo(x1, y1);
      pen.lineTo(x2, y2);
      pen.stroke();
      pen.setLineDash([]);
      if (arrival !== null && (!many || sliced || hot)) head(x1, y1, x2, y2);
      if (odd && (!many || pen.globalAlpha > 0.5)) {
        const part = arrival === null ? 1 : 0.5;
        if (found.length < 800 || sliced) glyph(message.fate, x1 + (x2 - x1) * part, y1 + (y2 - y1) * part, pen);
      }
    }
    if ((found.length <= LABELS_MAX || sliced || hot) && pen.globalAlpha > 0.5) label(message, colour, placed, hot);
  }
  pen.globalAlpha = 1;
}

// Its first words beside its line, unless others stand there already.
function label(message, colour, placed, hot) {
  const [x1, y1, x2, y2] = lines(message)[0];
  // The text of its sending begins with whom it goes to, and goes on with the most telling.
  const said = events[message.sent].text, gist = said.slice(said.indexOf(": ") + 2).split("; ")[0];
  const words = gist + (message.says.length > 1 ? " +" + (message.says.length - 1) : "");
  pen.font = "10px system-ui, sans-serif";
  const short = words.length > 44 && !hot ? words.slice(0, 43) + "…" : words, w = pen.measureText(short).width;
  for (const part of [0.5, 0.3, 0.7, 0.15, 0.85, 0.4, 0.6, 0.22, 0.78]) {
    let px = x1 + (x2 - x1) * part + 5;
    const py = y1 + (y2 - y1) * part + 3;
    if (px + w > width) px -= w + 10;
    const box = [px - 2, py - 9, px + w + 2, py + 3];
    if (box[0] < GUTTER || box[1] < AXIS) continue;
    if (placed.some((b) => box[0] < b[2] && box[2] > b[0] && box[1] < b[3] && box[3] > b[1])) continue;
    placed.push(box);
    pen.globalAlpha = 0.85;
    pen.fillStyle = colours.back;
    pen.fillRect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
    pen.globalAlpha = 1;
    text(short, px, py, colour, pen.font);
    return;
  }
}

const MARKS = {
  dialled: ["session", "ring"], opened: ["session", "dot"], closed: ["session", "square"], gone: ["lost", "square"],
  started: ["good", "up"], died: ["bad", "cross"], task: ["task", "diamond"], durable: ["other", "tick"], timer: ["beat", "ring"],
};

function mark(shape, px, py, p, colour) {
  p.strokeStyle = p.fillStyle = colour;
  p.lineWidth = 1.6;
  p.beginPath();
  if (shape === "ring") { p.arc(px, py, 3, 0, 7); p.stroke(); }
  if (shape === "dot") { p.arc(px, py, 3.5, 0, 7); p.fill(); }
  if (shape === "square") p.fillRect(px - 3, py - 3, 6, 6);
  if (shape === "tick") p.fillRect(px - 1, py - 4, 2, 8);
  if (shape === "up") { p.moveTo(px - 4, py + 3); p.lineTo(px + 4, py + 3); p.lineTo(px, py - 4); p.fill(); }
  if (shape === "diamond") { p.moveTo(px, py - 4.5); p.lineTo(px + 4.5, py); p.lineTo(px, py + 4.5); p.lineTo(px - 4.5, py); p.fill(); }
  if (shape === "cross") { p.moveTo(px - 4, py - 4); p.lineTo(px + 4, py + 4); p.moveTo(px + 4, py - 4); p.lineTo(px - 4, py + 4); p.stroke(); }
}

function drawEvents() {
  let drawn = 0;
  const last = new Map();
  for (let n = firstFrom(events, view.from); n < events.length && events[n].at <= view.to; n++) {
    const event = events[n], form = MARKS[event.what];
    const sliced = view.slice !== null && view.slice.has(n);
    if (!form || event.node === null || !(seesEvent(event) || sliced)) continue;
    const lane = laneOf(event.node);
    if (lane < 0) continue;
    drawn++;
    const px = x(event.at), key = lane + event.what;
    // Those that would stand on the same spot are one mark.
    if (!sliced && px - (last.get(key) ?? -9) < 1.2) continue;
    last.set(key, px);
    pen.globalAlpha = view.slice !== null && !sliced ? 0.12 : 1;
    mark(form[1], px, base(lane), pen, colours[form[0]]);
    targets.push({ x: px - 5, y: base(lane) - 6, w: 10, h: 12, event: n, tip: `${time(event.at)}\n${DATA.nodes[event.node]}: ${event.text}` });
  }
  pen.globalAlpha = 1;
  return drawn;
}

function step() {
  const rough = (view.to - view.from) / Math.max(2, (width - GUTTER) / 110);
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  return Math.max(1, [1, 2, 5, 10].find((n) => n * power >= rough) * power);
}

function drawAxis() {
  pen.fillStyle = colours.back;
  pen.fillRect(0, 0, width, AXIS);
  pen.fillStyle = colours.line;
  pen.fillRect(0, AXIS - 1, width, 1);
  const every = step();
  for (let at = Math.ceil(view.from / every) * every; at <= view.to; at += every) {
    pen.fillStyle = colours.line;
    pen.fillRect(x(at), AXIS - 5, 1, 5);
    if (x(at) + 60 < width) text(time(at, every), x(at) + 3, AXIS - 7, colours.dim);
  }
  let last = -Infinity, row = 0;
  for (const event of events) {
    if (event.what !== "phase" || event.at < view.from || event.at > view.to) continue;
    pen.setLineDash([3, 4]);
    pen.strokeStyle = colours.accent;
    pen.beginPath(); pen.moveTo(x(event.at), AXIS); pen.lineTo(x(event.at), height); pen.stroke();
    pen.setLineDash([]);
    // Phases that follow each other closely have their names below each other.
    row = x(event.at) - last < 45 ? row + 1 : 0;
    last = x(event.at);
    text(event.text, last + 4, AXIS + 11 + row * 11, colours.accent, "600 10px system-ui, sans-serif");
  }
  if (failure && failure.at >= view.from && failure.at <= view.to) {
    pen.fillStyle = colours.bad;
    const px = Math.min(x(failure.at), width - 2);
    pen.fillRect(px - 1, 0, 2, height);
    const words = "failed", w = 40;
    const left = px + w + 8 > width ? px - w - 6 : px + 1;
    pen.fillRect(left, 2, w + 6, 15);
    text(words, left + 5, 13, colours.back, "600 11px system-ui, sans-serif");
  }
}

function drawGutter() {
  for (let lane = 0; lane < lanes.length; lane++) {
    pen.fillStyle = lane % 2 === 0 ? colours.lane : colours.back;
    pen.fillRect(0, top(lane), GUTTER, laneHeight);
    const name = DATA.nodes[lanes[lane]];
    text(name, 10, base(lane) + 4, view.nodes.has(lanes[lane]) ? colours.accent : colours.text, "600 12px system-ui, sans-serif");
  }
  pen.fillStyle = colours.line;
  pen.fillRect(GUTTER - 1, AXIS, 1, height);
  pen.fillStyle = colours.back;
  pen.fillRect(0, 0, GUTTER, AXIS);
}

function draw() {
  pen.fillStyle = colours.back;
  pen.fillRect(0, 0, width, height);
  targets = [];
  drawLanes();
  const struck = visibleFaults();
  drawFaultBands(struck);
  drawLinks();
  drawRuns();
  const found = visibleMessages();
  drawMessages(found);
  const drawn = drawEvents();
  drawFaultNames(struck);
  drawGutter();
  drawAxis();
  drawOverview();
  const nothing = document.getElementById("nothing");
  nothing.style.display = found.length + drawn === 0 ? "block" : "none";
  nothing.textContent = events.length === 0 ? "Nothing was recorded." : "No messages and events here: zoom out, or let the filters show more.";
}
