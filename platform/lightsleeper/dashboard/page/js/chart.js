// A figure: caption, plotly drawing, tools, and the same data as a table for those who cannot see or point at it.

const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "hexagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px 2px", "2px 4px"];
const TABLE_ROWS = 500;

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const series = (index) => ink(`s${(index % SYMBOLS.length) + 1}`);
const narrow = () => window.innerWidth < 700;

const plots = new Map(); // figure name -> its element, kept so that zoom and focus survive a redraw
let waiting = []; // drawings of figures that are not in the document yet

// table: {columns, rows}; tip(point): the element to show at a point; pick(point): what a click does.
function figure(
  name,
  { caption, detail = "", traces, layout, table, tip = null, pick = null, aside = null, zoom = "" },
) {
  if (!plots.has(name)) plots.set(name, watched(h("div", { class: "plot", id: `plot-${name}` })));
  const plot = plots.get(name);
  Object.assign(plot, { tip, pick });
  const config = { displayModeBar: false, doubleClick: "reset" };
  const draw = (kept) => Plotly.react(plot, traces, merged({ ...baseLayout(kept), ...sizeOf(plot) }, layout), config);
  waiting.push(() => draw(zoom));
  const tools = h(
    "div",
    { class: "tools" },
    button("Reset zoom", () => draw(`${zoom} ${performance.now()}`)), // what plotly keeps belongs to the old name
    button("SVG", () => Plotly.downloadImage(plot, { format: "svg", filename: name, width: 900, height: 600 }), {
      title: "Save the figure",
    }),
    button("CSV", () => download(`${name}.csv`, "text/csv", csv(table)), { title: "Save the data of the figure" }),
  );
  const said = h("figcaption", { id: `caption-${name}` }, caption, detail && h("span", { class: "note" }, detail));
  const head = h("div", { class: "figure-head" }, said, tools);
  return h("figure", { "aria-labelledby": `caption-${name}` }, head, aside ?? h("div"), plot, dataTable(table));
}

// On a wide screen a figure reaches to the end of the window, whatever stands above it.
function fit(plot) {
  if ("print" in document.documentElement.dataset) return; // the style sheet has the size of paper
  const room = innerHeight - plot.getBoundingClientRect().top - scrollY - (selection.length ? 110 : 50);
  plot.style.height = narrow() ? "" : `${Math.min(820, Math.max(340, room))}px`;
}
const sizeOf = (plot) => ({ width: plot.clientWidth, height: plot.clientHeight });

function paint() {
  const drawings = waiting;
  waiting = [];
  for (const plot of byId("panel").querySelectorAll(".plot")) fit(plot);
  for (const drawing of drawings) drawing();
}

const extreme = (values, of) => values.reduce((a, b) => of(a, b), values[0]); // Math.max(...values) overflows at many

function merged(base, given) {
  const both = { ...base, ...given };
  for (const axis of ["xaxis", "yaxis"]) both[axis] = { ...base[axis], ...given[axis] };
  return both;
}

function baseLayout(zoom) {
  const axis = {
    gridcolor: ink("grid"),
    zerolinecolor: ink("grid"),
    linecolor: ink("line"),
    tickcolor: ink("line"),
    showline: true,
    ticks: "outside",
    ticklen: 4,
    zeroline: false,
    nticks: narrow() ? 5 : 10,
    title: { standoff: 10 },
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: ink("ink") },
    margin: { l: 66, r: 16, t: 14, b: 52 },
    showlegend: false,
    hovermode: "closest",
    separators: ". ",
    uirevision: zoom,
    // Where a finger scrolls the page, it must not draw a zoom box.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    xaxis: { ...axis },
    yaxis: { ...axis, automargin: true },
  };
}

// A trace whose points answer through `customdata`: our card shows them, not plotly's label.
const scatter = (trace) => ({ type: "scatter", hoverinfo: "none", ...trace });
const titled = (text) => ({ title: { text: plotText(text), standoff: 10 } });
const colourbar = (text, more = {}) => ({
  title: { text: plotText(text, 40), side: "right" },
  thickness: 12,
  outlinewidth: 0,
  ...more,
});
const unitTicks = (metric) => (metric.scale ? { tickformat: "~s", ticksuffix: metric.unit } : {});

// Ticks and title of one metric's axis.
function metricAxis(metric, log, values = []) {
  const units = unitTicks(metric);
  if (log) {
    const decades = Math.log10(extreme(values, Math.max) / extreme(values, Math.min));
    if (decades > 0.6) units.dtick = decades > (narrow() ? 2 : 4) ? 1 : "D2"; // every label of a decade overlaps
  }
  return { type: log ? "log" : "linear", ...titled(axisTitle(metric)), ...units };
}

function dataTable({ columns, rows }) {
  const details = h(
    "details",
    { class: "data" },
    h("summary", {}, `Data of the figure: ${plural(rows.length, "row")}`),
  );
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const cell = (value) =>
      typeof value === "number" ? h("td", { class: "number" }, digits(value, 6)) : h("td", {}, value ?? "-");
    const shown = rows.slice(0, TABLE_ROWS).map((row) => h("tr", {}, row.map(cell)));
    const head = h(
      "tr",
      {},
      columns.map((name) => columnHead(name)),
    );
    details.append(scrolled("Data of the figure", tableOf(head, h("tbody", {}, shown))));
    if (rows.length > TABLE_ROWS)
      details.append(h("p", { class: "note" }, `The first ${TABLE_ROWS}; the CSV has all ${rows.length}.`));
  });
  return details;
}
