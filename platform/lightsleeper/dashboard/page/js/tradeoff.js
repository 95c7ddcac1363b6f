// Quality against cost: any two metrics, the Pareto front of what is shown, intervals, and never two machines on one
// axis of times unless asked for.

const MOST_BARS = 60; // runs; beyond it intervals are drawn for the front and the selection only

const FRONTS = [
  { value: "all", label: "of all shown" },
  { value: "each", label: "of each colour" },
  { value: "none", label: "none" },
];

const tradeoff = {
  id: "tradeoff",
  title: titleOf("tradeoff", "Quality against cost"),
  draw() {
    if (!measuredMetrics.length) {
      return [empty("No run has measured anything yet.", "Metrics appear when a run has passed its test stage.")];
    }
    const of = (axis) => directed(metrics.get(state[axis]) ?? metrics.get(DEFAULTS[axis]), state[`${axis}better`]);
    const x = of("x"),
      y = of("y");
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
    const each = state.front === "each" && directions;
    const fronts = each ? shown.map((group) => [frontOf(group.rows, x, y), group.colour]) : [[front, ink("ink")]];
    const controls = h(
      "div",
      { class: "controls" },
      axisField("Across", "x", x, logs[0]),
      axisField("Up", "y", y, logs[1]),
      ...[
        ["x", x],
        ["y", y],
      ].map(([axis, metric]) => directionField(axis, metric)),
      select("Colour", colourOptions(), state.colour, (colour) => update({ colour, hide: "" }), { id: "colour" }),
      select("Front", FRONTS, state.front, (value) => update({ front: value }), { id: "front" }),
      machine.control,
    );
    const dropped = machine.rows.length - positive.length;
    const unfinished = counted(
      rows.filter((row) => runs.status[row] !== "finished"),
      (row) => runs.status[row],
    );
    const elsewhere = selection.length - selection.filter((row) => rows.includes(row)).length;
    const notes = noteLine([
      ...machine.notes,
      elsewhere && `Not on this figure: ${elsewhere} of the selected runs.`,
      !directions && "No front: say which way is better on the axis of unknown direction.",
      dropped && `${plural(dropped, "run")} at or below zero left out of the logarithmic axis.`,
      unfinished.length &&
        `Hollow markers did not finish (${unfinished.map((pair) => pair.join(" ")).join(", ")}) and are not on the front.`,
    ]);
    if (!rows.length) return [controls, notes, legend(grouping, hidden), nothing(x, y)];
    const better = `${x.better} ${x.label} and ${y.better} ${y.label} are better`;
    const axis = (metric, log) =>
      metricAxis(
        metric,
        log,
        rows.map((row) => metric.value[row]),
      );
    const chart = figure("tradeoff", {
      caption: `${y.label} against ${x.label}`,
      detail: plural(rows.length, "run") + (front.length ? `, ${front.length} on the Pareto front: ${better}` : ""),
      traces: [
        ...clouds(shown, x, y, rows.length),
        ...fronts.map(([list, colour]) => frontTrace(list, x, y, colour)),
        selectedTrace(rows, x, y),
      ],
      layout: { xaxis: axis(x, logs[0]), yaxis: axis(y, logs[1]) },
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
  const choose = (value) => update({ [axis]: value, [`${axis}log`]: "", [`${axis}better`]: "" });
  const flip = (on) => update({ [`${axis}log`]: on ? "1" : "0" });
  const named = { id: `${axis}log`, "aria-label": `logarithmic axis ${label.toLowerCase()}` };
  return h(
    "div",
    { class: "axis" },
    select(label, metricOptions(), metric.name, choose, { id: axis }),
    checkbox("log", log, flip, named),
  );
}

// A metric of a user's own may not say which way is better; then the reader does.
const directed = (metric, asked) => (metric.better ? metric : metric.directed(asked));

function directionField(axis, metric) {
  if (!metric.asked) return null;
  const options = [{ value: "", label: "unknown" }, ...optionsOf(["higher", "lower"])];
  const choose = (value) => update({ [`${axis}better`]: value });
  return select(`Better ${cut(metric.label, 24)}`, options, metric.better, choose, { id: `${axis}better` });
}

function nothing(x, y) {
  const missing = [x, y].filter((metric) => !filtered().some((row) => metric.value[row] !== null));
  const names = missing.map((metric) => metric.label).join(" or ");
  return missing.length
    ? empty(`No run shown has a value for ${names}.`, "Choose another axis, or take a filter away.")
    : empty("No run has both.", `Runs that have ${x.label} have no ${y.label}: other recipes, or stages not run.`);
}

// Costs that span more than a factor of 20 are read better on a logarithmic axis.
function isLog(asked, metric, rows, auto = metric.log || metric.kind !== "quality") {
  if (asked) return asked === "1";
  const values = rows.map((row) => metric.value[row]);
  const low = extreme(values, Math.min),
    high = extreme(values, Math.max);
  return auto && low > 0 && high / low > 20;
}

// --- traces ---

function frontOf(rows, x, y) {
  const finished = rows.filter((row) => runs.status[row] === "finished");
  const [xs, ys] = [x, y].map((metric) => finished.map((row) => metric.value[row]));
  return pareto(xs, ys, x.better, y.better).map((i) => finished[i]);
}

// Two traces a group: an array of symbols would make plotly style every marker by itself, twice as slow at thousands.
function clouds(groups, x, y, count) {
  const size = count > 1500 ? 5 : count > 300 ? 7 : 9;
  const done = (row) => runs.status[row] === "finished";
  return groups
    .flatMap((group) =>
      [true, false].map((finished) => {
        const of = (list) => list?.filter((_, i) => done(group.rows[i]) === finished);
        const rows = of(group.rows),
          values = of(group.values);
        const colours = values && {
          colorscale: "Cividis",
          cmin: extreme(group.values, Math.min),
          cmax: extreme(group.values, Math.max),
          ...(finished ? { showscale: true, colorbar: colourbar(group.label) } : {}),
        };
        const symbol = finished ? group.symbol : `${group.symbol}-open`;
        return scatter({
          mode: "markers",
          name: plotText(group.label),
          customdata: rows,
          x: rows.map((row) => x.value[row]),
          y: rows.map((row) => y.value[row]),
          ...(count <= MOST_BARS ? bars(rows, x, y) : {}),
          marker: { size, opacity: count > 300 ? 0.65 : 0.9, symbol, color: values ?? group.colour, ...colours },
        });
      }),
    )
    .filter((trace) => trace.x.length);
}

function bars(rows, x, y, colour = ink("bar")) {
  const axis = (metric) => {
    if (!metric.low || !metric.high) return undefined;
    const beyond = (end, row, sign) => (end[row] === null ? 0 : Math.max(0, sign * (end[row] - metric.value[row])));
    const array = rows.map((row) => beyond(metric.high, row, 1)),
      arrayminus = rows.map((row) => beyond(metric.low, row, -1));
    return { type: "data", symmetric: false, array, arrayminus, color: colour, thickness: 1, width: 2 };
  };
  return { error_x: axis(x), error_y: axis(y) };
}

// The steps of what is attainable: from one run on the front to the next, the worse of the two holds.
function frontTrace(rows, x, y, colour) {
  return scatter({
    mode: "lines+markers",
    name: "front",
    customdata: rows,
    ...bars(rows, x, y),
    x: rows.map((row) => x.value[row]),
    y: rows.map((row) => y.value[row]),
    line: { color: colour, width: 2, shape: x.better === "higher" ? "vh" : "hv" },
    marker: { size: 11, symbol: "circle-open", color: colour, line: { width: 1.5 } },
  });
}

function selectedTrace(rows, x, y) {
  const shown = new Set(rows),
    list = selection.filter((row) => shown.has(row)),
    colour = ink("accent");
  return scatter({
    mode: "markers+text",
    name: "selected",
    customdata: list,
    cliponaxis: false,
    ...bars(list, x, y, colour),
    x: list.map((row) => x.value[row]),
    y: list.map((row) => y.value[row]),
    text: list.map((row) => String(selection.indexOf(row) + 1)),
    textposition: "top right",
    textfont: { size: 13, color: colour, weight: 700 },
    marker: { size: 16, symbol: "circle-open", color: colour, line: { width: 3 } },
  });
}

// --- tables ---

function runTable(rows, shown) {
  const ends = (metric, row) => [metric.value[row], metric.low?.[row] ?? null, metric.high?.[row] ?? null];
  const facts = ["id", "recipe", "status", "seed", "fingerprint"];
  return {
    columns: [...facts, ...shown.flatMap(({ name }) => [name, `${name} low`, `${name} high`])],
    rows: rows.map((row) => [...facts.map((fact) => runs[fact][row]), ...shown.flatMap((metric) => ends(metric, row))]),
  };
}

function frontTable(front, x, y) {
  if (!front.length) return null;
  const line = (row) =>
    h(
      "tr",
      { class: selection.includes(row) ? "selected" : null },
      h("td", {}, selectBox(row, "front")),
      h("th", { scope: "row" }, runLabel(row, "front")),
      h("td", { class: "number" }, show(x, x.value[row])),
      h("td", { class: "number" }, show(y, y.value[row]), h("small", {}, showInterval(y, row))),
    );
  const head = h(
    "tr",
    {},
    boxHead(),
    columnHead("Run"),
    columnHead(axisTitle(x), true),
    columnHead(axisTitle(y), true),
  );
  const first = front.slice(0, MOST_COMPARED);
  const choose = button(`Select the first ${first.length}`, () => setSelection(first), { class: "quiet" });
  return h(
    "section",
    { class: "front", "aria-label": "Pareto front" },
    h(
      "div",
      { class: "figure-head" },
      h("h2", {}, `Pareto front, ${plural(front.length, "run")}`),
      h("div", { class: "tools" }, choose),
    ),
    scrolled("Runs on the front", tableOf(head, h("tbody", {}, front.slice(0, 100).map(line)))),
  );
}
