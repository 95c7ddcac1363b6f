"""The dashboard's views as a W&B workspace and report: the second renderer of `views`' spec.

W&B draws from what it has of a run, its config and summary (`tracking.weights_and_biases`), so names are translated
here. It has no operating points, and its scatter plots neither error bars nor a colour by recipe: the page has. Where
runs were timed on several machines, the workspace shows no latency, and the report has one plot a machine.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from lightsleeper.errors import UserError
from lightsleeper.tracking.credentials import key_source

COSTS_SHOWN = 4
SWEEPS_SHOWN = 6
CURVES_SHOWN = 6
STEP = "trainer/global_step"
CLASSES = ("model", "data")
NAME = "lightsleeper"


def publish(payload: Mapping[str, Any], project: str | None) -> list[str]:
    """Save a workspace and a report in ``project``, `ENTITY/PROJECT`, or where the runs are; returns their links.

    Raises UserError without the package, a key or a project, and when W&B refuses or cannot be reached.
    """
    try:
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError as error:
        raise UserError("--wandb needs wandb-workspaces (extra reports): pip install wandb-workspaces") from error
    if key_source() is None:
        raise UserError("--wandb needs a W&B key: `wandb login`, or set WANDB_API_KEY.")
    entity, name = place(payload, project)
    try:
        saved = {"workspace": workspace(payload, entity, name), "report": report(payload, entity, name)}
        for item in saved.values():
            item.save()
    except Exception as error:  # of many kinds: no network, no rights, a key that has ended
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"W&B did not take the dashboard for {entity}/{name}: {reason[:200]}") from error
    return [f"{kind}: {item.url}" for kind, item in saved.items()]


def place(payload: Mapping[str, Any], project: str | None) -> tuple[str, str]:
    """(entity, project) as asked for, else that of most runs; raises UserError when neither says."""
    if project is not None:
        entity, _, name = project.partition("/")
        if not entity or not name or "/" in name:
            raise UserError(f"--project '{project}': expected ENTITY/PROJECT.")
        return entity, name
    found: dict[tuple[str, str], int] = {}
    for url in filter(None, payload["runs"].get("url", ())):
        if match := re.search(r"([^/]+)/([^/]+)/runs/[^/]+$", urlsplit(url).path):
            found[match[1], match[2]] = found.get((match[1], match[2]), 0) + 1
    if not found:
        raise UserError(
            "no run here is known to W&B (offline runs are not, before `wandb sync`): --project ENTITY/PROJECT."
        )
    return max(found, key=lambda key: found[key])


# --- what W&B calls it ---


def metric(name: str) -> Any:
    """A metric of the payload in a run's summary."""
    import wandb_workspaces.reports.v2 as wr

    section, _, rest = name.partition(".")
    theirs = {
        "artifact": f"artifacts.0.{rest}",
        "latency": f"artifacts.0.latency.{rest}",
        "compress": f"compress/{rest.replace('.', '/')}",
    }
    return wr.SummaryMetric(theirs.get(section, name))


def knob(name: str) -> Any:
    """A knob in a run's config, where classes keep theirs under `init_args`, and those of steps are a sweep's."""
    import wandb_workspaces.reports.v2 as wr

    section, _, rest = name.partition(".")
    if section == "requires":
        return wr.Config(f"sweep.{name.replace('.', '/')}")
    if section in CLASSES and rest:
        return wr.Config(f"{section}.init_args.{rest}")
    callback, _, argument = rest.partition(".")
    if section == "callbacks" and argument:
        return wr.Config(f"callbacks.{callback}.init_args.{argument}")
    return wr.Config(name)


# --- panels of a view ---


def panels(payload: Mapping[str, Any], view: Mapping[str, Any], machine_free: bool) -> list[Any]:
    """The panels of one view; ``machine_free``: none whose values depend on the machine."""
    draw = {"scatter": _scatter, "sweep": _sweeps, "curves": _curves, "table": _table, "training": _training}
    return draw[view["kind"]](payload, view, machine_free)


def _scatter(payload: Mapping[str, Any], view: Mapping[str, Any], machine_free: bool) -> list[Any]:
    """The first quality against the costs of the page, its own first choice in front."""
    quality = view["defaults"]["y"]
    costs = [view["defaults"]["x"], *view["options"]["x"]]
    usable = [name for name in dict.fromkeys(costs) if _is_cost(payload, name, machine_free)]
    return [_plot(payload, metric(name), name, quality) for name in usable[:COSTS_SHOWN] if quality]


def _is_cost(payload: Mapping[str, Any], name: str | None, machine_free: bool) -> bool:
    found = payload["metrics"].get(name)
    if name and name.startswith("artifact.") and name.count(".") > 1:  # a further file: its number is the record's
        return False
    return found is not None and found["kind"] != "quality" and not (machine_free and found.get("machine"))


def _plot(payload: Mapping[str, Any], x: Any, x_name: str, y_name: str) -> Any:
    """A scatter plot; the best so far along a cost that is better low is the Pareto front."""
    import wandb_workspaces.reports.v2 as wr

    cost, quality = payload["metrics"].get(x_name, {}), payload["metrics"].get(y_name, {})
    front = cost.get("better") == "lower"
    return wr.ScatterPlot(
        title=f"{_label(payload, y_name)} against {_label(payload, x_name)}",
        x=x,
        y=metric(y_name),
        log_x=True if cost.get("log") else None,
        log_y=True if quality.get("log") else None,
        running_ymax=True if front and quality.get("better") == "higher" else None,
        running_ymin=True if front and quality.get("better") == "lower" else None,
    )


def _label(payload: Mapping[str, Any], name: str) -> str:
    found = payload["metrics"].get(name)
    if found is None:
        return name
    return f"{found['label']} ({found['unit']})" if found.get("unit") else str(found["label"])


def _sweeps(payload: Mapping[str, Any], view: Mapping[str, Any], machine_free: bool) -> list[Any]:
    names = list(view["options"].get("sweeps", {}))
    return [panel for name in names[:SWEEPS_SHOWN] for panel in sweep_panels(payload, view["options"]["sweeps"][name])]


def sweep_panels(payload: Mapping[str, Any], axes: Mapping[str, Any]) -> list[Any]:
    """One sweep: its quality over each knob, and all knobs beside each other."""
    import wandb_workspaces.reports.v2 as wr

    knobs, quality = axes.get("knobs") or [], axes.get("y")
    if not knobs or not quality:
        return []
    columns = [wr.ParallelCoordinatesPlotColumn(metric=knob(name), display_name=name) for name in knobs]
    columns.append(wr.ParallelCoordinatesPlotColumn(metric=metric(quality), display_name=_label(payload, quality)))
    plots = [_plot(payload, knob(name), name, quality) for name in knobs[:2]]
    return [*plots, wr.ParallelCoordinatesPlot(title=_label(payload, quality), columns=columns)]


def _curves(payload: Mapping[str, Any], view: Mapping[str, Any], machine_free: bool) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [
        wr.MarkdownPanel(
            markdown="DET, ROC and FRR against false alarms are in the run records: `lightning dashboard`."
        )
    ]


def _table(payload: Mapping[str, Any], view: Mapping[str, Any], machine_free: bool) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.RunComparer(diff_only="split")]


def _training(payload: Mapping[str, Any], view: Mapping[str, Any], machine_free: bool) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    first = view["defaults"].get("metric")
    names = dict.fromkeys([*([first] if first else []), *view["options"].get("metric", [])])
    return [wr.LinePlot(title=_label(payload, name), x=STEP, y=[name]) for name in list(names)[:CURVES_SHOWN]]


# --- the two documents ---


def workspace(payload: Mapping[str, Any], entity: str, project: str) -> Any:
    """One section a view, over all runs of the project."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    mixed = len(machines(payload)) > 1
    sections = []
    for view in payload["views"]:
        drawn = panels(payload, view, machine_free=mixed)
        if mixed and view["kind"] == "scatter":
            drawn.append(wr.MarkdownPanel(markdown="Latencies of several machines: see the report, one plot each."))
        sections.append(ws.Section(name=view["title"], panels=drawn, is_open=bool(drawn)))
    return ws.Workspace(entity=entity, project=project, name=NAME, sections=sections)


def report(payload: Mapping[str, Any], entity: str, project: str) -> Any:
    """The same views, each with the runs that belong to it: of one machine, of one sweep."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    blocks: list[Any] = [wr.TableOfContents(), wr.P(f"{len(payload['runs']['id'])} runs, {payload['generated']}.")]
    for view in payload["views"]:
        blocks.append(wr.H2(view["title"]))
        grids: list[tuple[str, Any, list[Any]]] = []
        if view["kind"] == "scatter":
            grids.append(("all runs", None, panels(payload, view, machine_free=True)))
            for name, label in machines(payload).items():
                same = expr.And(expr.Summary("artifacts.0.latency.fingerprint") == name)
                grids.append((label, same, _timed(payload, view)))
        elif view["kind"] == "sweep":
            for sweep in payload["sweeps"][:SWEEPS_SHOWN]:  # newest first
                axes = view["options"].get("sweeps", {}).get(sweep["id"], {})
                # a local sweep is a group of runs, one of W&B's its own kind
                belongs = expr.Or(expr.Metric("Group") == sweep["id"], expr.Metric("Sweep") == sweep["id"])
                grids.append((sweep["name"], belongs, sweep_panels(payload, axes)))
        else:
            grids.append(("all runs", None, panels(payload, view, machine_free=True)))
        for title, chosen, drawn in grids:
            if drawn:
                runset = wr.Runset(
                    entity=entity, project=project, name=title, **({"filters": chosen} if chosen else {})
                )
                blocks += [wr.H3(title)] if len(grids) > 1 else []
                blocks.append(wr.PanelGrid(runsets=[runset], panels=drawn))
    return wr.Report(entity=entity, project=project, title=NAME, description="Accuracy against cost.", blocks=blocks)


def _timed(payload: Mapping[str, Any], view: Mapping[str, Any]) -> list[Any]:
    """Quality against what depends on the machine."""
    quality = view["defaults"]["y"]
    names = [name for name in view["options"]["x"] if _is_cost(payload, name, False)]
    timed = [name for name in names if name.startswith("latency.") and payload["metrics"][name].get("machine")]
    return [_plot(payload, metric(name), name, quality) for name in timed[:2] if quality]


def machines(payload: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprint -> label of the machines that timed these runs."""
    named = payload.get("machines") or {}
    found = dict.fromkeys(filter(None, payload["runs"]["fingerprint"]))
    return {name: str(named.get(name, name)) for name in found}
