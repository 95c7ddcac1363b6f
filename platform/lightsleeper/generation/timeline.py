"""One prefill as a picture: what every rank did when."""

from collections.abc import Sequence
from pathlib import Path

from lightsleeper.files import replacing
from lightsleeper.generation.cache import Trace

COMPUTING, WAITING, HANDING = "#4477aa", "#ee6677", "#888888"


def draw(traces: Sequence[Trace], path: Path, title: str) -> None:
    """A PNG or SVG with a bar a rank: computing, waiting for the prefix, and each layer's way to the next rank.

    Raises UserError where it cannot be written.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    matplotlib.rcParams["svg.hashsalt"] = "lightsleeper"
    start = min(trace.begin for trace in traces)
    figure = Figure(figsize=(10, 1.5 + 0.7 * len(traces)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for rank, trace in enumerate(traces):
        for parts, colour in zip(spans(trace), (COMPUTING, WAITING), strict=True):
            bars = [(begin - start, end - begin) for begin, end in parts]
            axes.broken_barh(bars, (rank - 0.3, 0.6), facecolors=colour)
    for rank, (sender, receiver) in enumerate(zip(traces, traces[1:], strict=False)):
        for left, arrived in zip(sender.steps, receiver.steps, strict=False):
            axes.plot([left.left - start, arrived.present - start], [rank + 0.3, rank + 0.7], color=HANDING, lw=0.5)
    axes.set_yticks(range(len(traces)), [f"rank {rank}" for rank in range(len(traces))])
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the prompt")
    axes.set_title(title, fontsize=10)
    meanings = {"computing": COMPUTING, "waiting for the prefix": WAITING, "a layer's way to the next rank": HANDING}
    patches = [Patch(color=colour, label=name) for name, colour in meanings.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def spans(trace: Trace) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(begin, end) of a rank's computing and of its waiting, in the clock's seconds."""
    computing, waiting, since = [], [], trace.begin
    for step in trace.steps:
        computing.append((since, step.asked))
        if step.present > step.asked:
            waiting.append((step.asked, step.present))
        since = step.present
    return [*computing, (since, trace.end)], waiting
