"""`lightning detect` of an active-speaker model: who speaks in a video, face by face and frame by frame."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from lightsleeper.data.ava_csv import Rows
    from lightsleeper.deploy.speaking import SpeakerModel
    from lightsleeper.deploy.speaking_clip import JudgedClip

_FOR_WORDS = ("keyword", "pronounce", "microphone", "plot")


def main(path: Path, args: argparse.Namespace) -> int:
    check(args)
    from lightsleeper.data.ava_csv import write_boxes
    from lightsleeper.data.clip_tracks import runs_of
    from lightsleeper.data.video import require_av
    from lightsleeper.deploy.speaking_clip import draw_clip, judge_clip, plot

    require_av()
    out = Path(args.out or ".")
    files = [Path(name) for name in args.files]
    boxes = dict(faces(files, args.tracks))
    runs = {file: runs_of(rows, file.stem) for file, rows in boxes.items()}  # refused before a model is opened
    model = open_model(path, args.threads, args.threshold)
    found = []
    for file in files:
        clip = judge_clip(model, file, runs[file])
        found.append(clip)
        written = [draw_clip(clip, out / f"{file.stem}-speakers.mp4"), plot(clip, out / f"{file.stem}-speakers.png")]
        if args.tracks is None:
            written.append(out / f"{file.stem}-faces.csv")
            write_boxes(written[-1], boxes[file])
        if not args.json:
            report(clip, written)
    if args.json:
        print(json.dumps([clip.to_dict() for clip in found], indent=1))
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse what an active-speaker model has no use for, and what it lacks, before anything is opened."""
    for name in _FOR_WORDS:
        if getattr(args, name):
            raise UserError(f"--{name} is for words; {args.source} judges who speaks in a video.")
    if args.no_trim:
        raise UserError(f"--no-trim is for words; {args.source} judges who speaks in a video.")
    if args.out is not None and Path(args.out).is_file():
        raise UserError(f"--out {args.out} is a file; expected a folder.")


def faces(files: list[Path], tracks: str | None) -> "Iterator[tuple[Path, Rows]]":
    """The boxes of each video: those of the CSV file, or where there is none those that a small detector finds."""
    if tracks is not None:
        from lightsleeper.data.ava_csv import read_rows

        rows = read_rows(Path(tracks), labels=False)
        yield from ((file, rows) for file in files)
        return
    from lightsleeper.data.face_finder import find_faces, require_finder

    finder = require_finder()
    print("note: no --tracks, so faces are searched for; frontal ones are found best.", file=sys.stderr)
    yield from ((file, find_faces(file, finder)) for file in files)


def open_model(path: Path, threads: int, threshold: float | None) -> "SpeakerModel":
    """What `locate` found, ready to judge faces."""
    from lightsleeper.deploy.speaking import OnnxSpeakers, TorchSpeakers

    if path.suffix == ".onnx":
        return OnnxSpeakers(path, threads, threshold)
    import torch

    from lightsleeper.deploy.finalize import load_model

    torch.set_num_threads(threads)
    return TorchSpeakers(load_model(path), threshold)


def report(clip: "JudgedClip", written: list[Path]) -> None:
    """A line per stretch of speech."""
    stretches = sorted((begin, end, run.name) for run in clip.runs for begin, end in clip.speaking(run))
    faces = len({run.name for run in clip.runs})
    print(f"{clip.file}: {faces} face{'s' * (faces != 1)} in {clip.frames / 25:.1f} s (threshold {clip.threshold:.3f})")
    for begin, end, name in stretches:
        print(f"  {begin:.2f}-{end:.2f}  {name}")
    print(f"  written: {', '.join(map(str, written))}")
