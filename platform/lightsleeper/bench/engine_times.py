"""Times pvporcupine, in an environment of its own, on the audio that ours is timed on; answers line by line.

    PYTHON engine_times.py AUDIO.raw KEYWORD

``AUDIO.raw``: int16 samples, 16 kHz. Prints a line of JSON that says what it runs; then, for each line "FIRST COUNT" on
its input, one with the mean seconds a frame, of the clock and of the processor, over frames FIRST .. FIRST + COUNT - 1:
through the package's `process`, and of the C function beneath it. Standard library only: the environment is another.
"""

import array
import ctypes
import json
import sys
import time
from importlib.metadata import version
from typing import Any


def main(path: str, keyword: str) -> None:
    import pvporcupine

    engine: Any = pvporcupine.create(keywords=[keyword])
    size = engine.frame_length
    samples = array.array("h")
    with open(path, "rb") as file:
        samples.frombytes(file.read())
    frames = [list(samples[at : at + size]) for at in range(0, len(samples) - size + 1, size)]
    raw = [(ctypes.c_short * size)(*frame) for frame in frames]
    found = ctypes.c_int()
    say({"engine": f"pvporcupine {version('pvporcupine')}", "keyword": keyword, "frame_samples": size})
    for line in sys.stdin:
        first, count = map(int, line.split())
        chosen = [number % len(frames) for number in range(first, first + count)]
        started = time.perf_counter(), time.process_time()
        for number in chosen:
            engine.process(frames[number])
        package = since(started, count)
        started = time.perf_counter(), time.process_time()
        for number in chosen:
            engine.process_func(engine._handle, raw[number], ctypes.byref(found))
        say({"package": package, "function": since(started, count)})


def since(started: tuple[float, float], count: int) -> list[float]:
    return [(time.perf_counter() - started[0]) / count, (time.process_time() - started[1]) / count]


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
