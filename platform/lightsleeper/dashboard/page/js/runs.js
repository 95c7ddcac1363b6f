// All runs as a table: sorted, a page at a time, a box to select each.

const PAGE = 100;

const FIELDS = {
  status: ["Status", (row) => statusBadge(runs.status[row]), (row) => runs.status[row]],
  started: ["Started", (row) => when(runs.started[row]), (row) => runs.started[row]],
  seed: ["Seed", (row) => String(runs.seed[row] ?? "-"), (row) => runs.seed[row]],
  family: ["Family", (row) => cut(String(runs.family[row] ?? "-"), 40), (row) => runs.family[row]],
  sweep: ["Sweep", (row) => cut(sweepTitle(runs.sweep[row]) ?? "-", 40), (row) => sweepTitle(runs.sweep[row])],
  trial: ["Trial", (row) => String(runs.trial[row] ?? "-"), (row) => runs.trial[row]],
  group: ["Group", (row) => cut(String(runs.group[row] ?? "-"), 20), (row) => runs.group[row]],
  parent: ["Parent", (row) => cut(String(runs.parent[row] ?? "-"), 40), (row) => runs.parent[row]],
  timed: ["Timed", (row) => cut(String(runs.timed[row] ?? "-"), 40), (row) => runs.timed[row]],
  fingerprint: ["Machine", (row) => (runs.fingerprint[row] === null ? "-" : cut(String(runs.fingerprint[row]), 20)), (row) => runs.fingerprint[row]],
  error: ["Error", (row) => cut(String(runs.error[row] ?? "-"), 80), (row) => runs.error[row]],
  folder: ["Folder", (row) => cut(String(runs.folder[row] ?? "-"), 80), (row) => runs.folder[row]],
};

const runsView = {
  id: "runs",
  title: titleOf("runs", "Runs"),
  draw() {
    const columns = tableColumns();
    const sorted = sortRows(filtered(), columns);
    const pages = Math.max(1, Math.ceil(sorted.length / PAGE));
    const page = Math.min(Math.max(1, Number.parseInt(state.page, 10) || 1), pages);
    const rows = sorted.slice((page - 1) * PAGE, page * PAGE);
    const bar = h("div", { class: "controls" },
      columnChooser(columns),
      button("CSV", () => download("runs.csv", "text/csv", csv(runsCsv(sorted, columns))), { title: "Save all rows of this table", class: "quiet" }),
      pages > 1 ? pager(page, pages, sorted.length) : h("p", { class: "note" }, `${sorted.length} run${sorted.length === 1 ? "" : "s"}`));
    if (!sorted.length) return [bar, empty("No run passes the filters.", "Take a filter away.")];
    const head = h("tr", {}, h("th", {}, h("span", { class: "visually-hidden" }, "Select")), headCell({ key: "run", title: "Run" }), columns.map(headCell));
    const body = h("tbody", { keydown: moveInTable }, rows.map((row) => h("tr", { class: selection.includes(row) ? "selected" : null },
      h("td", {}, selectBox(row, "run")), h("th", { scope: "row" }, runLabel(row, "run")),
      columns.map((column) => h("td", { class: column.number ? "number" : null }, column.cell(row))))));
    const table = h("table", { class: "runs", "aria-rowcount": String(sorted.length + 1) }, h("thead", {}, head), body);
    return [bar, h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": "Runs" }, table), pages > 1 ? h("div", { class: "controls" }, pager(page, pages, sorted.length, "below")) : null];
  },
};

// {key, title, cell(row), value(row), number}
function tableColumns() {
  const keys = state.cols ? state.cols.split(" ") : defaultColumns();
  return keys.map(column).filter(Boolean);
}

function column(key) {
  if (Object.hasOwn(FIELDS, key)) {
    const [title, cell, value] = FIELDS[key];
    return { key, title, cell, value };
  }
  if (knobs.has(key)) {
    const knob = knobs.get(key);
    return { key, title: knob.title, cell: (row) => cut(knobText(knob.at(row)), 40), value: knob.at, number: true };
  }
  const metric = metrics.get(key);
  if (!metric) return null;
  const cell = (row) => h("span", { title: showInterval(metric, row) || null }, show(metric, metric.value[row]));
  return { key, title: axisTitle(metric), cell, value: (row) => metric.value[row], number: true };
}

// The spec's, but for what none of the filtered runs has.
function defaultColumns() {
  const rows = filtered();
  const given = specOf("runs").defaults.columns ?? ["status", "started", "seed", ...measuredMetrics.slice(0, 6).map(({ name }) => name)];
  const has = ({ key, value }) => Object.hasOwn(FIELDS, key) || rows.some((row) => value(row) !== null && value(row) !== undefined);
  return given.filter((key) => { const found = column(key); return found && has(found); });
}

function sortRows(rows, columns) {
  const value = state.sort === "run" ? (row) => `${runs.recipe[row]} ${runs.id[row]}` : (columns.find(({ key }) => key === state.sort) ?? column(state.sort) ?? column("started")).value;
  const sign = state.order === "up" ? 1 : -1;
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0);
  const missing = (v) => v === null || v === undefined;
  return rows.map((row) => [row, value(row)])
    .sort(([rowA, a], [rowB, b]) => (missing(a) || missing(b) ? missing(a) - missing(b) : sign * compare(a, b)) || rowA - rowB)
    .map(([row]) => row);
}

function headCell({ key, title, number }) {
  const active = state.sort === key;
  const sort = () => update({ sort: key, order: active && state.order === "down" ? "up" : active ? "down" : metrics.get(key)?.better === "lower" || key === "run" ? "up" : "down", page: "1" });
  const arrow = h("span", { class: "arrow", "aria-hidden": "true" }, active ? (state.order === "up" ? "\u25b4" : "\u25be") : "");
  return h("th", { scope: "col", class: number ? "number" : null, "aria-sort": active ? (state.order === "up" ? "ascending" : "descending") : null },
    button([cut(title, 60), arrow], sort, { id: `sort-${key}`, title: `sort by ${cut(title, 200)}` }));
}

function pager(page, pages, count, where = "above") {
  const go = (to) => update({ page: String(to) });
  return h("div", { class: "pager" },
    button("Previous", () => go(page - 1), { disabled: page === 1, id: `previous-${where}` }),
    h("span", {}, `${(page - 1) * PAGE + 1} to ${Math.min(page * PAGE, count)} of ${count}`),
    button("Next", () => go(page + 1), { disabled: page === pages, id: `next-${where}` }));
}

function columnChooser(columns) {
  const shown = columns.map(({ key }) => key);
  const flip = (key) => update({ cols: (shown.includes(key) ? shown.filter((other) => other !== key) : [...shown, key]).join(" ") || "status" });
  const group = (title, keys) => keys.length && h("fieldset", {}, h("legend", {}, title), keys.map((key) => checkbox(cut(column(key).title, 60), shown.includes(key), () => flip(key), { id: `column-${key}` })));
  const details = h("details", { class: "menu", id: "columns", open: chooserOpen, toggle: (event) => { chooserOpen = event.target.open; } },
    h("summary", {}, `Columns: ${shown.length}`),
    h("div", { class: "menu-body" },
      state.cols ? button("As at first", () => update({ cols: "" }), { class: "quiet" }) : null,
      group("Run", Object.keys(FIELDS)), group("Metrics", measuredMetrics.map(({ name }) => name)), group("Settings", [...knobs.keys()])));
  return details;
}
let chooserOpen = false;

// Up and down move between the boxes of the rows, Home and End to the first and last.
function moveInTable(event) {
  const boxes = [...event.currentTarget.querySelectorAll("input[type=checkbox]")];
  const at = boxes.indexOf(event.target);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: boxes.length - 1 }[event.key];
  if (at < 0 || to === undefined || !boxes[to]) return;
  event.preventDefault();
  boxes[to].focus();
}

function runsCsv(rows, columns) {
  return { columns: ["run", "recipe", ...columns.map(({ key }) => key)], rows: rows.map((row) => [runs.id[row], runs.recipe[row], ...columns.map(({ value }) => { const v = value(row); return typeof v === "object" && v !== null ? JSON.stringify(v) : v; })]) };
}
