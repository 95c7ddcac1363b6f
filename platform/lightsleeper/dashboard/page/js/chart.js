// A figure: caption, plotly drawing, tools, and the same data as a table for those who cannot see or point at it.

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px 2px", "2px 4px"];
const TABLE_ROWS = 500;

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const series = (index) => ink(`s${(index % SYMBOLS.length) + 1}`);
const narrow = () => window.innerWidth < 700;

const plots = new Map(); // figure name -> its element, kept so that zoom and focus survive a redraw
let waiting = []; // drawings of figures that are not in the document yet

// table: {columns, rows}; tip(point): the element to show at a point; pick(point): what a click does.
function figure(name, { caption, detail = "", traces, layout, table, tip = null, pick = null, aside = null, zoom = "" }) {
  if (!plots.has(name)) plots.set(name, watched(h("div", { class: "plot", id: `plot-${name}` })));
  const plot = plots.get(name);
  Object.assign(plot, { tip, pick });
  const draw = (kept) => Plotly.react(plot, traces, merged({ ...baseLayout(kept), ...sizeOf(plot) }, layout), { displayModeBar: false, doubleClick: "reset" });
  waiting.push(() => draw(zoom));
  const tools = h("div", { class: "tools" },
    button("Reset zoom", () => draw(`${zoom} ${performance.now()}`)), // what plotly keeps belongs to the old name
    button("SVG", () => Plotly.downloadImage(plot, { format: "svg", filename: name, width: 900, height: 600 }), { title: "Save the figure" }),
    button("CSV", () => download(`${name}.csv`, "text/csv", csv(table)), { title: "Save the data of the figure" }));
  const head = h("div", { class: "figure-head" }, h("figcaption", { id: `caption-${name}` }, caption, detail && h("span", { class: "note" }, detail)), tools);
  return h("figure", { "aria-labelledby": `caption-${name}` }, head, aside ?? h("div"), plot, dataTable(table));
}

// On a wide screen a figure reaches to the end of the window, whatever stands above it.
function fit(plot) {
  if ("print" in document.documentElement.dataset) return; // the style sheet has the size of paper
  const room = innerHeight - plot.getBoundingClientRect().top - scrollY - (selection.length ? 110 : 50);
  plot.style.height = narrow() ? "" : `${Math.min(820, Math.max(380, room))}px`;
}
const sizeOf = (plot) => ({ width: plot.clientWidth, height: plot.clientHeight });

function paint() {
  const drawings = waiting;
  waiting = [];
  for (const plot of byId("panel").querySelectorAll(".plot")) fit(plot);
  for (const drawing of drawings) drawing();
}

const extreme = (values, of) => values.reduce((a, b) => of(a, b), values[0]); // Math.max(...values) overflows at many

function merged(base, given) {
  const both = { ...base, ...given };
  for (const axis of ["xaxis", "yaxis"]) both[axis] = { ...base[axis], ...given[axis] };
  return both;
}

function baseLayout(zoom) {
  const axis = {
    gridcolor: ink("grid"), zerolinecolor: ink("grid"), linecolor: ink("line"), tickcolor: ink("line"), showline: true, ticks: "outside",
    ticklen: 4, zeroline: false, nticks: narrow() ? 5 : 10, title: { standoff: 10 },
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: ink("ink") },
    margin: { l: 66, r: 16, t: 14, b: 52 }, showlegend: false, hovermode: "closest", uirevision: zoom,
    // Where a finger scrolls the page, it must not draw a zoom box.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { ...axis }, yaxis: { ...axis, automargin: true },
  };
}

// Ticks and title of one metric's axis.
function metricAxis(metric, log, values = []) {
  const units = metric.scale ? { tickformat: "~s", ticksuffix: metric.unit } : {};
  if (log) {
    const decades = Math.log10(extreme(values, Math.max) / extreme(values, Math.min));
    if (decades > 0.6) units.dtick = decades > (narrow() ? 2 : 4) ? 1 : "D2"; // every label of a decade overlaps
  }
  return { type: log ? "log" : "linear", title: { text: plotText(axisTitle(metric)), standoff: 10 }, ...units };
}

function dataTable({ columns, rows }) {
  const details = h("details", { class: "data" }, h("summary", {}, `Data of the figure: ${rows.length} row${rows.length === 1 ? "" : "s"}`));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const cell = (value) => (typeof value === "number" ? h("td", { class: "number" }, digits(value, 6)) : h("td", {}, value ?? "-"));
    const shown = rows.slice(0, TABLE_ROWS).map((row) => h("tr", {}, row.map(cell)));
    const head = h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column)));
    details.append(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Data of the figure" },
      h("table", {}, h("thead", {}, head), h("tbody", {}, shown))));
    if (rows.length > TABLE_ROWS) details.append(h("p", { class: "note" }, `The first ${TABLE_ROWS}; the CSV has all ${rows.length}.`));
  });
  return details;
}

// --- what is under the pointer: our own card, because plotly's labels would read markup ---

function watched(plot) {
  // plotly adds `on` when it draws first
  const start = () => {
    plot.on("plotly_hover", ({ points, event }) => plot.tip && showTip(plot.tip(points[0]), event));
    plot.on("plotly_unhover", hideTip);
    plot.on("plotly_click", ({ points }) => plot.pick && points[0].customdata !== undefined && plot.pick(points[0]));
  };
  const observer = new MutationObserver(() => {
    if (!plot.on) return;
    observer.disconnect();
    start();
  });
  observer.observe(plot, { childList: true });
  return plot;
}

function showTip(content, event) {
  const tip = byId("tip");
  if (!content) return hideTip();
  tip.replaceChildren(content);
  tip.hidden = false;
  if (narrow()) {
    Object.assign(tip.style, { left: "8px", right: "8px", top: "auto", bottom: `${byId("tray").offsetHeight + 8}px` });
    return undefined;
  }
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width < innerWidth ? event.clientX + 16 : event.clientX - 16 - box.width;
  const top = Math.max(8, Math.min(event.clientY - box.height / 2, innerHeight - box.height - 8));
  Object.assign(tip.style, { left: `${Math.max(8, left)}px`, top: `${top}px`, right: "auto", bottom: "auto" });
  return undefined;
}

function hideTip() {
  byId("tip").hidden = true;
}

function tipCard(title, pairs, foot = null) {
  const list = pairs.filter(Boolean).map(([name, ...values]) => [h("dt", {}, name), h("dd", {}, values)]);
  return h("div", {}, h("p", { class: "tip-title" }, title), h("dl", {}, list.flat()), foot && h("p", { class: "tip-foot" }, foot));
}

// Everything worth knowing about a run at a glance: the axes first.
function runTip(row, shown) {
  const measured = shown.map((metric) => [
    metric.label,
    h("strong", {}, show(metric, metric.value[row])), " ", showInterval(metric, row),
    metric.n?.[row] ? ` n=${metric.n[row]}` : "",
  ]);
  const timed = shown.some((metric) => metric.machine);
  const changed = [...knobs.values()].filter((knob) => sweepOf.get(runs.sweep[row])?.parameters?.includes(knob.name));
  const settings = (changed.length ? changed : [...knobs.values()].filter((knob) => /^(model|callbacks)\..*\./.test(`${knob.name}.`)))
    .filter((knob) => knob.at(row) !== undefined).slice(0, 6);
  return tipCard(runName(row), [
    ...measured,
    ["status", statusBadge(runs.status[row])],
    ["seed", String(runs.seed[row] ?? "-")],
    runs.sweep[row] !== null && ["sweep", cut(sweepTitle(runs.sweep[row]), 40)],
    timed && ["timed", [cut(machineName(runs.fingerprint[row]), 60), runs.timed[row] && `; ${runs.timed[row]}`].filter(Boolean).join("")],
    ...settings.map((knob) => [knob.title, cut(knobText(knob.at(row)), 40)]),
    runs.error[row] && ["error", cut(String(runs.error[row]), 120)],
  ], selection.includes(row) ? "Selected. Click to remove." : "Click to select.");
}

// --- legends, machines ---

function glyph(symbol, colour, { hollow = false, dash = null } = {}) {
  const around = (count, start, radius = () => 5) => Array.from({ length: count }, (_, i) => {
    const angle = start + (2 * Math.PI * i) / count;
    return `${(8 + radius(i) * Math.cos(angle)).toFixed(2)},${(8 + radius(i) * Math.sin(angle)).toFixed(2)}`;
  }).join(" ");
  const up = -Math.PI / 2;
  const paint = { fill: hollow ? "none" : colour, stroke: colour, "stroke-width": "1.5" };
  const shapes = {
    circle: () => svg("circle", { cx: 8, cy: 8, r: 4.5, ...paint }),
    square: () => svg("rect", { x: 3.75, y: 3.75, width: 8.5, height: 8.5, ...paint }),
    diamond: () => svg("polygon", { points: around(4, up, () => 6), ...paint }),
    "triangle-up": () => svg("polygon", { points: around(3, up, () => 6), ...paint }),
    "triangle-down": () => svg("polygon", { points: around(3, -up, () => 6), ...paint }),
    pentagon: () => svg("polygon", { points: around(5, up), ...paint }),
    star: () => svg("polygon", { points: around(10, up, (i) => (i % 2 ? 2.6 : 6.2)), ...paint }),
    hexagon: () => svg("polygon", { points: around(6, up), ...paint }),
  };
  if (dash !== null) {
    const patterns = { solid: "", dash: "5 3", dot: "1.5 2.5", dashdot: "5 2 1.5 2", longdash: "8 3", longdashdot: "8 2 2 2" };
    const line = svg("line", { x1: 0, x2: 26, y1: 8, y2: 8, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": patterns[dash] ?? dash.replace(/px/g, "") });
    return svg("svg", { width: 26, height: 16, viewBox: "0 0 26 16", "aria-hidden": "true" }, line);
  }
  return svg("svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" }, shapes[symbol]());
}

// Rows that may share the axes of `shown`: where one of them depends on the machine, the runs timed on one machine.
function onOneMachine(rows, shown) {
  const timed = shown.filter((metric) => metric?.machine);
  if (!timed.length) return { rows, notes: [], control: null };
  const having = rows.filter((row) => timed.every((metric) => metric.value[row] !== null));
  const counts = counted(having, (row) => runs.fingerprint[row] ?? "unknown");
  if (!counts.length) return { rows: having, notes: [], control: null };
  const mixed = state.machine === "mix";
  const [chosen] = counts.find(([name]) => name === state.machine) ?? counts[0];
  const options = counts.map(([name, count]) => ({ value: name, label: `${machineName(name === "unknown" ? null : name)}: ${count}` }));
  if (counts.length > 1) options.push({ value: "mix", label: `mix all ${counts.length} machines` });
  const control = select("Machine", options, mixed && counts.length > 1 ? "mix" : chosen, (machine) => update({ machine }), { id: "machine" });
  const kept = mixed ? having : having.filter((row) => (runs.fingerprint[row] ?? "unknown") === chosen);
  const notes = [];
  const hidden = having.length - kept.length;
  if (hidden) notes.push(`${hidden} run${hidden > 1 ? "s" : ""} timed on other machines hidden.`);
  if (mixed && counts.length > 1) notes.push(`${counts.length} machines are mixed on this axis: their times do not compare.`);
  if (timed.some((metric) => metric.name.startsWith("latency."))) {
    const kinds = counted(kept.filter((row) => runs.timed[row]), (row) => runs.timed[row]);
    const named = kinds.slice(0, 4).map(([kind, count]) => `${kind}: ${count}`);
    if (kinds.length > 1) notes.push(`Times of different things (${named.join("; ")}${kinds.length > 4 ? "; ..." : ""}).`);
  }
  return { rows: kept, notes, control };
}

function noteLine(notes) {
  return h("div", { class: "notes" }, notes.filter(Boolean).map((note) => h("p", { class: "note" }, note)));
}

// The runs a view of lines shows: the selected ones, else the newest few that have something to show.
function chosenRows(has, what) {
  const chosen = selection.filter(has);
  if (chosen.length) {
    const without = selection.length - chosen.length;
    return { rows: chosen, note: without ? `${without} of the selected runs ha${without > 1 ? "ve" : "s"} no ${what}.` : "" };
  }
  const newest = filtered().filter(has).sort((a, b) => String(runs.started[b]).localeCompare(String(runs.started[a]))).slice(0, 4);
  const why = selection.length ? `The selected runs have no ${what}` : `No run with a ${what} is selected`;
  return { rows: newest, note: newest.length ? `${why}: the newest ${newest.length} that have one are shown.` : "" };
}

function lineStyle(row, index) {
  const place = selection.indexOf(row);
  const number = place < 0 ? index : place;
  return { colour: series(number), dash: DASHES[number % DASHES.length], symbol: SYMBOLS[number % SYMBOLS.length] };
}

function lineLegend(rows) {
  return h("ul", { class: "legend" }, rows.map((row, index) => {
    const { colour, dash } = lineStyle(row, index);
    return h("li", {}, glyph(null, colour, { dash }), h("span", { title: runs.id[row] }, cut(runName(row), 60)), " ", runs.status[row] === "finished" ? null : statusBadge(runs.status[row]));
  }));
}
