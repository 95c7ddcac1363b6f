// Two to four runs side by side: what they measure, what differs in their recipes, where they come from.

const FIRST_METRICS = 8; // of a kind, headline first; the rest on request

const compareView = {
  id: "compare",
  title: "Compare",
  draw() {
    if (!selection.length) {
      return [empty("Nothing selected.", "Select two to four runs in the table or by clicking points; one run alone shows its details.",
        button("Open the table", () => update({ view: "runs" })))];
    }
    const rows = selection.slice(0, MOST_COMPARED);
    const span = rows.length + 1;
    const sections = [
      ["Run", facts(rows)],
      ...metricSections(rows),
      [rows.length > 1 ? "Settings that differ" : "Settings", settings(rows)],
      ["Lineage", ancestry(rows)],
    ];
    const body = sections.flatMap(([title, lines]) => lines.length
      ? [h("tbody", {}, h("tr", { class: "section" }, h("th", { colspan: String(span), scope: "colgroup" }, title)), lines)] : []);
    const head = h("tr", {}, h("td", {}), rows.map((row, index) => h("th", { scope: "col" },
      h("span", { class: "number-badge" }, String(index + 1)), " ", h("span", { class: "recipe" }, cut(String(runs.recipe[row]), 60)), h("br"), h("code", {}, cut(String(runs.id[row]), 60)))));
    const machinesDiffer = rows.some((row) => runs.fingerprint[row] !== runs.fingerprint[rows[0]]);
    const notes = noteLine([
      selection.length > MOST_COMPARED && `The first ${MOST_COMPARED} of ${selection.length} selected runs.`,
      rows.length > 1 && "Differences are to run 1. A quality is called best where its interval lies clear of all the others', a cost where it is lowest.",
      rows.length > 1 && machinesDiffer && "Timed on different machines: no best, no difference for times.",
    ]);
    const table = comparisonCsv(rows);
    const save = button("CSV", () => download("compare.csv", "text/csv", csv(table)), { class: "quiet", title: "Save this table" });
    return [h("div", { class: "figure-head spaced" }, notes, save),
      h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Comparison" }, h("table", { class: "compare" }, h("thead", {}, head), body))];
  },
};

function line(name, cells, title = null) {
  return h("tr", {}, h("th", { scope: "row", title }, name), cells.map((cell) => h("td", {}, cell)));
}

function facts(rows) {
  const lines = [
    line("status", rows.map((row) => statusBadge(runs.status[row]))),
    line("started", rows.map((row) => when(runs.started[row]))),
    line("family", rows.map((row) => String(runs.family[row] ?? "-"))),
    line("seed", rows.map((row) => String(runs.seed[row] ?? "-"))),
  ];
  const optional = {
    sweep: (row) => sweepTitle(runs.sweep[row]) && `${sweepTitle(runs.sweep[row])}, trial ${runs.trial[row] ?? "-"}`,
    machine: (row) => runs.fingerprint[row] !== null && `${machineName(runs.fingerprint[row])}, ${runs.fingerprint[row]}`,
    timed: (row) => runs.timed[row],
    error: (row) => runs.error[row] && cut(String(runs.error[row]), 500),
    folder: (row) => runs.folder[row] && h("code", {}, cut(String(runs.folder[row]), 200)),
    "W&B": (row) => runs.url[row] && link(String(runs.url[row])),
  };
  for (const [name, of] of Object.entries(optional)) if (rows.some(of)) lines.push(line(name, rows.map((row) => of(row) || "-")));
  return lines;
}

// A record could hold any address: only https becomes a link, anything else is text.
function link(url) {
  return url.startsWith("https://") ? h("a", { href: url, rel: "noopener noreferrer", target: "_blank" }, cut(url, 80)) : cut(url, 80);
}

function metricSections(rows) {
  const kinds = [...new Set(measuredMetrics.map(({ kind }) => kind))].sort((a, b) => Object.keys(KIND_TITLES).indexOf(a) - Object.keys(KIND_TITLES).indexOf(b));
  return kinds.map((kind) => {
    const lines = measuredMetrics.filter((metric) => metric.kind === kind && rows.some((row) => metric.value[row] !== null))
      .map((metric) => metricLine(metric, rows));
    const folded = state.all ? 0 : lines.length - FIRST_METRICS;
    if (folded < 3) return [KIND_TITLES[kind] ?? "Other", lines];
    const more = button(`${folded} more`, () => update({ all: "1" }), { class: "quiet", id: `more-${kind}` });
    return [KIND_TITLES[kind] ?? "Other", [...lines.slice(0, FIRST_METRICS), h("tr", {}, h("td", { colspan: String(rows.length + 1) }, more))]];
  });
}

function metricLine(metric, rows) {
  const comparable = !metric.machine || rows.every((row) => runs.fingerprint[row] === runs.fingerprint[rows[0]] && runs.timed[row] === runs.timed[rows[0]]);
  const best = comparable ? clearlyBest(metric, rows) : null;
  const first = metric.value[rows[0]];
  const cells = rows.map((row, index) => {
    const value = metric.value[row];
    const change = index && comparable && value !== null && first !== null && value !== first ? difference(metric, value - first) : "";
    return [h("span", { class: row === best ? "value best" : "value" }, show(metric, value)),
      row === best && h("span", { class: "best-mark" }, "best"),
      h("small", {}, [showInterval(metric, row), change].filter(Boolean).join("  "))];
  });
  return line(axisTitle(metric), cells, metric.interval ? `${metric.name}; interval: ${metric.interval}` : metric.name);
}

function difference(metric, change) {
  return `${change > 0 ? "+" : "\u2212"}${metric.kind === "quality" ? digits(Math.abs(change), 2) : show(metric, Math.abs(change))}`;
}

// The row whose interval lies beyond every other's, or null. A cost such as bytes is exact; a quality without an
// interval is not judged.
function clearlyBest(metric, rows) {
  if (!metric.better || !["quality", "cost"].includes(metric.kind)) return null;
  if (rows.length < 2 || rows.some((row) => metric.value[row] === null)) return null;
  const bounded = (row) => [metric.low?.[row], metric.high?.[row]].every((end) => end !== null && end !== undefined);
  if (metric.kind === "quality" && !rows.every(bounded)) return null;
  const sign = metric.better === "higher" ? 1 : -1;
  const ends = (row) => (bounded(row) ? [metric.low[row], metric.high[row]] : [metric.value[row], metric.value[row]]).map((end) => sign * end);
  const winner = rows.reduce((a, b) => (sign * metric.value[b] > sign * metric.value[a] ? b : a));
  return rows.every((row) => row === winner || Math.min(...ends(winner)) > Math.max(...ends(row))) ? winner : null;
}

function settings(rows) {
  const lines = settingNames(rows).map((name) => line(name, rows.map((row) => h("code", {}, cut(knobText(settingOf(row, name)), 200)))));
  return lines.length ? lines : [line("none", rows.map(() => ""))];
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
    const text = `${row === undefined ? recipe ?? "" : runs.recipe[row]} ${id}`.trim();
    if (row === undefined) return h("span", {}, cut(text, 100), " (not in this page)");
    return button(cut(text, 100), () => toggle(row), { class: "link", title: "select or remove this run", "aria-pressed": String(selection.includes(row)) });
  };
  const list = (items) => (items.length ? h("ul", {}, items.map((item) => h("li", {}, item))) : "-");
  const lines = [line("requires", rows.map((row) => list(lineage(row).map(({ step, recipe, id }) => [step ? `${step}: ` : "", named(id, recipe)]))))];
  if (rows.some((row) => runs.parent[row])) lines.push(line("started by", rows.map((row) => (runs.parent[row] ? named(runs.parent[row]) : "-"))));
  const users = rows.map((row) => childrenOf.get(runs.id[row]) ?? []);
  if (users.some((list_) => list_.length)) lines.push(line("used by", users.map((of) => (of.length > 5 ? `${of.length} runs` : list(of.map((row) => named(runs.id[row])))))));
  return lines;
}

function comparisonCsv(rows) {
  const lines = measuredMetrics.filter((metric) => rows.some((row) => metric.value[row] !== null))
    .map((metric) => [metric.name, metric.unit, ...rows.flatMap((row) => [metric.value[row], metric.low?.[row] ?? null, metric.high?.[row] ?? null])]);
  const differing = settingNames(rows).map((name) => [name, "", ...rows.flatMap((row) => [knobText(settingOf(row, name)), null, null])]);
  return { columns: ["name", "unit", ...rows.flatMap((row) => [runs.id[row], "low", "high"])], rows: [...lines, ...differing] };
}
