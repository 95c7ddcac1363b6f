"""How every figure looks: colours, axes, names, files.

Colours are those of Okabe and Ito, which people with any colour blindness tell apart, with a marker each. Names come
from records: they are plain text here, never mathematics (matplotlib reads `$` as such) nor spreadsheet formulas.
"""

import csv
import io
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from lightsleeper.dashboard import series
from lightsleeper.dashboard.quantities import quantity
from lightsleeper.dashboard.series import Payload, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes"], None]
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
OTHERS = "#999999"
MARKERS = "osD^vPX*"
DET_TICKS = (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6)
DET_END = 0.6  # nobody ships a model that errs more often


def save(draw: Draw, path: Path, kind: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.6), layout="constrained")  # no pyplot: no window system, nothing global
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a run may be called anything
        draw(axes)
        figure.savefig(content, format=kind, dpi=160)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.getvalue())
    temporary.replace(path)


def coloured(
    names: Sequence[Any], prefix: str = "", ordered: bool = False
) -> list[tuple[str, list[int], dict[str, Any]]]:
    """(label, indices, style) by name, ``ordered`` or as they come; beyond the palette all share one grey."""
    rows: dict[Any, list[int]] = {}
    for index, name in enumerate(names):
        rows.setdefault(name, []).append(index)
    groups = sorted(rows.items(), key=lambda group: series.sortable(group[0])) if ordered else list(rows.items())
    kept = groups if len(rows) <= len(COLOURS) else groups[: len(COLOURS) - 1]
    found = [
        (plain(f"{prefix}{name}"), members, {"color": COLOURS[index], "marker": MARKERS[index]})
        for index, (name, members) in enumerate(kept)
    ]
    if len(kept) < len(rows):
        rest = [row for name, members in groups[len(kept) :] for row in members]
        found.append((f"{len(rows) - len(kept)} others", sorted(rest), {"color": OTHERS, "marker": "."}))
    return found


def lines(payload: Payload, rows: Sequence[int]) -> list[tuple[str, list[int], dict[str, Any]]]:
    """Points by group of seeds: one colour each, and a name each."""
    groups = [payload["runs"]["group"][row] or payload["runs"]["id"][row] for row in rows]
    first = dict(zip(reversed(groups), reversed(rows), strict=True))
    labels = {group: run_label(payload, row) for group, row in first.items()}
    alike = Counter(labels.values())
    named = {
        g: f"{label} {payload['runs']['id'][first[g]]}" if alike[label] > 1 else label for g, label in labels.items()
    }
    return coloured([named[group] for group in groups])


def bars(axes: "Axes", table: Table, rows: list[int], names: tuple[str, str], colour: str) -> None:
    """Intervals of both metrics at their points."""
    for way, metric in zip(("xerr", "yerr"), names, strict=True):
        low, high = table[f"{metric}.low"], table[f"{metric}.high"]
        known = [row for row in rows if low[row] is not None and high[row] is not None]
        ends = [
            [max(0.0, table[metric][row] - low[row]) for row in known],
            [max(0.0, high[row] - table[metric][row]) for row in known],
        ]
        x, y = ([table[name][row] for row in known] for name in names)
        spread: dict[str, Any] = {way: ends}
        axes.errorbar(x, y, fmt="none", ecolor=colour, elinewidth=0.7, alpha=0.5, **spread)


def axis(axes: "Axes", payload: Payload, which: str, name: str) -> None:
    """Label, scale and ticks of a metric: `4.35 MB` rather than an offset, `0.6` rather than a power of ten."""
    from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, NullFormatter, ScalarFormatter

    getattr(axes, f"set_{which}label")(label(payload, name))
    metric = payload["metrics"].get(name) or vars(quantity(name))
    low, high = getattr(axes, f"get_{which}lim")()
    if metric["log"] and 0 < low < high / 2:
        getattr(axes, f"set_{which}scale")("log")
    large = metric["unit"] == "B" or max(abs(low), abs(high)) >= 10_000
    own = axes.xaxis if which == "x" else axes.yaxis
    form: Formatter = ScalarFormatter(useOffset=False)
    if large:
        form = EngFormatter(metric["unit"] if metric["unit"] == "B" else "")
    elif own.get_scale() == "log":
        form = FuncFormatter(_bare)
    own.set_major_formatter(form)
    if own.get_scale() == "log":
        own.set_minor_formatter(form if high / low < 10 else NullFormatter())


def _bare(value: float, _: int) -> str:
    return f"{value:g}"


def label(payload: Payload, name: str) -> str:
    metric = payload["metrics"].get(name) or vars(quantity(name))
    unit = f" [{metric['unit']}]" if metric["unit"] else ""
    return plain(f"{metric['label']}{unit}")


def probit(axes: "Axes", table: Table) -> None:
    """Normal deviates on both axes: the DET curve of two Gaussians is a straight line. Ends at what the data reach."""
    normal = NormalDist()

    def forward(rates: Any) -> Any:
        return np.vectorize(normal.inv_cdf, otypes=[float])(np.clip(rates, 1e-6, 1 - 1e-6))

    def backward(deviates: Any) -> Any:
        return np.vectorize(normal.cdf, otypes=[float])(deviates)

    shown = [(x, y) for x, y in zip(table["x"], table["y"], strict=True) if max(x, y) <= DET_END]
    for which, rates in zip("xy", zip(*shown, strict=True) if shown else ((), ()), strict=True):
        low = min((rate for rate in rates if rate > 1e-4), default=1e-3)
        getattr(axes, f"set_{which}scale")("function", functions=(forward, backward))
        ticks = [tick for tick in DET_TICKS if low <= tick]
        getattr(axes, f"set_{which}ticks")(ticks, [f"{100 * tick:g} %" for tick in ticks])
        getattr(axes, f"set_{which}lim")(low, DET_END)


def legend(axes: "Axes") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)


def run_label(payload: Payload, row: int, seed: bool = False) -> str:
    """Recipe and the swept knobs, which tell the runs of a figure apart."""
    swept = [name for sweep in payload["sweeps"] for name in sweep["parameters"] if name not in series.SEED_KNOBS]
    values = {name: series.knob(payload, name, row) for name in dict.fromkeys(swept)}
    parts = [f"{knob_name(name)} {value}" for name, value in values.items() if value is not None][:4]
    if seed or not parts:
        parts.append(f"seed {payload['runs']['seed'][row]}" if parts else str(payload["runs"]["id"][row]))
    return plain(" ".join([str(payload["runs"]["recipe"][row]), *parts]))


def knob_name(name: Any) -> str:
    return str(name).rpartition(".")[2]


def plain(text: Any) -> str:
    """One short printable line without mathematics."""
    line = "".join(character for character in " ".join(str(text).split()) if character.isprintable())
    return (line if len(line) <= 70 else f"{line[:69]}…").replace("$", r"\$")


def named(payload: Payload, table: Table) -> Table:
    """With ids instead of row numbers."""
    runs = payload["runs"]
    names = {key: [runs[column][row] for row in table["run"]] for key, column in (("recipe", "recipe"), ("id", "id"))}
    return {
        **names,
        "seed": [runs["seed"][row] for row in table["run"]],
        **{k: v for k, v in table.items() if k != "run"},
    }


def to_csv(table: Table) -> str:
    """Text that a spreadsheet shows as it is: what looks like a formula gets an apostrophe."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(map(_cell, table))
    writer.writerows(zip(*([_cell(value) for value in column] for column in table.values()), strict=True))
    return content.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        value = json.dumps(value)
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
