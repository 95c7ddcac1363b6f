// What is on screen, as text in the URL fragment, so that a view can be linked. Only what differs from the defaults is
// written. Every change goes through `update`, which draws the page again.

const MOST_SELECTED = 8; // colours and line styles that can still be told apart
const MOST_COMPARED = 4;

const specOf = (id) => (payload.views ?? []).find((view) => view.id === id) ?? { title: "", defaults: {}, options: {} };
const titleOf = (id, otherwise) => specOf(id).title || otherwise;
const measured = (name) => (metrics.get(name)?.known ? name : undefined);

// What the spec of the views says, else what most runs have measured.
function defaults() {
  const spec = specOf("tradeoff").defaults;
  const first = measuredMetrics[0]?.name ?? "";
  return {
    view: "tradeoff",
    q: "",
    status: "",
    recipe: "",
    sweep: "",
    machine: spec.machine === null ? "mix" : (spec.machine ?? ""),
    sel: "",
    x: measured(spec.x) ?? measured("latency.p50_ms") ?? mostKnown(costMetrics) ?? first,
    y: measured(spec.y) ?? mostKnown(qualityMetrics) ?? first,
    xlog: "",
    ylog: "",
    xbetter: "",
    ybetter: "",
    colour: spec.colour ?? "recipe",
    front: "all",
    hide: "",
    source: "",
    metric: "",
    by: "",
    split: "",
    across: "",
    down: "",
    hold: "",
    set: "",
    curve: specOf("detection").defaults.scale ?? "det",
    train: "",
    trainlog: "",
    sort: specOf("runs").defaults.sort ?? "started",
    order: "down",
    page: "1",
    cols: "",
    all: "",
  };
}

function mostKnown(list) {
  return list.reduce((best, metric) => (metric.known > (best?.known ?? 0) ? metric : best), undefined)?.name;
}

const DEFAULTS = defaults();
let state = { ...DEFAULTS };
let selection = []; // rows, in the order they were chosen: the first is the one others are compared with

function readFragment() {
  const given = new URLSearchParams(location.hash.replace(/^#/, ""));
  state = { ...DEFAULTS };
  for (const [key, value] of given) if (Object.hasOwn(DEFAULTS, key)) state[key] = value;
  const rows = state.sel
    .split(" ")
    .map((id) => rowOf.get(id))
    .filter((row) => row !== undefined);
  selection = [...new Set(rows)].slice(0, MOST_SELECTED);
}

function fragment(of = state) {
  const written = new URLSearchParams();
  for (const [key, value] of Object.entries(of)) if (value !== DEFAULTS[key]) written.set(key, value);
  return `#${written}`;
}

function update(change) {
  const view = state.view;
  state = { ...state, ...change };
  // A new view is a step that the browser's back button undoes; a changed axis is not.
  history[view === state.view ? "replaceState" : "pushState"](null, "", fragment());
  drawPage();
}

function setSelection(rows) {
  selection = rows;
  update({ sel: rows.map((row) => runs.id[row]).join(" ") });
}

function toggle(row) {
  if (selection.includes(row)) {
    setSelection(selection.filter((other) => other !== row));
    announce(`${runName(row)} removed, ${selection.length} selected`);
  } else if (selection.length === MOST_SELECTED) {
    announce(`${MOST_SELECTED} runs are selected already; remove one first`);
    byId("tray").classList.add("full");
  } else {
    setSelection([...selection, row]);
    announce(`${runName(row)} selected, ${selection.length} in all`);
  }
}

// The filters that every view shares.
function filtered() {
  const statuses = new Set(state.status.split(" ").filter(Boolean));
  const terms = state.q.toLowerCase().split(/\s+/).filter(Boolean).map(matcher);
  return ALL_ROWS.filter(
    (row) =>
      (!statuses.size || statuses.has(runs.status[row])) &&
      (!state.recipe || runs.recipe[row] === state.recipe) &&
      (!state.sweep || runs.sweep[row] === state.sweep) &&
      terms.every((matches) => matches(row)),
  );
}

// `text` is looked for in names, status, machine and error; `sparsity=0.8` in the knobs whose name ends so.
function matcher(term) {
  const [, name, sign, value] = term.match(/^([\w./-]+)(<=|>=|=|<|>)(.+)$/) ?? [];
  const named = name ? [...knobs.values()].filter((knob) => `.${knob.name}`.toLowerCase().endsWith(`.${name}`)) : [];
  if (!named.length) return (row) => haystack(row).includes(term);
  const compare = {
    "=": (given) => knobText(given).toLowerCase() === value,
    "<": (given) => given < Number(value),
    "<=": (given) => given <= Number(value),
    ">": (given) => given > Number(value),
    ">=": (given) => given >= Number(value),
  }[sign];
  return (row) =>
    named.some((knob) => {
      const given = knob.at(row);
      return given !== undefined && (sign === "=" || typeof given === "number") && compare(given);
    });
}
