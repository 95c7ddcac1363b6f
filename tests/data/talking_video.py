"""A small video for tests: two grey squares on black, one of which gets brighter while a tone sounds."""

import numpy as np
from lightsleeper.data import video

HEADER = "video_id,frame_timestamp,entity_box_x1,entity_box_y1,entity_box_x2,entity_box_y2,label,entity_id"
BOXES = {"left": (0.1, 0.25, 0.4, 0.75), "right": (0.6, 0.25, 0.9, 0.75)}
SPEECH_S = (0.4, 1.2)  # of the left face; the right one is there from 0.4 s on


def write_video(folder, name="talk", seconds=1.6, fps=25.0):
    """The video of 160 x 96 pixels; returns its path."""
    frames = []
    for frame in range(int(seconds * fps)):
        picture = np.zeros((96, 160, 3), np.uint8)
        speaks = SPEECH_S[0] <= frame / fps < SPEECH_S[1]
        picture[24:72, 16:64] = 200 if speaks else 100
        picture[24:72, 96:144] = 60
        frames.append(picture)
    times = np.arange(int(seconds * 16_000)) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * 440 * times) * ((times >= SPEECH_S[0]) & (times < SPEECH_S[1]))
    path = folder / f"{name}.mp4"
    video.write(path, frames, fps, tone.astype(np.float32))
    return path


def face_rows(name="talk", seconds=1.6, step_s=0.04):
    """CSV rows without header."""
    rows = []
    for time in np.arange(0, seconds - 0.01, step_s):
        for entity, box in BOXES.items():
            if entity == "right" and time < SPEECH_S[0]:
                continue
            speaks = entity == "left" and SPEECH_S[0] <= time + 1e-6 < SPEECH_S[1]
            label = "SPEAKING_AUDIBLE" if speaks else "NOT_SPEAKING"
            rows.append(f"{name},{time:.2f},{','.join(map(str, box))},{label},{entity}")
    return rows
