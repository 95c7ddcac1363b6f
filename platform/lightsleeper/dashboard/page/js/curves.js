// Errors against errors: DET on normal-deviate axes, ROC, and misses against false alarms an hour.

const CURVE_KINDS = [
  ["det", "DET"],
  ["roc", "ROC"],
  ["frr_fah", "FRR against FA/h"],
];
const DET_TICKS = [
  0.0001, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99,
];

const curveView = {
  id: "detection",
  title: titleOf("detection", "Operating points"),
  draw() {
    const sets = [...new Set(Object.values(curves).flatMap(Object.keys))].sort();
    if (!sets.length) {
      const hint = "Detection models record them in the test stage; classifiers and language models have none.";
      return [empty("No run has error curves.", hint)];
    }
    const rates = sets.filter((set) => Object.values(curves).some((of) => of[set] && of[set].kind !== "frr_fah"));
    const hourly = sets.filter((set) => Object.values(curves).some((of) => of[set] && hourlyOf(of[set])));
    const kinds = CURVE_KINDS.filter(([kind]) => (kind === "frr_fah" ? hourly : rates).length);
    const kind = kinds.some(([name]) => name === state.curve) ? state.curve : kinds[0][0];
    const offered = kind === "frr_fah" ? hourly : rates;
    const set = offered.includes(state.set) ? state.set : (offered.find((name) => /hard/.test(name)) ?? offered[0]);
    const has = (row) => pointsOf(curves[row]?.[set], kind) !== null;
    const { rows, note } = chosenRows(has, `curve of ${set}`);
    const kindOptions = kinds.map(([value, label]) => ({ value, label }));
    const controls = h(
      "div",
      { class: "controls" },
      select("Curve", kindOptions, kind, (value) => update({ curve: value }), { id: "curve" }),
      select("Test set", optionsOf(offered), set, (value) => update({ set: value }), { id: "set" }),
    );
    if (!rows.length)
      return [controls, empty(`No run shown has a ${set} curve.`, "Take a filter away, or choose another test set.")];
    const left = payload.curves_left_out;
    return [
      controls,
      noteLine([note, left && `Curves of ${left} older runs are left out of this page.`]),
      curvesFigure(rows, set, kind),
    ];
  },
};

const hourlyOf = (curve) => (curve.kind === "frr_fah" ? curve.x : null);

// {x: false alarms, y: misses, threshold, marks: [{name, x, y}]} in rates (x per hour for frr_fah), or null where the
// curve cannot be drawn so.
function pointsOf(curve, kind) {
  if (!curve || (kind === "frr_fah") !== (curve.kind === "frr_fah")) return null;
  const misses = (rate) => (curve.kind === "roc" ? 1 - rate : rate);
  const marks = (curve.points ?? []).map(({ name, x, y }) => ({ name: name ?? "threshold", x, y: misses(y) }));
  return { x: curve.x, y: curve.y.map(misses), threshold: curve.threshold ?? [], marks };
}

// Where misses and false alarms are equal, between the two points around it; null where the curve does not get there.
function equalErrors({ x, y }) {
  for (let i = 1; i < x.length; i++) {
    const [before, after] = [x[i - 1] - y[i - 1], x[i] - y[i]];
    if (before === 0 || before * after < 0) {
      const share = before / (before - after || 1);
      return x[i - 1] + share * (x[i] - x[i - 1]);
    }
  }
  return null;
}

function curvesFigure(rows, set, kind) {
  const hourly = kind === "frr_fah";
  const drawn = rows.map((row, index) => ({ row, ...lineStyle(row, index), points: pointsOf(curves[row][set], kind) }));
  const marked = drawn.some(({ points }) => points.marks.length);
  const better = `the ${kind === "roc" ? "upper" : "lower"} left is better`;
  const equal = hourly ? "" : "; small markers where both errors are equal";
  const name = { det: "Detection error trade-off", roc: "ROC", frr_fah: "Misses against false alarms an hour" }[kind];
  const alarms = hourly ? "false alarms an hour" : "false alarm rate";
  return figure("curves", {
    caption: `${name} on ${set}`,
    detail: `${plural(rows.length, "run")}; ${better}${equal}${marked ? "; large markers at the shipped threshold" : ""}`,
    traces: [...drawn.flatMap((run) => curveTraces(run, kind)), ...(hourly ? [] : [diagonal(kind)])],
    layout: curveAxes(kind, drawn),
    aside: lineLegend(rows),
    zoom: [kind, set].join(),
    tip: ({ customdata: [row, x, y, threshold, mark] }) =>
      tipCard(runName(row), [
        mark && ["point", cut(String(mark), 60)],
        threshold !== null && ["threshold", digits(threshold)],
        [alarms, h("strong", {}, hourly ? digits(x) : percent(x))],
        ["miss rate", h("strong", {}, percent(y))],
      ]),
    table: {
      columns: ["run", "recipe", alarms, "miss rate", "threshold"],
      rows: drawn.flatMap(({ row, points: { x, y, threshold } }) =>
        x.map((far, i) => [runs.id[row], runs.recipe[row], far, y[i], threshold[i] ?? null]),
      ),
    },
  });
}

// A run's line, and its points of interest. Normal deviates of 0 and 1 are infinite: those points are not drawn.
function curveTraces({ row, colour, dash, symbol, points }, kind) {
  const deviate = (rate) => (rate > 0 && rate < 1 ? probit(rate) : null);
  const toX = kind === "det" ? deviate : (far) => far;
  const toY = { det: deviate, roc: (frr) => 1 - frr, frr_fah: (frr) => frr }[kind];
  const at = points.x.map((far, i) => ({
    x: toX(far),
    y: toY(points.y[i]),
    data: [row, far, points.y[i], points.threshold[i] ?? null],
  }));
  const kept = at.filter(({ x, y }) => x !== null && y !== null);
  const eer = kind === "frr_fah" ? null : equalErrors(points);
  const own = points.marks.map((mark) => ({ ...mark, size: 12 }));
  const marks = eer === null ? own : [{ name: "equal errors, about", x: eer, y: eer, size: 8 }, ...own];
  return [
    scatter({
      mode: "lines",
      name: plotText(runName(row)),
      customdata: kept.map(({ data }) => data),
      x: kept.map(({ x }) => x),
      y: kept.map(({ y }) => y),
      line: { color: colour, dash, width: 2 },
    }),
    scatter({
      mode: "markers",
      name: "points",
      customdata: marks.map((mark) => [row, mark.x, mark.y, null, mark.name]),
      x: marks.map((mark) => toX(mark.x)),
      y: marks.map((mark) => toY(mark.y)),
      marker: { symbol, size: marks.map(({ size }) => size), color: colour, line: { width: 1, color: ink("surface") } },
    }),
  ];
}

const percent = (rate) => `${digits(100 * rate, 3)}\u202f%`;

function diagonal(kind) {
  const ends = kind === "det" ? [-4, 4] : [0, 1];
  const line = { color: ink("muted"), width: 1, dash: "dot" };
  return {
    type: "scatter",
    mode: "lines",
    hoverinfo: "skip",
    name: kind === "det" ? "equal errors" : "chance",
    x: ends,
    y: ends,
    line,
  };
}

function curveAxes(kind, drawn) {
  if (kind === "roc") {
    const rate = { range: [-0.01, 1.01], tickformat: ".0%" };
    return { xaxis: { ...titled("False alarm rate"), ...rate }, yaxis: { ...titled("Hit rate"), ...rate } };
  }
  if (kind === "frr_fah") {
    const rate = { tickformat: ".0%", rangemode: "tozero" };
    return {
      xaxis: { ...titled("False alarms an hour (1/h)"), type: "log" },
      yaxis: { ...titled("Miss rate"), ...rate },
    };
  }
  // From the lowest rate that any run reaches while its other error is at most 60 %, up to 60 %.
  const most = 0.6;
  const ticks = { tickvals: DET_TICKS.map(probit), ticktext: DET_TICKS.map((rate) => digits(100 * rate, 3)) };
  const deviates = (of, other) => {
    const inside = (points) => points[of].filter((rate, i) => rate > 0 && rate <= most && points[other][i] <= most);
    const lowest = extreme([most, ...drawn.flatMap(({ points }) => inside(points))], Math.min);
    return { range: [probit(Math.max(lowest, 0.0005)) - 0.1, probit(most) + 0.05], ...ticks };
  };
  return {
    xaxis: { ...titled("False alarm rate (%, normal deviate)"), ...deviates("x", "y") },
    yaxis: { ...titled("Miss rate (%, normal deviate)"), ...deviates("y", "x") },
  };
}
