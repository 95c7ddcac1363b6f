// Markers and lines as legends show them.

const GLYPH_DASHES = {
  solid: "",
  dash: "5 3",
  dot: "1.5 2.5",
  dashdot: "5 2 1.5 2",
  longdash: "8 3",
  longdashdot: "8 2 2 2",
};

function dashGlyph(dash, colour) {
  const pattern = GLYPH_DASHES[dash] ?? dash.replace(/px/g, "");
  const line = svg("line", {
    x1: 0,
    x2: 26,
    y1: 8,
    y2: 8,
    stroke: colour,
    "stroke-width": 2.5,
    "stroke-dasharray": pattern,
  });
  return svg("svg", { width: 26, height: 16, viewBox: "0 0 26 16", "aria-hidden": "true" }, line);
}

// The marker of a legend, as plotly draws it.
function glyph(symbol, colour) {
  const around = (count, start, radius = () => 5) =>
    Array.from({ length: count }, (_, i) => {
      const angle = start + (2 * Math.PI * i) / count;
      return [Math.cos(angle), Math.sin(angle)].map((at) => (8 + radius(i) * at).toFixed(2)).join(",");
    }).join(" ");
  const up = -Math.PI / 2;
  const polygon = (...of) => svg("polygon", { points: around(...of), fill: colour });
  const shapes = {
    circle: () => svg("circle", { cx: 8, cy: 8, r: 5, fill: colour }),
    square: () => svg("rect", { x: 3.5, y: 3.5, width: 9, height: 9, fill: colour }),
    diamond: () => polygon(4, up, () => 6.5),
    "triangle-up": () => polygon(3, up, () => 6.5),
    "triangle-down": () => polygon(3, -up, () => 6.5),
    pentagon: () => polygon(5, up, () => 5.5),
    star: () => polygon(10, up, (i) => (i % 2 ? 2.8 : 6.5)),
    hexagon: () => polygon(6, up, () => 5.5),
  };
  return svg("svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" }, shapes[symbol]());
}

function lineStyle(row, index) {
  const place = selection.indexOf(row);
  const number = place < 0 ? index : place;
  return { colour: series(number), dash: DASHES[number % DASHES.length], symbol: SYMBOLS[number % SYMBOLS.length] };
}

function lineLegend(rows) {
  return h(
    "ul",
    { class: "legend" },
    rows.map((row, index) => {
      const { colour, dash } = lineStyle(row, index);
      const status = runs.status[row] === "finished" ? null : statusBadge(runs.status[row]);
      return h("li", {}, dashGlyph(dash, colour), h("span", { title: runs.id[row] }, cut(runName(row), 60)), status);
    }),
  );
}
