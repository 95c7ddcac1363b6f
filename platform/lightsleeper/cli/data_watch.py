"""`lightning data watch`: some face tracks of a recipe as pictures and videos, with a table of what they are."""

import csv
from pathlib import Path
from typing import Any

from lightsleeper.errors import UserError


def watch(data: Any, count: int, folder: Path) -> None:
    """Write ``count`` test tracks, spread evenly over all: sheet.png, labels.csv, and with PyAV videos."""
    from lightsleeper.data import track_pictures
    from lightsleeper.data.speaker_tracks import SpeakerTracks
    from lightsleeper.data.video import require_av

    if not isinstance(data, SpeakerTracks):
        raise UserError(f"data watch writes tracks of faces, not {type(data).__name__}; `data listen` writes sounds.")
    source = data.parts["test"]
    total = len(source.frames)
    if not total:
        raise UserError("the data holds no track to write.")
    tracks = [source.track(number * total // min(count, total)) for number in range(min(count, total))]
    folder.mkdir(parents=True, exist_ok=True)
    track_pictures.sheet(tracks, folder / "sheet.png")
    rows = [{"file": f"{number:03d}.mp4", **track_pictures.about(track)} for number, track in enumerate(tracks)]
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    try:
        require_av()
    except UserError as error:
        print(f"sheet.png and labels.csv written to {folder}; no videos: {error}")
        return
    for row, track in zip(rows, tracks, strict=True):
        track_pictures.film(track, folder / row["file"])
    print(f"sheet.png, labels.csv and {len(tracks)} videos written to {folder}")
    print("frames: green speaks, red moves the lips silently, grey is silent")
