"""One run on one page, from its record: what `lightning run` ends with and `lightning show` prints."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import isnan
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from lightsleeper.run_folder import EXPORT, LOG, METRICS, RECIPE
from lightsleeper.tracking.record import Artifact, Measured, Record, status_of
from lightsleeper.tracking.runs import runs_root

METRICS_SHOWN = 12  # about half a screen; `show --all` has the rest
INTERVALS_SHOWN = 2  # columns of the table of scorers that have room for their intervals in 80 characters
STREAMED = "false alarms an hour"  # in the target of a threshold: the model is a wake-word detector
INTERVAL_WIDTH = len("0.934 [.921 1.000]")


def page(record: Record, folder: Path, everything: bool = False) -> list[RenderableType]:
    """Status, quality (headline first), size, latency and where things lie; then all scorers side by side."""
    title = escape(f"{record.recipe} {record.run_id}")
    table = Table(box=box.SIMPLE, title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for rows in _sections(record, folder, everything):
        for name, value in rows:
            table.add_row(escape(name), escape(value))
        if rows:
            table.add_section()
    scores = scorers(record)
    return [table] if scores is None else [table, scores]


def scorers(record: Record) -> Group | None:
    """The headline metrics of every scorer and test set of one model; None where there is one scorer only."""
    columns = [name.removeprefix("test/") for name in record.headline if name.startswith("test/")]
    found: dict[str, dict[str, dict[str, Measured]]] = {}
    for name, value in record.metrics.items():
        for column in columns:
            label = name.removeprefix("test/").removesuffix(column)  # "unseen_words/dsp_"
            if name.startswith("test/") and name.endswith(column) and (not label or label[-1] in "/_"):
                test_set, _, scorer = label.rpartition("/")
                of_set = found.setdefault(test_set, {})
                of_set.setdefault(scorer.rstrip("_") or "shipped", {})[column] = value
    for name, rows in found.items():
        # One metric may end like another: frr_at_0.5_fa_per_hour has a fa_per_hour, but is no scorer that has a frr.
        complete = max(map(len, rows.values()))
        found[name] = {scorer: row for scorer, row in rows.items() if len(row) == complete}
    return score_table(found, columns) if sum(map(len, found.values())) > 1 else None


def score_table(sets: Mapping[str, Mapping[str, Mapping[str, Measured]]], columns: Sequence[str]) -> Group:
    """Values by test set, scorer and metric: a row a scorer, intervals where 80 characters have room for them."""
    width = max((len(scorer) for rows in sets.values() for scorer in rows), default=0)
    tables = []
    for name, rows in sets.items():  # a table each: the longest name of a set would widen the column of scorers
        table = Table(box=box.SIMPLE_HEAD, title=escape(name), title_justify="left")
        table.add_column("", min_width=width)
        for index, column in enumerate(columns):
            table.add_column(escape(column), min_width=INTERVAL_WIDTH if index < INTERVALS_SHOWN else None)
        for scorer, row in rows.items():
            cells = [compact(row.get(column), index < INTERVALS_SHOWN) for index, column in enumerate(columns)]
            table.add_row(*(escape(text) for text in (scorer, *cells)))
        tables.append(table)
    return Group(*tables)


def compact(value: Measured | None, interval: bool = True) -> str:
    """`0.934 [.921 .945]`: two such columns and two without interval fit a terminal of 80."""
    if value is None or value["value"] is None or isnan(value["value"]):
        return "-"  # one class only: no positives, or no negatives of this kind
    if not interval or value["low"] is None or value["high"] is None:
        return f"{value['value']:.3f}"
    low, high = (f"{value[end]:.3f}".removeprefix("0") for end in ("low", "high"))
    return f"{value['value']:.3f} [{low} {high}]"


def _sections(record: Record, folder: Path, everything: bool) -> list[list[tuple[str, str]]]:
    status = [("status", status_of(record))]
    if record.error:
        status.append(("error", record.error))
    status += [("started", record.started), ("model", record.family), ("seed", str(record.seed))]
    status += [(f"requires {name}", f"{step['recipe']} {step['run_id']}") for name, step in record.lineage.items()]
    if record.seconds:
        status.append(("time", ", ".join(f"{stage} {duration(seconds)}" for stage, seconds in record.seconds.items())))
    return [
        status,
        _quality(record, everything),
        _compression(record),
        _device(record),
        _latency(record),
        _places(record, folder),
    ]


def _quality(record: Record, everything: bool) -> list[tuple[str, str]]:
    names = [*record.headline, *(name for name in record.metrics if name not in record.headline)]
    few = len(record.headline) if scorers(record) else METRICS_SHOWN
    shown = names if everything else names[:few]
    rows = [(name, measured(record.metrics[name])) for name in shown]
    if len(names) > len(shown):
        rows.append(("", f"and {len(names) - len(shown)} more: lightning show --all {record.run_id}"))
    if record.threshold:
        target = f" ({record.threshold['target']})" if record.threshold.get("target") else ""
        rows.append(("threshold", f"{number(record.threshold.get('value'))}{target}"))
    return rows


def _compression(record: Record) -> list[tuple[str, str]]:
    """What each callback reports, and the headline before all of them."""
    rows = []
    for name, facts in record.compression.items():
        texts = [f"{key.removeprefix('compress/')} {number(value)}" for key, value in facts.items() if "/" in key]
        if facts.get("max_abs_diff"):
            texts.append(f"moved outputs by {number(facts['max_abs_diff'])}")
        rows.append((name, ", ".join(texts) or str(facts.get("phase"))))
    before = record.reference.get("metrics", {})
    rows += [(f"{name} before", measured(before[name])) for name in record.headline if name in before]
    return rows


def _device(record: Record) -> list[tuple[str, str]]:
    size, rows = record.size, []
    if size.get("parameters") is not None:
        zeros = "" if size.get("nonzero") is None else f", {size['nonzero']:,} not zero"
        rows.append(("parameters", f"{size['parameters']:,}{zeros}"))
    if size.get("macs") is not None:
        rows.append(("MACs", f"{size['macs']:,}"))
    if size.get("peak_memory_bytes") is not None:
        rows.append(("peak memory", byte_text(size["peak_memory_bytes"])))
    if record.context:
        past, future, state = (record.context.get(key) for key in ("past_ms", "future_ms", "state_bytes"))
        held = "" if state is None else f", {byte_text(state)} of state"
        back = f"{tokens:.0f} tokens" if (tokens := record.context.get("past_tokens")) else _ms(past)
        rows.append(("context", f"{back} back, {_ms(future)} ahead{held}"))
    return rows


def _latency(record: Record) -> list[tuple[str, str]]:
    rows = []
    for artifact in record.artifacts:
        size = f"{byte_text(artifact.get('bytes'))}, {byte_text(artifact.get('gzip_bytes'))} gzipped"
        difference = artifact.get("parity", {}).get("max_abs_diff")
        proof = "" if difference is None else f", equals the model to {difference:.1e}"
        rows.append((artifact.get("path", "?"), f"{artifact.get('format')} {artifact.get('precision')}, {size}{proof}"))
        rows += _on_device(artifact, record.headline)
        for row in artifact.get("latency", []):
            per = f"{row['chunk_ms']:.0f} ms {row['per']}" if row.get("chunk_ms") else str(row.get("per"))
            times = f"p50 {row.get('p50_ms', 0):.2f}, p90 {row.get('p90_ms', 0):.2f}, p99 {row.get('p99_ms', 0):.2f} ms"
            factor = f", {row['rtf']:.4f} of real time" if row.get("rtf") is not None else ""
            rows.append((f"  {per}, {row.get('threads')} thread(s)", times + factor))
    return rows


def _on_device(artifact: Artifact, headline: Sequence[str]) -> list[tuple[str, str]]:
    """What a quantised file hears, beside the float one, and what it asks of a device."""
    if not (device := artifact.get("device")):
        return []
    metrics = artifact.get("metrics", {})
    rows = [(f"  {name}", measured(metrics[name])) for name in headline if name in metrics]
    if against := artifact.get("against_float"):
        rows.append(("  against float", f"lost {against['lost']}, found {against['found']}, p {number(against['p'])}"))
    arena = f", {byte_text(device['arena_bytes'])} of arena" if device.get("arena_bytes") else ""
    macs = f"{device['macs_per_second'] / 1e6:.2f} million MACs a second"
    return [*rows, ("  on a device", f"{byte_text(device['state_bytes'])} of state{arena}, {macs}")]


def _places(record: Record, folder: Path) -> list[tuple[str, str]]:
    rows = [("folder", str(folder))]
    for name, inner in (("recipe", RECIPE), ("curves", METRICS), ("model", EXPORT), ("log", LOG)):
        if (folder / inner).exists():
            rows.append((name, inner))
    if record.tracking.get("url"):
        rows.append(("W&B", record.tracking["url"]))
    return rows


def next_steps(record: Record, folder: Path) -> list[str]:
    """Commands that make sense now."""
    name = command_name(folder)
    steps = [f"look again:  lightning show {name}"]
    if record.artifacts and (use := _use(record)):
        steps.insert(0, f"try it:      lightning {use.format(name)}")
    return steps


def _use(record: Record) -> str | None:
    """What a user does with such a model, the run's name left out; None: nothing on the command line."""
    if record.family == "ActiveSpeaker":
        return "detect {} CLIP.mp4"
    if record.family == "WordSpotter":
        return "detect {} FILE.wav"
    if record.family == "CausalLM":
        readable = {"packed", "transformers"} & {artifact["format"] for artifact in record.artifacts}
        return 'generate {} --prompt "def main("' if readable else None
    if not record.threshold:
        return None
    hears_a_stream = STREAMED in (record.threshold.get("target") or "")
    return "listen {} FILE.wav" if hears_a_stream else 'detect {} --keyword "turn on the light" FILE.wav'


def resume_line(folder: Path) -> str:
    return f"Resume: lightning run --resume {command_name(folder)}"


def command_name(folder: Path) -> str:
    """What to type for a run: its id where commands look by themselves, else its path."""
    return folder.name if folder.parent.parent.resolve() == runs_root().resolve() else str(folder)


def measured(value: Measured) -> str:
    """`0.934 [0.921, 0.945]`."""
    if value["low"] is None or value["high"] is None:
        return number(value["value"])
    return f"{number(value['value'])} [{number(value['low'])}, {number(value['high'])}]"


def number(value: Any) -> str:
    """Four significant digits for a float, other values as they are."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def byte_text(count: float | None) -> str:
    """Bytes with a decimal unit."""
    if count is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2:03:20`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60} s"
    return str(timedelta(seconds=int(seconds)))


def _ms(value: float | None) -> str:
    return "unlimited" if value is None else f"{value:.0f} ms"


def compare(names: tuple[str, str], metrics: tuple[Mapping[str, Measured], Mapping[str, Measured]]) -> Table:
    """Metrics of two runs side by side, with intervals."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("metric", *names):
        table.add_column(escape(title))
    for name in dict.fromkeys([*metrics[0], *metrics[1]]):
        cells = [measured(side[name]) if name in side else "-" for side in metrics]
        table.add_row(*(escape(text) for text in (name, *cells)))
    return table
