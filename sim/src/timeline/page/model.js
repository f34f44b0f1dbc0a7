// What there is to see, found again quickly.
const SLICE_MAX = 150;

const events = DATA.events.map(([at, node, what, text, conn, message, tasks, causes], id) =>
  ({ id, at, node, what, text, conn, message, tasks, causes }));
const messages = DATA.messages.map(([sent, from, to, conn, bytes, cls, fate, says, arrivals], id) => {
  const at = events[sent].at;
  const times = arrivals.map(([event, how]) => ({ event, how, at: events[event].at }));
  const until = times.reduce((latest, one) => Math.max(latest, one.at), at);
  return { id, sent, from, to, conn, bytes, cls, fate, says, arrivals: times, at, until, tasks: events[sent].tasks };
});
const links = DATA.links;
const runs = DATA.runs;
const faults = DATA.faults;
const failure = DATA.failure === undefined ? null : events[DATA.failure];
const longest = messages.reduce((most, one) => Math.max(most, one.until - one.at), 0);

// A message that is lost is drawn as far as others of its time would have come.
const usual = (() => {
  const all = messages.filter((m) => m.fate === "delivered").map((m) => m.until - m.at).sort((a, b) => a - b);
  return all.length ? Math.max(all[all.length >> 1], 200) : 1000;
})();

const sessions = new Map();
for (const link of links) {
  if (link.session && !sessions.has(link.session)) sessions.set(link.session, sessions.size);
}

// Executions of a worker that run at the same time stand in rows.
const rows = new Map();
for (const run of runs) {
  const taken = rows.get(run.node) || [];
  let row = taken.findIndex((until) => until <= run.from);
  if (row < 0) row = taken.length;
  taken[row] = run.to;
  rows.set(run.node, taken);
  run.row = row;
}

// The first of a list in the order of time that is not before a moment.
function firstFrom(list, at) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].at < at) low = middle + 1; else high = middle;
  }
  return low;
}

// What led to an event, the nearest causes first.
function sliceOf(id) {
  const found = new Set([id]), queue = [id];
  for (let n = 0; n < queue.length; n++) {
    for (const cause of events[queue[n]].causes) {
      if (found.size >= SLICE_MAX) return found;
      if (!found.has(cause)) { found.add(cause); queue.push(cause); }
    }
  }
  return found;
}

const KINDS = [
  ["task", "tasks", true], ["session", "sessions", true], ["output", "output", true], ["beat", "heartbeats, acks", false],
  ["process", "processes", true], ["stage", "task steps", true], ["fault", "faults", true], ["run", "executions", true],
  ["journal", "journal", false], ["timer", "timers", false],
];
const view = {
  from: 0, to: Math.max(DATA.end, 1000), task: null, nodes: new Set(), kinds: new Set(KINDS.filter((k) => k[2]).map((k) => k[0])),
  selected: null, slice: null, sliceTasks: new Set(), hover: null,
};

const EVENT_KIND = {
  timer: "timer", dialled: "session", opened: "session", closed: "session", gone: "session", started: "process",
  died: "process", task: "stage", durable: "journal", fault: "fault", phase: "phase", note: "note", failure: "failure",
};

const ofTask = (one) => view.task === null || one.tasks.includes(view.task);
const seesNode = (node) => view.nodes.size === 0 || view.nodes.has(node);

// One that did not arrive as it should is worth a look whatever it says.
function seesMessage(message) {
  const plain = message.fate === "delivered" || message.fate === "under way";
  return (view.kinds.has(message.cls) || (!plain && view.kinds.has("fault"))) && ofTask(message)
    && (seesNode(message.from) || seesNode(message.to));
}

function seesEvent(event) {
  const kind = EVENT_KIND[event.what];
  if (kind === undefined || kind === "note" || kind === "phase") return false;
  if (kind === "failure") return true;
  return view.kinds.has(kind) && seesNode(event.node) && (kind === "fault" || ofTask(event));
}

// Notes and bare messages, too, can be stepped through.
function tells(event) {
  if (event.message !== null) return seesMessage(messages[event.message]);
  return seesEvent(event);
}

function time(us, step) {
  const digits = step === undefined || step < 1e3 ? 6 : step < 1e6 ? 3 : 0;
  return (us / 1e6).toFixed(digits) + " s";
}

function span(us) {
  return us < 1e3 ? us + " µs" : us < 1e6 ? +(us / 1e3).toFixed(2) + " ms" : +(us / 1e6).toFixed(3) + " s";
}
