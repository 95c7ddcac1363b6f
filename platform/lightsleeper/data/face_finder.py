"""Faces of a video without a CSV file of them: a small detector (extra ``faces``), linked to tracks.

The detector is scikit-image's cascade of local binary patterns, 50 kB that its package carries: frontal faces only, and
now and then a thing that is none. Five pictures a second are searched; boxes that overlap are one face, and a face
found fewer than five times is none. For results that count, give boxes of a better detector.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.ava_csv import Rows
from lightsleeper.data.clip_tracks import LONGEST_GAP_S, grid
from lightsleeper.data.mfcc import FPS
from lightsleeper.errors import UserError

EVERY = 5  # pictures of the grid, one of which is searched
_SMALLEST, _LARGEST = 0.1, 0.9  # of the picture's height
_EDGE = 360  # pixels of height that are searched: larger pictures take longer and find little more
_OVERLAP = 0.3  # intersection over union of one face in two pictures
_FEWEST = 5  # times that a face is found

Boxes = NDArray[np.float64]
"""(n, 4) left, top, right, bottom as shares of the picture."""
Finder = Callable[[NDArray[np.uint8]], Boxes]


def require_finder() -> Finder:
    """The detector. Raises UserError where its package is not installed."""
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError:
        raise UserError(
            "finding faces needs scikit-image, which is not installed. Run: pip install -e '.[faces]', or give "
            "--tracks FACES.csv"
        ) from None
    cascade = Cascade(lbp_frontal_face_cascade_filename())
    return lambda picture: _search(cascade, picture)


def _search(cascade: Any, picture: NDArray[np.uint8]) -> Boxes:
    step = max(1, round(picture.shape[0] / _EDGE))
    small = np.ascontiguousarray(picture[::step, ::step])
    height, width = small.shape
    least, most = (max(24, round(share * height)) for share in (_SMALLEST, _LARGEST))
    found = cascade.detect_multi_scale(
        small, scale_factor=1.2, step_ratio=1.3, min_size=(least, least), max_size=(most, most)
    )
    corners = [(face["c"], face["r"], face["c"] + face["width"], face["r"] + face["height"]) for face in found]
    return np.array(corners, float).reshape(-1, 4) / (width, height, width, height)


@dataclass
class _Found:
    """A face so far: frames of the grid, and a box in each."""

    frames: list[int]
    boxes: list[NDArray[np.float64]]


def find_faces(path: Path, finder: Finder) -> Rows:
    """Faces of a video, named face 1, face 2 ... in the order in which they appear; labels are -1.

    Raises:
        UserError: the video is missing or damaged, or no face is found.
    """
    faces: list[_Found] = []
    for frame, picture in enumerate(grid(path)):
        if frame % EVERY == 0:
            _link(faces, frame, finder(picture))
    faces = [face for face in faces if len(face.frames) >= _FEWEST]
    if not faces:
        raise UserError(f"no face was found in {path}: give --tracks FACES.csv.")
    frames = np.concatenate([face.frames for face in faces])
    names = np.repeat([f"face {number + 1}" for number in range(len(faces))], [len(face.frames) for face in faces])
    return Rows(
        path=path,
        video=np.full(len(frames), path.stem),
        timestamp=frames / FPS,
        box=np.concatenate([face.boxes for face in faces]),
        label=np.full(len(frames), -1),
        entity=names,
        score=None,
        line=np.arange(len(frames)),
    )


def _link(faces: list[_Found], frame: int, boxes: Boxes) -> None:
    """Give each box to the face it overlaps most, best pairs first; what is left over are new faces."""
    recent = [face for face in faces if frame - face.frames[-1] <= LONGEST_GAP_S * FPS]
    pairs = sorted(
        ((overlap(face.boxes[-1], box), i, j) for i, face in enumerate(recent) for j, box in enumerate(boxes)),
        reverse=True,
    )
    taken: set[int] = set()
    continued: set[int] = set()
    for share, i, j in pairs:
        if share >= _OVERLAP and i not in continued and j not in taken:
            recent[i].frames.append(frame)
            recent[i].boxes.append(boxes[j])
            continued.add(i)
            taken.add(j)
    faces += [_Found([frame], [box]) for j, box in enumerate(boxes) if j not in taken]


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    return shared / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)
