// What is shown as text: the state, who is connected, settings, and what the history adds up to.

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
    if (one.without_polls?.text) return sentence(`${one.polls[0].text}, which keeps it awake`);
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
  const woken = Object.entries(wakes).reduce((sum, [cause, one]) => sum + (cause === "crash" ? 0 : one), 0);
  const figures = [
    [`asleep${share}`, duration(Math.round(asleep))],
    ["awake", duration(Math.round((seconds.awake ?? 0) + (seconds.waking ?? 0)))],
    [woken === 1 ? "wake" : "wakes", String(woken)],
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
  const lasting = (status?.polls ?? []).map(({ client, text, advice, since }) =>
    ({ client, text, advice, since: Math.round(since) }));
  const clients = new Set(lasting.map((one) => one.client));
  const ended = new Map();
  for (const one of history?.polls ?? []) if (!clients.has(one.client)) ended.set(one.client, one);
  const polls = { lasting, ended: [...ended.values()].reverse(), without: status?.without_polls?.text ?? "" };
  element("polls-section").hidden = !lasting.length && !ended.size;
  fill(element("polls"), polls, () => [
    ...lasting.map((one) => make("li", {}, sentence(one.text),
      make("span", { class: "sub" }, [`Since ${moment(one.since)}.`, sentence(one.advice)].filter((part) => part).join(" ")))),
    ...(polls.without ? [make("li", { class: "without" }, sentence(polls.without))] : []),
    ...polls.ended.map((one) => make("li", {},
      sentence(`${one.client ?? "somebody"} ${one.every ? `asked every ${duration(one.every)}` : "asked in a rhythm"}`),
      make("span", { class: "sub" }, `Noticed ${moment(one.at)}.`))),
  ]);
}
