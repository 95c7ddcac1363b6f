"""A picture of listening: waveform or spectrogram of each sound, and under it the score with threshold and events.

Hours fit into it: a picture keeps a fixed number of columns, and where they are full two become one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lightsleeper.deploy.detector import StreamingDetector
from lightsleeper.deploy.hops import Rest
from lightsleeper.deploy.listening import Found
from lightsleeper.deploy.partition_plot import MAX_PANELS, N_MELS, check_path
from lightsleeper.files import replacing
from lightsleeper.metrics.events import smoothed
from lightsleeper.nn.causal import FrontEnd

__all__ = ["MAX_PANELS", "Picture", "View", "check_path", "plot"]

View = Literal["spectrogram", "waveform"]
COLUMNS = 2048  # so that 1024 or more remain of a long sound: about the pixels of a picture of 9 inches at 120 dpi
_WINDOW_MS, _HOP_MS = 25.0, 10.0


class Columns:
    """A signal of any length in fewer than ``most`` columns: each joins equally many neighbours.

    Args:
        join: how two neighbours become one: np.maximum, np.minimum, or np.add for a mean.
        most: columns, an even number.
    """

    def __init__(self, join: np.ufunc, most: int = COLUMNS) -> None:
        self.join, self.most = join, most
        self.width = 1
        """Units in a column."""
        self._count = self._filled = 0
        self._kept: NDArray[np.float32] = np.zeros(0, np.float32)
        self._partial: NDArray[np.float32] = np.zeros(0, np.float32)

    def add(self, values: NDArray[np.float32]) -> None:
        """The next units (n, ...)."""
        if not self._kept.size:
            self._kept = np.zeros((self.most, *values.shape[1:]), np.float32)
        at = 0
        while at < len(values):
            if not self._filled and len(values) - at >= self.width:  # whole columns at once
                columns = min((len(values) - at) // self.width, self.most - self._count)
                taken = columns * self.width
                whole = values[at : at + taken].reshape(columns, self.width, *values.shape[1:])
                self._append(self.join.reduce(whole, axis=1))
                at += taken
                continue
            taken = min(self.width - self._filled, len(values) - at)
            part = self.join.reduce(values[at : at + taken], axis=0)
            self._partial = self.join(self._partial, part) if self._filled else part
            self._filled += taken
            at += taken
            if self._filled == self.width:
                self._append(self._partial[None])
                self._filled = 0

    def _append(self, columns: NDArray[np.float32]) -> None:
        self._kept[self._count : self._count + len(columns)] = columns
        self._count += len(columns)
        if self._count == self.most:
            pairs = self._kept.reshape(self.most // 2, 2, *self._kept.shape[1:])
            self._count = self.most // 2
            self._kept[: self._count] = self.join.reduce(pairs, axis=1)
            self.width *= 2

    def values(self) -> NDArray[np.float32]:
        """Columns (n, ...); the last one may hold fewer units than the others."""
        found = self._kept[: self._count]
        if self._filled:
            found = np.concatenate([found, self._partial[None]])
        if self.join is not np.add or not len(found):
            return found.copy()
        units = np.full(len(found), self.width, np.float32)
        units[-1] = self._filled or self.width
        return found / units.reshape(-1, *(1 for _ in found.shape[1:]))


class Picture:
    """What is drawn of one sound; a `listening.Watcher`.

    Args:
        detector: its threshold and smoothing are drawn.
        view: what lies above the score.
        begins_s: where in the sound the first sample lies that it is given: -0.5 behind half a second of silence.
    """

    def __init__(self, detector: StreamingDetector, view: View, begins_s: float = 0.0) -> None:
        self.view, self.begins_s = view, begins_s
        self.rate, self.decoder = detector.sample_rate, detector.decoder
        self._front = FrontEnd(N_MELS, self.rate, _WINDOW_MS, _HOP_MS).eval()
        self._state = torch.zeros(1, self._front.state_size)
        self._rest = Rest(self._front.stride)
        self._tail, self._frames = np.zeros(0), 0
        self.upper, self.lower = Columns(np.maximum), Columns(np.minimum)  # of the waveform
        self.mel = Columns(np.add)  # its mean
        self.levels = Columns(np.maximum)  # of the smoothed score

    @torch.no_grad()
    def hear(self, samples: NDArray[np.float32]) -> None:
        audio = self._rest.whole(samples)
        if not len(audio):
            return
        if self.view == "waveform":
            hops = audio.reshape(-1, self._front.stride)
            self.upper.add(hops.max(1))
            self.lower.add(hops.min(1))
            return
        features, self._state = self._front.stream(torch.from_numpy(audio[None]), self._state)
        self.mel.add(features[0].T.numpy())

    def score(self, scores: NDArray[np.float32]) -> None:
        raw = np.asarray(scores, np.float64)
        self.levels.add(smoothed(raw, self.decoder.smoothing_frames, self._tail, self._frames).astype(np.float32))
        self._frames += len(raw)
        self._tail = np.concatenate([self._tail, raw])[-max(1, self.decoder.smoothing_frames - 1) :]

    def places(self, columns: Columns, unit_s: float) -> NDArray[np.floating]:
        """Seconds (n,) in the sound at the middle of each column."""
        step = columns.width * unit_s
        return self.begins_s + (np.arange(len(columns.values())) + 0.5) * step

    def draw(self, above: Any, below: Any, title: str, events: Sequence[Found]) -> None:
        """On two axes of matplotlib that share their time."""
        if self.view == "waveform":
            self._draw_waveform(above)
        else:
            self._draw_spectrogram(above)
        colour = "tab:orange" if self.view == "waveform" else "white"
        for event in events:
            if event.start_s is not None:
                above.axvspan(event.start_s, event.end_s, fill=False, edgecolor=colour, linewidth=1.4)
            else:
                above.axvline(event.end_s, color=colour, linewidth=1.4)
        above.set_title(title.replace("$", r"\$"), fontsize=9, loc="left")  # a file name is no formula
        levels = self.levels.values()
        times = self.places(self.levels, self.decoder.frame_s)
        below.plot(times, np.where(np.isfinite(levels), levels, np.nan), linewidth=0.9, color="tab:blue")
        below.axhline(self.decoder.threshold, color="tab:red", linewidth=0.9, linestyle="--")
        below.plot(
            [event.time_s for event in events], [event.score for event in events], "v", color="tab:orange", markersize=7
        )
        below.set_ylim(*_limits(levels, self.decoder.threshold))
        first = max(0.0, self.begins_s)
        end = self.begins_s + self._frames * self.decoder.frame_s
        below.set_xlim(first, max(end, first + 0.1))
        smoothing_ms = 1000 * self.decoder.smoothing_frames * self.decoder.frame_s
        below.set_ylabel(f"score\n({smoothing_ms:.0f} ms mean)" if self.decoder.smoothing_frames > 1 else "score")
        below.set_xlabel("s")
        below.grid(alpha=0.25)

    def _draw_waveform(self, axes: Any) -> None:
        times = self.places(self.upper, _HOP_MS / 1000)
        axes.fill_between(times, self.lower.values(), self.upper.values(), color="tab:blue", linewidth=0)
        loudest = max(float(np.abs(self.lower.values()).max(initial=0)), float(self.upper.values().max(initial=0)))
        axes.set_ylim(-1.05 * max(loudest, 1e-3), 1.05 * max(loudest, 1e-3))
        axes.set_ylabel("amplitude")

    def _draw_spectrogram(self, axes: Any) -> None:
        features = self.mel.values()
        axes.set_ylabel("mel band")
        if not len(features):
            return
        quiet, loud = np.percentile(features, [10, 99.7])
        end = self.begins_s + len(features) * self.mel.width * _HOP_MS / 1000
        place = (self.begins_s, end, 0, N_MELS)
        axes.imshow(features.T, origin="lower", aspect="auto", extent=place, cmap="magma", vmin=quiet, vmax=loud)


def plot(path: Path, panels: Sequence[tuple[Picture, str, Sequence[Found]]]) -> Path:
    """Draw sounds one under the other; each with its title and its events."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4 * len(panels) + 0.3), layout="constrained")  # no pyplot: no display
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2 * len(panels), 1, height_ratios=[1.5, 1] * len(panels))
    for index, (picture, title, events) in enumerate(panels):
        below = figure.add_subplot(grid[2 * index + 1])
        above = figure.add_subplot(grid[2 * index], sharex=below)
        above.tick_params(labelbottom=False)
        picture.draw(above, below, title, events)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def _limits(levels: NDArray[np.float32], threshold: float) -> tuple[float, float]:
    """0 to 1 for probabilities; else what 98 % of the scores, the highest and the threshold lie in."""
    known = levels[np.isfinite(levels)]
    low, high = (float(np.percentile(known, 2)), float(known.max())) if len(known) else (0.0, 1.0)
    if np.isfinite(threshold):
        low, high = min(low, threshold), max(high, threshold)
    if known.min(initial=0) >= 0 and high <= 1:
        return -0.03, 1.05
    room = 0.06 * max(high - low, 1e-3)
    return low - room, high + room
