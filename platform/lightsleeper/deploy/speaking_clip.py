"""A video with its faces judged, and drawn: boxes and scores in the pictures, a timeline of all faces beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data import video
from lightsleeper.data.clip_tracks import Run, cut_face, grid
from lightsleeper.data.mfcc import FPS, PER_FRAME, mfcc_of_frames
from lightsleeper.deploy.speaking import SpeakerModel, SpeakerStream
from lightsleeper.files import replacing

_SPEAKS, _SILENT = (64, 200, 96), (150, 158, 172)
_LINE = 0.006  # of the picture's height
_WIDTH = (8.0, 24.0)  # inches of the timeline, least and most
_INCHES_A_SECOND = 0.8


@dataclass(frozen=True)
class JudgedClip:
    """Scores of all faces of a video, on the grid of 25 frames a second."""

    file: Path
    frames: int
    runs: Sequence[Run]
    scores: dict[str, NDArray[np.float64]]
    """By track, one for each of its frames; nan beyond the end of the video."""
    threshold: float
    sound: NDArray[np.float32]

    def speaking(self, run: Run) -> list[tuple[float, float]]:
        """Begin and end, in seconds, of the stretches in which a face speaks."""
        above = np.concatenate([[False], self.scores[run.name] > self.threshold, [False]])
        begins, ends = np.flatnonzero(above[1:] & ~above[:-1]), np.flatnonzero(~above[1:] & above[:-1])
        return [((run.first + a) / FPS, (run.first + b) / FPS) for a, b in zip(begins, ends, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        def plain(values: NDArray[np.float64]) -> list[float | None]:
            return [None if np.isnan(value) else round(float(value), 6) for value in values]

        faces = [
            {"face": run.name, "begin_s": run.first / FPS, "speaks_s": self.speaking(run),
             "scores": plain(self.scores[run.name])}
            for run in self.runs
        ]  # fmt: skip
        return {"file": str(self.file), "seconds": self.frames / FPS, "threshold": self.threshold, "faces": faces}


def judge_clip(model: SpeakerModel, path: Path, runs: Sequence[Run]) -> JudgedClip:
    """Every face of a video, frame by frame, as a device would see it. Raises UserError for a damaged video."""
    sound = video.sound(path)
    needed = max(run.last for run in runs) + 1
    mfcc = mfcc_of_frames(sound, needed) if len(sound) else np.zeros((PER_FRAME * needed, 13), np.float32)
    scores = {run.name: np.full(run.last + 1 - run.first, np.nan) for run in runs}
    first = {run.name: run.first for run in runs}
    stream = SpeakerStream(model)
    frames = 0
    for frame, picture in enumerate(grid(path)):
        there = [run for run in runs if run.first <= frame <= run.last]
        crops = {run.name: cut_face(picture, run.box(frame), model.pixels)[0] for run in there}
        for name, at, score in stream.push(crops, mfcc[PER_FRAME * frame : PER_FRAME * (frame + 1)]):
            scores[name][at - first[name]] = score
        frames = frame + 1
    for name, at, score in stream.finish():
        scores[name][at - first[name]] = score
    return JudgedClip(path, frames, runs, scores, model.threshold, sound)


def draw_clip(clip: JudgedClip, out: Path) -> Path:
    """Write the video again with a box around every face, green where it speaks, its name and score above it."""
    video.write(out, _drawn(clip), FPS, clip.sound)
    return out


def _drawn(clip: JudgedClip) -> Iterator[NDArray[np.uint8]]:
    from PIL import Image, ImageDraw, ImageFont

    for frame, picture in enumerate(grid(clip.file, "rgb24")):
        height, width = (size - size % 2 for size in picture.shape[:2])  # H.264 wants even sizes
        image = Image.fromarray(picture[:height, :width])
        draw, line = ImageDraw.Draw(image), max(1, round(_LINE * height))
        font = ImageFont.load_default(max(10, height // 30))
        for run in clip.runs:
            if not run.first <= frame <= run.last:
                continue
            score = clip.scores[run.name][frame - run.first]
            colour = _SPEAKS if score > clip.threshold else _SILENT
            left, top, right, bottom = run.box(frame) * (width, height, width, height)
            draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=line)
            text = f"{run.name} {score:.2f}"
            size = draw.textbbox((0, 0), text, font=font)
            place = (max(0, min(left, width - size[2])), max(0, top - size[3] - line))
            draw.rectangle((*place, place[0] + size[2], place[1] + size[3]), fill=(0, 0, 0))
            draw.text(place, text, fill=colour, font=font)
        yield np.asarray(image)


def plot(clip: JudgedClip, path: Path) -> Path:
    """Draw the timeline: the sound, and for each face its score, with what is above the threshold filled."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seconds = clip.frames / FPS
    width = float(np.clip(_INCHES_A_SECOND * seconds, *_WIDTH))
    rows = 1 + len(clip.runs)
    figure = Figure(figsize=(width, 0.75 * rows + 0.8), layout="constrained")  # no pyplot: no display
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    times = np.arange(len(clip.sound)) / video.SAMPLE_RATE
    step = max(1, len(times) // 20_000)
    axes[0].plot(times[::step], clip.sound[::step], color="#5f6b7a", linewidth=0.4)
    axes[0].set_ylabel("sound", rotation=0, ha="right", va="center")
    axes[0].set_yticks([])
    for axis, run in zip(axes[1:], clip.runs, strict=True):
        at = (run.first + np.arange(len(clip.scores[run.name]))) / FPS
        score = clip.scores[run.name]
        axis.plot(at, score, color="#2f6690", linewidth=1)
        axis.fill_between(at, 0, score, where=score > clip.threshold, color="#40c860", alpha=0.5, step=None)
        axis.axhline(clip.threshold, color="#b8540f", linewidth=0.6, linestyle=":")
        axis.set_ylim(0, 1)
        axis.set_yticks([0, 1])
        axis.set_ylabel(run.name, rotation=0, ha="right", va="center")
    axes[-1].set_xlim(0, max(seconds, 1 / FPS))
    axes[-1].set_xlabel("seconds")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path
