"""`lightning listen`: a wake-word detector on recordings, on a pipe of samples or on the microphone.

Word spotters: cli/listen_words. Typed keywords: cli/listen_keywords.
"""

import argparse
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli.hearing import PIPE, end_of, length, note_rates, open_sounds, print_json, say, share, welcome
from lightsleeper.cli.sources import Kind, add_source, kind, locate, open_detector, positive
from lightsleeper.cli.typed_keywords import add_keywords
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from lightsleeper.data.sounds import Sound
    from lightsleeper.deploy.detector import StreamingDetector
    from lightsleeper.deploy.listening import Found, Listening

HELP = (
    "Run a wake-word detector, a word spotter or a matcher of typed keywords over recordings, samples from a pipe or "
    "the microphone, and print events as they fire: start and end of the keyword, in seconds of the file, and score. "
    "Recordings may have any rate and any length."
)
DRAWN_EVENTS = 500  # the newest; an endless stream has endlessly many


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="audio files, folders of them, or - for raw 16-bit samples from a pipe"
    )
    parser.add_argument(
        "--microphone",
        nargs="?",
        type=float,
        const=0.0,
        metavar="SECONDS",
        help="listen to the microphone, so many seconds; default: until Ctrl-C",
    )
    add_keywords(parser)
    parser.add_argument("--device", metavar="NAME", help="which microphone: part of its name, or its number")
    parser.add_argument("--rate", type=positive, metavar="HZ", help="samples a second of a pipe; default: the model's")
    parser.add_argument("--threshold", type=float, metavar="X", help="score to fire from; default: the model's own")
    parser.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait so long for a higher score before an event is told; default 0",
    )
    typed = parser.add_argument_group("typed keywords")
    typed.add_argument(
        "--window", type=float, default=2.0, metavar="SECONDS", help="what is heard at once, default 2: keywords fit in"
    )
    typed.add_argument("--hop", type=float, default=0.24, metavar="SECONDS", help="between windows, default 0.24")
    typed.add_argument(
        "--normalize",
        choices=("none", "texts"),
        default="none",
        help="measure scores against those of other texts; --threshold is then of such scores; default none",
    )
    parser.add_argument("--plot", metavar="OUT.png", help="draw what was heard with score, threshold and events")
    parser.add_argument(
        "--view", choices=("spectrogram", "waveform"), default="spectrogram", help="what --plot shows above the score"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads, default 1")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: events, and the end of each file")


def main(args: argparse.Namespace) -> int:
    path = locate(args.source, args.runs_dir)
    check(args)
    names = files(args.files)
    model = kind(path)
    if model is Kind.SPOTTER:
        from lightsleeper.cli import listen_words

        return listen_words.main(path, names, args)
    if args.keyword or model is Kind.TYPED:
        from lightsleeper.cli import listen_keywords

        return listen_keywords.main(path, names, args)
    if args.plot:
        from lightsleeper.deploy.listen_plot import check_path

        check_path(Path(args.plot), len(names) + (args.microphone is not None))
    sounds = open_sounds(names, args)
    detector = _detector(path, args)
    return listen(detector, [sound(detector.sample_rate) for sound in sounds], args)


def check(args: argparse.Namespace) -> None:
    """Refuse what needs no file to be opened."""
    if not args.files and args.microphone is None:
        raise UserError("nothing to listen to: name audio files or folders, - for a pipe, or give --microphone.")
    if args.microphone is not None and not 0 <= args.microphone < float("inf"):
        raise UserError(f"--microphone: expected a number of seconds, got {args.microphone:g}.")
    if args.threshold is not None and args.threshold != args.threshold:
        raise UserError("--threshold: expected a number, got nan.")
    if args.device is not None and args.microphone is None:
        raise UserError("--device names a microphone: give --microphone too.")
    if args.rate is not None and PIPE not in args.files:
        raise UserError("--rate is of samples from a pipe (-); a file says its own.")
    if args.files.count(PIPE) > 1:
        raise UserError("there is one pipe: name - once.")


def files(given: list[str]) -> list[str]:
    """The files that are named, and those in folders that are; a pipe stays `-`."""
    found: list[str] = []
    for name in given:
        if name != PIPE and Path(name).is_dir():
            from lightsleeper.data.noise import audio_files  # brings torch

            found += map(str, audio_files(Path(name)))
        else:
            found.append(name)
    return found


def listen(detector: "StreamingDetector", sounds: list["Sound"], args: argparse.Namespace) -> int:
    """Every sound in turn; the picture and the sums at the end."""
    import time

    from lightsleeper.deploy.listening import Listening

    say(args, _conditions(detector))
    note_rates(sounds, detector.sample_rate)
    panels, began = [], time.perf_counter()
    seconds, fired, hit = 0.0, 0, 0
    for sound in sounds:
        watchers: list[Any] = []
        if args.plot:
            from lightsleeper.deploy.listen_plot import Picture
            from lightsleeper.deploy.listening import pad_of

            watchers.append(Picture(detector, args.view, -pad_of(sound)))
        if sound.live:
            say(args, welcome(sound))
        listening = Listening(detector, sound, *watchers)
        events = hear(listening, args)
        seconds, fired, hit = seconds + listening.seconds, fired + listening.events, hit + (listening.events > 0)
        if args.plot:
            panels.append((watchers[0], _title(listening), events))
    how_long = share(sounds, seconds, began)
    places = f" in {hit} of {len(sounds)} files" if len(sounds) > 1 else ""
    say(args, f"{_count(fired)}{places}; {length(seconds)} heard{how_long}")
    if args.plot:
        from lightsleeper.deploy.listen_plot import plot

        plot(Path(args.plot), panels)
        say(args, f"drawn: {args.plot}")
    return 0


def hear(listening: "Listening", args: argparse.Namespace) -> list["Found"]:
    """Print the events of one sound as they fire; returns the newest. Ctrl-C is how a live one ends."""
    kept: deque[Found] = deque(maxlen=DRAWN_EVENTS)

    def tell(found: "Found") -> None:
        kept.append(found)
        emit(found, args)

    try:
        for found in listening:
            tell(found)
    except KeyboardInterrupt:
        if not listening.sound.live:
            raise
        for found in listening.finish():
            tell(found)
        say(args, "")  # the terminal has shown ^C
    end_of(listening.sound, listening.seconds, listening.events, "event", args)
    return list(kept)


def emit(found: "Found", args: argparse.Namespace) -> None:
    """One line for one event, at once."""
    from lightsleeper.deploy.listening import to_json

    if args.json:
        return print_json(to_json(found))
    times = f"{found.end_s:.2f} s" if found.start_s is None else f"{found.start_s:.2f}-{found.end_s:.2f} s"
    print(f"{found.file}: {times}, score {found.score:.3f}", flush=True)
    return None


def _detector(path: Path, args: argparse.Namespace) -> "StreamingDetector":
    from lightsleeper.deploy.detector import StreamingDetector

    model = open_detector(path, args.source, args.threads)
    try:
        return StreamingDetector(model, args.threshold, wait_s=args.wait)
    except ValueError as error:
        raise UserError(f"--wait: {error}.") from error
    except UserError as error:
        if "without a threshold" in str(error):
            raise UserError(f"{args.source} has no calibrated threshold: give one with --threshold.") from error
        raise


def _conditions(detector: "StreamingDetector") -> str:
    stored, decoder = detector.model.metadata, detector.decoder
    own = stored.get("threshold") is not None and float(stored["threshold"]) == decoder.threshold
    origin = f" ({stored['target']})" if own and "target" in stored else ""
    return f"threshold {decoder.threshold:.4g}{origin}, at most one event in {decoder.refractory_s:g} s"


def _title(listening: "Listening") -> str:
    name = Path(listening.sound.name).name
    return f"{name}: {_count(listening.events)}, threshold {listening.detector.decoder.threshold:.3f}"


def _count(events: int) -> str:
    return f"{events} event{'' if events == 1 else 's'}"
