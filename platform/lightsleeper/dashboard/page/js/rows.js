// Which runs a view shows, and what it says about those it does not.

// Rows that may share the axes of `shown`: where one of them depends on the machine, the runs timed on one machine.
function onOneMachine(rows, shown) {
  const timed = shown.filter((metric) => metric?.machine);
  if (!timed.length) return { rows, notes: [], control: null };
  const having = rows.filter((row) => timed.every((metric) => metric.value[row] !== null));
  const counts = counted(having, (row) => runs.fingerprint[row] ?? "unknown");
  if (!counts.length) return { rows: having, notes: [], control: null };
  const mixed = state.machine === "mix";
  const [chosen] = counts.find(([name]) => name === state.machine) ?? counts[0];
  const label = (name) => machineName(name === "unknown" ? null : name);
  const options = counts.map(([name, count]) => ({ value: name, label: `${label(name)}: ${count}` }));
  if (counts.length > 1) options.push({ value: "mix", label: `mix all ${counts.length} machines` });
  const shownNow = mixed && counts.length > 1 ? "mix" : chosen;
  const control = select("Machine", options, shownNow, (machine) => update({ machine }), { id: "machine" });
  const kept = mixed ? having : having.filter((row) => (runs.fingerprint[row] ?? "unknown") === chosen);
  const notes = [];
  const hidden = having.length - kept.length;
  if (hidden) notes.push(`${plural(hidden, "run")} timed on other machines hidden.`);
  if (mixed && counts.length > 1)
    notes.push(`${counts.length} machines are mixed on this axis: their times do not compare.`);
  if (timed.some((metric) => metric.name.startsWith("latency."))) {
    const kinds = counted(
      kept.filter((row) => runs.timed[row]),
      (row) => runs.timed[row],
    );
    const named = kinds.slice(0, 4).map(([kind, count]) => `${kind}: ${count}`);
    if (kinds.length > 1)
      notes.push(`Times of different things (${named.join("; ")}${kinds.length > 4 ? "; ..." : ""}).`);
  }
  return { rows: kept, notes, control };
}

function noteLine(notes) {
  return h(
    "div",
    { class: "notes" },
    notes.filter(Boolean).map((note) => h("p", { class: "note" }, note)),
  );
}

// The runs a view of lines shows: the selected ones, else the newest few that have something to show.
function chosenRows(has, what) {
  const chosen = selection.filter(has);
  if (chosen.length) {
    const without = selection.length - chosen.length;
    return { rows: chosen, note: without ? `Without a ${what}: ${without} of the selected runs.` : "" };
  }
  const newest = filtered().filter(has).slice(-4).reverse(); // rows are oldest first
  const why = selection.length ? `The selected runs have no ${what}` : `No run with a ${what} is selected`;
  return { rows: newest, note: newest.length ? `${why}: the newest ${newest.length} that have one are shown.` : "" };
}

// A box that selects a run, and the run's name as its label.
function selectBox(row, place) {
  const named = { id: `${place}-${row}`, "aria-label": `select ${cut(runName(row), 100)}` };
  return h("input", { type: "checkbox", checked: selection.includes(row), change: () => toggle(row), ...named });
}

function runLabel(row, place) {
  const number = selection.indexOf(row);
  return h(
    "label",
    { for: `${place}-${row}`, class: "run", title: runs.id[row] },
    number < 0 ? null : h("span", { class: "number-badge" }, String(number + 1)),
    h("span", { class: "recipe" }, cut(String(runs.recipe[row]), 60)),
    " ",
    h("code", {}, cut(shortId(runs.id[row]), 40)),
  );
}
