"""`lightning listen` of a word spotter: the words of its vocabulary, as they become certain."""

import argparse
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.cli.listen import length, note_rates, open_sounds, print_json, say, welcome
from lightsleeper.cli.sources import open_spotter
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from lightsleeper.data.sounds import Sound
    from lightsleeper.deploy.spotting import StreamingSpotter
    from lightsleeper.metrics.word_events import WordEvent


def main(path: Path, names: list[str], args: argparse.Namespace) -> int:
    if args.plot:
        raise UserError(f"--plot: a word spotter's picture is drawn by `lightning detect {args.source} FILE --plot`.")
    if args.keyword:
        raise UserError(
            "--keyword: a word spotter tells its whole vocabulary; `lightning detect` shows only words that are named."
        )
    if args.wait:
        raise UserError("--wait is for wake words; a word spotter tells a word when nothing can outdo it any more.")
    opened = open_sounds(names, args)
    spotter = open_spotter(path, args.source, args.threads, args.threshold)
    sounds = [sound(spotter.sample_rate) for sound in opened]
    say(args, f"threshold {spotter.threshold:.4g}, {len(spotter.words)} words")
    note_rates(sounds, spotter.sample_rate)
    began, seconds, found = time.perf_counter(), 0.0, 0
    for sound in sounds:
        if sound.live:
            say(args, welcome(sound))
        count, heard = hear(spotter, sound, args)
        seconds, found = seconds + heard, found + count
    took = time.perf_counter() - began
    share = "" if any(sound.live for sound in sounds) or not seconds else f", {took / seconds:.4f} of real time"
    say(args, f"{found} word{'' if found == 1 else 's'}; {length(seconds)} heard{share}")
    return 0


def hear(spotter: "StreamingSpotter", sound: "Sound", args: argparse.Namespace) -> tuple[int, float]:
    """Print the words of one sound as they become certain; how many, in how many seconds. Ctrl-C ends a live one."""
    spotter.reset()
    count = samples = 0
    try:
        with closing(sound.blocks(spotter.sample_rate)) as blocks:
            for block in blocks:
                samples += len(block)
                count += sum(emit(spotter, sound, event, args) for event in spotter.push(block))
    except KeyboardInterrupt:
        if not sound.live:
            raise
        say(args, "")  # the terminal has shown ^C
    count += sum(emit(spotter, sound, event, args) for event in spotter.finish())
    seconds = samples / spotter.sample_rate
    if args.json:
        print_json({"file": sound.name, "seconds": round(seconds, 4), "events": count})
    elif not count:
        print(f"{sound.name}: no word", flush=True)
    if lost := getattr(sound, "lost", 0):
        print(f"note: {lost} times this machine was late, and the microphone's audio was lost.", file=sys.stderr)
    return count, seconds


def emit(spotter: "StreamingSpotter", sound: "Sound", event: "WordEvent", args: argparse.Namespace) -> int:
    """One line for one word, at once; 0 where all of it lies beyond the recording."""
    end_s = event.end_s if sound.seconds is None or sound.live else min(event.end_s, sound.seconds)
    begin_s = max(0.0, event.begin_s)
    if end_s <= begin_s:
        return 0
    word = spotter.words[event.word]
    if args.json:
        times = {"start_s": round(begin_s, 4), "end_s": round(end_s, 4), "time_s": round(spotter.seconds, 4)}
        print_json({"file": sound.name, "word": word, **times, "score": event.score})
    else:
        print(f"{sound.name}: {begin_s:.2f}-{end_s:.2f} s, {word}, score {event.score:.3f}", flush=True)
    return 1
