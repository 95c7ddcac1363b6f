"""Face tracks with sound, whatever they come from: drawn scenes, AVA's folders, a user's own clips."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lightsleeper.data.mfcc import FPS


@dataclass(frozen=True)
class Track:
    """One face over T frames, and what is heard meanwhile."""

    faces: NDArray[np.uint8]
    """(T, size, size), grey."""
    audio: NDArray[np.float32]
    """(S,) in [-1, 1], 16 kHz, from the first frame on; about as long as the frames."""
    label3: NDArray[np.int64]
    """(T,) in the numbers of `metrics.active_speaker.LABELS`."""
    timestamps: NDArray[np.float64]
    """(T,) seconds in the video."""
    face_px: NDArray[np.float32]
    """(T,) width of the face in the video, pixels; 0 where it is not known."""
    speakers: NDArray[np.int64]
    """(T,) faces in the frame, this one included; 0 where it is not known."""
    entity: str
    video: str
    situation: str = ""
    """What the track shows, where that is known; see `metrics.active_speaker.SITUATIONS`."""
    fps: float = FPS
    """Frames a second. MFCC windows are stretched where they are not 25, so that four fall on a frame."""
    box: NDArray[np.float64] | None = None
    """(T, 4) left, top, right, bottom as shares of the picture; None: the face is the picture."""


class TrackSource(Protocol):
    """The tracks of one part."""

    @property
    def frames(self) -> NDArray[np.int64]:
        """(n,) length of each track."""

    def track(self, number: int) -> Track: ...
