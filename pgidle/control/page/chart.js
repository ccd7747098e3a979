// The history as a picture, and the same as a table.

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
