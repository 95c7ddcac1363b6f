// Puts the page together: header, tabs, filters, the view, the tray of selected runs.

const VIEWS = [tradeoff, sweepView, curveView, runsView, compareView, trainingView];

function drawPage() {
  const focused = document.activeElement?.id;
  hideTip();
  drawTabs();
  drawFilters();
  drawTray();
  const view = VIEWS.find(({ id }) => id === state.view) ?? VIEWS[0];
  const panel = byId("panel");
  const scroll = panel.querySelector(".scroll.tall")?.scrollTop ?? 0;
  const kept = panel.dataset.view === view.id;
  panel.dataset.view = view.id;
  panel.setAttribute("aria-labelledby", `tab-${view.id}`);
  panel.replaceChildren(...(COUNT ? view.draw() : [noRuns()]).filter(Boolean));
  paint();
  const table = panel.querySelector(".scroll.tall");
  if (table && kept) table.scrollTop = scroll;
  if (focused && document.activeElement === document.body) byId(focused)?.focus({ preventScroll: true });
}

function noRuns() {
  return empty(
    `No run in ${payload.source || "runs"} yet.`,
    "Start one with:",
    h("code", {}, "lightning run recipes/kws_dsp.yaml"),
  );
}

// --- header ---

function drawHeader() {
  byId("facts").textContent = `${plural(COUNT, "run")}, ${when(payload.generated)} UTC`;
  const open = byId("skipped-open");
  const count = (payload.skipped?.length ?? 0) + (payload.more_skipped ?? 0),
    names = payload.metrics_left_out ?? [];
  open.hidden = !count && !names.length;
  open.textContent = count ? `${plural(count, "record")} skipped` : `${names.length} metrics left out`;
  open.addEventListener("click", () => {
    byId("skipped").replaceChildren(
      ...leftOut(names),
      button("Close", () => byId("skipped").close()),
    );
    byId("skipped").showModal();
  });
  const theme = byId("theme");
  theme.value = stored("lightsleeper-theme") ?? "auto";
  theme.addEventListener("change", () => {
    try {
      localStorage.setItem("lightsleeper-theme", theme.value);
    } catch {
      /* a browser may forbid it; the choice then lasts as long as the page */
    }
    setTheme(theme.value);
    drawPage();
  });
  setTheme(theme.value);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawPage);
}

function leftOut(names) {
  const line = ({ path, reason }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("code", {}, cut(String(path), 200))),
      h("td", {}, cut(String(reason), 300)),
    );
  const rows = (payload.skipped ?? []).map(line);
  const table = tableOf(h("tr", {}, columnHead("Record"), columnHead("Reason")), h("tbody", {}, rows));
  const metricsText = `${names.length} metrics, to keep the page small: ${cut(names.join(", "), 2000)}`;
  return [
    h("h2", { id: "skipped-title" }, "Left out of this page"),
    rows.length ? scrolled("Skipped records", table) : "",
    payload.more_skipped ? h("p", { class: "note" }, `and ${payload.more_skipped} more records`) : "",
    names.length ? h("p", { class: "note" }, metricsText) : "",
  ];
}

function stored(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function setTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

// --- tabs ---

function drawTabs() {
  const tabs = byId("tabs");
  if (!tabs.children.length) {
    const tab = ({ id }) =>
      button("", () => update({ view: id }), { role: "tab", id: `tab-${id}`, "aria-controls": "panel" });
    tabs.append(...VIEWS.map(tab));
    tabs.addEventListener("keydown", (event) => {
      const at = VIEWS.findIndex(({ id }) => `tab-${id}` === event.target.id);
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: VIEWS.length - 1 }[event.key];
      if (to === undefined || at < 0) return;
      event.preventDefault();
      const view = VIEWS[(to + VIEWS.length) % VIEWS.length];
      update({ view: view.id });
      byId(`tab-${view.id}`).focus();
    });
  }
  const active = VIEWS.some(({ id }) => id === state.view) ? state.view : VIEWS[0].id;
  for (const view of VIEWS) {
    const tab = byId(`tab-${view.id}`);
    tab.replaceChildren(view.title);
    if (view === compareView && selection.length) tab.append(h("span", { class: "count" }, String(selection.length)));
    tab.setAttribute("aria-selected", String(view.id === active));
    tab.tabIndex = view.id === active ? 0 : -1;
    if (view.id === active) tabs.scrollLeft = Math.max(0, tab.offsetLeft - 40);
  }
}

// --- filters ---

let typing;

function buildFilters(bar) {
  const typed = (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => update({ q: event.target.value, page: "1" }), 200);
  };
  const hints = { placeholder: "text, or sparsity=0.8", autocomplete: "off", spellcheck: "false" };
  const search = h("input", { type: "search", id: "q", input: typed, ...hints });
  // On a phone the filters fold away: the figure is what was come for.
  const fold = button(
    "Filter runs",
    () => {
      fold.setAttribute("aria-expanded", String(bar.classList.toggle("open")));
    },
    { class: "fold", id: "fold", "aria-expanded": "false" },
  );
  const pick = (label, key, options) => {
    const choose = (value) => update({ [key]: value, page: "1" });
    const all = [{ value: "", label: "all" }, ...options];
    return options.length > 1 ? select(label, all, state[key], choose, { id: `filter-${key}` }) : "";
  };
  const recipes = counted(ALL_ROWS, (row) => String(runs.recipe[row]));
  const withCount = (name, count) => `${name}: ${count}`;
  bar.append(
    fold,
    h("label", { class: "field grow" }, h("span", {}, "Filter"), search),
    pick(
      "Recipe",
      "recipe",
      recipes.map(([value, count]) => ({ value, label: withCount(value, count) })),
    ),
    pick(
      "Sweep",
      "sweep",
      sweeps.map(({ id, title, runs: of }) => ({ value: id, label: withCount(title, of.length) })),
    ),
    h("div", { class: "chips", role: "group", "aria-label": "Status" }),
    h("p", { class: "note", id: "shown" }),
  );
}

function drawFilters() {
  const bar = byId("filters");
  bar.hidden = COUNT < 2 || state.view === "compare";
  if (!bar.children.length) buildFilters(bar);
  const search = byId("q");
  if (document.activeElement !== search) search.value = state.q;
  for (const key of ["recipe", "sweep"]) if (byId(`filter-${key}`)) byId(`filter-${key}`).value = state[key];
  const on = new Set(state.status.split(" ").filter(Boolean));
  const flip = (status) => {
    if (!on.delete(status)) on.add(status);
    update({ status: [...on].join(" "), page: "1" });
  };
  const chip = ([status, count]) =>
    button([statusBadge(status), h("span", { class: "count" }, String(count))], () => flip(status), {
      id: `status-${status}`,
      class: "chip",
      "aria-pressed": String(on.has(status)),
    });
  const statuses = counted(ALL_ROWS, (row) => String(runs.status[row]));
  bar.querySelector(".chips").replaceChildren(...(statuses.length > 1 || on.size ? statuses.map(chip) : []));
  const clear = () => {
    search.value = "";
    update({ q: "", status: "", recipe: "", sweep: "", page: "1" });
  };
  byId("shown").replaceChildren();
  if (state.q || state.status || state.recipe || state.sweep) {
    byId("shown").append(`${filtered().length} of ${COUNT} `, button("Clear", clear, { class: "quiet", id: "clear" }));
  }
}

// --- tray ---

function drawTray() {
  const tray = byId("tray"),
    full = selection.length === MOST_SELECTED;
  tray.hidden = !selection.length;
  tray.classList.toggle("full", full);
  document.body.classList.toggle("with-tray", selection.length > 0);
  const entry = (row, index) =>
    h(
      "li",
      {},
      h("span", { class: "number-badge" }, String(index + 1)),
      glyph(SYMBOLS[index], series(index)),
      h("span", { class: "run", title: runs.id[row] }, cut(runName(row), 44)),
      runs.status[row] === "finished" ? null : statusBadge(runs.status[row]),
      button("\u00d7", () => toggle(row), {
        class: "quiet",
        "aria-label": `remove ${cut(runName(row), 100)}`,
        id: `remove-${row}`,
      }),
    );
  const look = button(selection.length > 1 ? "Compare" : "Details", () => update({ view: "compare" }), {
    class: "primary",
    id: "compare",
  });
  tray.replaceChildren(
    h("ul", {}, selection.map(entry)),
    h(
      "div",
      { class: "tools" },
      full ? h("span", { class: "note" }, `${MOST_SELECTED} at most`) : "",
      state.view === "compare" ? "" : look,
      button("Clear", () => setSelection([]), { class: "quiet", id: "clear-selection" }),
    ),
  );
}

// --- a page that is written again while it is open ---

const LEFT_ALONE_MS = 5000;
let touched = 0;
for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) {
  addEventListener(kind, () => (touched = Date.now()), { passive: true });
}
// A page opened from disk cannot ask whether its file has changed. What is on screen lies in the fragment and stays.
if (payload.reload_s) {
  setInterval(() => {
    if (Date.now() - touched > LEFT_ALONE_MS && !document.querySelector("dialog[open]")) location.reload();
  }, 1000 * payload.reload_s);
}

// --- start ---

byId("main").append(h("div", { id: "panel", role: "tabpanel", tabindex: "-1" }));
let resizing;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => {
    for (const plot of plots.values()) {
      if (!plot.isConnected || !plot.data) continue;
      fit(plot);
      Plotly.relayout(plot, sizeOf(plot));
    }
  }, 100);
});
addEventListener("hashchange", () => {
  readFragment();
  drawPage();
});
addEventListener("popstate", () => {
  readFragment();
  drawPage();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
addEventListener("scroll", hideTip, { passive: true });
// Charts take their colours from the style sheet when they are drawn, and paper is light.
addEventListener("beforeprint", () => {
  document.documentElement.dataset.print = "";
  drawPage();
});
addEventListener("afterprint", () => {
  delete document.documentElement.dataset.print;
  drawPage();
});

readFragment();
drawHeader();
drawPage();
performance.mark("lightsleeper-drawn");
