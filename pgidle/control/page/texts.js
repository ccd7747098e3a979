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
const EFFECTS = { active: "keeps it awake", blocks: "delays sleep", polls: "keeps it awake", idle: "lets it sleep", ignored: "ignored" };
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
