// What is under the pointer: a card of our own, because plotly's labels would read markup.

function watched(plot) {
  // plotly adds `on` when it draws first
  const start = () => {
    plot.on("plotly_hover", ({ points, event }) => plot.tip && showTip(plot.tip(points[0]), event));
    plot.on("plotly_unhover", hideTip);
    plot.on("plotly_click", ({ points }) => plot.pick && points[0].customdata !== undefined && plot.pick(points[0]));
  };
  const observer = new MutationObserver(() => {
    if (!plot.on) return;
    observer.disconnect();
    start();
  });
  observer.observe(plot, { childList: true });
  return plot;
}

function showTip(content, event) {
  const tip = byId("tip");
  if (!content) return hideTip();
  tip.replaceChildren(content);
  tip.hidden = false;
  if (narrow()) {
    Object.assign(tip.style, { left: "8px", right: "8px", top: "auto", bottom: `${byId("tray").offsetHeight + 8}px` });
    return undefined;
  }
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width < innerWidth ? event.clientX + 16 : event.clientX - 16 - box.width;
  const top = Math.max(8, Math.min(event.clientY - box.height / 2, innerHeight - box.height - 8));
  Object.assign(tip.style, { left: `${Math.max(8, left)}px`, top: `${top}px`, right: "auto", bottom: "auto" });
  return undefined;
}

function hideTip() {
  byId("tip").hidden = true;
}

function tipCard(title, pairs, foot = null) {
  const list = pairs.filter(Boolean).map(([name, ...values]) => [h("dt", {}, name), h("dd", {}, values)]);
  return h(
    "div",
    {},
    h("p", { class: "tip-title" }, title),
    h("dl", {}, list.flat()),
    foot && h("p", { class: "tip-foot" }, foot),
  );
}

// Everything worth knowing about a run at a glance: the axes first.
function runTip(row, shown) {
  const measured = shown.map((metric) => {
    const interval = showInterval(metric, row);
    const n = metric.n?.[row] ? `n=${metric.n[row]}` : "";
    const how = interval && metric.interval ? cut(String(metric.interval), 60) : "";
    const small = [n, how].filter(Boolean).join(", ");
    return [
      metric.label,
      h("strong", {}, show(metric, metric.value[row])),
      " ",
      interval,
      small && h("small", {}, small),
    ];
  });
  const machine = [cut(machineName(runs.fingerprint[row]), 60), runs.timed[row]].filter(Boolean).join("; ");
  const swept = new Set(sweepOf.get(runs.sweep[row])?.parameters);
  const telling = (knob) => (swept.size ? swept.has(knob.name) : /^(model|callbacks)\./.test(knob.name));
  const settings = [...knobs.values()].filter((knob) => telling(knob) && knob.at(row) !== undefined).slice(0, 6);
  return tipCard(
    runName(row),
    [
      ...measured,
      ["status", statusBadge(runs.status[row])],
      ["seed", String(runs.seed[row] ?? "-")],
      runs.sweep[row] !== null && ["sweep", cut(sweepTitle(runs.sweep[row]), 40)],
      shown.some((metric) => metric.machine) && ["timed", machine],
      ...settings.map((knob) => [knob.title, cut(knobText(knob.at(row)), 40)]),
      runs.error[row] && ["error", cut(String(runs.error[row]), 120)],
    ],
    selection.includes(row) ? "Selected. Click to remove." : "Click to select.",
  );
}
