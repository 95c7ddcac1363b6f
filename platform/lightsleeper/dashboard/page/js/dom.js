// Elements and words. Everything that comes from a record passes through textContent, or through plotText where
// plotly draws it: plotly reads a little HTML (<b>, <a href>) in every label.

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(key, value);
    else if (key === "class") node.className = value;
    else if (key === "value" || key === "checked" || key === "indeterminate") node[key] = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function svg(tag, props, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const byId = (id) => document.getElementById(id);

function plotText(value, longest = 90) {
  const text = cut(String(value).replace(/[\u0000-\u001f\u007f\u2028\u2029]+/g, " "), longest);
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function cut(text, longest) {
  return text.length > longest ? `${text.slice(0, longest - 1)}\u2026` : text;
}

// Numbers: four significant digits, decimal units.
const PREFIXES = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];

function scaled(value, unit) {
  const [factor, prefix] = PREFIXES.find(([size]) => Math.abs(value) >= size) ?? [1, ""];
  const text = factor === 1 && Number.isInteger(value) ? String(value) : digits(value / factor);
  return `${text}${prefix || unit ? "\u202f" : ""}${prefix}${unit}`;
}

function digits(value, count = 4) {
  if (!Number.isFinite(value)) return "-";
  if (value !== 0 && (Math.abs(value) < 1e-4 || Math.abs(value) >= 1e7)) return value.toExponential(2);
  return String(Number(value.toPrecision(count)));
}

function show(metric, value) {
  if (value === null || value === undefined) return "-";
  if (metric.scale) return scaled(value, metric.unit);
  const text = metric.kind === "quality" && Math.abs(value) <= 1 ? value.toFixed(4) : digits(value);
  return metric.unit ? `${text}\u202f${metric.unit}` : text;
}

// `[0.51, 0.71]`: the unit stands at the value.
function showInterval(metric, row) {
  const [low, high] = [metric.low?.[row], metric.high?.[row]];
  if (low === null || low === undefined || high === null || high === undefined) return "";
  const bare = metric.scale ? metric : { kind: metric.kind, unit: "" };
  return `[${show(bare, low)}, ${show(bare, high)}]`;
}

function knobText(value) {
  if (value === undefined) return "-";
  return value === null ? "null" : typeof value === "object" ? JSON.stringify(value) : String(value);
}

function when(iso) {
  return iso
    ? String(iso)
        .replace("T", " ")
        .replace(/(:\d\d)(\.\d+)?(\+00:00|Z)$/, "")
        .slice(0, 16)
    : "-";
}

const STATUS_MARK = {
  finished: "\u2713",
  running: "\u25b8",
  failed: "\u2715",
  died: "\u2020",
  interrupted: "\u2016",
  pruned: "\u2298",
};

function statusBadge(status) {
  const known = Object.hasOwn(STATUS_MARK, status);
  const mark = h("span", { "aria-hidden": "true", class: "mark" }, known ? STATUS_MARK[status] : "?");
  return h("span", { class: `status status-${known ? status : "other"}` }, mark, cut(String(status), 24));
}

// Controls: a labelled select with groups, a check box, a row of buttons.
function select(label, options, value, change, props = {}) {
  const node = h("select", { change: (event) => change(event.target.value), ...props });
  const groups = new Map();
  for (const option of options) {
    const item = h("option", { value: option.value }, cut(option.label, 70));
    if (!option.group) node.append(item);
    else {
      if (!groups.has(option.group)) groups.set(option.group, node.appendChild(h("optgroup", { label: option.group })));
      groups.get(option.group).append(item);
    }
  }
  node.value = value;
  return h("label", { class: "field" }, h("span", {}, label), node);
}

function checkbox(label, checked, change, props = {}) {
  const box = h("input", { type: "checkbox", checked, change: (event) => change(event.target.checked), ...props });
  return h("label", { class: "check" }, box, label);
}

function button(label, click, props = {}) {
  return h("button", { type: "button", click, ...props }, label);
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const optionsOf = (values) => values.map((value) => ({ value, label: value }));

// A table in a box of its own that scrolls, reachable by keyboard.
function scrolled(name, table, more = "") {
  return h("div", { class: `scroll ${more}`, tabindex: "0", role: "region", "aria-label": name }, table);
}

function tableOf(head, body, props = {}) {
  return h("table", props, h("thead", {}, head), body);
}

const columnHead = (title, number = false) => h("th", { scope: "col", class: number ? "number" : null }, title);
const boxHead = () => h("th", {}, h("span", { class: "visually-hidden" }, "Select"));

function empty(title, ...hints) {
  return h(
    "div",
    { class: "empty" },
    h("p", { class: "empty-title" }, title),
    ...hints.map((hint) => h("p", {}, hint)),
  );
}

function announce(text) {
  byId("say").textContent = text;
}

function download(name, type, text) {
  const link = h("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function csv(table) {
  // A spreadsheet runs a cell that starts with one of these; a leading apostrophe makes it text.
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return String(value);
    const text = /^[=+\-@\t\r]/.test(String(value)) ? `'${value}` : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return [table.columns, ...table.rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
