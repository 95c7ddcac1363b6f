// The mean of a metric over two settings of a sweep.

function heatFigure(source, rows, metric, parameters) {
  const across =
    named(parameters, state.across) ?? source.axis("heat", parameters) ?? favourite(parameters, /past|context/);
  const rest = parameters.filter((knob) => knob !== across);
  const down = named(rest, state.down) ?? source.second(rest) ?? favourite(rest, /future|sparsity|bits/);
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
    detail: `${source.title}, ${rows.length} runs${metric.better ? "; brighter is better" : ""}`,
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
        text: grid((cell) => (cell ? text(cell) : "")),
        texttemplate: crowded ? "" : "%{text}",
        textfont: { size: narrow() ? 10 : 12 },
        colorbar: colourbar(axisTitle(metric), unitTicks(metric)),
      },
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
