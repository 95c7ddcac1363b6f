// The mean of a metric over two settings of a sweep; the others are averaged over, or held as beside the curve.

function heatFigure(source, all, metric, parameters, held) {
  const across =
    named(parameters, state.across) ?? source.axis("heat", parameters) ?? favourite(parameters, /past|context/);
  const rest = parameters.filter((knob) => knob !== across);
  const down = named(rest, state.down) ?? source.second(rest) ?? favourite(rest, /future|sparsity|bits/);
  const off = (knob) => knob !== across && knob !== down && !/seed/.test(knob.name);
  const kept = held.filter(({ knob, value }) => value !== null && off(knob));
  const rows = holding(all, kept);
  const averaged = parameters.filter((knob) => off(knob) && !kept.some((one) => one.knob === knob));
  const told = [
    `${source.title}, ${rows.length} runs`,
    ...kept.map(({ knob, value }) => `${knob.title} ${value}`),
    averaged.length && `means over ${averaged.map(({ title }) => title).join(", ")}`,
    metric.better && "brighter is better",
  ];
  const columns = distinct(rows, across.at),
    lines = distinct(rows, down.at);
  const key = (column, line) => `${knobText(column)}\n${knobText(line)}`;
  const cells = spread(
    rows.map((row) => key(across.at(row), down.at(row))),
    rows.map((row) => metric.value[row]),
  );
  const found = new Map(cells.map((cell) => [cell.key, cell]));
  const at = (line, column) => found.get(key(column, line));
  const text = (cell) =>
    plotText(metric.kind === "quality" ? digits(cell.mean, 3) : show(metric, Number(cell.mean.toPrecision(3))));
  const grid = (of) => lines.map((line) => columns.map((column) => of(at(line, column))));
  const crowded = columns.length * lines.length > (narrow() ? 30 : 120);
  const options = knobOptions(parameters);
  const chooseAcross = (value) => update({ across: value, down: value === down.name ? across.name : down.name });
  const chooseDown = (value) => update({ down: value, across: value === across.name ? down.name : across.name });
  const ticks = (values, name) => ({ type: "linear", showgrid: false, ...textAxis(values.map(knobText), name) });
  return figure("heatmap", {
    caption: `Mean ${metric.label} of ${down.title} and ${across.title}`,
    detail: told.filter(Boolean).join("; "),
    aside: h(
      "div",
      { class: "controls inner" },
      select("Across", options, across.name, chooseAcross, { id: "across" }),
      select("Up", options, down.name, chooseDown, { id: "down" }),
    ),
    traces: [
      {
        type: "heatmap",
        hoverinfo: "none",
        colorscale: "Cividis",
        reversescale: metric.better === "lower",
        xgap: 2,
        ygap: 2,
        x: columns.map((_, i) => i),
        y: lines.map((_, i) => i),
        z: grid((cell) => cell?.mean ?? null),
        colorbar: colourbar(axisTitle(metric), unitTicks(metric)),
      },
      ...(crowded ? [] : [cellTexts(columns, lines, at, metric, text)]),
    ],
    layout: { xaxis: ticks(columns, across.name), yaxis: ticks(lines, down.name) },
    zoom: [source.value, across.name, down.name].join(),
    tip: (point) => {
      const [line, column] = [lines[point.y], columns[point.x]],
        cell = at(line, column);
      return cell && meanTip(`${across.title} ${knobText(column)}, ${down.title} ${knobText(line)}`, metric, cell);
    },
    table: {
      columns: [across.name, down.name, "runs", `${metric.name} mean`, "smallest", "largest"],
      rows: lines.flatMap((line) =>
        columns.flatMap((column) => {
          const cell = at(line, column);
          return cell ? [[knobText(column), knobText(line), cell.n, cell.mean, cell.low, cell.high]] : [];
        }),
      ),
    },
  });
}

// Black or white, whichever is read better: cividis passes the middle grey just below its half.
function cellTexts(columns, lines, at, metric, text) {
  const cells = lines.flatMap((line, y) => columns.map((column, x) => ({ x, y, cell: at(line, column) })));
  const known = cells.filter(({ cell }) => cell);
  const means = known.map(({ cell }) => cell.mean);
  const low = extreme(means, Math.min),
    high = extreme(means, Math.max);
  const bright = (mean) => (metric.better === "lower" ? high - mean : mean - low) > 0.47 * (high - low);
  return {
    type: "scatter",
    mode: "text",
    hoverinfo: "skip",
    name: "means",
    x: known.map(({ x }) => x),
    y: known.map(({ y }) => y),
    text: known.map(({ cell }) => text(cell)),
    textfont: { size: narrow() ? 10 : 12, color: means.map((mean) => (bright(mean) ? "#000" : "#fff")) },
  };
}
