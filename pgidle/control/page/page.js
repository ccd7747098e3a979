// Asks pgidle, and shows the answers, for as long as somebody can see them.

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
