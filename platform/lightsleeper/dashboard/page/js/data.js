// The payload as columns: `runs.recipe[row]`, `metrics.get(name).value[row]`, `knobs.get(name).at(row)`.

const payload = JSON.parse(byId("payload").textContent);
const runs = payload.runs ?? {};
const COUNT = runs.id?.length ?? 0;
const ALL_ROWS = Array.from({ length: COUNT }, (_, row) => row);
const RUN_COLUMNS =
  "id recipe family status started seed group parent sweep trial fingerprint timed error folder lineage url";
for (const name of RUN_COLUMNS.split(" ")) runs[name] ??= new Array(COUNT).fill(null);

const rowOf = new Map(ALL_ROWS.map((row) => [runs.id[row], row]));

// A column of the payload may hold only the rows that have a value, and one number that all share.
function dense(column, rows, otherwise = null) {
  if (column === null || column === undefined) return null;
  if (!Array.isArray(column)) return new Array(COUNT).fill(column);
  if (!rows) return column;
  const full = new Array(COUNT).fill(otherwise);
  rows.forEach((row, i) => {
    full[row] = column[i];
  });
  return full;
}

// A column is spread over all rows when something first asks for it: most metrics are never looked at.
class Metric {
  #given;
  #columns = {};

  constructor(name, given) {
    this.#given = given;
    this.name = name;
    this.label = given.label || name;
    this.unit = given.unit || "";
    this.kind = given.kind;
    this.better = given.better;
    this.machine = given.machine;
    this.log = given.log;
    this.interval = given.interval;
    this.scale = this.unit === "B" || name.startsWith("size."); // shown with k, M, G
    this.known = given.value.reduce((count, value) => count + (value !== null), 0);
  }

  #column(name) {
    return (this.#columns[name] ??= dense(this.#given[name], this.#given.rows));
  }

  get value() {
    return this.#column("value");
  }

  get low() {
    return this.#column("low");
  }

  get high() {
    return this.#column("high");
  }

  get n() {
    return this.#column("n");
  }

  // The same metric, with the direction that the reader said.
  directed(better) {
    const copy = new Metric(this.name, { ...this.#given, label: this.label, better });
    copy.asked = true;
    return copy;
  }
}

const metrics = new Map(Object.entries(payload.metrics ?? {}).map(([name, given]) => [name, new Metric(name, given)]));
const measuredMetrics = [...metrics.values()].filter((metric) => metric.known > 0);

const knobs = new Map();
for (const [name, { values, code }] of Object.entries(payload.knobs ?? {})) {
  knobs.set(name, { name, title: name, values, code, at: (row) => (code[row] >= 0 ? values[code[row]] : undefined) });
}

// The shortest end of a dotted name that no other setting has: past_frames of model.past_frames.
for (const knob of knobs.values()) {
  const parts = knob.name.split(".");
  for (let from = parts.length - 1; from >= 0; from--) {
    knob.title = parts.slice(from).join(".");
    if (![...knobs.keys()].some((other) => other !== knob.name && `.${other}`.endsWith(`.${knob.title}`))) break;
  }
  knob.title = cut(knob.title, 60);
}

// The value of any setting, also of those that no two runs of the recipe disagree on.
const constant = payload.constant ?? {};
function settingOf(row, name) {
  const given = knobs.get(name)?.at(row);
  const fixed = constant[runs.recipe[row]];
  return given === undefined && fixed && Object.hasOwn(fixed, name) ? fixed[name] : given;
}

const machines = payload.machines ?? {};
const sweeps = (payload.sweeps ?? []).map((sweep) => ({ ...sweep, title: sweep.name || sweep.id }));
const sweepOf = new Map(sweeps.map((sweep) => [sweep.id, sweep]));
const curves = payload.curves ?? {};
const training = payload.training ?? {};

const childrenOf = new Map(); // run id -> rows that required it
const lineage = (row) =>
  (runs.lineage[row] ?? []).map((step) =>
    typeof step === "string" ? { id: step } : { ...step, id: step.id ?? step.run_id },
  );
for (const row of ALL_ROWS) {
  for (const { id } of lineage(row)) {
    if (!childrenOf.has(id)) childrenOf.set(id, []);
    childrenOf.get(id).push(row);
  }
}

const shortId = (id) => String(id).replace(/^\d{4}(\d{4})-(\d{4})\d\d-/, "$1-$2-");
const runName = (row) => `${runs.recipe[row]} ${shortId(runs.id[row])}`;
const sweepTitle = (id) => (id === null || id === undefined ? null : (sweepOf.get(id)?.title ?? String(id)));

function machineName(fingerprint) {
  if (fingerprint === null || fingerprint === undefined) return "unknown machine";
  return Object.hasOwn(machines, fingerprint) ? machines[fingerprint] : String(fingerprint);
}

function counted(rows, of) {
  const counts = new Map();
  for (const row of rows) counts.set(of(row), (counts.get(of(row)) ?? 0) + 1);
  return [...counts.entries()].sort((a, b) => b[1] - a[1]);
}

// Text that the filter searches, built once per row when first asked for.
const haystacks = new Array(COUNT);
function haystack(row) {
  haystacks[row] ??= [
    runs.id,
    runs.recipe,
    runs.family,
    runs.status,
    runs.error,
    runs.group,
    runs.fingerprint,
    runs.folder,
  ]
    .map((column) => column[row] ?? "")
    .concat(sweepTitle(runs.sweep[row]) ?? "")
    .join("\n")
    .toLowerCase();
  return haystacks[row];
}

const KIND_TITLES = { quality: "Quality", cost: "Cost", context: "Context", compression: "Compression", time: "Time" };

function metricOptions(list = measuredMetrics) {
  const order = Object.keys(KIND_TITLES);
  const kind = (metric) => (order.includes(metric.kind) ? order.indexOf(metric.kind) : order.length);
  return [...list]
    .sort((a, b) => kind(a) - kind(b))
    .map((metric) => ({
      value: metric.name,
      label: axisTitle(metric),
      group: KIND_TITLES[metric.kind] ?? "Other",
    }));
}

function axisTitle(metric) {
  const text = metric.label === metric.name ? metric.name : `${metric.label}`;
  return metric.unit ? `${text} (${metric.unit})` : text;
}

// Metrics of one label and unit are told apart by their names.
const titles = new Map(counted(measuredMetrics, axisTitle));
const ambiguous = measuredMetrics.filter((metric) => titles.get(axisTitle(metric)) > 1);
for (const metric of ambiguous) metric.label = `${metric.label}, ${metric.name}`;

const qualityMetrics = measuredMetrics.filter((metric) => metric.kind === "quality");
const costMetrics = measuredMetrics.filter((metric) => metric.kind !== "quality");

// Values of one knob in a sensible order: numbers by size, then text, then null.
function ordered(values) {
  const rank = (value) => (typeof value === "number" ? 0 : value === null ? 2 : 1);
  return [...values].sort(
    (a, b) =>
      rank(a) - rank(b) ||
      (typeof a === "number" ? a - b : knobText(a).localeCompare(knobText(b), "en", { numeric: true })),
  );
}
function distinct(rows, of) {
  const given = rows.map(of).filter((value) => value !== undefined);
  return ordered(new Map(given.map((value) => [knobText(value), value])).values());
}
