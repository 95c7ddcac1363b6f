// What was logged while the selected runs trained.

const trainingView = {
  id: "training",
  title: titleOf("training", "Training"),
  draw() {
    const names = [...new Set(Object.values(training).flatMap(Object.keys))].sort();
    const older = payload.training_left_out;
    const left = older ? `Training curves of ${older} older runs are left out of this page.` : "";
    if (!names.length) {
      const hint = "A run records them when its fit ends; older runs have them in their metrics.csv only.";
      return [empty("No training curves in this page.", left || hint)];
    }
    const name = names.includes(state.train) ? state.train : favouriteCurve(names);
    const { rows, note } = chosenRows((row) => training[row]?.[name] !== undefined, `curve of ${name}`);
    const log = state.trainlog === "1";
    const options = names.map((value) => ({ value, label: value, group: value.split("/")[0] }));
    const flip = (on) => update({ trainlog: on ? "1" : "" });
    const controls = h(
      "div",
      { class: "controls" },
      select("Curve", options, name, (value) => update({ train: value }), { id: "train" }),
      checkbox("log", log, flip, { id: "trainlog", "aria-label": "logarithmic axis up" }),
    );
    if (!rows.length) {
      const title = `No run shown has a curve of ${name}.`;
      return [controls, noteLine([left]), empty(title, "Choose another curve, or take a filter away.")];
    }
    const drawn = rows.map((row, index) => ({ row, ...lineStyle(row, index), ...training[row][name] }));
    const mode = drawn.every(({ step }) => step.length < 60) ? "lines+markers" : "lines";
    return [
      controls,
      noteLine([note, left]),
      figure("training", {
        caption: `${name} while training`,
        detail: plural(rows.length, "run"),
        traces: drawn.map(({ row, colour, dash, symbol, step, value }) =>
          scatter({
            mode,
            name: plotText(runName(row)),
            x: step,
            y: value,
            customdata: step.map((_, i) => [row, i]),
            cliponaxis: false,
            line: { color: colour, dash, width: 1.8 },
            marker: { symbol, size: 6, color: colour },
          }),
        ),
        layout: {
          xaxis: { ...titled("Step (optimizer updates)"), rangemode: "tozero" },
          yaxis: { ...titled(name), type: log ? "log" : "linear" },
        },
        aside: lineLegend(rows),
        zoom: [name, log].join(),
        tip: ({ customdata: [row, i] }) =>
          tipCard(runName(row), [
            ["step", String(training[row][name].step[i])],
            [name, h("strong", {}, digits(training[row][name].value[i], 5))],
            ["status", statusBadge(runs.status[row])],
          ]),
        table: {
          columns: ["run", "recipe", "step", name],
          rows: drawn.flatMap(({ row, step, value }) =>
            step.map((at, i) => [runs.id[row], runs.recipe[row], at, value[i]]),
          ),
        },
      }),
    ];
  },
};

// The curve that most of the runs in question have; validation before training.
function favouriteCurve(names) {
  const rows = selection.length ? selection : Object.keys(training);
  const having = (name) => rows.filter((row) => training[row]?.[name] !== undefined).length;
  const rank = (name) => having(name) * 10 + (name.startsWith("val/") ? 2 : name.startsWith("train/") ? 1 : 0);
  return names.reduce((best, name) => (rank(name) > rank(best) ? name : best), names[0]);
}
