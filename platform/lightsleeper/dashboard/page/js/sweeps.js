// What one setting of a sweep does to a metric, seeds as spread, and what two of them do together.

const MOST_LINES = 8;

const sweepView = {
  id: "sweep",
  title: titleOf("sweep", "Sweeps"),
  draw() {
    const sources = sweepSources();
    if (!sources.length) {
      const hint =
        "Runs of one recipe that differ in a setting appear here, and so do the trials of `lightning sweep`.";
      return [empty("No sweep yet.", hint)];
    }
    const source =
      sources.find(({ value }) => value === state.source) ??
      sources.find(({ value }) => value === `sweep:${specOf("sweep").defaults.sweep}`) ??
      sources[0];
    const keep = new Set(filtered());
    const rows = source.rows.filter((row) => keep.has(row));
    const parameters = source.parameters.filter((knob) => distinct(rows, knob.at).length > 1);
    const list = measuredMetrics.filter((metric) => rows.some((row) => metric.value[row] !== null));
    const fresh = { metric: "", by: "", split: "", across: "", down: "", hold: "" };
    const chooseSource = select("Sweep", sources, source.value, (value) => update({ source: value, ...fresh }), {
      id: "source",
    });
    if (!parameters.length || !list.length) {
      const why = list.length
        ? "The runs shown do not differ in a setting."
        : "None of its runs has measured anything.";
      return [
        h("div", { class: "controls" }, chooseSource),
        empty(why, "Take a filter away, or wait for trials to finish."),
      ];
    }
    const metric = list.find(({ name }) => name === state.metric) ?? sweepMetric(source, list);
    const by = named(parameters, state.by) ?? source.axis("x", parameters) ?? favourite(parameters, /sparsity|bits/);
    const others = parameters.filter((knob) => knob !== by);
    const usual = () => source.axis("series", others) ?? favourite(others, /frames|bits|sparsity/);
    const split = state.split === "none" ? null : (named(others, state.split) ?? usual());
    const held = holds(parameters, [by, split]);
    const measured = rows.filter((row) => metric.value[row] !== null);
    const finished = measured.filter((row) => runs.status[row] === "finished");
    const machine = onOneMachine(finished, [metric]);
    const lines = holding(machine.rows, held);
    const chooseSplit = (value) => update({ split: value, hold: "" });
    const lineOptions = [...knobOptions(others), { value: "none", label: "one line" }];
    const controls = h(
      "div",
      { class: "controls" },
      chooseSource,
      select("Metric", metricOptions(list), metric.name, (value) => update({ metric: value }), { id: "metric" }),
      select("Across", knobOptions(parameters), by.name, (value) => update({ by: value, hold: "" }), { id: "by" }),
      others.length ? select("Lines", lineOptions, split?.name ?? "none", chooseSplit, { id: "split" }) : null,
      ...held.map(holdField),
      machine.control,
    );
    const free = held.filter(({ value }) => value === null).map(({ knob }) => knob.title);
    const averaged = [...free, ...(new Set(lines.map((row) => runs.seed[row])).size > 1 ? ["seed"] : [])].join(", ");
    const left = rows.length - finished.length;
    const notes = noteLine([
      ...machine.notes,
      averaged && `Points are means over ${averaged}; bars reach from the smallest to the largest of these runs.`,
      left && `${plural(left, "run")} that did not finish or did not measure this left out.`,
    ]);
    const chart = curveFigure(source, lines, metric, by, split);
    const heat = parameters.length > 1 ? heatFigure(source, machine.rows, metric, parameters, held) : null;
    return [controls, notes, h("div", { class: "pair" }, chart, heat)];
  },
};

const named = (list, name) => list.find((knob) => knob.name === name);
const knobOptions = (list) => list.map(({ name, title }) => ({ value: name, label: title }));

// Sweeps first, then recipes whose runs differ in a setting.
function sweepSources() {
  const seen = counted(sweeps, (sweep) => sweep.title);
  const unique = new Set(seen.filter(([, count]) => count === 1).map(([title]) => title));
  const axes = specOf("sweep").options.sweeps ?? {};
  const found = sweeps.map((sweep) => {
    const own = axes[sweep.id] ?? {};
    const title = unique.has(sweep.title) ? sweep.title : `${sweep.title} ${sweep.id}`;
    return {
      value: `sweep:${sweep.id}`,
      label: `${title}: ${sweep.runs.length} runs`,
      group: "Sweeps",
      title,
      rows: sweep.runs,
      metric: own.y ?? sweep.metric,
      axis: (name, among) => named(among, [own[name]].flat()[0]),
      second: (among) => named(among, own.heat?.[1]),
      parameters: (sweep.parameters ?? []).map((name) => knobs.get(name)).filter(Boolean),
    };
  });
  for (const [recipe, count] of counted(ALL_ROWS, (row) => runs.recipe[row])) {
    const rows = ALL_ROWS.filter((row) => runs.recipe[row] === recipe);
    const parameters = [...knobs.values()].filter(
      (knob) => !/seed/.test(knob.name) && distinct(rows, knob.at).length > 1,
    );
    const none = () => undefined;
    const shown = { label: `${recipe}: ${count} runs`, group: "All runs of a recipe", title: recipe };
    found.push({ value: `recipe:${recipe}`, ...shown, rows, parameters, axis: none, second: none });
  }
  return found.filter(({ parameters, rows }) => parameters.length && rows.length);
}

// As the spec says: the sweep's metric as measured on the test set, if there is one. That is what was bought.
function sweepMetric(source, list) {
  return list.find(({ name }) => name === source.metric) ?? list.find(({ kind }) => kind === "quality") ?? list[0];
}

const favourite = (list, pattern) =>
  list.find(({ name }) => pattern.test(name)) ?? list.find(({ name }) => !/seed/.test(name)) ?? list[0] ?? null;

// Parameters on no axis: averaged over, or held at one value. In the fragment: name=value lines.
function holds(parameters, shown) {
  const halves = (line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)];
  const set = new Map(state.hold.split("\n").filter(Boolean).map(halves));
  return parameters
    .filter((knob) => !shown.includes(knob) && !/seed/.test(knob.name))
    .slice(0, 6)
    .map((knob) => {
      const values = distinct(ALL_ROWS, knob.at).map(knobText);
      return { knob, values, value: values.includes(set.get(knob.name)) ? set.get(knob.name) : null };
    });
}

const holding = (rows, held) =>
  rows.filter((row) => held.every(({ knob, value }) => value === null || knobText(knob.at(row)) === value));

function holdField({ knob, value, values }) {
  const options = [{ value: "", label: "all, averaged" }, ...optionsOf(values)];
  const choose = (chosen) => update({ hold: withHold(knob.name, chosen) });
  return select(`Hold ${knob.title}`, options, value ?? "", choose, { id: `hold-${knob.name}` });
}

function withHold(name, value) {
  const lines = state.hold.split("\n").filter((line) => line && !line.startsWith(`${name}=`));
  return [...lines, ...(value ? [`${name}=${value}`] : [])].join("\n");
}

// A setting's axis: its numbers, or its values in order as text.
function settingAxis(knob, rows) {
  const values = distinct(rows, knob.at);
  if (values.every((value) => typeof value === "number"))
    return { place: (row) => knob.at(row), axis: titled(knob.name), values };
  const texts = values.map(knobText);
  return {
    place: (row) => texts.indexOf(knobText(knob.at(row))),
    axis: { ...textAxis(texts, knob.name), range: [-0.5, texts.length - 0.5] },
    values,
  };
}

// Values as text at 0, 1, 2 ...
function textAxis(texts, name) {
  return {
    automargin: true,
    ...titled(name),
    tickvals: texts.map((_, i) => i),
    ticktext: texts.map((text) => plotText(text, 24)),
  };
}

function curveFigure(source, all, metric, by, split) {
  const rows = all.filter((row) => by.at(row) !== undefined);
  const axis = settingAxis(by, rows);
  const values = split ? distinct(rows, split.at) : [undefined];
  const lines = values.slice(0, MOST_LINES).map((value, index) => {
    const members = split ? rows.filter((row) => knobText(split.at(row)) === knobText(value)) : rows;
    const points = spread(
      members.map(axis.place),
      members.map((row) => metric.value[row]),
    ).sort((a, b) => a.key - b.key);
    return { value, members, points, colour: series(index), symbol: SYMBOLS[index], dash: DASHES[index] };
  });
  const several = lines.some(({ points }) => points.some(({ n }) => n > 1));
  const traces = lines.flatMap((line) => [runPoints(line, axis, metric, several), meanLine(line, split)]);
  const nameOf = (line) => (split ? `${split.title} = ${knobText(line.value)}` : metric.label);
  const key = (line) => h("li", {}, glyph(line.symbol, line.colour), h("span", {}, cut(nameOf(line), 60)));
  const keys = h("ul", { class: "legend" }, split ? lines.map(key) : []);
  const hidden =
    values.length > MOST_LINES ? `; ${values.length - MOST_LINES} more values of ${split.title} not drawn` : "";
  return figure("sweep", {
    caption: `${metric.label} against ${by.title}`,
    detail: `${source.title}, ${rows.length} runs${split ? `, a line for each ${split.title}` : ""}${hidden}`,
    traces,
    aside: keys,
    zoom: [source.value, metric.name, by.name].join(),
    layout: { xaxis: axis.axis, yaxis: metricAxis(metric, false) },
    tip: (point) => {
      if (point.customdata !== undefined) return runTip(point.customdata, [metric]);
      const line = lines[Math.floor(point.curveNumber / 2)],
        at = line.points[point.pointIndex];
      return meanTip(`${nameOf(line)}, ${by.title} ${knobText(by.at(line.members[at.members[0]]))}`, metric, at);
    },
    pick: (point) => toggle(point.customdata),
    table: {
      columns: [by.name, ...(split ? [split.name] : []), "runs", `${metric.name} mean`, "smallest", "largest"],
      rows: lines.flatMap((line) =>
        line.points.map((at) => {
          const settings = [by.at(line.members[at.members[0]]), ...(split ? [line.value] : [])];
          return [...settings.map(knobText), at.n, at.mean, at.low, at.high];
        }),
      ),
    },
  });
}

function runPoints(line, axis, metric, several) {
  return scatter({
    mode: "markers",
    customdata: line.members,
    name: "runs",
    visible: several,
    cliponaxis: false,
    x: line.members.map(axis.place),
    y: line.members.map((row) => metric.value[row]),
    marker: { size: 5, color: line.colour, opacity: 0.45, symbol: line.symbol },
  });
}

function meanLine({ points, value, colour, dash, symbol }, split) {
  const range = { array: points.map((at) => at.high - at.mean), arrayminus: points.map((at) => at.mean - at.low) };
  return scatter({
    mode: "lines+markers",
    name: split ? plotText(`${split.title} ${knobText(value)}`) : "mean",
    meta: "mean",
    cliponaxis: false,
    x: points.map(({ key }) => key),
    y: points.map(({ mean }) => mean),
    error_y: { type: "data", symmetric: false, ...range, color: colour, thickness: 1.2, width: 3 },
    line: { color: colour, dash, width: 2 },
    marker: { size: 8, color: colour, symbol },
  });
}

function meanTip(title, metric, { n, mean, low, high }) {
  const range = n > 1 && ["range", `${show(metric, low)} to ${show(metric, high)}`];
  return tipCard(title, [[`mean of ${n}`, h("strong", {}, show(metric, mean))], range]);
}
