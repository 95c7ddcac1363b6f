"""`lightning detect` of a word spotter: which words of its vocabulary a recording holds, and where."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lightsleeper.cli.detect import record
from lightsleeper.cli.sources import open_spotter
from lightsleeper.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

    from lightsleeper.deploy.spotting import Spotting, StreamingSpotter

SHOWN_WORDS = 8  # of a vocabulary


def main(path: Path, args: argparse.Namespace) -> int:
    check(args)
    spotter = open_spotter(path, args.source, args.threads, args.threshold)
    wanted = chosen(args.keyword, spotter.words)
    from lightsleeper.data.audio import read_audio
    from lightsleeper.deploy.spotting import spot

    clips: dict[str, np.ndarray] = {name: read_audio(name, spotter.sample_rate) for name in args.files}
    if args.microphone is not None:
        clips["microphone"] = record(args.microphone, spotter.sample_rate)
    found = [only(spot(spotter, clip, name), wanted) for name, clip in clips.items()]
    report(found, spotter, args.json)
    if args.plot:
        from lightsleeper.deploy.spotting_plot import plot

        plot(Path(args.plot), spotter, list(zip(found, clips.values(), strict=True)))
        if not args.json:
            print(f"drawn: {args.plot}")
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse what a spotter has no use for, before it is opened."""
    if args.pronounce:
        raise UserError("--pronounce is for typed phrases; a word spotter knows the words it was trained on.")
    if args.no_trim:
        raise UserError("--no-trim is for typed phrases; a word spotter always hears the whole file.")
    if args.plot:
        from lightsleeper.deploy.spotting_plot import check_path

        check_path(Path(args.plot), len(args.files) + (args.microphone is not None))


def chosen(keywords: list[str], words: list[str]) -> set[str]:
    """The words that are asked for; none: all. Raises UserError for one that the model does not know."""
    for keyword in keywords:
        if keyword not in words:
            listed = ", ".join(words[:SHOWN_WORDS]) + (" ..." if len(words) > SHOWN_WORDS else "")
            raise UserError(
                f"--keyword {keyword}: not one of the model's {len(words)} words ({listed})."
                f"{did_you_mean(keyword, words)}"
            )
    return set(keywords) or set(words)


def only(found: "Spotting", wanted: set[str]) -> "Spotting":
    from dataclasses import replace

    return replace(found, words=[(name, event) for name, event in found.words if name in wanted])


def report(found: list["Spotting"], spotter: "StreamingSpotter", as_json: bool) -> None:
    """One line per word."""
    if as_json:
        import json

        print(json.dumps([spotting.to_dict() for spotting in found], indent=1))
        return
    for spotting in found:
        ran = "" if spotting.skipped is None else f", {100 * spotting.skipped:.0f} % of the encoder's MACs skipped"
        many = f"{len(spotting.words)} word{'' if len(spotting.words) == 1 else 's'}"
        print(f"{spotting.file}: {many} in {spotting.seconds:.1f} s (threshold {spotting.threshold:.3f}){ran}")
        for name, event in spotting.words:
            print(f"  {event.begin_s:.2f}-{event.end_s:.2f}  {name}  {event.score:.3f}")
