// Texts come from clients of Postgres: they are only ever inserted as text.

const STATUS_EVERY = 5; // seconds, while Postgres is awake
const HEALTH_EVERY = 5; // seconds, while it sleeps: pgidle answers that from memory, and starts nothing for it
const STATUS_ASLEEP = 600; // seconds until a status is asked for though nothing has changed
const HISTORY_AWAKE = 300;
const HISTORY_AGAIN = 20; // seconds after a change: who came is known only after the next look
const LONGEST_PAUSE = 60; // seconds, after failures
const PATIENCE = 30; // seconds for an answer: an observer may have to start first
const ROWS_OF_TABLE = 50;
const MOST_WAKERS = 6;
const DAYS = { day: 1, week: 7, month: 30 };
const TITLES = { day: "The last day", week: "The last 7 days", month: "The last 30 days" };
const ROW_HEIGHT = { day: [52, 0], week: [24, 6], month: [11, 4] }; // and the gap below, pixels
const CONDITIONS = ["asleep", "stopped", "unknown", "waking", "awake", "failing"]; // in order of drawing
const STACK = ["awake", "waking", "failing", "unknown", "stopped", "asleep"]; // upwards, where one span has several
const WORDS = {
  awake: "Awake", waking: "Waking", asleep: "Asleep", failing: "Failing", stopped: "Stopped", unknown: "Unknown",
  mixed: "Awake and asleep",
};
const STATES = {
  starting: "Waking", awake: "Awake", drowsy: "About to sleep", stopping: "Going to sleep", asleep: "Asleep",
  leaving: "Asleep", terminating: "Stopping", failed: "Failed",
};
const SLEEPING = ["asleep", "leaving"];
const CAUSES = {
  order: "Woken by pgidle wake", hold: "Woken by pgidle hold", start: "pgidle started", crash: "Back after a crash",
};
const EFFECTS = { active: "keeps it awake", blocks: "delays sleep", idle: "lets it sleep", ignored: "ignored" };
const HOURS = { h: 1, d: 24, month: 730 }; // of the times for which prices are given
const KEEPS = ["activity", "blocker"];

let status = null;
let statusAt = 0; // seconds of performance.now
let state = "";
let history = null;
let historyAt = 0;
let historyFault = "";
let historyKey = ""; // what was the case when it was asked for
let isHistoryFinal = false; // asked for a second time since then
let range = "day";
let chosen = null; // index of the span that was chosen with the keyboard or a tap
let hovered = null;
let skew = 0; // seconds by which the server's clock is ahead
let failures = 0;
let answeredAt = null;
let shownInTable = ROWS_OF_TABLE;

const element = (id) => document.getElementById(id);
const uptime = () => performance.now() / 1000;
const now = () => Date.now() / 1000 + skew;

// Making elements

function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== ""));
  return made;
}

function draw(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function sayOrHide(target, text) {
  say(target, text);
  target.hidden = !text;
}

const contents = new Map();

/** Replace what an element contains, if what it is made from has changed. */
function fill(target, data, build) {
  const key = JSON.stringify(data);
  if (contents.get(target.id) === key) return;
  contents.set(target.id, key);
  target.replaceChildren(...build(data));
}

// Texts

function duration(seconds) {
  if (seconds < 10) return `${Math.round(Math.max(0, seconds) * 10) / 10}s`;
  let left = Math.round(seconds);
  const parts = [];
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    parts.push(left >= size ? `${Math.floor(left / size)}${unit}` : "");
    left %= size;
  }
  const first = parts.findIndex((part) => part);
  return parts.slice(first, first + 2).filter((part) => part).join(" ");
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const TIME_EXACT = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric", month: "short" });
const DAY_SHORT = new Intl.DateTimeFormat(undefined, { weekday: "short", day: "numeric" });

function midnight(at, days = 0) {
  const day = new Date(at * 1000);
  return new Date(day.getFullYear(), day.getMonth(), day.getDate() + days).getTime() / 1000;
}

function moment(at, isExact = false) {
  const time = (isExact ? TIME_EXACT : TIME).format(at * 1000);
  return midnight(at) === midnight(now()) ? time : `${DAY.format(at * 1000)}, ${time}`;
}

function sentence(text) {
  const trimmed = (text ?? "").trim();
  if (!trimmed) return "";
  // Names keep their first letter.
  const first = /^(pgidle|app ")/.test(trimmed) ? trimmed[0] : trimmed[0].toUpperCase();
  return first + trimmed.slice(1) + (/[.?!]$/.test(trimmed) ? "" : ".");
}

const counted = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

function named(counts) {
  const said = Object.entries(counts ?? {}).map(([name, count]) => (count > 1 ? `${name} (${count} times)` : name));
  return said.join("; ");
}

function tally(names) {
  const counts = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

// Spans

const endOf = (span) => (span.lasts ? Math.max(span.end, now()) : span.end);
const lengthOf = (span) => endOf(span) - span.begin;

function timesOf(span) {
  const isExact = lengthOf(span) < 600;
  const begin = moment(span.begin, isExact);
  if (span.lasts) return `since ${begin}`;
  const end = midnight(span.begin) === midnight(span.end)
    ? (isExact ? TIME_EXACT : TIME).format(span.end * 1000) : moment(span.end, isExact);
  return `${begin} to ${end}`;
}

/** What is known about a span, in sentences. */
function storyOf(span) {
  const said = [];
  if (span.condition === "mixed") {
    const shares = STACK.filter((one) => span.seconds[one] >= 0.05);
    said.push(sentence(shares.map((one) => `${WORDS[one].toLowerCase()} ${duration(span.seconds[one])}`).join(", ")));
    const who = named(span.wakers);
    said.push(sentence(`${counted(span.wakes, "wake")}${who ? `, by ${who}` : ""}`));
  } else if (span.condition === "awake") {
    const waited = span.wait ? `, who waited ${duration(span.wait)}` : "";
    if (span.waker) said.push(sentence(`Woken by ${span.waker}${waited}`));
    else said.push(sentence(CAUSES[span.cause] ?? span.why));
    if (span.parked > 1) said.push(`${span.parked} clients waited.`);
    if (span.took && !span.wait) said.push(`Ready after ${duration(span.took)}.`);
    if (span.used_by) said.push(sentence(`Used again by ${named(span.used_by)}`));
  } else {
    said.push(sentence(span.why));
    if (span.last_use && !(span.why ?? "").includes(span.last_use)) said.push(sentence(`Last use: ${span.last_use}`));
    if (span.shutdown) said.push(`The shutdown took ${duration(span.shutdown)}.`);
    if (span.cut) said.push(sentence(`${counted(span.cut.length, "session")} cut: ${named(tally(span.cut))}`));
  }
  return said.filter((one) => one);
}

// The first lines

function showState() {
  const noun = STATES[state] ?? state;
  say(element("state"), noun);
  element("dot").className = `dot ${state}`;
  document.title = status ? `${noun} · Postgres ${status.port}` : noun;
}

/** Show a state of which nothing more is known yet. */
function showChange(next) {
  noticed(next);
  showState();
  for (const id of ["since", "why", "next"]) say(element(id), "");
}

function showNow() {
  if (status?.state !== state) return;
  const spent = status.seconds_in_state + uptime() - statusAt;
  say(element("since"), `for ${duration(Math.floor(spent))}`);
  say(element("next"), nextOf(status));
}

function nextOf(one) {
  const parts = [];
  if (one.parked) parts.push(`${counted(one.parked, "client")} ${one.parked === 1 ? "waits" : "wait"}.`);
  if (SLEEPING.includes(one.state)) parts.push("The next client that connects wakes it.");
  if (one.state === "awake" && one.sleeps_in !== null && one.sleeps_in !== undefined) {
    const left = one.sleeps_in - (uptime() - statusAt);
    parts.push(left >= 1 ? `Sleeps in ${duration(Math.round(left))} if nobody comes.` : "Sleeps soon if nobody comes.");
  }
  return parts.join(" ");
}

function whyOf(one) {
  if (one.initialising) return "Makes the data directory (initdb).";
  if (one.state === "awake") {
    const reasons = one.reasons ?? [];
    const unseen = reasons.find((reason) => reason.kind === "unknown");
    if (unseen) return sentence(`It cannot be seen whether Postgres is in use: ${unseen.text}`);
    const keeping = reasons.filter((reason) => KEEPS.includes(reason.kind) && reason.ends);
    if (keeping.length) {
      const more = keeping.length - 1;
      return sentence(`${keeping[0].text}; ends ${keeping[0].ends}${more ? `, and ${more} more below` : ""}`);
    }
    if (one.sleeps_in === null && reasons.length) return sentence(reasons[0].text);
    return "Nobody is using it at this moment.";
  }
  const last = history?.spans.at(-1);
  const why = SLEEPING.includes(one.state) && (one.last_sleep?.why || (last?.lasts && last.condition === "asleep" && last.why));
  return sentence(why || one.why);
}

function showStatus() {
  showState();
  say(element("where"), `port ${status.port}, ${status.data_dir}`);
  say(element("why"), whyOf(status));
  const failed = status.failed_start;
  sayOrHide(
    element("problem"),
    failed ? sentence(`Postgres does not start (tried ${counted(failed.count, "time")}): ${failed.why}`) : "",
  );
  showNow();
  showReasons();
  showSessions();
  showPolls();
  showSettings();
  const version = status.version ? `pgidle ${status.version}` : "pgidle";
  say(element("footer"), `${version} · This page only reads, and never wakes Postgres or keeps it awake.`);
}

function showReasons() {
  const reasons = (status.reasons ?? []).map(({ kind, text, ends }) => ({ kind, text, ends }));
  element("reasons-section").hidden = !reasons.length;
  fill(element("reasons"), reasons, (all) =>
    all.map((one) => make("li", {}, sentence(one.text), make("span", { class: "sub" }, one.ends ? `Ends ${one.ends}.` : ""))));
}

function showSessions() {
  const seen = status.sessions_seen ?? [];
  const count = status.sessions ?? 0;
  element("sessions-section").hidden = !seen.length && !count;
  const listed = seen.map(({ pid, client, state: doing, seconds, effect, text }) =>
    ({ pid, client, effect, text, doing: seconds ? `${doing} for ${duration(Math.round(seconds))}` : doing }));
  const left = status.sessions_left_out ?? (seen.length ? 0 : count);
  fill(element("sessions"), { listed, left }, (all) => [
    ...all.listed.map((one) => make("li", {},
      make("span", {}, one.client),
      make("span", { class: `effect ${one.effect}` }, EFFECTS[one.effect] ?? one.effect),
      make("span", { class: "sub" }, [one.doing, one.text, `pid ${one.pid}`].filter((part) => part).join(" · ")))),
    ...(all.left ? [make("li", {}, seen.length ? `and ${all.left} more` : counted(all.left, "session"))] : []),
  ]);
}

function showSettings() {
  fill(element("settings"), status.settings ?? {}, (settings) =>
    Object.entries(settings).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]));
}

// What the history adds up to

/** The total with what has passed since it was made. */
function secondsNow() {
  const seconds = { ...history.total.seconds };
  const last = history.spans.at(-1);
  if (last?.lasts) seconds[last.condition] = (seconds[last.condition] ?? 0) + Math.max(0, now() - history.end);
  return seconds;
}

function saved(asleep) {
  const price = /^([^\d.]*)([\d.]+)([^\d./]*)\/\s*(h|d|month)$/.exec(status?.settings?.price ?? "");
  if (!price) return "";
  const [, before, number, behind, unit] = price;
  const amount = (Number(number) / HOURS[unit]) * (asleep / 3600);
  return `${before}${amount.toFixed(amount >= 0.1 ? 2 : 4)}${behind}`;
}

function showFigures() {
  const seconds = secondsNow();
  const all = Object.values(seconds).reduce((sum, one) => sum + one, 0);
  const { wakes, wait, crashes, failed_starts: failed } = history.total;
  const asleep = seconds.asleep ?? 0;
  const share = all ? `, ${Math.floor((asleep / all) * 100)} % of the time` : "";
  const figures = [
    [`asleep${share}`, duration(Math.round(asleep))],
    ["awake", duration(Math.round((seconds.awake ?? 0) + (seconds.waking ?? 0)))],
    ["wakes", String(Object.entries(wakes).reduce((sum, [cause, one]) => sum + (cause === "crash" ? 0 : one), 0))],
  ];
  if (wait.longest) figures.push(["longest wait of a client", duration(wait.longest)]);
  if (saved(asleep)) figures.push([`saved, at ${status.settings.price}`, saved(asleep)]);
  if (crashes) figures.push([crashes === 1 ? "crash" : "crashes", String(crashes)]);
  if (failed) figures.push([failed === 1 ? "failed start" : "failed starts", String(failed)]);
  if (seconds.unknown >= 1) figures.push(["not on record", duration(seconds.unknown)]);
  fill(element("figures"), figures, (all) =>
    all.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

function showWakers() {
  const wakers = Object.entries(history.total.wakers).sort((one, other) => other[1] - one[1]).slice(0, MOST_WAKERS);
  element("wakers-section").hidden = !wakers.length;
  fill(element("wakers"), wakers, (all) => all.map(([name, count]) => {
    const part = make("i");
    part.style.setProperty("--share", `${(100 * count) / all[0][1]}%`);
    return make("li", {}, make("span", {}, name), make("span", { class: "quiet" }, counted(count, "wake")),
      make("span", { class: "share", "aria-hidden": "true" }, part));
  }));
}

/** Who asks in a rhythm now, and what would be without that; then who did before. */
function showPolls() {
  const lasting = (status?.polls ?? []).map(({ client, text, since }) => ({ client, text, since: Math.round(since) }));
  const clients = new Set(lasting.map((one) => one.client));
  const ended = new Map();
  for (const one of history?.polls ?? []) if (!clients.has(one.client)) ended.set(one.client, one);
  const polls = { lasting, ended: [...ended.values()].reverse(), without: status?.without_polls?.text ?? "" };
  element("polls-section").hidden = !lasting.length && !ended.size;
  fill(element("polls"), polls, () => [
    ...lasting.map((one) => make("li", {}, sentence(one.text), make("span", { class: "sub" }, `Since ${moment(one.since)}.`))),
    ...(polls.without ? [make("li", { class: "without" }, sentence(polls.without))] : []),
    ...polls.ended.map((one) => make("li", {},
      sentence(`${one.client ?? "somebody"} ${one.every ? `asked every ${duration(one.every)}` : "asked in a rhythm"}`),
      make("span", { class: "sub" }, `Noticed ${moment(one.at)}.`))),
  ]);
}

// The chart

const chart = element("chart");
const hatch = draw("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
  draw("path", { d: "M0 0V5" }));
const tracks = draw("g");
const marks = draw("g");
const outline = draw("path", { class: "chosen" });
const paths = Object.fromEntries(CONDITIONS.map((one) => [one, draw("path", { class: one })]));
const svg = draw("svg", { "aria-hidden": "true" }, draw("defs", {}, hatch), tracks, ...Object.values(paths), marks, outline);
chart.append(svg);

const AXIS = 22; // pixels above the rows
let plot = null; // where the rows are: {left, width, rows}

function rowsOf() {
  const at = now();
  if (range === "day") return [{ begin: at - 86400, end: at }];
  return Array.from({ length: DAYS[range] }, (_, index) => {
    const days = index + 1 - DAYS[range];
    return { begin: midnight(at, days), end: midnight(at, days + 1) };
  });
}

function labelOf(row, index, rows) {
  const day = new Date(row.begin * 1000);
  if (range === "day") return "";
  if (range === "week") return DAY_SHORT.format(day);
  return index === rows.length - 1 || day.getDay() === 1 ? DAY_SHORT.format(day) : "";
}

function ticksOf(row, width) {
  const hours = width < 500 ? 6 : 3;
  const ticks = [];
  for (let day = midnight(row.begin); day < row.end; day = midnight(day, 1)) {
    for (let hour = 0; hour < 24; hour += hours) {
      const at = new Date(day * 1000).setHours(hour) / 1000;
      if (at >= row.begin && at <= row.end) ticks.push(at);
    }
  }
  if (range !== "day") ticks.push(row.end);
  return ticks;
}

function showChart() {
  const full = chart.clientWidth;
  if (!full) return;
  const [height, gap] = ROW_HEIGHT[range];
  const left = range === "day" ? 0 : full < 500 ? 48 : 64;
  const rows = rowsOf().map((row, index) => ({ ...row, top: AXIS + index * (height + gap) }));
  plot = { left, width: full - left, height, gap, rows };
  svg.setAttribute("viewBox", `0 0 ${full} ${AXIS + rows.length * (height + gap)}`);
  svg.setAttribute("height", String(AXIS + rows.length * (height + gap)));
  tracks.replaceChildren(...rows.map((row) =>
    draw("rect", { class: "track", x: left, y: row.top, width: plot.width, height, rx: 2 })));
  const last = rows.at(-1);
  const bottom = last.top + height;
  const said = [];
  for (const at of ticksOf(last, plot.width)) {
    const x = round(left + plot.width * partOf(last, at));
    const anchor = x > full - 20 ? "end" : x < left + 20 ? "start" : "middle";
    const text = at === last.end && range !== "day" ? "24:00" : TIME.format(at * 1000);
    said.push(draw("text", { x, y: 12, "text-anchor": anchor }, text));
    said.push(draw("path", { class: "tick", d: `M${x} ${AXIS}V${bottom}` }));
  }
  rows.forEach((row, index) => {
    const label = labelOf(row, index, rows);
    if (label) said.push(draw("text", { x: 0, y: row.top + height / 2 + 4 }, label));
  });
  marks.replaceChildren(...said);
  const shapes = Object.fromEntries(CONDITIONS.map((one) => [one, []]));
  for (const span of history?.spans ?? []) shapesOf(span, shapes);
  for (const one of CONDITIONS) paths[one].setAttribute("d", shapes[one].join(""));
  showChosen();
}

const round = (pixels) => Math.round(pixels * 10) / 10;
const partOf = (row, at) => (at - row.begin) / (row.end - row.begin);
const box = (x, y, width, height) => `M${round(x)} ${round(y)}h${round(width)}v${round(height)}h${round(-width)}z`;

/** Where a span is drawn: a piece for each row that it touches. */
function piecesOf(span) {
  const end = endOf(span);
  return plot.rows.filter((row) => span.begin < row.end && end >= row.begin).map((row) => {
    const from = plot.left + plot.width * partOf(row, Math.max(span.begin, row.begin));
    const to = plot.left + plot.width * partOf(row, Math.min(end, row.end));
    return { x: from, width: Math.max(to - from, 0), top: row.top };
  });
}

function shapesOf(span, shapes) {
  for (const { x, width, top } of piecesOf(span)) {
    if (span.condition !== "mixed") {
      const least = span.condition === "asleep" ? 0 : span.condition === "failing" ? 2 : 1;
      shapes[span.condition]?.push(box(x, top, Math.max(width, least), plot.height));
      continue;
    }
    const all = Object.values(span.seconds).reduce((sum, one) => sum + one, 0) || 1;
    let bottom = top + plot.height;
    for (const one of STACK) {
      const share = (plot.height * (span.seconds[one] ?? 0)) / all;
      bottom -= share;
      if (share) shapes[one].push(box(x, bottom, Math.max(width, 1), share));
    }
  }
}

const shownIndex = () => hovered ?? chosen ?? (history?.spans.length ? history.spans.length - 1 : null);

function showChosen() {
  const spans = history?.spans ?? [];
  const index = shownIndex();
  const span = index === null ? null : spans[index];
  chart.classList.toggle("is-current", hovered === null && chosen === null);
  chart.setAttribute("aria-valuemax", String(Math.max(1, spans.length)));
  if (!span) {
    const text = historyFault || (history ? "Nothing is on record yet." : "");
    chart.setAttribute("aria-valuetext", text || "being read");
    outline.removeAttribute("d");
    fill(element("detail"), text, () => [make("p", { class: "quiet" }, text)]);
    return;
  }
  const word = WORDS[span.condition] ?? span.condition;
  const times = `${timesOf(span)}, ${duration(lengthOf(span))}`;
  const story = storyOf(span).join(" ");
  outline.setAttribute("d", plot ? piecesOf(span).map((one) => box(one.x - 1, one.top - 1, one.width + 2, plot.height + 2)).join("") : "");
  if (hovered === null) {
    chart.setAttribute("aria-valuenow", String(index + 1));
    // A lasting span changes every second: that is no reason to read it out again.
    const spoken = `${word}, ${span.lasts ? timesOf(span) : times}. ${story}`;
    if (chart.getAttribute("aria-valuetext") !== spoken) chart.setAttribute("aria-valuetext", spoken);
  }
  fill(element("detail"), { word, times, story, condition: span.condition }, (one) => [
    make("p", { class: "what" }, make("span", { class: `swatch is-${one.condition}` }), one.word, " ",
      make("span", { class: "when" }, one.times)),
    make("p", {}, one.story),
  ]);
}

/** The index of the span at a place of the chart; null if there is none. Narrow ones are easier to hit than they look. */
function spanAt(x, y) {
  if (!plot || !history) return null;
  const index = Math.min(plot.rows.length - 1, Math.max(0, Math.floor((y - AXIS) / (plot.height + plot.gap))));
  const row = plot.rows[index];
  const pixel = (row.end - row.begin) / plot.width;
  const at = row.begin + (x - plot.left) * pixel;
  let found = null;
  let narrowest = Infinity;
  for (let next = indexBefore(at + 4 * pixel); next >= 0; next -= 1) {
    const span = history.spans[next];
    const reach = lengthOf(span) < 6 * pixel ? 4 * pixel : 0;
    if (at >= span.begin - reach && at <= endOf(span) + reach && lengthOf(span) < narrowest) {
      [found, narrowest] = [next, lengthOf(span)];
    }
    if (endOf(span) < at - 4 * pixel) break;
  }
  return found;
}

/** The index of the last span that begins before a moment; -1 if none does. */
function indexBefore(at) {
  let [low, high] = [0, history.spans.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (history.spans[middle].begin <= at) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function place(event) {
  const box = svg.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

chart.addEventListener("pointermove", (event) => {
  if (event.pointerType === "touch") return;
  const before = hovered;
  hovered = spanAt(...place(event));
  if (hovered !== before) showChosen();
});
chart.addEventListener("pointerleave", () => {
  hovered = null;
  showChosen();
});
chart.addEventListener("click", (event) => {
  chosen = spanAt(...place(event));
  showChosen();
});
chart.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || !history?.spans.length) return;
  const last = history.spans.length - 1;
  const at = chosen ?? last;
  const byDay = (days) => {
    const span = history.spans[at];
    const found = indexBefore((span.begin + endOf(span)) / 2 + days * 86400);
    return days < 0 ? Math.min(found, at - 1) : Math.max(found, at + 1);
  };
  const to = {
    ArrowLeft: () => at - 1, ArrowRight: () => at + 1, Home: () => 0, End: () => last,
    ArrowUp: () => (range === "day" ? at + 1 : byDay(-1)), ArrowDown: () => (range === "day" ? at - 1 : byDay(1)),
    PageUp: () => byDay(-1), PageDown: () => byDay(1), Escape: () => null,
  }[event.key];
  if (!to) return;
  event.preventDefault();
  const next = to();
  chosen = next === null ? null : Math.min(last, Math.max(0, next));
  hovered = null;
  showChosen();
});
new ResizeObserver(showChart).observe(chart);

function showLegend() {
  const seconds = secondsNow();
  const drawn = STACK.filter((one) => ["awake", "asleep"].includes(one) || seconds[one] >= 1);
  fill(element("legend"), drawn, () => drawn.map((one) => make("li", { class: `is-${one}` }, WORDS[one].toLowerCase())));
}

// The table

const table = element("table-holder");

function showTable() {
  if (!table.open || !history) return;
  const spans = history.spans.slice(-shownInTable).reverse();
  element("more").hidden = spans.length === history.spans.length;
  fill(element("episodes"), [shownInTable, spans], () => spans.map((span) => {
    const isExact = lengthOf(span) < 600;
    const cells = [moment(span.begin, isExact), span.lasts ? "now" : moment(span.end, isExact),
      span.lasts ? "" : duration(lengthOf(span)), WORDS[span.condition] ?? span.condition, storyOf(span).join(" ")];
    // The roles stay where narrow screens show the cells below each other.
    return make("tr", { role: "row" }, ...cells.map((cell) => make("td", { role: "cell" }, cell)));
  }));
}

table.addEventListener("toggle", () => {
  shownInTable = ROWS_OF_TABLE;
  showTable();
});
element("more").addEventListener("click", () => {
  shownInTable += ROWS_OF_TABLE;
  showTable();
});

// Asking

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(PATIENCE * 1000) });
  return [answer.status, await answer.json()];
}

async function askStatus() {
  const [code, said] = await ask("status");
  if (code !== 200) throw new Error(said.error);
  status = said;
  statusAt = uptime();
  skew = said.since + said.seconds_in_state - Date.now() / 1000;
  noticed(said.state);
  showStatus();
}

function noticed(next) {
  if (state && next !== state) say(element("said"), `Postgres: ${STATES[next] ?? next}`);
  state = next;
}

async function askHistory() {
  const rows = rowsOf();
  const [code, said] = await ask(`history?since=${Math.max(1, Math.ceil(now() - rows[0].begin))}`);
  const was = chosen === null ? null : history?.spans[chosen];
  historyFault = code === 200 ? "" : sentence(said.error);
  historyAt = uptime();
  element("past").removeAttribute("aria-busy");
  if (code === 200) {
    history = said;
    chosen = was ? history.spans.findIndex((span) => span.begin === was.begin) : null;
    if (chosen === -1) chosen = null;
    hovered = null;
    showFigures();
    showWakers();
    showPolls();
    showLegend();
    say(element("why"), whyOf(status));
  }
  showChart();
  showTable();
}

async function update() {
  const isFresh = status && uptime() - statusAt < STATUS_ASLEEP;
  if (isFresh && SLEEPING.includes(state)) {
    const [, said] = await ask("health");
    answeredAt = now();
    if (said.state !== state) {
      // What makes the status would start at once, while Postgres wakes: it is asked for the next time.
      showChange(said.state);
      return;
    }
  } else {
    await askStatus();
  }
  answeredAt = now();
  const { supervisor_pid: pid, wakes, sleeps, crashes, failed_start: failed } = status;
  const key = [range, state, pid, wakes, sleeps, crashes, failed?.count].join();
  const isChanged = key !== historyKey;
  const age = uptime() - historyAt;
  if (isChanged || (!SLEEPING.includes(state) && age > (isHistoryFinal ? HISTORY_AWAKE : HISTORY_AGAIN))) {
    await askHistory();
    historyKey = key;
    isHistoryFinal = !isChanged;
  }
}

let timer = 0;
let isAsking = false;
let isWanted = false; // again, as soon as the answers under way are there

async function turn() {
  if (isAsking) {
    isWanted = true;
    return;
  }
  isAsking = true;
  clearTimeout(timer);
  try {
    await update();
    failures = 0;
  } catch {
    failures += 1;
  }
  isAsking = false;
  showStale();
  if (document.hidden) return;
  const every = SLEEPING.includes(state) ? HEALTH_EVERY : STATUS_EVERY;
  const pause = failures ? Math.min(LONGEST_PAUSE, STATUS_EVERY * 2 ** (failures - 1)) : every;
  timer = setTimeout(turn, isWanted ? 0 : 1000 * pause);
  isWanted = false;
}

function showStale() {
  document.body.classList.toggle("is-stale", failures > 0);
  const mayHaveExited = status?.settings?.["when-idle"] === "exit" && ["drowsy", "stopping", ...SLEEPING].includes(state);
  const since = answeredAt === null ? "pgidle does not answer." : `No answer since ${moment(answeredAt, true)}.`;
  const why = mayHaveExited ? "pgidle has probably exited, as Postgres sleeps (when-idle exit)." : "";
  sayOrHide(element("stale"), failures ? [since, why, "Asking again."].filter((part) => part).join(" ") : "");
}

function choose(next) {
  range = next;
  chosen = hovered = null;
  historyKey = "";
  for (const button of document.querySelectorAll("[data-range]")) {
    button.setAttribute("aria-pressed", String(button.dataset.range === range));
  }
  say(element("range-heading"), TITLES[range]);
  history = null;
  element("past").setAttribute("aria-busy", "true");
  shownInTable = ROWS_OF_TABLE;
  showChart();
  turn();
}

for (const button of document.querySelectorAll("[data-range]")) {
  button.addEventListener("click", () => choose(button.dataset.range));
}

// Once a second while somebody can see it

let ticks = 0;
let ticker = 0;

function tick() {
  if (failures) return;
  showNow();
  ticks += 1;
  if (history && ticks % 30 === 0) {
    showFigures();
    showChart();
  }
}

function onVisibility() {
  clearInterval(ticker);
  clearTimeout(timer);
  if (document.hidden) return;
  ticker = setInterval(tick, 1000);
  turn();
}

document.addEventListener("visibilitychange", onVisibility);
onVisibility();
