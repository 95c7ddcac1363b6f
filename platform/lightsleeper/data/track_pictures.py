"""Face tracks to look at: a sheet of pictures, and videos with their sound. The frame's colour is the label."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data import video
from lightsleeper.data.track_source import Track
from lightsleeper.files import replacing
from lightsleeper.metrics.active_speaker import LABELS

COLOURS = ((150, 158, 172), (64, 200, 96), (224, 96, 72))  # of LABELS: silent, speaking, moving the lips silently
_COLUMNS = 14  # pictures of a track on a sheet
_BORDER, _TEXT = 3, 14  # pixels
_VIDEO = 224  # edge of a face in a video, about


def sheet(tracks: Sequence[Track], path: Path) -> Path:
    """One row a track, its frames from left to right, evenly spread; above it who it is and what it does."""
    from PIL import Image, ImageDraw

    edge = tracks[0].faces.shape[-1] + 2 * _BORDER
    image = Image.new("RGB", (_COLUMNS * edge, len(tracks) * (edge + _TEXT)), "white")
    draw = ImageDraw.Draw(image)
    for row, track in enumerate(tracks):
        top = row * (edge + _TEXT)
        about = [
            track.entity,
            track.situation,
            f"{len(track.faces) / track.fps:.1f} s",
            f"{track.face_px.mean():.0f} px",
        ]
        draw.text((2, top), "  ".join(filter(None, about)), fill="black")
        for column, frame in enumerate(np.linspace(0, len(track.faces) - 1, _COLUMNS).round().astype(int)):
            picture = Image.fromarray(framed(track.faces[frame], int(track.label3[frame]), 1))
            image.paste(picture, (column * edge, top + _TEXT))
    with replacing(path) as temporary:
        image.save(temporary)
    return path


def film(track: Track, path: Path) -> Path:
    """A track as a video. Raises UserError where PyAV is missing or the file cannot be written."""
    times = max(1, round(_VIDEO / track.faces.shape[-1]))

    def frames() -> Iterator[NDArray[np.uint8]]:
        for face, label in zip(track.faces, track.label3, strict=True):
            picture = framed(face, int(label), times)
            yield picture[: len(picture) // 2 * 2, : picture.shape[1] // 2 * 2]

    video.write(path, frames(), track.fps, track.audio)
    return path


def framed(face: NDArray[np.uint8], label: int, times: int) -> NDArray[np.uint8]:
    """A grey face (S, S), each pixel ``times`` as wide and high, in a border of its label's colour: (H, H, 3)."""
    large = np.repeat(np.repeat(face, times, 0), times, 1)
    size = len(large) + 2 * _BORDER * times
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = COLOURS[label]
    inside = slice(_BORDER * times, size - _BORDER * times)
    picture[inside, inside] = large[..., None]
    return picture


def about(track: Track) -> dict[str, Any]:
    """What is known of a track, for a table: shares of its labels too."""
    shares = np.bincount(track.label3, minlength=len(LABELS)) / len(track.label3)
    return {
        "entity": track.entity, "video": track.video, "situation": track.situation,
        "seconds": round(len(track.faces) / track.fps, 2), "face_px": round(float(track.face_px.mean()), 1),
        "speakers": int(track.speakers.max()),
        **{name: round(float(share), 3) for name, share in zip(LABELS, shares, strict=True)},
    }  # fmt: skip
