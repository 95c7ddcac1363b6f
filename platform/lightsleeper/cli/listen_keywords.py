"""`lightning listen` with typed keywords: any number of them in recordings, on a pipe or on the microphone."""

import argparse
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.cli.listen import length, note_rates, open_sounds, print_json, say, welcome
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
    note_rates(sounds, stream.sample_rate)
    began, seconds, found = time.perf_counter(), 0.0, 0
    for sound in sounds:
        if sound.live:
            say(args, welcome(sound))
        count, heard = hear(stream, sound, args)
        seconds, found = seconds + heard, found + count
    took = time.perf_counter() - began
    share = "" if any(sound.live for sound in sounds) or not seconds else f", {took / seconds:.4f} of real time"
    say(args, f"{found} keyword{'' if found == 1 else 's'}; {length(seconds)} heard{share}")
    return 0


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


def hear(stream: "KeywordStream", sound: "Sound", args: argparse.Namespace) -> tuple[int, float]:
    """Print the keywords of one sound as they are found; how many, in how many seconds. Ctrl-C ends a live one."""
    stream.reset()
    count = samples = 0
    try:
        with closing(sound.blocks(stream.sample_rate)) as blocks:
            for block in blocks:
                samples += len(block)
                for event in stream.push(block):
                    count += 1
                    emit(stream, sound, event, args)
    except KeyboardInterrupt:
        if not sound.live:
            raise
        say(args, "")  # the terminal has shown ^C
    for event in stream.finish():
        count += 1
        emit(stream, sound, event, args)
    seconds = samples / stream.sample_rate
    if args.json:
        print_json({"file": sound.name, "seconds": round(seconds, 4), "events": count})
    elif not count:
        print(f"{sound.name}: no keyword", flush=True)
    if lost := getattr(sound, "lost", 0):
        print(f"note: {lost} times this machine was late, and the microphone's audio was lost.", file=sys.stderr)
    return count, seconds


def emit(stream: "KeywordStream", sound: "Sound", event: "KeywordEvent", args: argparse.Namespace) -> None:
    """One line for one keyword, at once."""
    length_s = sound.seconds if sound.seconds is not None and not sound.live else float("inf")
    start_s, end_s = max(0.0, event.start_s), min(event.end_s, length_s)
    if not args.json:
        print(f'{sound.name}: {start_s:.2f}-{end_s:.2f} s, "{event.keyword}", score {event.score:.3f}', flush=True)
        return
    said = stream.enrolled.keywords[event.row]
    times = {"start_s": start_s, "end_s": end_s, "time_s": min(event.time_s, length_s)}
    rounded = {name: round(value, 4) for name, value in times.items()}
    spoken = {"pronunciation": said.said, "engines": list(said.engines)}
    print_json({"file": sound.name, "keyword": event.keyword, **rounded, "score": event.score, **spoken})
