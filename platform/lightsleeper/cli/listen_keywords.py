"""`lightning listen` with typed keywords: any number of them in recordings, on a pipe or on the microphone."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.cli.hearing import hear_all, open_sounds, print_json, say
from lightsleeper.cli.sources import open_keywords
from lightsleeper.cli.typed_keywords import read_keywords
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from lightsleeper.data.sounds import Sound
    from lightsleeper.deploy.keyword import Keyword
    from lightsleeper.deploy.keyword_stream import KeywordEvent, KeywordStream


def main(path: Path, names: list[str], args: argparse.Namespace) -> int:
    if not args.keyword:
        raise UserError("nothing to listen for: give --keyword TEXT.")
    if args.plot:
        raise UserError(f"--plot: typed keywords are drawn by `lightning detect {args.source} --keyword ... --plot`.")
    keywords = read_keywords(args)
    opened = open_sounds(names, args)
    stream = _stream(path, keywords, args)
    sounds = [sound(stream.sample_rate) for sound in opened]
    say(args, _conditions(stream))
    return hear_all(stream, sounds, lambda sound, event: emit(stream, sound, event, args), "keyword", args)


def _stream(path: Path, keywords: "list[list[Keyword]]", args: argparse.Namespace) -> "KeywordStream":
    from lightsleeper.deploy.cohort import Cohort
    from lightsleeper.deploy.keyword_stream import KeywordStream
    from lightsleeper.deploy.many_keywords import ManyKeywords

    matcher = open_keywords(path, args.threads, args.source)
    if not isinstance(matcher, ManyKeywords):
        raise UserError(
            f"{args.source} has no graphs to listen with (encoder.onnx and match.onnx): export its run again, or match "
            f"whole recordings: `lightning detect {args.source} --keyword ... FILE`."
        )
    enrolled = matcher.enroll(keywords)
    if args.normalize == "texts" and args.threshold is None:
        raise UserError("--normalize: the model's threshold is of scores as they are: give one with --threshold.")
    cohort = Cohort.confusables(matcher, enrolled) if args.normalize == "texts" else None
    try:
        return KeywordStream(matcher, enrolled, args.threshold, args.window, args.hop, args.wait, cohort)
    except UserError as error:
        if "without a threshold" in str(error):
            raise UserError(f"{args.source} has no calibrated threshold: give one with --threshold.") from error
        raise


def _conditions(stream: "KeywordStream") -> str:
    texts, ways = len(stream.enrolled.texts), len(stream.enrolled.keywords)
    many = f" in {ways} pronunciations" if ways > texts else ""
    return (
        f"threshold {stream.threshold:.4g}, {texts} keyword{'' if texts == 1 else 's'}{many}, windows of "
        f"{stream.window / stream.sample_rate:g} s every {stream.hop / stream.sample_rate:g} s"
    )


def emit(stream: "KeywordStream", sound: "Sound", event: "KeywordEvent", args: argparse.Namespace) -> bool:
    """One line for one keyword, at once; always True."""
    length_s = sound.seconds if sound.seconds is not None and not sound.live else float("inf")
    start_s, end_s = max(0.0, event.start_s), min(event.end_s, length_s)
    if not args.json:
        print(f'{sound.name}: {start_s:.2f}-{end_s:.2f} s, "{event.keyword}", score {event.score:.3f}', flush=True)
        return True
    said = stream.enrolled.keywords[event.row]
    times = {"start_s": start_s, "end_s": end_s, "time_s": min(event.time_s, length_s)}
    rounded = {name: round(value, 4) for name, value in times.items()}
    spoken = {"pronunciation": said.said, "engines": list(said.engines)}
    print_json({"file": sound.name, "keyword": event.keyword, **rounded, "score": event.score, **spoken})
    return True
