// All runs as a table: sorted, a page at a time, a box to select each.

const PAGE = 100;

const field = (title, of, cell = (row) => cut(String(of(row) ?? "-"), 60)) => ({ title, value: of, cell });

const FIELDS = {
  status: field(
    "Status",
    (row) => runs.status[row],
    (row) => statusBadge(runs.status[row]),
  ),
  started: field(
    "Started",
    (row) => runs.started[row],
    (row) => when(runs.started[row]),
  ),
  seed: field("Seed", (row) => runs.seed[row]),
  family: field("Family", (row) => runs.family[row]),
  sweep: field("Sweep", (row) => sweepTitle(runs.sweep[row])),
  trial: field("Trial", (row) => runs.trial[row]),
  group: field("Group", (row) => runs.group[row]),
  parent: field("Parent", (row) => runs.parent[row]),
  timed: field("Timed", (row) => runs.timed[row]),
  fingerprint: field("Machine", (row) => (runs.fingerprint[row] === null ? null : machineName(runs.fingerprint[row]))),
  error: field("Error", (row) => runs.error[row]),
  folder: field("Folder", (row) => runs.folder[row]),
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
    const save = () => download("runs.csv", "text/csv", csv(runsCsv(sorted, columns)));
    const bar = h(
      "div",
      { class: "controls" },
      columnChooser(columns),
      button("CSV", save, { title: "Save all rows of this table", class: "quiet" }),
      pages > 1 ? pager(page, pages, sorted.length, "above") : h("p", { class: "note" }, plural(sorted.length, "run")),
    );
    if (!sorted.length) return [bar, empty("No run passes the filters.", "Take a filter away.")];
    const head = h("tr", {}, boxHead(), headCell({ key: "run", title: "Run" }), columns.map(headCell));
    const line = (row) =>
      h(
        "tr",
        { class: selection.includes(row) ? "selected" : null },
        h("td", {}, selectBox(row, "run")),
        h("th", { scope: "row" }, runLabel(row, "run")),
        columns.map(({ cell, number }) => h("td", { class: number ? "number" : null }, cell(row))),
      );
    const body = h("tbody", { keydown: moveInTable }, rows.map(line));
    const table = tableOf(head, body, { class: "runs", "aria-rowcount": String(sorted.length + 1) });
    const below = pages > 1 ? h("div", { class: "controls" }, pager(page, pages, sorted.length, "below")) : null;
    return [bar, scrolled("Runs", table, "tall"), below];
  },
};

// {key, title, cell(row), value(row), number}
function tableColumns() {
  const keys = state.cols ? state.cols.split(" ") : defaultColumns();
  return keys.map(column).filter(Boolean);
}

function column(key) {
  if (Object.hasOwn(FIELDS, key)) return { key, ...FIELDS[key] };
  const knob = knobs.get(key),
    metric = metrics.get(key);
  if (knob) return { key, ...field(knob.title, knob.at, (row) => cut(knobText(knob.at(row)), 40)), number: true };
  if (!metric) return null;
  const of = (row) => metric.value[row];
  const cell = (row) => h("span", { title: showInterval(metric, row) || null }, show(metric, of(row)));
  return { key, ...field(axisTitle(metric), of, cell), number: true };
}

// The spec's, but for what none of the filtered runs has.
function defaultColumns() {
  const rows = filtered(),
    few = measuredMetrics.slice(0, 6).map(({ name }) => name);
  const given = specOf("runs").defaults.columns ?? ["status", "started", "seed", ...few];
  const has = (found) =>
    found && (Object.hasOwn(FIELDS, found.key) || rows.some((row) => (found.value(row) ?? null) !== null));
  return given.filter((key) => has(column(key)));
}

// Rows without a value come last, whichever way.
function sortRows(rows, columns) {
  const name = (row) => `${runs.recipe[row]} ${runs.id[row]}`;
  const by = columns.find(({ key }) => key === state.sort) ?? column(state.sort) ?? column("started");
  const value = state.sort === "run" ? name : by.value;
  const sign = state.order === "up" ? 1 : -1;
  const numbers = (a, b) => typeof a === "number" && typeof b === "number";
  const compare = (a, b) => (numbers(a, b) ? a - b : Number(String(a) > String(b)) - Number(String(a) < String(b)));
  const missing = (given) => given === null || given === undefined;
  return rows
    .map((row) => [row, value(row)])
    .sort(
      ([rowA, a], [rowB, b]) =>
        (missing(a) || missing(b) ? missing(a) - missing(b) : sign * compare(a, b)) || rowA - rowB,
    )
    .map(([row]) => row);
}

function headCell({ key, title, number }) {
  const active = state.sort === key,
    up = state.order === "up";
  const first = metrics.get(key)?.better === "lower" || key === "run" ? "up" : "down"; // the best on top
  const sort = () => update({ sort: key, order: active ? (up ? "down" : "up") : first, page: "1" });
  const arrow = h("span", { class: "arrow", "aria-hidden": "true" }, active ? (up ? "\u25b4" : "\u25be") : "");
  const sorted = active ? { "aria-sort": up ? "ascending" : "descending" } : {};
  return h(
    "th",
    { scope: "col", class: number ? "number" : null, ...sorted },
    button([cut(title, 60), arrow], sort, { id: `sort-${key}`, title: `sort by ${cut(title, 200)}` }),
  );
}

function pager(page, pages, count, where) {
  const go = (to) => update({ page: String(to) });
  return h(
    "div",
    { class: "pager" },
    button("Previous", () => go(page - 1), { disabled: page === 1, id: `previous-${where}` }),
    h("span", {}, `${(page - 1) * PAGE + 1} to ${Math.min(page * PAGE, count)} of ${count}`),
    button("Next", () => go(page + 1), { disabled: page === pages, id: `next-${where}` }),
  );
}

function columnChooser(columns) {
  const shown = columns.map(({ key }) => key);
  const without = (key) => shown.filter((other) => other !== key);
  const flip = (key) => update({ cols: (shown.includes(key) ? without(key) : [...shown, key]).join(" ") || "status" });
  const box = (key) =>
    checkbox(cut(column(key).title, 60), shown.includes(key), () => flip(key), { id: `column-${key}` });
  const group = (title, keys) => keys.length > 0 && h("fieldset", {}, h("legend", {}, title), keys.map(box));
  const remember = (event) => {
    chooserOpen = event.target.open;
  };
  return h(
    "details",
    { class: "menu", id: "columns", open: chooserOpen, toggle: remember },
    h("summary", {}, `Columns: ${shown.length}`),
    h(
      "div",
      { class: "menu-body" },
      state.cols ? button("As at first", () => update({ cols: "" }), { class: "quiet" }) : null,
      group("Run", Object.keys(FIELDS)),
      group(
        "Metrics",
        measuredMetrics.map(({ name }) => name),
      ),
      group("Settings", [...knobs.keys()]),
    ),
  );
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
  const plain = (value) => (typeof value === "object" && value !== null ? JSON.stringify(value) : value);
  return {
    columns: ["run", "recipe", ...columns.map(({ key }) => key)],
    rows: rows.map((row) => [runs.id[row], runs.recipe[row], ...columns.map(({ value }) => plain(value(row)))]),
  };
}
