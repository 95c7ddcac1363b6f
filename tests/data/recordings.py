"""Small folders of recordings for tests: tones, one pitch a text."""

import csv
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def write_tone(path: Path, seconds: float, hertz: float, rate: int = RATE, level: float = 0.4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, wave, rate)


def write_folder(
    folder: Path,
    texts: list[str],
    speakers: list[str],
    takes: int = 2,
    rate: int = RATE,
    header: tuple[str, ...] = ("path", "text", "speaker"),
) -> Path:
    """Every speaker says every text ``takes`` times; the manifest has the columns of ``header``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore")
        writer.writeheader()
        for s, speaker in enumerate(speakers):
            for t, text in enumerate(texts):
                for take in range(takes):
                    name = f"{speaker}/{text.replace(' ', '_')}_{take}.wav"
                    write_tone(folder / name, 0.3 + 0.01 * take + 0.02 * s, 300 + 50 * t + s, rate)
                    writer.writerow({"path": name, "text": text, "speaker": speaker})
    return folder
