// Errors against errors: DET on normal-deviate axes, ROC, and misses against false alarms an hour.

const CURVE_KINDS = [["det", "DET"], ["roc", "ROC"], ["frr_fah", "FRR against FA/h"]];
const DET_TICKS = [0.0001, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

const curveView = {
  id: "detection",
  title: titleOf("detection", "Operating points"),
  draw() {
    const sets = [...new Set(Object.values(curves).flatMap(Object.keys))].sort();
    if (!sets.length) return [empty("No run has error curves.", "Detection models record them in the test stage; classifiers and language models have none.")];
    const rates = sets.filter((set) => Object.values(curves).some((of) => of[set] && of[set].kind !== "frr_fah"));
    const hourly = sets.filter((set) => Object.values(curves).some((of) => of[set] && hourlyOf(of[set])));
    const kinds = CURVE_KINDS.filter(([kind]) => (kind === "frr_fah" ? hourly : rates).length);
    const kind = kinds.some(([name]) => name === state.curve) ? state.curve : kinds[0][0];
    const offered = kind === "frr_fah" ? hourly : rates;
    const set = offered.includes(state.set) ? state.set : offered.find((name) => /hard/.test(name)) ?? offered[0];
    const has = (row) => pointsOf(curves[row]?.[set], kind) !== null;
    const { rows, note } = chosenRows(has, `curve of ${set}`);
    const controls = h("div", { class: "controls" },
      select("Curve", CURVE_KINDS.map(([value, label]) => ({ value, label })).filter(({ value }) => kinds.some(([name]) => name === value)), kind, (value) => update({ curve: value }), { id: "curve" }),
      select("Test set", offered.map((value) => ({ value, label: value })), set, (value) => update({ set: value }), { id: "set" }));
    if (!rows.length) return [controls, empty(`No run shown has a ${set} curve.`, "Take a filter away, or choose another test set.")];
    const left = payload.curves_left_out;
    return [controls, noteLine([note, left && `Curves of ${left} older runs are left out of this page.`]), curvesFigure(rows, set, kind)];
  },
};

const hourlyOf = (curve) => (curve.kind === "frr_fah" ? curve.x : null);

// {x: false alarms, y: misses, threshold, marks: [{name, x, y}]} in rates (x per hour for frr_fah), or null where it cannot be drawn so.
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
  const drawn = rows.map((row, index) => ({ row, ...lineStyle(row, index), points: pointsOf(curves[row][set], kind) }));
  const toX = { det: (far) => (far > 0 && far < 1 ? probit(far) : null), roc: (far) => far, frr_fah: (rate) => rate }[kind];
  const toY = { det: (frr) => (frr > 0 && frr < 1 ? probit(frr) : null), roc: (frr) => 1 - frr, frr_fah: (frr) => frr }[kind];
  const line = (list, points) => points.map((_, i) => i).filter((i) => list.x[i] !== null && list.y[i] !== null);
  const traces = drawn.flatMap(({ row, colour, dash, symbol, points }) => {
    const mapped = { x: points.x.map(toX), y: points.y.map(toY) };
    const kept = line(mapped, points.x);
    const eer = kind === "frr_fah" ? null : equalErrors(points);
    const marks = [...(eer === null ? [] : [{ name: "equal errors", x: eer, y: eer }]), ...points.marks.map((mark) => ({ ...mark, own: true }))];
    return [
      { type: "scatter", mode: "lines", hoverinfo: "none", name: plotText(runName(row)), x: kept.map((i) => mapped.x[i]), y: kept.map((i) => mapped.y[i]), customdata: kept.map((i) => [row, points.x[i], points.y[i], points.threshold[i] ?? null]), line: { color: colour, dash, width: 2 } },
      {
        type: "scatter", mode: "markers", hoverinfo: "none", name: "points", x: marks.map((mark) => toX(mark.x)), y: marks.map((mark) => toY(mark.y)),
        customdata: marks.map((mark) => [row, mark.x, mark.y, null, mark.name]), marker: { symbol, size: marks.map(({ own }) => (own ? 12 : 8)), color: colour, line: { width: 1, color: ink("surface") } },
      },
    ];
  });
  return figure("curves", {
    caption: { det: `Detection error trade-off on ${set}`, roc: `ROC on ${set}`, frr_fah: `Misses against false alarms an hour on ${set}` }[kind],
    detail: `${rows.length} run${rows.length > 1 ? "s" : ""}; the ${kind === "roc" ? "upper" : "lower"} left is better${kind === "frr_fah" ? "" : "; small markers where both errors are equal"}${drawn.some(({ points }) => points.marks.length) ? "; large markers at the shipped threshold" : ""}`,
    traces: [...traces, diagonal(kind)].filter(Boolean),
    layout: curveAxes(kind, drawn),
    aside: lineLegend(rows),
    zoom: [kind, set].join(),
    tip: ({ customdata }) => customdata && tipCard(runName(customdata[0]), [
      customdata[4] && ["point", cut(String(customdata[4]), 60)],
      customdata[3] !== null && ["threshold", digits(customdata[3])],
      [kind === "frr_fah" ? "false alarms an hour" : "false alarm rate", h("strong", {}, kind === "frr_fah" ? digits(customdata[1]) : percent(customdata[1]))],
      ["miss rate", h("strong", {}, percent(customdata[2]))],
    ]),
    table: {
      columns: ["run", "recipe", kind === "frr_fah" ? "false alarms an hour" : "false alarm rate", "miss rate", "threshold"],
      rows: drawn.flatMap(({ row, points }) => points.x.map((x, i) => [runs.id[row], runs.recipe[row], x, points.y[i], points.threshold[i] ?? null])),
    },
  });
}

const percent = (rate) => `${digits(100 * rate, 3)}\u202f%`;

function diagonal(kind) {
  if (kind === "frr_fah") return null;
  const [from, to] = kind === "det" ? [[-4, -4], [4, 4]] : [[0, 0], [1, 1]];
  return { type: "scatter", mode: "lines", hoverinfo: "skip", name: kind === "det" ? "equal errors" : "chance", x: [from[0], to[0]], y: [from[1], to[1]], line: { color: ink("muted"), width: 1, dash: "dot" } };
}

function curveAxes(kind, drawn) {
  const named = (text) => ({ title: { text, standoff: 10 } });
  if (kind === "roc") {
    const rate = { range: [-0.01, 1.01], tickformat: ".0%" };
    return { xaxis: { ...named("False alarm rate"), ...rate }, yaxis: { ...named("Hit rate"), ...rate } };
  }
  if (kind === "frr_fah") return { xaxis: { ...named("False alarms an hour (1/h)"), type: "log" }, yaxis: { ...named("Miss rate"), tickformat: ".0%", rangemode: "tozero" } };
  // From the lowest rate that any run reaches while its other error is at most 60 %, up to 60 %.
  const most = 0.6;
  const deviate = (of, other) => {
    const rates = drawn.flatMap(({ points }) => points[of].filter((rate, i) => rate > 0 && rate <= most && points[other][i] <= most));
    return { range: [probit(Math.max(extreme([most, ...rates], Math.min), 0.0005)) - 0.1, probit(most) + 0.05], ...detTicks };
  };
  const detTicks = { tickvals: DET_TICKS.map(probit), ticktext: DET_TICKS.map((rate) => `${Number((100 * rate).toPrecision(3))}`) };
  return {
    xaxis: { ...named("False alarm rate (%, normal deviate)"), ...deviate("x", "y") },
    yaxis: { ...named("Miss rate (%, normal deviate)"), ...deviate("y", "x") },
  };
}
