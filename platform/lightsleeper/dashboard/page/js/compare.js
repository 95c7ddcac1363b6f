// Two to four runs side by side: what they measure, what differs in their recipes, where they come from.

const FIRST_METRICS = 8; // of a kind, headline first; the rest on request

const compareView = {
  id: "compare",
  title: "Compare",
  draw() {
    if (!selection.length) {
      const hint = "Select two to four runs in the table or by clicking points; one run alone shows its details.";
      return [
        empty(
          "Nothing selected.",
          hint,
          button("Open the table", () => update({ view: "runs" })),
        ),
      ];
    }
    const rows = selection.slice(0, MOST_COMPARED),
      several = rows.length > 1;
    const machinesDiffer = rows.some((row) => runs.fingerprint[row] !== runs.fingerprint[rows[0]]);
    const notes = noteLine([
      selection.length > MOST_COMPARED && `The first ${MOST_COMPARED} of ${selection.length} selected runs.`,
      several &&
        "Differences are to run 1. Best is what lies clear of all the others: a value with its interval, or a cost that has none.",
      several && machinesDiffer && "Timed on different machines: no best, no difference for times.",
    ]);
    const sections = [
      ["Run", facts(rows)],
      ...metricSections(rows),
      [several ? "Settings that differ" : "Settings", settings(rows)],
      ["Lineage", ancestry(rows)],
    ].filter(([, lines]) => lines.length);
    const heading = (title) => h("th", { colspan: String(rows.length + 1), scope: "colgroup" }, title);
    const bodies = sections.map(([title, lines]) =>
      h("tbody", {}, h("tr", { class: "section" }, heading(title)), lines),
    );
    const save = () => download("compare.csv", "text/csv", csv(comparisonCsv(rows)));
    return [
      h(
        "div",
        { class: "figure-head spaced" },
        notes,
        button("CSV", save, { class: "quiet", title: "Save this table" }),
      ),
      scrolled(
        "Comparison",
        tableOf(h("tr", {}, h("td", {}), rows.map(runHead)), bodies, { class: "compare" }),
        "tall",
      ),
    ];
  },
};

function runHead(row, index) {
  const recipe = h("span", { class: "recipe" }, cut(String(runs.recipe[row]), 60));
  const number = h("span", { class: "number-badge" }, String(index + 1));
  return h("th", { scope: "col" }, number, " ", recipe, h("br"), h("code", {}, cut(String(runs.id[row]), 60)));
}

function line(name, cells, title = null) {
  return h(
    "tr",
    {},
    h("th", { scope: "row", title }, name),
    cells.map((cell) => h("td", {}, cell)),
  );
}

function facts(rows) {
  const lines = [
    line(
      "status",
      rows.map((row) => statusBadge(runs.status[row])),
    ),
    line(
      "started",
      rows.map((row) => when(runs.started[row])),
    ),
    line(
      "family",
      rows.map((row) => String(runs.family[row] ?? "-")),
    ),
    line(
      "seed",
      rows.map((row) => String(runs.seed[row] ?? "-")),
    ),
  ];
  const optional = {
    sweep: (row) => sweepTitle(runs.sweep[row]) && `${sweepTitle(runs.sweep[row])}, trial ${runs.trial[row] ?? "-"}`,
    machine: (row) =>
      runs.fingerprint[row] !== null && `${machineName(runs.fingerprint[row])}, ${runs.fingerprint[row]}`,
    timed: (row) => runs.timed[row],
    error: (row) => runs.error[row] && cut(String(runs.error[row]), 500),
    folder: (row) => runs.folder[row] && h("code", {}, cut(String(runs.folder[row]), 200)),
    "W&B": (row) => runs.url[row] && link(String(runs.url[row])),
  };
  const known = Object.entries(optional).filter(([, of]) => rows.some(of));
  return [
    ...lines,
    ...known.map(([name, of]) =>
      line(
        name,
        rows.map((row) => of(row) || "-"),
      ),
    ),
  ];
}

// A record could hold any address: only https becomes a link, anything else is text.
function link(url) {
  if (!url.startsWith("https://")) return cut(url, 80);
  return h("a", { href: url, rel: "noopener noreferrer", target: "_blank" }, cut(url, 80));
}

function metricSections(rows) {
  const order = Object.keys(KIND_TITLES);
  const kinds = [...new Set(measuredMetrics.map(({ kind }) => kind))].sort(
    (a, b) => order.indexOf(a) - order.indexOf(b),
  );
  return kinds.map((kind) => {
    const of = measuredMetrics.filter(
      (metric) => metric.kind === kind && rows.some((row) => metric.value[row] !== null),
    );
    const lines = of.map((metric) => metricLine(metric, rows));
    const folded = state.all ? 0 : lines.length - FIRST_METRICS;
    if (folded < 3) return [KIND_TITLES[kind] ?? "Other", lines];
    const more = button(`${folded} more`, () => update({ all: "1" }), { class: "quiet", id: `more-${kind}` });
    const last = h("tr", {}, h("td", { colspan: String(rows.length + 1) }, more));
    return [KIND_TITLES[kind] ?? "Other", [...lines.slice(0, FIRST_METRICS), last]];
  });
}

function metricLine(metric, rows) {
  const same = (row) => runs.fingerprint[row] === runs.fingerprint[rows[0]] && runs.timed[row] === runs.timed[rows[0]];
  const comparable = !metric.machine || rows.every(same);
  const best = comparable ? clearlyBest(metric, rows) : null;
  const first = metric.value[rows[0]];
  const cells = rows.map((row, index) => {
    const value = metric.value[row];
    const differs = index && comparable && value !== null && first !== null && value !== first;
    const change = differs ? difference(metric, value - first) : "";
    return [
      h("span", { class: row === best ? "value best" : "value" }, show(metric, value)),
      row === best && h("span", { class: "best-mark" }, "best"),
      h("small", {}, [showInterval(metric, row), change].filter(Boolean).join("  ")),
    ];
  });
  return line(axisTitle(metric), cells, metric.interval ? `${metric.name}; interval: ${metric.interval}` : metric.name);
}

function difference(metric, change) {
  const size = metric.kind === "quality" ? digits(Math.abs(change), 2) : show(metric, Math.abs(change));
  return `${change > 0 ? "+" : "\u2212"}${size}`;
}

// The row whose interval lies beyond every other's, or null. A cost such as bytes is exact; a quality without an
// interval is not judged.
function clearlyBest(metric, rows) {
  if (!metric.better || !["quality", "cost"].includes(metric.kind)) return null;
  if (rows.length < 2 || rows.some((row) => metric.value[row] === null)) return null;
  const bounded = (row) => [metric.low?.[row], metric.high?.[row]].every((end) => end !== null && end !== undefined);
  if (metric.kind === "quality" && !rows.every(bounded)) return null;
  const sign = metric.better === "higher" ? 1 : -1;
  const interval = (row) => (bounded(row) ? [metric.low[row], metric.high[row]] : [metric.value[row]]);
  const ends = (row) => interval(row).map((end) => sign * end);
  const winner = rows.reduce((a, b) => (sign * metric.value[b] > sign * metric.value[a] ? b : a));
  return rows.every((row) => row === winner || Math.min(...ends(winner)) > Math.max(...ends(row))) ? winner : null;
}

function settings(rows) {
  const cell = (row, name) => h("code", {}, cut(knobText(settingOf(row, name)), 200));
  const lines = settingNames(rows).map((name) =>
    line(
      name,
      rows.map((row) => cell(row, name)),
    ),
  );
  return lines.length
    ? lines
    : [
        line(
          "none",
          rows.map(() => ""),
        ),
      ];
}

// Those that differ between the runs; of one run all that are known.
function settingNames(rows) {
  const names = new Set([...knobs.keys(), ...rows.flatMap((row) => Object.keys(constant[runs.recipe[row]] ?? {}))]);
  return [...names].sort().filter((name) => {
    const texts = rows.map((row) => knobText(settingOf(row, name)));
    return rows.length === 1 ? settingOf(rows[0], name) !== undefined : texts.some((text) => text !== texts[0]);
  });
}

function ancestry(rows) {
  const named = (id, recipe) => {
    const row = rowOf.get(id);
    const text = cut(`${row === undefined ? (recipe ?? "") : runs.recipe[row]} ${id}`.trim(), 100);
    if (row === undefined) return h("span", {}, text, " (not in this page)");
    const pressed = { "aria-pressed": String(selection.includes(row)) };
    return button(text, () => toggle(row), { class: "link", title: "select or remove this run", ...pressed });
  };
  const list = (items) =>
    items.length
      ? h(
          "ul",
          {},
          items.map((item) => h("li", {}, item)),
        )
      : "-";
  const steps = (row) => list(lineage(row).map(({ step, recipe, id }) => [step ? `${step}: ` : "", named(id, recipe)]));
  const lines = [line("requires", rows.map(steps))];
  if (rows.some((row) => runs.parent[row])) {
    lines.push(
      line(
        "started by",
        rows.map((row) => (runs.parent[row] ? named(runs.parent[row]) : "-")),
      ),
    );
  }
  const users = rows.map((row) => childrenOf.get(runs.id[row]) ?? []);
  const few = (of) => (of.length > 5 ? `${of.length} runs` : list(of.map((row) => named(runs.id[row]))));
  if (users.some((of) => of.length)) lines.push(line("used by", users.map(few)));
  return lines;
}

function comparisonCsv(rows) {
  const ends = (metric, row) => [metric.value[row], metric.low?.[row] ?? null, metric.high?.[row] ?? null];
  const measuredHere = measuredMetrics.filter((metric) => rows.some((row) => metric.value[row] !== null));
  const setting = (row, name) => [knobText(settingOf(row, name)), null, null];
  return {
    columns: ["name", "unit", ...rows.flatMap((row) => [runs.id[row], "low", "high"])],
    rows: [
      ...measuredHere.map((metric) => [metric.name, metric.unit, ...rows.flatMap((row) => ends(metric, row))]),
      ...settingNames(rows).map((name) => [name, "", ...rows.flatMap((row) => setting(row, name))]),
    ],
  };
}
