// Quality against cost: any two metrics, the Pareto front of what is shown, intervals, and never two machines on one
// axis of times unless asked for.

const MOST_GROUPS = 7;
const MOST_BARS = 60; // runs; beyond it intervals are drawn for the front and the selection only

const tradeoff = {
  id: "tradeoff",
  title: titleOf("tradeoff", "Quality against cost"),
  draw() {
    if (measuredMetrics.length < 1) return [empty("No run has measured anything yet.", "Metrics appear when a run has passed its test stage.")];
    const [x, y] = ["x", "y"].map((axis) => directed(metrics.get(state[axis]) ?? metrics.get(DEFAULTS[axis]), state[`${axis}better`]));
    const having = filtered().filter((row) => x.value[row] !== null && y.value[row] !== null);
    const machine = onOneMachine(having, [x, y]);
    const logs = [isLog(state.xlog, x, machine.rows), isLog(state.ylog, y, machine.rows, false)];
    const positive = machine.rows.filter((row) => (!logs[0] || x.value[row] > 0) && (!logs[1] || y.value[row] > 0));
    const grouping = groupRows(positive, state.colour);
    const hidden = new Set(state.hide.split("\n").filter(Boolean));
    const shown = grouping.groups.filter((group) => !hidden.has(group.label));
    const rows = shown.flatMap((group) => group.rows);
    const directions = x.better && y.better;
    const front = state.front === "none" || !directions ? [] : frontOf(rows, x, y);
    const fronts = state.front === "each" && directions ? shown.map((group) => [frontOf(group.rows, x, y), group.colour]) : [[front, ink("ink")]];
    const controls = h("div", { class: "controls" },
      axisField("Across", "x", x, logs[0]),
      axisField("Up", "y", y, logs[1]),
      ...[["x", x], ["y", y]].map(([axis, metric]) => directionField(axis, metric)),
      select("Colour", colourOptions(), state.colour, (colour) => update({ colour, hide: "" }), { id: "colour" }),
      select("Front", [{ value: "all", label: "of all shown" }, { value: "each", label: "of each colour" }, { value: "none", label: "none" }],
        state.front, (value) => update({ front: value }), { id: "front" }),
      machine.control);
    const dropped = machine.rows.length - positive.length;
    const unfinished = counted(rows.filter((row) => runs.status[row] !== "finished"), (row) => runs.status[row]);
    const elsewhere = selection.length - selection.filter((row) => rows.includes(row)).length;
    const notes = noteLine([
      ...machine.notes,
      elsewhere && `${elsewhere} of the selected runs ${elsewhere > 1 ? "are" : "is"} not on this figure.`,
      !directions && "No front: say which way is better on the axis of unknown direction.",
      dropped && `${dropped} run${dropped > 1 ? "s" : ""} at or below zero left out of the logarithmic axis.`,
      unfinished.length && `Hollow markers did not finish (${unfinished.map(([status, count]) => `${status} ${count}`).join(", ")}) and are not on the front.`,
    ]);
    if (!rows.length) return [controls, notes, legend(grouping, hidden), nothing(x, y)];
    const better = `${x.better} ${x.label} and ${y.better} ${y.label} are better`;
    const chart = figure("tradeoff", {
      caption: `${y.label} against ${x.label}`,
      detail: `${rows.length} run${rows.length > 1 ? "s" : ""}${front.length ? `, ${front.length} on the Pareto front: ${better}` : ""}`,
      traces: [...clouds(shown, x, y, rows.length), ...fronts.map(([list, colour]) => frontTrace(list, x, y, colour)), selectedTrace(rows, x, y)],
      layout: { xaxis: metricAxis(x, logs[0], rows.map((row) => x.value[row])), yaxis: metricAxis(y, logs[1], rows.map((row) => y.value[row])) },
      zoom: [x.name, y.name, logs, state.machine].join(),
      table: runTable(rows, [x, y]),
      tip: (point) => runTip(point.customdata, [y, x]),
      pick: (point) => toggle(point.customdata),
      aside: legend(grouping, hidden),
    });
    return [controls, notes, h("div", { class: "beside" }, chart, frontTable(front, x, y))];
  },
};

function axisField(label, axis, metric, log) {
  const name = axis === "x" ? "across" : "up";
  return h("div", { class: "axis" },
    select(label, metricOptions(), metric.name, (value) => update({ [axis]: value, [`${axis}log`]: "", [`${axis}better`]: "" }), { id: axis }),
    checkbox("log", log, (on) => update({ [`${axis}log`]: on ? "1" : "0" }), { id: `${axis}log`, "aria-label": `logarithmic axis ${name}` }));
}

// A metric of a user's own may not say which way is better; then the reader does.
const directed = (metric, asked) => (["higher", "lower"].includes(metric.better) ? metric : { ...metric, asked: true, better: asked });

function directionField(axis, metric) {
  if (!metric.asked) return null;
  const options = [{ value: "", label: "unknown" }, { value: "higher", label: "higher" }, { value: "lower", label: "lower" }];
  return select(`Better ${cut(metric.label, 24)}`, options, metric.better, (value) => update({ [`${axis}better`]: value }), { id: `${axis}better` });
}

function nothing(x, y) {
  const missing = [x, y].filter((metric) => !filtered().some((row) => metric.value[row] !== null));
  return missing.length
    ? empty(`No run shown has a value for ${missing.map((metric) => metric.label).join(" or ")}.`, "Choose another axis, or take a filter away.")
    : empty("No run has both.", `Runs that have ${x.label} have no ${y.label}: other recipes, or stages not run.`);
}

// Costs that span more than a factor of 20 are read better on a logarithmic axis.
function isLog(asked, metric, rows, auto = metric.log || metric.kind !== "quality") {
  if (asked) return asked === "1";
  const values = rows.map((row) => metric.value[row]);
  const low = extreme(values, Math.min), high = extreme(values, Math.max);
  return auto && low > 0 && high / low > 20;
}

// --- colours ---

function colourOptions() {
  const plain = [["recipe", "recipe"], ["family", "model family"], ["sweep", "sweep"], ["status", "status"], ["fingerprint", "machine"], ["seed", "seed"]];
  return [
    ...plain.map(([value, label]) => ({ value, label })),
    ...[...knobs.keys()].map((name) => ({ value: name, label: name, group: "Setting" })),
  ];
}

function colourValue(colour) {
  if (knobs.has(colour)) return knobs.get(colour).at;
  if (colour === "sweep") return (row) => sweepTitle(runs.sweep[row]) ?? undefined;
  if (colour === "fingerprint") return (row) => (runs.fingerprint[row] === null ? undefined : machineName(runs.fingerprint[row]));
  return (row) => runs[["family", "status", "seed"].includes(colour) ? colour : "recipe"][row] ?? undefined;
}

// {label, rows, colour, symbol}: by size, or in the order of a setting's values. The many small ones share "other";
// a setting of many numbers becomes a colour scale.
function groupRows(rows, colour) {
  const of = colourValue(colour);
  const values = distinct(rows, of);
  const isKnob = knobs.has(colour) || colour === "seed";
  const numbers = isKnob && values.length > MOST_GROUPS && values.every((value) => typeof value === "number");
  const absent = rows.filter((row) => of(row) === undefined);
  const rest = { label: isKnob ? "not set" : "none", rows: absent, colour: ink("muted"), symbol: "hexagon" };
  if (numbers) {
    const scaledRows = rows.filter((row) => of(row) !== undefined);
    const groups = [{ label: colour, rows: scaledRows, colour: ink("s1"), symbol: "circle", values: scaledRows.map(of) }];
    return { groups: absent.length ? [...groups, rest] : groups };
  }
  const byLabel = new Map();
  for (const row of rows) {
    const value = of(row);
    if (value === undefined) continue;
    const label = knobText(value);
    if (!byLabel.has(label)) byLabel.set(label, []);
    byLabel.get(label).push(row);
  }
  let names = isKnob ? values.map(knobText) : [...byLabel.keys()].sort((a, b) => byLabel.get(b).length - byLabel.get(a).length);
  const few = names.length > MOST_GROUPS ? names.slice(0, MOST_GROUPS - 1) : names;
  names = names.slice(few.length);
  const groups = few.map((label, i) => ({ label, rows: byLabel.get(label), colour: series(i), symbol: SYMBOLS[i] }));
  if (names.length) groups.push({ label: `${names.length} others`, rows: names.flatMap((name) => byLabel.get(name)), colour: ink("muted"), symbol: "star" });
  return { groups: absent.length ? [...groups, rest] : groups };
}

function legend({ groups }, hidden) {
  const flip = (label) => {
    const next = new Set(hidden);
    if (!next.delete(label)) next.add(label);
    update({ hide: [...next].join("\n") });
  };
  const setting = knobs.has(state.colour) && h("li", { class: "note" }, `${knobs.get(state.colour).title}:`);
  return h("ul", { class: "legend" }, setting, groups.map((group, index) => h("li", {},
    button([group.values ? h("span", { class: "ramp", "aria-hidden": "true" }) : glyph(group.symbol, group.colour), h("span", {}, cut(group.label, 60)), h("span", { class: "count" }, String(group.rows.length))],
      () => flip(group.label), { id: `legend-${index}`, "aria-pressed": String(!hidden.has(group.label)), title: `show or hide: ${cut(group.label, 200)}` }))));
}

// --- traces ---

function frontOf(rows, x, y) {
  const finished = rows.filter((row) => runs.status[row] === "finished");
  return pareto(finished.map((row) => x.value[row]), finished.map((row) => y.value[row]), x.better, y.better).map((i) => finished[i]);
}

// Two traces a group: an array of symbols would make plotly style every marker by itself, twice as slow at thousands.
function clouds(groups, x, y, count) {
  const size = count > 1500 ? 5 : count > 300 ? 7 : 9;
  const done = (row) => runs.status[row] === "finished";
  return groups.flatMap((group) => [true, false].map((finished) => {
    const of = (list) => list?.filter((_, i) => done(group.rows[i]) === finished);
    const rows = of(group.rows), values = of(group.values);
    const scale = values && finished
      ? { showscale: true, colorbar: { title: { text: plotText(group.label, 40), side: "right" }, thickness: 12, outlinewidth: 0 } } : {};
    return {
      type: "scatter", mode: "markers", name: plotText(group.label), hoverinfo: "none", customdata: rows,
      x: rows.map((row) => x.value[row]), y: rows.map((row) => y.value[row]),
      ...(count <= MOST_BARS ? bars(rows, x, y) : {}),
      marker: {
        size, opacity: count > 300 ? 0.65 : 0.9, symbol: finished ? group.symbol : `${group.symbol}-open`, color: values ?? group.colour,
        ...(values ? { colorscale: "Cividis", cmin: extreme(group.values, Math.min), cmax: extreme(group.values, Math.max), ...scale } : {}),
      },
    };
  })).filter((trace) => trace.x.length);
}

function bars(rows, x, y, colour = ink("bar")) {
  const axis = (metric) => {
    if (!metric.low || !metric.high) return undefined;
    const gap = (end, sign) => rows.map((row) => (end[row] === null ? 0 : Math.max(0, sign * (end[row] - metric.value[row]))));
    return { type: "data", symmetric: false, array: gap(metric.high, 1), arrayminus: gap(metric.low, -1), color: colour, thickness: 1, width: 2 };
  };
  return { error_x: axis(x), error_y: axis(y) };
}

// The steps of what is attainable: from one run on the front to the next, the worse of the two holds.
function frontTrace(rows, x, y, colour) {
  return {
    type: "scatter", mode: "lines+markers", name: "front", hoverinfo: "none", customdata: rows,
    x: rows.map((row) => x.value[row]), y: rows.map((row) => y.value[row]), ...bars(rows, x, y),
    line: { color: colour, width: 2, shape: x.better === "higher" ? "vh" : "hv" },
    marker: { size: 11, symbol: "circle-open", color: colour, line: { width: 1.5 } },
  };
}

function selectedTrace(rows, x, y) {
  const shown = new Set(rows), list = selection.filter((row) => shown.has(row));
  return {
    type: "scatter", mode: "markers+text", name: "selected", hoverinfo: "none", customdata: list, cliponaxis: false,
    x: list.map((row) => x.value[row]), y: list.map((row) => y.value[row]), ...bars(list, x, y, ink("accent")),
    text: list.map((row) => String(selection.indexOf(row) + 1)), textposition: "top right", textfont: { size: 13, color: ink("accent"), weight: 700 },
    marker: { size: 16, symbol: "circle-open", color: ink("accent"), line: { width: 3 } },
  };
}

// --- tables ---

function runTable(rows, shown) {
  return {
    columns: ["run", "recipe", "status", "seed", "machine", ...shown.flatMap((metric) => [metric.name, `${metric.name} low`, `${metric.name} high`])],
    rows: rows.map((row) => [runs.id[row], runs.recipe[row], runs.status[row], runs.seed[row], runs.fingerprint[row],
      ...shown.flatMap((metric) => [metric.value[row], metric.low?.[row] ?? null, metric.high?.[row] ?? null])]),
  };
}

function frontTable(front, x, y) {
  if (!front.length) return null;
  const line = (row) => h("tr", { class: selection.includes(row) ? "selected" : null },
    h("td", {}, selectBox(row, "front")),
    h("th", { scope: "row" }, runLabel(row, "front")),
    h("td", { class: "number" }, show(x, x.value[row])),
    h("td", { class: "number" }, show(y, y.value[row]), h("small", {}, showInterval(y, row))));
  const head = h("tr", {}, h("th", {}, h("span", { class: "visually-hidden" }, "Select")), h("th", { scope: "col" }, "Run"),
    h("th", { scope: "col", class: "number" }, axisTitle(x)), h("th", { scope: "col", class: "number" }, axisTitle(y)));
  const choose = button(`Select the first ${Math.min(4, front.length)}`, () => setSelection(front.slice(0, 4)), { class: "quiet" });
  return h("section", { class: "front", "aria-label": "Pareto front" },
    h("div", { class: "figure-head" }, h("h2", {}, `Pareto front, ${front.length} run${front.length > 1 ? "s" : ""}`), h("div", { class: "tools" }, choose)),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs on the front" }, h("table", {}, h("thead", {}, head), h("tbody", {}, front.slice(0, 100).map(line)))));
}

// A box that selects a run, and the run's name as its label.
function selectBox(row, place) {
  return h("input", { type: "checkbox", id: `${place}-${row}`, checked: selection.includes(row), change: () => toggle(row), "aria-label": `select ${cut(runName(row), 100)}` });
}

function runLabel(row, place) {
  const number = selection.indexOf(row);
  return h("label", { for: `${place}-${row}`, class: "run", title: runs.id[row] },
    number < 0 ? null : h("span", { class: "number-badge" }, String(number + 1)),
    h("span", { class: "recipe" }, cut(String(runs.recipe[row]), 60)), " ", h("code", {}, cut(shortId(runs.id[row]), 40)));
}
