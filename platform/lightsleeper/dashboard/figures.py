"""The views as matplotlib figures, each beside the table it was drawn from."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightsleeper.dashboard import drawing, series
from lightsleeper.dashboard.columns import dense
from lightsleeper.dashboard.drawing import Draw, plain
from lightsleeper.dashboard.series import Payload, Table
from lightsleeper.dashboard.views import best, qualities
from lightsleeper.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS = 120  # error bars on more points than this hide the points; the front keeps its own
FOREST = 30  # runs in the figure of the run table
SCALES = {  # title and axes
    "det": ("DET", "False accept rate", "False reject rate"),
    "roc": ("ROC", "False accept rate", "True accept rate"),
    "frr_fah": ("Stream", "False alarms per hour", "False reject rate"),
}
Drawing = tuple[str, Table, Draw | None]


def write(payload: Payload, folder: Path, kind: str) -> list[Path]:
    """Every view that has something to show, as `<view>.<kind>` and `<view>.csv`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, table, draw in drawings(payload):
        written.append(folder / f"{name}.csv")
        write_atomic(written[-1], drawing.to_csv(table))
        if kind != "csv" and draw is not None:
            written.append(folder / f"{name}.{kind}")
            drawing.save(draw, written[-1], kind)
    return written


def drawings(payload: Payload) -> list[Drawing]:
    """(name, table, how to draw it) of every view with data; a table without a figure has None."""
    views = {view["id"]: view for view in payload["views"]}
    found = [
        *_tradeoff(payload, views["tradeoff"]["defaults"]),
        *_sweep(payload, views["sweep"]["defaults"]),
        *_detection(payload, views["detection"]["options"]["curve"], views["detection"]["defaults"]["curve"]),
        *_training(payload, views["training"]["defaults"]),
        *_runs(payload),
    ]
    return [entry for entry in found if next(iter(entry[1].values()), None)]


# --- quality against cost ---


def _tradeoff(payload: Payload, chosen: Mapping[str, Any]) -> list[Drawing]:
    x, y = chosen["x"], chosen["y"]
    if x is None or y is None:
        return []
    colour = chosen["colour"]
    table = series.tradeoff(payload, x, y, chosen["machine"], colour)
    colour = colour if colour in table else "recipe"
    return [("tradeoff", table, partial(_draw_tradeoff, payload=payload, table=table, x=x, y=y, colour=colour))]


def _draw_tradeoff(axes: "Axes", payload: Payload, table: Table, x: str, y: str, colour: str) -> None:
    few = len(table["id"]) <= BARS
    of = f"{drawing.knob_name(colour)} " if colour in payload["knobs"] else ""
    for name, rows, style in drawing.coloured(table[colour], of, ordered=True):
        points = ([table[metric][row] for row in rows] for metric in (x, y))
        axes.plot(*points, linestyle="", markersize=5, alpha=0.8, label=name, **style)
        kept = [row for row in rows if few or table["front"][row]]
        drawing.bars(axes, table, kept, (x, y), style["color"])
    front = sorted((table[x][row], table[y][row]) for row, on in enumerate(table["front"]) if on)
    if front:
        cheap = payload["metrics"][x]["better"] == "lower"
        ends = zip(*front, strict=True)
        axes.step(*ends, where="post" if cheap else "pre", color="black", linewidth=1, label="Pareto front", zorder=1)
    title = "Quality against cost"
    if "fingerprint" in table:
        machines = sorted({payload["machines"].get(name, str(name)) for name in table["fingerprint"] if name})
        timed = sorted({text for text in table["timed"] if text})
        title += f"\n{'; '.join(map(plain, machines))}\n{'; '.join(map(plain, timed))}"
    drawing.axis(axes, payload, "x", x)
    drawing.axis(axes, payload, "y", y)
    axes.set_title(title, fontsize=9)
    drawing.legend(axes)


# --- sweeps ---


def _sweep(payload: Payload, chosen: Mapping[str, Any]) -> list[Drawing]:
    sweep = next((sweep for sweep in payload["sweeps"] if sweep["id"] == chosen["sweep"]), None)
    x, by, y = (chosen.get(name) for name in ("x", "series", "y"))
    if sweep is None or x is None or y is None:
        return []
    table = series.sweep(payload, sweep["runs"], x, by, y)
    others = "".join(f", {plain(name)}" for name in series.other_knobs(payload, sweep["runs"], (x, by)))
    title = f"Sweep {plain(sweep['name'])}\nmean over seeds{others}"
    shared = {"payload": payload, "table": table, "x": x, "by": by, "y": y, "title": title}
    found: list[Drawing] = [("sweep", table, partial(_draw_sweep, **shared))]
    return [*found, ("heatmap", table, partial(_draw_heat, **shared))] if by else found


def _draw_sweep(axes: "Axes", payload: Payload, table: Table, x: str, by: str | None, y: str, title: str) -> None:
    numeric = all(isinstance(value, (int, float)) for value in table[x])
    places = {value: index for index, value in enumerate(dict.fromkeys(map(str, table[x])))}
    names = [f"{drawing.knob_name(by)} {value}" for value in table[by]] if by else ["mean"] * len(table[x])
    for name, rows, style in drawing.coloured(names):
        at = [table[x][row] if numeric else places[str(table[x][row])] for row in rows]
        mean, low, high = ([table[f"{y}.{end}"][row] for row in rows] for end in ("mean", "low", "high"))
        axes.plot(at, mean, label=name, **style)
        axes.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if numeric:
        known = sorted(set(table[x]))
        if known[0] > 0 and known[-1] / known[0] > 4 and len(known) > 2:
            axes.set_xscale("log", base=2)
            axes.minorticks_off()
        axes.set_xticks(known, [f"{value:g}" for value in known])
    else:
        axes.set_xticks(list(places.values()), list(map(plain, places)), rotation=30, ha="right")
    axes.set_xlabel(plain(x))
    drawing.axis(axes, payload, "y", y)
    axes.set_title(f"{title}; band from lowest to highest", fontsize=9)
    if by:
        drawing.legend(axes)


def _draw_heat(axes: "Axes", payload: Payload, table: Table, x: str, by: str, y: str, title: str) -> None:
    columns, rows = (sorted(set(table[name]), key=series.sortable) for name in (x, by))
    cells = np.full((len(rows), len(columns)), np.nan)
    for across, up, value in zip(table[x], table[by], table[f"{y}.mean"], strict=True):
        cells[rows.index(up), columns.index(across)] = value
    less = payload["metrics"][y]["better"] == "lower"
    image = axes.imshow(cells, origin="lower", aspect="auto", cmap="cividis_r" if less else "cividis")
    middle = (np.nanmin(cells) + np.nanmax(cells)) / 2
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            bright = (value > middle) != less
            text: dict[str, Any] = {
                "ha": "center",
                "va": "center",
                "fontsize": 8,
                "color": "black" if bright else "white",
            }
            axes.text(column, row, f"{value:#.3g}", **text)
    axes.set_xticks(range(len(columns)), list(map(plain, columns)))
    axes.set_yticks(range(len(rows)), list(map(plain, rows)))
    axes.set_xlabel(plain(x))
    axes.set_ylabel(plain(by))
    axes.grid(False)
    axes.figure.colorbar(image, ax=axes, label=drawing.label(payload, y))
    axes.set_title(title, fontsize=9)


# --- curves ---


def _detection(payload: Payload, names: Mapping[str, list[str]], wanted: str | None) -> list[Drawing]:
    """DET and ROC of the same points; false rejects against false alarms an hour where streams were scored."""
    figures: list[Drawing] = []
    for scale, of_scale in names.items():
        if not of_scale:
            continue
        name = wanted if wanted in of_scale else of_scale[0]
        leaders = best(payload, [row for row, curves in payload["curves"].items() if name in curves])
        rows = [sibling for row in leaders for sibling in series.siblings(payload, row)]
        table = series.operating_points(payload, rows, name)
        draw = partial(_draw_detection, payload=payload, table=table, scale=scale, name=name)
        figures.append((f"detection_{scale}", drawing.named(payload, table), draw))
    return figures


def _draw_detection(axes: "Axes", payload: Payload, table: Table, scale: str, name: str) -> None:
    title, x_label, y_label = SCALES[scale]
    y = [1 - value for value in table["y"]] if scale == "roc" else table["y"]
    for label, points, style in drawing.lines(payload, table["run"]):
        for text, own in _by_run(label, points, table):
            line = [point for point in own if table["marked"][point] is None]
            dots = [point for point in own if table["marked"][point] is not None]
            at = ([values[point] for point in line] for values in (table["x"], y))
            axes.plot(*at, color=style["color"], linewidth=1.2, label=text)
            axes.plot([table["x"][dot] for dot in dots], [y[dot] for dot in dots], linestyle="", **style)
    if scale == "det":
        drawing.probit(axes, table)
    elif scale == "frr_fah":
        axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    marked = "; threshold as shipped" if any(table["marked"]) else ""
    axes.set_title(f"{title}: {plain(name)}; a line a seed{marked}", fontsize=9)
    drawing.legend(axes)


def _training(payload: Payload, chosen: Mapping[str, Any]) -> list[Drawing]:
    name = chosen["metric"]
    if name is None:
        return []
    rows = [sibling for row in chosen["runs"] for sibling in series.siblings(payload, row)]
    table = series.training(payload, rows, name)
    draw = partial(_draw_training, payload=payload, table=table, name=name)
    return [("training", drawing.named(payload, table), draw)]


def _draw_training(axes: "Axes", payload: Payload, table: Table, name: str) -> None:
    for label, points, style in drawing.lines(payload, table["run"]):
        for text, own in _by_run(label, points, table):
            at = (
                [table[column][point] for point in own if table[name][point] is not None] for column in ("step", name)
            )
            axes.plot(*at, color=style["color"], linewidth=1.2, label=text)
    axes.set_xlabel("Optimizer step")
    drawing.axis(axes, payload, "y", name)
    axes.set_title("Training; a line a seed", fontsize=9)
    drawing.legend(axes)


def _by_run(label: str, points: list[int], table: Table) -> list[tuple[str | None, list[int]]]:
    """Points of each run of a group; only its first line is named in the legend."""
    runs: dict[Any, list[int]] = {}
    for point in points:
        runs.setdefault(table["run"][point], []).append(point)
    return [(None if index else label, own) for index, own in enumerate(runs.values())]


# --- all runs ---


def _runs(payload: Payload) -> list[Drawing]:
    """The run table as CSV; the figure shows the best runs by what most are judged by, with intervals."""
    table = series.runs(payload)
    name = next(iter(qualities(payload)), None)
    if name is None:
        return [("runs", table, None)]
    return [("runs", table, partial(_draw_runs, payload=payload, name=name))]


def _draw_runs(axes: "Axes", payload: Payload, name: str) -> None:
    metric = payload["metrics"][name]
    values, low, high = (dense(payload, name, key) for key in ("value", "low", "high"))
    known = np.flatnonzero(~np.isnan(values))
    order = np.argsort(values[known] if metric["better"] == "lower" else -values[known], kind="stable")
    shown = known[order][:FOREST][::-1]
    middle, at = values[shown], np.arange(len(shown))
    spread = [np.nan_to_num(middle - low[shown]).clip(0), np.nan_to_num(high[shown] - middle).clip(0)]
    axes.errorbar(middle, at, xerr=spread, fmt="o", color=drawing.COLOURS[0], markersize=4, elinewidth=1)
    axes.set_yticks(at, [drawing.run_label(payload, int(row), seed=True) for row in shown], fontsize=6)
    axes.set_xlabel(drawing.label(payload, name))
    interval = plain(metric["interval"] or "no interval")
    axes.set_title(f"Best {len(shown)} of {len(known)} runs; {interval}", fontsize=9)
