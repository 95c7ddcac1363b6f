"""`lightning detect`: does a file, or the microphone, say a typed phrase, and where are its words?

Word spotters, which have a vocabulary of their own: cli/detect_words. Who speaks in a video: cli/detect_speakers.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.cli.sources import Kind, add_source, kind, locate, open_keywords, positive
from lightsleeper.cli.typed_keywords import add_keywords, read_keywords
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from lightsleeper.deploy.detection import Detection

HELP = (
    "Match typed keywords against audio files or the microphone: score and decision per file and keyword, and the "
    "words' times from the model's partition. With a word spotter: all words of its vocabulary that the files hold, "
    "with their times. With an active-speaker model: who speaks in a video whose faces are known."
)
DEFAULT_SECONDS = 3.0
MAX_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio files, any sample rate, or videos")
    add_keywords(parser, ". Word spotter: show only these words; default all")
    parser.add_argument("--threshold", type=float, metavar="X", help="score to detect from; default: the model's own")
    parser.add_argument("--no-trim", action="store_true", help="keep silence at both ends")
    parser.add_argument("--plot", metavar="OUT.png", help="draw the spectrogram with the words over it")
    parser.add_argument(
        "--microphone",
        nargs="?",
        type=float,
        const=DEFAULT_SECONDS,
        metavar="SECONDS",
        help=f"record that many seconds (default {DEFAULT_SECONDS:g}) and match them",
    )
    speakers = parser.add_argument_group("who speaks in a video")
    speakers.add_argument(
        "--tracks", metavar="FACES.csv", help="boxes of faces, AVA's columns; video_id: the file's name"
    )
    speakers.add_argument("--out", metavar="DIR", help="where the drawn video and its timeline go; default: here")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads, default 1")
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(args: argparse.Namespace) -> int:
    path = locate(args.source, args.runs_dir)
    if not args.files and args.microphone is None:
        raise UserError("nothing to listen to: name audio files, or give --microphone.")
    if args.microphone is not None and not 0 < args.microphone <= MAX_SECONDS:
        raise UserError(f"--microphone: expected up to {MAX_SECONDS:g} seconds, got {args.microphone:g}.")
    if args.threshold is not None and args.threshold != args.threshold:
        raise UserError("--threshold: expected a number, got nan.")
    model = kind(path)
    if model is Kind.SPEAKERS:
        from lightsleeper.cli import detect_speakers

        return detect_speakers.main(path, args)
    for name in ("tracks", "out"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for videos; {args.source} listens to sound alone.")
    if model is Kind.SPOTTER:
        from lightsleeper.cli import detect_words

        return detect_words.main(path, args)
    if not args.keyword:
        raise UserError("nothing to look for: give --keyword TEXT.")
    if args.plot:
        from lightsleeper.deploy.partition_plot import check_path

        check_path(Path(args.plot), (len(args.files) + (args.microphone is not None)) * len(args.keyword))
    keywords = read_keywords(args)
    matcher = open_keywords(path, args.threads, args.source)
    from lightsleeper.data.audio import cut_speech, read_audio
    from lightsleeper.deploy.detection import detect_all

    rate = int(float(matcher.metadata.get("sample_rate", 16_000)))
    clips = {name: read_audio(name, rate) for name in args.files}
    if args.microphone is not None:
        clips["microphone"] = record(args.microphone, rate)
    panels: list[tuple[Detection, np.ndarray]] = []
    for name, clip in clips.items():
        speech, start = (clip, 0) if args.no_trim else cut_speech(clip, rate)
        found = detect_all(matcher, speech, keywords, name, start / rate, args.threshold, len(clip) / rate)
        panels += [(detection, clip) for detection in found]
    report([detection for detection, _ in panels], args.json)
    if args.plot:
        from lightsleeper.deploy.partition_plot import plot

        plot(Path(args.plot), panels, rate)
        if not args.json:
            print(f"drawn: {args.plot}")
    return 0


def record(seconds: float, rate: int) -> "np.ndarray":
    """Record (S,) from the default input device. Raises UserError without the package or a device."""
    import sys

    from lightsleeper.data.sounds import require_sounddevice

    sounddevice = require_sounddevice()
    print(f"recording {seconds:g} s ...", file=sys.stderr, flush=True)
    try:
        clip = sounddevice.rec(round(seconds * rate), samplerate=rate, channels=1, dtype="float32", blocking=True)
    except sounddevice.PortAudioError as error:
        raise UserError(f"--microphone: cannot record: {error}") from error
    return clip[:, 0]


def report(detections: Sequence["Detection"], as_json: bool) -> None:
    """One line per detection: decision, score, file, keyword, word times."""
    if as_json:
        import json

        print(json.dumps([detection.to_dict() for detection in detections], indent=1))
        return
    for found in detections:
        verdict = {True: "detected", False: "no", None: "no threshold"}[found.detected]
        limit = "" if found.threshold is None else f" (threshold {found.threshold:.3f})"
        times = "  ".join(f"{word.text} {word.start_s:.2f}-{word.end_s:.2f}" for word in found.words)
        print(
            f'{found.file}: "{found.keyword}" {verdict}, score {found.score:.3f}{limit}{": " if times else ""}{times}'
        )
