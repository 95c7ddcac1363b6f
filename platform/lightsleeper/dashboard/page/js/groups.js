// Runs by what colours them; colour, marker and name go together.

const MOST_GROUPS = 7;

function colourOptions() {
  const settings = [...knobs.keys()].map((name) => ({ value: name, label: name, group: "Setting" }));
  const of = { family: "model family", fingerprint: "machine" };
  const plain = ["recipe", "family", "sweep", "status", "fingerprint", "seed"];
  return [...plain.map((value) => ({ value, label: of[value] ?? value })), ...settings];
}

function colourValue(colour) {
  if (knobs.has(colour)) return knobs.get(colour).at;
  if (colour === "sweep") return (row) => sweepTitle(runs.sweep[row]) ?? undefined;
  const machine = (row) => (runs.fingerprint[row] === null ? undefined : machineName(runs.fingerprint[row]));
  if (colour === "fingerprint") return machine;
  return (row) => runs[["family", "status", "seed"].includes(colour) ? colour : "recipe"][row] ?? undefined;
}

// {label, rows, colour, symbol}: by size, or in the order of a setting's values. The many small ones share "other";
// a setting of many numbers becomes a colour scale.
function groupRows(rows, colour) {
  const of = colourValue(colour);
  const values = distinct(rows, of);
  const isKnob = knobs.has(colour) || colour === "seed";
  const numbers = isKnob && values.length > MOST_GROUPS && values.every((value) => typeof value === "number");
  const absent = rows.filter((row) => of(row) === undefined);
  const rest = { label: isKnob ? "not set" : "none", rows: absent, colour: ink("muted"), symbol: "hexagon" };
  if (numbers) {
    const having = rows.filter((row) => of(row) !== undefined);
    const scale = { label: colour, rows: having, colour: ink("s1"), symbol: "circle", values: having.map(of) };
    return { groups: absent.length ? [scale, rest] : [scale] };
  }
  const byLabel = new Map(isKnob ? values.map((value) => [knobText(value), []]) : []); // in order
  for (const row of rows) {
    const value = of(row);
    if (value === undefined) continue;
    const label = knobText(value);
    if (!byLabel.has(label)) byLabel.set(label, []);
    byLabel.get(label).push(row);
  }
  const all = [...byLabel].map(([label, members]) => ({ label, rows: members }));
  if (!isKnob) all.sort((a, b) => b.rows.length - a.rows.length);
  const few = all.slice(0, all.length > MOST_GROUPS ? MOST_GROUPS - 1 : MOST_GROUPS),
    others = all.slice(few.length);
  const groups = few.map((group, i) => ({ ...group, colour: series(i), symbol: SYMBOLS[i] }));
  const together = { label: `${others.length} others`, rows: others.flatMap((group) => group.rows) };
  if (others.length) groups.push({ ...together, colour: ink("muted"), symbol: "star" });
  return { groups: absent.length ? [...groups, rest] : groups };
}

function legend({ groups }, hidden) {
  const flip = (label) => {
    const next = new Set(hidden);
    if (!next.delete(label)) next.add(label);
    update({ hide: [...next].join("\n") });
  };
  const entry = (group, index) => {
    const marker = group.values
      ? h("span", { class: "ramp", "aria-hidden": "true" })
      : glyph(group.symbol, group.colour);
    const label = h("span", {}, cut(group.label, 60)),
      count = h("span", { class: "count" }, String(group.rows.length));
    const named = { id: `legend-${index}`, title: `show or hide: ${cut(group.label, 200)}` };
    const pressed = { "aria-pressed": String(!hidden.has(group.label)) };
    return h(
      "li",
      {},
      button([marker, label, count], () => flip(group.label), { ...named, ...pressed }),
    );
  };
  const setting = knobs.has(state.colour) && h("li", { class: "note" }, `${knobs.get(state.colour).title}:`);
  return h("ul", { class: "legend" }, setting, groups.map(entry));
}
