"""Runs under an interpreter that has pvporcupine, and under nothing of ours: what does that engine hear in streams?

Arguments: the phrase, then sensitivities. Standard input: streams, each 8 bytes (little-endian count of samples) and so
many 16-bit samples. Standard output: one JSON line of versions and sizes, then one for each stream, as soon as it has
ended: for each sensitivity the samples after which the engine fired. Every stream meets an engine that has heard
nothing; the last part of a frame is not heard.
"""

import json
import struct
import sys
from importlib.metadata import version
from typing import BinaryIO


def main() -> None:
    import pvporcupine

    phrase, sensitivities = sys.argv[1], [float(text) for text in sys.argv[2:]]
    if phrase not in pvporcupine.KEYWORDS:
        sys.exit(f"pvporcupine has no phrase '{phrase}', only {', '.join(sorted(pvporcupine.KEYWORDS))}")
    first = True
    while head := sys.stdin.buffer.read(8):
        engines = [pvporcupine.create(keywords=[phrase], sensitivities=[value]) for value in sensitivities]
        frame = engines[0].frame_length
        if first:
            known = {"engine": "pvporcupine", "version": version("pvporcupine"), "frame_samples": frame}
            print(json.dumps(known), flush=True)
            first = False
        print(json.dumps(listen(engines, sys.stdin.buffer, struct.unpack("<q", head)[0], frame)), flush=True)
        for engine in engines:
            engine.delete()


def listen(engines: list, audio: BinaryIO, samples: int, frame: int) -> list[list[int]]:
    """Samples after which each engine fired."""
    fired: list[list[int]] = [[] for _ in engines]
    for end in range(frame, samples + 1, frame):
        heard = struct.unpack(f"<{frame}h", audio.read(2 * frame))
        for engine, times in zip(engines, fired, strict=True):
            if engine.process(heard) >= 0:
                times.append(end)
    audio.read(2 * (samples % frame))
    return fired


if __name__ == "__main__":
    main()
