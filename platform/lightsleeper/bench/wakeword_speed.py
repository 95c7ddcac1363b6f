"""`lightning bench wakeword --part speed`: wake-word networks in ONNX Runtime side by side, and an engine if asked.

In each round every network, and the engine, listens to the same stretch of audio in turn, so that whatever else the
machine does meets all alike. Timed are the graph alone (a hop a call, and the hops that become whole with every 32 or
320 ms), the whole detector (16-bit samples in, events out) fed 32 ms, the engine's own frame, and 320 ms at a time, and
the network without its front end (features in, as on a device that has its own), as papers compare networks.
Weights are untrained: they do not change the work.
Times are the processor's (one thread), which other processes disturb less than the clock's; the ratio of the two is
printed, and is 1 on a quiet machine.
"""

import gc
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lightsleeper.bench import wakeword_speed_report
from lightsleeper.bench.engine_clock import FORMS, EngineClock
from lightsleeper.bench.timing import spread
from lightsleeper.bench.wakeword_nets import FOLDED, NETWORKS, QUICK, activation_bytes, inputs_of, make, write
from lightsleeper.deploy.benchmark import speech_like_noise
from lightsleeper.deploy.detector import OnnxStream, StreamingDetector
from lightsleeper.deploy.export import write_onnx
from lightsleeper.deploy.runtime import OnnxGraph
from lightsleeper.models.family import ExportGraph

RATE = 16_000
CHUNKS_MS = (32, 320)
STRETCH = RATE * 1600 // 1000  # samples a round: whole frames of 32 ms, buffers of 320 ms, hops of 10 and 20 ms
STRETCHES = 5  # of audio; rounds go through them over and over
ROUNDS, WARM_UP = 100, 2
KEYWORD = "jarvis"  # what the engine listens for

Times = dict[str, list[tuple[float, float]]]
"""Mean seconds a call in each round, of the clock and of the processor; by network and chunk, or of the engine."""
Call = Callable[[np.ndarray], tuple[float, float]]


def run(
    out: Path | None, threads: int = 1, engine: str | None = None, quick: bool = False, repeats: int | None = None
) -> dict[str, Any]:
    """All numbers. ``out``: keeps the exported files; ``engine``: a Python that has pvporcupine; ``repeats``: rounds.

    Raises UserError where the engine does not start.
    """
    rounds = repeats or (5 if quick else ROUNDS)
    audio = (speech_like_noise(STRETCH * STRETCHES) * 32767).astype(np.int16)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        clock = stack.enter_context(EngineClock(engine, audio, folder, KEYWORD)) if engine else None
        networks, calls = {}, dict[str, Call]()
        for name in QUICK if quick else NETWORKS:
            path = folder / f"{name.replace(' ', '-')}.onnx"
            networks[name] = write(make(name), path)
            alone = make(name, frontend="separate").export_spec()[0]
            bare = path.with_name(f"{path.stem}-features.onnx")
            write_onnx(alone, bare)
            networks[name]["network_activation_bytes"] = activation_bytes(alone, bare)
            timed = timed_calls(path, threads) | network_calls(alone, bare, threads)
            calls.update({f"{name}/{chunk}": call for chunk, call in timed.items()})
        times = in_rounds(calls, clock, audio, rounds)
    for name, row in networks.items():
        row["us"] = {key.removeprefix(f"{name}/"): _us(times[key]) for key in calls if key.startswith(f"{name}/")}
        row["rtf"] = {str(ms): row["us"][str(ms)]["median"] / 1000 / ms for ms in CHUNKS_MS}
        row["added_latency_ms"] = {str(ms): added_latency_ms(row["hop_ms"], ms) for ms in CHUNKS_MS}
    every = [value for values in times.values() for value in values]
    result: dict[str, Any] = {
        "rounds": rounds,
        "stretch_ms": 1000 * STRETCH / RATE,
        "clock_over_processor": sum(clock_s for clock_s, _ in every) / sum(processor_s for _, processor_s in every),
        "networks": networks,
    }
    if clock is not None:
        result["engine"] = compared(clock, times)
    return result


def timed_calls(path: Path, threads: int) -> dict[str, Call]:
    """What plays a stretch of int16 audio to the file and takes the time: "32" and "320", to the detector in chunks of
    so many ms; "hop", "graph 32" and "graph 320", to the graph alone."""
    detector = StreamingDetector(OnnxStream(path, threads))
    model = detector.model

    def graph(samples: int, heard: np.ndarray) -> tuple[float, float]:
        audio = heard.astype(np.float32) / np.float32(32768)
        ends = whole_hops(samples, detector.hop, len(audio))
        chunks = [audio[start:end] for start, end in pairwise([0, *ends])]
        state = model.initial()
        started = time.perf_counter(), time.thread_time()
        for chunk in chunks:
            if len(chunk):
                _, _, state = model.step(chunk, state)
        return _since(started, len(chunks))

    def whole(samples: int, heard: np.ndarray) -> tuple[float, float]:
        chunks = heard.reshape(-1, samples)
        started = time.perf_counter(), time.thread_time()
        for chunk in chunks:
            detector.push(chunk)
        return _since(started, len(chunks))

    sizes = {str(ms): RATE * ms // 1000 for ms in CHUNKS_MS}
    return {
        "hop": partial(graph, detector.hop),
        **{ms: partial(whole, size) for ms, size in sizes.items()},
        **{f"graph {ms}": partial(graph, size) for ms, size in sizes.items()},
    }


def network_calls(graph: ExportGraph, path: Path, threads: int) -> dict[str, Call]:
    """What gives the file of a network without front end the features of a stretch, as many a call as become whole
    hops: "network 32" and "network 320"."""
    session, hop = OnnxGraph(path, threads), int(graph.metadata["hop_samples"])
    given = {name: value.numpy() for name, value in inputs_of(graph, 1000 * STRETCH / RATE).items()}
    frames = given["features"].shape[-1]

    def network(chunks: list[np.ndarray], _: np.ndarray) -> tuple[float, float]:
        state = given["state"]
        started = time.perf_counter(), time.thread_time()
        for chunk in chunks:
            if chunk.shape[-1]:
                state = session.run({"features": chunk, "state": state})["next_state"]
        return _since(started, len(chunks))

    calls: dict[str, Call] = {}
    for ms in CHUNKS_MS:
        ends = [end * frames // STRETCH for end in whole_hops(RATE * ms // 1000, hop, STRETCH)]
        parts = [np.ascontiguousarray(given["features"][..., first:last]) for first, last in pairwise([0, *ends])]
        calls[f"network {ms}"] = partial(network, parts)
    return calls


def whole_hops(samples: int, hop: int, total: int) -> list[int]:
    """Where in ``total`` samples the last whole hop ends, after every ``samples`` of them."""
    return [end // hop * hop for end in range(samples, total + 1, samples)]


def _since(started: tuple[float, float], calls: int) -> tuple[float, float]:
    return (time.perf_counter() - started[0]) / calls, (time.thread_time() - started[1]) / calls


def in_rounds(calls: dict[str, Call], engine: EngineClock | None, audio: np.ndarray, rounds: int) -> Times:
    times: Times = {}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(-WARM_UP, rounds):
            first = number % STRETCHES * STRETCH
            found = {name: call(audio[first : first + STRETCH]) for name, call in calls.items()}
            if engine is not None:
                found.update({f"engine/{form}": taken for form, taken in engine.stretch(first, STRETCH).items()})
            for name, taken in found.items() if number >= 0 else ():
                times.setdefault(name, []).append(taken)
    finally:
        if collecting:
            gc.enable()
    return times


def compared(engine: EngineClock, times: Times) -> dict[str, Any]:
    """The engine's times by form and chunk, and how many times as long as ours they are, round by round: as our
    detector's, and as those of our graph alone."""
    frame_ms = 1000 * engine.frame_samples / RATE
    found: dict[str, Any] = {**engine.facts, "frame_ms": frame_ms}
    for form in FORMS:
        found[form] = {}
        for ms in CHUNKS_MS:
            many = ms / frame_ms
            scaled = [(many * clock, many * processor) for clock, processor in times[f"engine/{form}"]]
            found[form][str(ms)] = {"us": _us(scaled)}
            for ours, name in (("detector", f"{ms}"), ("graph", f"graph {ms}")):
                pairs = zip(scaled, times[f"{FOLDED}/{name}"], strict=True)
                found[form][str(ms)][ours] = spread([theirs[1] / mine[1] for theirs, mine in pairs])
    found["added_latency_ms"] = added_latency_ms(frame_ms, frame_ms)
    return found


def _us(times: list[tuple[float, float]]) -> dict[str, float]:
    clock = float(np.median([1e6 * clock_s for clock_s, _ in times]))
    return {**spread([1e6 * processor_s for _, processor_s in times]), "clock_median": clock}


def added_latency_ms(hop_ms: float, chunk_ms: float) -> dict[str, float]:
    """How long a sample waits for the call that scores it: until its hop is full, then for the end of that chunk."""
    hop, chunk = round(hop_ms * RATE / 1000), round(chunk_ms * RATE / 1000)
    at = np.arange(math.lcm(hop, chunk))
    full = at // hop * hop + hop
    waits = -(-full // chunk) * chunk - at
    return {"mean": 1000 * float(waits.mean()) / RATE, "worst": 1000 * float(waits.max()) / RATE}


def report(result: dict[str, Any]) -> Iterator[str]:
    return wakeword_speed_report.lines(result)
