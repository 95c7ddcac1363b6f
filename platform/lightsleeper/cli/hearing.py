"""What every kind of `lightning listen` shares: sounds in turn, lines as events come, sums at the end."""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from lightsleeper.data.sounds import Sound

PIPE = "-"
Event = TypeVar("Event")
Told = TypeVar("Told", covariant=True)


class Stream(Protocol[Told]):
    """Hears samples and tells events, of which later samples may be needed."""

    @property
    def sample_rate(self) -> int: ...

    def reset(self) -> None: ...

    def push(self, samples: Any, /) -> Iterable[Told]: ...

    def finish(self) -> Iterable[Told]: ...


Tell = Callable[["Sound", Event], bool]
"""Prints one event at once; False where there was nothing to print."""


def hear_all(
    stream: Stream[Event], sounds: list["Sound"], tell: Tell[Event], noun: str, args: argparse.Namespace
) -> int:
    """Every sound in turn, ``noun`` for what is counted. Returns the exit code."""
    note_rates(sounds, stream.sample_rate)
    began, seconds, found = time.perf_counter(), 0.0, 0
    for sound in sounds:
        if sound.live:
            say(args, welcome(sound))
        count, heard = hear(stream, sound, tell, noun, args)
        seconds, found = seconds + heard, found + count
    say(args, f"{found} {noun}{'' if found == 1 else 's'}; {length(seconds)} heard{share(sounds, seconds, began)}")
    return 0


def hear(
    stream: Stream[Event], sound: "Sound", tell: Tell[Event], noun: str, args: argparse.Namespace
) -> tuple[int, float]:
    """The events of one sound, told as they come: how many, in how many seconds. Ctrl-C ends a live one."""
    stream.reset()
    count = samples = 0
    try:
        with closing(sound.blocks(stream.sample_rate)) as blocks:
            for block in blocks:
                samples += len(block)
                for event in stream.push(block):
                    count += tell(sound, event)  # one by one: Ctrl-C may come between two
    except KeyboardInterrupt:
        if not sound.live:
            raise
        say(args, "")  # the terminal has shown ^C
    count += sum(tell(sound, event) for event in stream.finish())
    seconds = samples / stream.sample_rate
    end_of(sound, seconds, count, noun, args)
    return count, seconds


def end_of(sound: "Sound", seconds: float, count: int, noun: str, args: argparse.Namespace) -> None:
    """What is said of a sound when it is over."""
    if args.json:
        print_json({"file": sound.name, "seconds": round(seconds, 4), "events": count})
    elif not count:
        print(f"{sound.name}: no {noun}", flush=True)
    if lost := getattr(sound, "lost", 0):
        print(f"note: {lost} times this machine was late, and the microphone's audio was lost.", file=sys.stderr)


def share(sounds: list["Sound"], seconds: float, began: float) -> str:
    """How much of the sounds' time it took since ``began``; of a live one it says nothing."""
    if not seconds or any(sound.live for sound in sounds):
        return ""
    return f", {(time.perf_counter() - began) / seconds:.4f} of real time"


def open_sounds(names: list[str], args: argparse.Namespace) -> list[Callable[[int], "Sound"]]:
    """Each sound as a function of the model's rate. What is damaged or missing shows here, before the model loads."""
    from lightsleeper.data.sounds import Microphone, Pipe, Recording, require_sounddevice

    def fixed(sound: "Sound") -> Callable[[int], "Sound"]:
        return lambda rate: sound

    def pipe(rate: int) -> "Sound":
        return Pipe(sys.stdin.buffer, args.rate or rate)

    def microphone(rate: int) -> "Sound":
        return Microphone(rate, args.microphone or None, args.device)

    sounds = [pipe if name == PIPE else fixed(Recording(name)) for name in names]
    if args.microphone is not None:
        require_sounddevice()
        sounds.append(microphone)
    return sounds


def note_rates(sounds: list["Sound"], wanted: int) -> None:
    """Say which sounds lack what the model was trained to hear; resampling does not bring it back."""
    low = [sound for sound in sounds if sound.rate < wanted]
    if low:
        more = f" and {len(low) - 1} more" if len(low) > 1 else ""
        print(
            f"note: {low[0].name} ({low[0].rate} Hz){more}: the model hears {wanted} Hz, and nothing is there above "
            f"{low[0].rate // 2} Hz.",
            file=sys.stderr,
        )


def welcome(sound: "Sound") -> str:
    if sound.name == PIPE:
        return f"reading 16-bit samples, {sound.rate} a second, from the pipe"
    end = "Ctrl-C ends" if sound.seconds is None else f"{sound.seconds:g} s"
    return f"listening to {getattr(sound, 'device', sound.name)} at {sound.rate} Hz; {end}"


def say(args: argparse.Namespace, text: str) -> None:
    """What is no event, to stderr: stdout may be read by a program."""
    if not args.json:
        print(text, file=sys.stderr, flush=True)


def print_json(content: dict[str, Any]) -> None:
    import json

    print(json.dumps(content), flush=True)


def length(seconds: float) -> str:
    from lightsleeper.tracking.page import duration

    return duration(seconds)
