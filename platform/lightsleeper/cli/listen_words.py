"""`lightning listen` of a word spotter: the words of its vocabulary, as they become certain."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.cli.hearing import hear_all, open_sounds, print_json, say
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
    return hear_all(spotter, sounds, lambda sound, event: emit(spotter, sound, event, args), "word", args)


def emit(spotter: "StreamingSpotter", sound: "Sound", event: "WordEvent", args: argparse.Namespace) -> bool:
    """One line for one word, at once; False where all of it lies beyond the recording."""
    end_s = event.end_s if sound.seconds is None or sound.live else min(event.end_s, sound.seconds)
    begin_s = max(0.0, event.begin_s)
    if end_s <= begin_s:
        return False
    word = spotter.words[event.word]
    if args.json:
        times = {"start_s": round(begin_s, 4), "end_s": round(end_s, 4), "time_s": round(spotter.seconds, 4)}
        print_json({"file": sound.name, "word": word, **times, "score": event.score})
    else:
        print(f"{sound.name}: {begin_s:.2f}-{end_s:.2f} s, {word}, score {event.score:.3f}", flush=True)
    return True
