// What one setting of a sweep does to a metric, seeds as spread, and what two of them do together.

const MOST_LINES = 8;

const sweepView = {
  id: "sweep",
  title: titleOf("sweep", "Sweeps"),
  draw() {
    const sources = sweepSources();
    if (!sources.length) {
      return [empty("No sweep yet.", "Runs of one recipe that differ in a setting appear here, and so do the trials of `lightning sweep`.")];
    }
    const source = sources.find(({ value }) => value === state.source) ??
      sources.find(({ value }) => value === `sweep:${specOf("sweep").defaults.sweep}`) ?? sources[0];
    const keep = new Set(filtered());
    const rows = source.rows.filter((row) => keep.has(row));
    const parameters = source.parameters.filter((knob) => distinct(rows, knob.at).length > 1);
    const list = measuredMetrics.filter((metric) => rows.some((row) => metric.value[row] !== null));
    const chooseSource = select("Sweep", sources, source.value, (value) => update({ source: value, metric: "", by: "", split: "", across: "", down: "", hold: "" }), { id: "source" });
    if (!parameters.length || !list.length) {
      const why = list.length ? "The runs shown do not differ in a setting." : "None of its runs has measured anything.";
      return [h("div", { class: "controls" }, chooseSource), empty(why, "Take a filter away, or wait for trials to finish.")];
    }
    const metric = list.find(({ name }) => name === state.metric) ?? sweepMetric(source, list);
    const by = parameters.find(({ name }) => name === state.by) ?? source.axis("x", parameters) ?? favourite(parameters, /sparsity|bits/);
    const others = parameters.filter((knob) => knob !== by);
    const split = state.split === "none" ? null : others.find(({ name }) => name === state.split) ?? source.axis("series", others) ?? favourite(others, /frames|bits|sparsity/);
    const held = holds(parameters, [by, split]);
    const measured = rows.filter((row) => metric.value[row] !== null);
    const finished = measured.filter((row) => runs.status[row] === "finished");
    const machine = onOneMachine(finished, [metric]);
    const lines = machine.rows.filter((row) => held.every(({ knob, value }) => value === null || knobText(knob.at(row)) === value));
    const names = (list_) => list_.map(({ name, title }) => ({ value: name, label: title }));
    const controls = h("div", { class: "controls" },
      chooseSource,
      select("Metric", metricOptions(list), metric.name, (value) => update({ metric: value }), { id: "metric" }),
      select("Across", names(parameters), by.name, (value) => update({ by: value, hold: "" }), { id: "by" }),
      others.length ? select("Lines", [...names(others), { value: "none", label: "one line" }], split?.name ?? "none", (value) => update({ split: value, hold: "" }), { id: "split" }) : null,
      ...held.map(({ knob, value, values }) => select(`Hold ${knob.title}`,
        [{ value: "", label: "all, averaged" }, ...values.map((text) => ({ value: text, label: text }))], value ?? "",
        (chosen) => update({ hold: withHold(knob.name, chosen) }), { id: `hold-${knob.name}` })),
      machine.control);
    const averaged = [...held.filter(({ value }) => value === null).map(({ knob }) => knob.title), ...(new Set(lines.map((row) => runs.seed[row])).size > 1 ? ["seed"] : [])];
    const left = rows.length - finished.length;
    const notes = noteLine([
      ...machine.notes,
      averaged.length ? `Points are means over ${averaged.join(", ")}; bars reach from the smallest to the largest of these runs.` : "",
      left && `${left} run${left > 1 ? "s" : ""} that did not finish or did not measure this left out.`,
    ]);
    const chart = curveFigure(source, lines, metric, by, split);
    return [controls, notes, h("div", { class: "pair" }, chart, parameters.length > 1 ? heatFigure(source, machine.rows, metric, parameters) : null)];
  },
};

// Sweeps first, then recipes whose runs differ in a setting.
function sweepSources() {
  const seen = counted(sweeps, (sweep) => sweep.title);
  const unique = new Set(seen.filter(([, count]) => count === 1).map(([title]) => title));
  const axes = specOf("sweep").options.sweeps ?? {};
  const found = sweeps.map((sweep) => ({
    value: `sweep:${sweep.id}`, label: `${unique.has(sweep.title) ? sweep.title : `${sweep.title} ${sweep.id}`}: ${sweep.runs.length} runs`, group: "Sweeps",
    title: sweep.title, rows: sweep.runs, metric: axes[sweep.id]?.y ?? sweep.metric,
    axis: (name, among) => among.find((knob) => knob.name === [axes[sweep.id]?.[name]].flat()[0]),
    second: (among) => among.find((knob) => knob.name === axes[sweep.id]?.heat?.[1]),
    parameters: (sweep.parameters ?? []).map((name) => knobs.get(name)).filter(Boolean),
  }));
  for (const [recipe, count] of counted(ALL_ROWS, (row) => runs.recipe[row])) {
    const rows = ALL_ROWS.filter((row) => runs.recipe[row] === recipe);
    const differing = [...knobs.values()].filter((knob) => !/seed/.test(knob.name) && distinct(rows, knob.at).length > 1);
    if (differing.length) found.push({ value: `recipe:${recipe}`, label: `${recipe}: ${count} runs`, group: "All runs of a recipe", title: recipe, rows, parameters: differing, axis: () => undefined, second: () => undefined });
  }
  return found.filter(({ parameters, rows }) => parameters.length && rows.length);
}

// As the spec says: the sweep's metric as measured on the test set, if there is one. That is what was bought.
function sweepMetric(source, list) {
  return list.find(({ name }) => name === source.metric) ??
    list.find(({ kind }) => kind === "quality") ?? list[0];
}

const favourite = (list, pattern) => list.find(({ name }) => pattern.test(name)) ?? list.find(({ name }) => !/seed/.test(name)) ?? list[0] ?? null;

// Parameters on no axis: averaged over, or held at one value. In the fragment: name=value lines.
function holds(parameters, shown) {
  const set = new Map(state.hold.split("\n").filter(Boolean).map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]));
  return parameters.filter((knob) => !shown.includes(knob) && !/seed/.test(knob.name)).slice(0, 6).map((knob) => {
    const values = distinct(ALL_ROWS, knob.at).map(knobText);
    return { knob, values, value: values.includes(set.get(knob.name)) ? set.get(knob.name) : null };
  });
}

function withHold(name, value) {
  const lines = state.hold.split("\n").filter((line) => line && !line.startsWith(`${name}=`));
  return [...lines, ...(value ? [`${name}=${value}`] : [])].join("\n");
}

// A setting's axis: its numbers, or its values in order as text.
function settingAxis(knob, rows) {
  const values = distinct(rows, knob.at);
  const title = { text: plotText(knob.name), standoff: 10 };
  if (values.every((value) => typeof value === "number")) return { place: (row) => knob.at(row), axis: { title }, values };
  const texts = values.map(knobText);
  const ticks = { automargin: true, tickvals: texts.map((_, i) => i), ticktext: texts.map((text) => plotText(text, 24)), range: [-0.5, texts.length - 0.5] };
  return { place: (row) => texts.indexOf(knobText(knob.at(row))), axis: { title, ...ticks }, values };
}

function curveFigure(source, all, metric, by, split) {
  const rows = all.filter((row) => by.at(row) !== undefined);
  const axis = settingAxis(by, rows);
  const values = split ? distinct(rows, split.at) : [undefined];
  const lines = values.slice(0, MOST_LINES).map((value, index) => {
    const members = split ? rows.filter((row) => knobText(split.at(row)) === knobText(value)) : rows;
    const points = spread(members.map(axis.place), members.map((row) => metric.value[row])).sort((a, b) => a.key - b.key);
    return { value, members, points, colour: series(index), symbol: SYMBOLS[index], dash: DASHES[index] };
  });
  const several = lines.some(({ points }) => points.some(({ n }) => n > 1));
  const traces = lines.flatMap((line) => [
    {
      type: "scatter", mode: "markers", hoverinfo: "none", customdata: line.members, name: "runs", visible: several, cliponaxis: false,
      x: line.members.map(axis.place), y: line.members.map((row) => metric.value[row]),
      marker: { size: 5, color: line.colour, opacity: 0.45, symbol: line.symbol },
    },
    {
      type: "scatter", mode: "lines+markers", hoverinfo: "none", name: split ? plotText(`${split.title} ${knobText(line.value)}`) : "mean", cliponaxis: false,
      x: line.points.map(({ key }) => key), y: line.points.map(({ mean }) => mean), meta: "mean",
      error_y: { type: "data", symmetric: false, array: line.points.map((p) => p.high - p.mean), arrayminus: line.points.map((p) => p.mean - p.low), color: line.colour, thickness: 1.2, width: 3 },
      line: { color: line.colour, dash: line.dash, width: 2 }, marker: { size: 8, color: line.colour, symbol: line.symbol },
    },
  ]);
  const named = (line) => (split ? `${split.title} = ${knobText(line.value)}` : metric.label);
  const keys = h("ul", { class: "legend" }, split ? lines.map((line) => h("li", {}, glyph(line.symbol, line.colour), h("span", {}, cut(named(line), 60)))) : []);
  const hidden = values.length > MOST_LINES ? `; ${values.length - MOST_LINES} more values of ${split.title} not drawn` : "";
  return figure("sweep", {
    caption: `${metric.label} against ${by.title}`,
    detail: `${source.title}, ${rows.length} runs${split ? `, a line for each ${split.title}` : ""}${hidden}`,
    traces, aside: keys, zoom: [source.value, metric.name, by.name].join(),
    layout: { xaxis: axis.axis, yaxis: metricAxis(metric, false) },
    tip: (point) => {
      if (point.customdata !== undefined) return runTip(point.customdata, [metric]);
      const line = lines[Math.floor(point.curveNumber / 2)], at = line.points[point.pointIndex];
      return tipCard(named(line), [[by.title, knobText(axis.values.find((value, i) => value === at.key || i === at.key))],
        [`mean of ${at.n}`, h("strong", {}, show(metric, at.mean))], at.n > 1 && ["range", `${show(metric, at.low)} to ${show(metric, at.high)}`]]);
    },
    pick: (point) => toggle(point.customdata),
    table: {
      columns: [by.name, ...(split ? [split.name] : []), "runs", `${metric.name} mean`, "smallest", "largest"],
      rows: lines.flatMap((line) => line.points.map((p) => [knobText(by.at(line.members[p.members[0]])), ...(split ? [knobText(line.value)] : []), p.n, p.mean, p.low, p.high])),
    },
  });
}

function heatFigure(source, rows, metric, parameters) {
  const across = parameters.find(({ name }) => name === state.across) ?? source.axis("heat", parameters) ?? favourite(parameters, /past|context/);
  const rest = parameters.filter((knob) => knob !== across);
  const down = rest.find(({ name }) => name === state.down) ?? source.second(rest) ?? favourite(rest, /future|sparsity|bits/);
  const columns = distinct(rows, across.at), lines = distinct(rows, down.at);
  const cells = spread(rows.map((row) => `${knobText(across.at(row))}\n${knobText(down.at(row))}`), rows.map((row) => metric.value[row]));
  const found = new Map(cells.map((cell) => [cell.key, cell]));
  const at = (line, column) => found.get(`${knobText(column)}\n${knobText(line)}`);
  const ticks = (list, name) => ({ type: "linear", automargin: true, title: { text: plotText(name), standoff: 10 }, tickvals: list.map((_, i) => i), ticktext: list.map((value) => plotText(knobText(value), 24)), showgrid: false });
  const crowded = columns.length * lines.length > (narrow() ? 30 : 120);
  const options = parameters.map(({ name, title }) => ({ value: name, label: title }));
  return figure("heatmap", {
    caption: `Mean ${metric.label} of ${down.title} and ${across.title}`,
    detail: `${source.title}, ${rows.length} runs${metric.better ? "; brighter is better" : ""}`,
    aside: h("div", { class: "controls inner" },
      select("Across", options, across.name, (value) => update({ across: value, down: value === down.name ? across.name : down.name }), { id: "across" }),
      select("Up", options, down.name, (value) => update({ down: value, across: value === across.name ? down.name : across.name }), { id: "down" })),
    traces: [{
      type: "heatmap", hoverinfo: "none", colorscale: "Cividis", reversescale: metric.better === "lower", xgap: 2, ygap: 2,
      x: columns.map((_, i) => i), y: lines.map((_, i) => i),
      z: lines.map((line) => columns.map((column) => at(line, column)?.mean ?? null)),
      text: lines.map((line) => columns.map((column) => { const cell = at(line, column); return cell ? plotText(metric.kind === "quality" ? digits(cell.mean, 3) : show(metric, Number(cell.mean.toPrecision(3)))) : ""; })),
      texttemplate: crowded ? "" : "%{text}", textfont: { size: narrow() ? 10 : 12 },
      colorbar: { title: { text: plotText(axisTitle(metric), 40), side: "right" }, thickness: 12, outlinewidth: 0, ...(metric.scale ? { tickformat: "~s", ticksuffix: metric.unit } : {}) },
    }],
    layout: { xaxis: ticks(columns, across.name), yaxis: ticks(lines, down.name) },
    zoom: [source.value, across.name, down.name].join(),
    tip: (point) => {
      const cell = at(lines[point.y], columns[point.x]);
      return cell && tipCard(`${across.title} ${knobText(columns[point.x])}, ${down.title} ${knobText(lines[point.y])}`,
        [[`mean of ${cell.n}`, h("strong", {}, show(metric, cell.mean))], cell.n > 1 && ["range", `${show(metric, cell.low)} to ${show(metric, cell.high)}`]]);
    },
    table: {
      columns: [across.name, down.name, "runs", `${metric.name} mean`, "smallest", "largest"],
      rows: lines.flatMap((line) => columns.map((column) => [line, column, at(line, column)]).filter(([, , cell]) => cell).map(([l, c, cell]) => [knobText(c), knobText(l), cell.n, cell.mean, cell.low, cell.high])),
    },
  });
}
