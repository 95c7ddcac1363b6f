"""Tracks for tests, without speech or files: random faces and tones."""

import numpy as np
from lightsleeper.data.track_source import Track


class DrawnTracks:
    """Tracks of the given lengths; the picture of frame t has the value t, the tone of a track its own pitch."""

    def __init__(self, frames, size=16):
        self.frames, self.size = np.array(frames), size

    def track(self, number):
        count = int(self.frames[number])
        times = np.arange(count) / 25
        samples = np.arange(count * 640 + 240)
        return Track(
            faces=np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], (count, self.size, self.size)),
            audio=0.1 * np.sin(samples * (0.05 + 0.03 * number)).astype(np.float32),
            label3=np.arange(count) % 3,
            timestamps=times,
            face_px=np.full(count, 50, np.float32),
            speakers=np.ones(count, np.int64),
            entity=f"face:{number}",
            video="film",
        )
