"""A picture of spotting: found words over the log-mel spectrogram, and under it which of the gated modules ran.

A cell of the lower part is one module over the 240 ms that had come when its gate decided.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.partition_plot import MAX_PANELS, N_MELS, check_path, spectrogram
from lightsleeper.deploy.spotting import Spotting, StreamingSpotter
from lightsleeper.files import replacing
from lightsleeper.nn.frontend import LogMel

__all__ = ["MAX_PANELS", "check_path", "plot"]

_WIDTH = (9.0, 24.0)  # inches, least and most
_INCHES_A_SECOND = 0.9
_ROW = 0.13  # inches of a module
_COLOURS = ("#e8ebf0", "#2f6690")  # skipped, ran
_DISTINCT = {"attention": "#b8540f", "convolution": "#1b7f5c"}  # what ran, by kind of module


def plot(path: Path, spotter: StreamingSpotter, panels: Sequence[tuple[Spotting, NDArray[np.float32]]]) -> Path:
    """Draw recordings one under the other; each comes with its samples (S,)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    longest = max(found.seconds for found, _ in panels)
    width = float(np.clip(_INCHES_A_SECOND * longest, *_WIDTH))
    heights: list[float] = []
    for found, _ in panels:
        heights += [2.4] + ([0.5 + _ROW * found.gates.shape[1]] if found.gates is not None else [])
    figure = Figure(figsize=(width, sum(heights) + 0.55 * len(heights)), layout="constrained")  # no pyplot: no display
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    mel, row = LogMel(N_MELS, spotter.sample_rate), 0
    for found, audio in panels:
        above = figure.add_subplot(grid[row])
        _words(above, found, spectrogram(mel, audio))
        row += 1
        if found.gates is not None:
            below = figure.add_subplot(grid[row], sharex=above)
            above.tick_params(labelbottom=False)
            above.set_xlabel("")
            _gates(below, found.gates, spotter)
            row += 1
        above.set_xlim(0, found.seconds)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def _words(axes: Any, found: Spotting, features: NDArray) -> None:
    from matplotlib.patheffects import withStroke

    quiet, loud = np.percentile(features, [5, 99.5])
    place = (0, found.seconds, 0, N_MELS)
    axes.imshow(features.T, origin="lower", aspect="auto", extent=place, cmap="magma", vmin=quiet, vmax=loud)
    for number, (name, event) in enumerate(found.words):
        axes.axvspan(event.begin_s, event.end_s, fill=False, edgecolor="white", linewidth=1.2)
        level = N_MELS - 2 - 8 * (number % 2)  # neighbours must not write over each other
        place_s, side = _anchor(event.begin_s, event.end_s, found.seconds)
        axes.text(
            place_s, level, f"{name}\n{event.score:.2f}", color="white", ha=side, va="top", fontsize=8,
            linespacing=0.95, clip_on=True,
            path_effects=[withStroke(linewidth=1.5, foreground="black")],
        )  # fmt: skip
    many = f"{len(found.words)} word{'' if len(found.words) == 1 else 's'}"
    ran = "" if found.skipped is None else f"; {100 * found.skipped:.0f} % of the encoder's MACs skipped"
    title = f"{Path(found.file).name}: {many} above {found.threshold:.3f}{ran}"
    axes.set_title(title.replace("$", r"\$"), fontsize=9, loc="left")  # a file name is no formula
    axes.set_ylabel("mel band")
    axes.set_xlabel("s")


def _anchor(begin_s: float, end_s: float, seconds: float) -> tuple[float, str]:
    """Where the name of a word is written and aligned: in its middle, but inside the picture."""
    margin = 0.35  # about half a name
    if end_s > seconds - margin:
        return min(end_s, seconds), "right"
    return (max(begin_s, 0.0), "left") if begin_s < margin else ((begin_s + end_s) / 2, "center")


def _gates(axes: Any, gates: NDArray, spotter: StreamingSpotter) -> None:
    """Modules from the first at the top to the last."""
    from matplotlib.colors import to_rgb

    names = spotter.modules or [str(number) for number in range(gates.shape[1])]
    open_ = np.array([to_rgb(_colour(name)) for name in names])  # (modules, 3)
    image = np.where(gates.T[:, :, None] > 0.5, open_[:, None], np.array(to_rgb(_COLOURS[0])))
    axes.imshow(
        image, aspect="auto", interpolation="nearest", extent=(0, len(gates) * spotter.hop_s, len(names), 0),
    )  # fmt: skip
    blocks = [name.partition(".")[0] for name in names]
    for edge in (number for number in range(1, len(names)) if blocks[number] != blocks[number - 1]):
        axes.axhline(edge, color="white", linewidth=1.5)
    axes.set_yticks(np.arange(len(names)) + 0.5, [name.replace("_", " ") for name in names], fontsize=6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("s")
    axes.set_title("modules that ran, hop by hop", fontsize=8, loc="left")


def _colour(name: str) -> str:
    return next((colour for kind, colour in _DISTINCT.items() if kind in name), _COLOURS[1])
