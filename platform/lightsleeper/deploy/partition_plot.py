"""A picture of detections: the log-mel spectrogram of each file with the partition's cuts and words over it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lightsleeper.deploy.detection import Detection
from lightsleeper.errors import UserError
from lightsleeper.files import replacing
from lightsleeper.nn.frontend import LogMel

MAX_PANELS = 12
FORMATS = (".png", ".svg", ".pdf")
N_MELS = 64  # for the eye; models see what their own front end gives them


def check_path(path: Path, panels: int) -> None:
    """Raise UserError for a picture that could not be written, before anything is computed."""
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--plot {path}: expected a file name that ends in {', '.join(FORMATS)}.")
    if panels > MAX_PANELS:
        raise UserError(f"--plot draws one panel per file and keyword, {panels} here; at most {MAX_PANELS}.")


def plot(path: Path, panels: Sequence[tuple[Detection, np.ndarray]], sample_rate: int = 16_000) -> Path:
    """Draw one panel per detection; each comes with the whole clip (S,) its times refer to."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(9, 2.6 * len(panels) + 0.4), layout="constrained"
    )  # no pyplot: no global state, no display
    FigureCanvasAgg(figure)
    mel = LogMel(N_MELS, sample_rate)
    for index, (detection, audio) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        features = spectrogram(mel, audio)  # (frames, mel)
        seconds = len(audio) / sample_rate
        quiet, loud = np.percentile(features, [5, 99.5])
        axes.imshow(
            features.T,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, N_MELS),
            cmap="magma",
            vmin=quiet,
            vmax=loud,
        )
        for word in detection.words:
            axes.axvspan(word.start_s, word.end_s, fill=False, edgecolor="white", linewidth=1.2)
            place = ((word.start_s + word.end_s) / 2, N_MELS - 2)
            axes.text(*place, word.text, color="white", ha="center", va="top", fontsize=9, clip_on=True)
        axes.set_title(_title(detection), fontsize=9, loc="left")
        axes.set_xlim(0, seconds)
        axes.set_ylabel("mel band")
        axes.set_xlabel("s")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path


def spectrogram(mel: LogMel, audio: np.ndarray) -> np.ndarray:
    """Log-mel power (frames, mel) of a clip (S,) of any length."""
    audio = np.pad(audio.astype(np.float32), (0, max(0, mel.window - len(audio))))
    with torch.inference_mode():
        return mel.power(torch.from_numpy(audio)[None])[0].numpy()


def _title(detection: Detection) -> str:
    verdict = {True: "detected", False: "not detected", None: "no threshold"}[detection.detected]
    limit = "" if detection.threshold is None else f", threshold {detection.threshold:.3f}"
    text = f'{Path(detection.file).name}: "{detection.keyword}" {verdict} (score {detection.score:.3f}{limit})'
    return text.replace("$", r"\$")  # a file name is no formula
