"""Latency and multiply-accumulates of a streaming graph whose cost depends on what it hears: a row for each content.

The graph hears recordings hop by hop, with its state; each hop is timed once, so that percentiles are those of hops,
not of repetitions of one. What it skipped is read off its ``gates`` output.
"""

import gc
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightsleeper.deploy.onnx_graph import Graph

RECORDING_S = 48.0  # of each content: 200 hops of 240 ms
WARM_UP = 20  # hops, not counted; the state knows nothing but zeros before the fifth


def measure(graph: Graph, audio: NDArray[np.float32]) -> dict[str, Any]:
    """Times of the hops of ``audio`` (samples,), by percentile, and with gates their multiply-accumulates.

    ``macs`` are those of the encoder. Raises ValueError for audio that is shorter than the warm-up.
    """
    hop = int(graph.metadata["hop_samples"])
    hops = [np.ascontiguousarray(part[None]) for part in np.split(audio[: len(audio) // hop * hop], len(audio) // hop)]
    if len(hops) <= WARM_UP:
        raise ValueError(f"{len(hops)} hops of {hop} samples are no more than the warm-up of {WARM_UP}")
    state = np.zeros((1, int(graph.metadata["state_size"])), np.float32)
    times_ms: list[float] = []
    gates: list[NDArray] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number, chunk in enumerate(hops):
            before = time.perf_counter_ns()
            found = graph.run({"audio": chunk, "state": state})
            after = time.perf_counter_ns()
            state = found["next_state"]
            if number >= WARM_UP:
                times_ms.append((after - before) / 1e6)
                gates += [found["gates"][0]] if "gates" in found else []
    finally:
        if collecting:
            gc.enable()
    row: dict[str, Any] = {"times_ms": times_ms, "mean_ms": float(np.mean(times_ms))}
    if gates:
        modules = np.array(json.loads(graph.metadata["module_macs"]), np.float64)
        fixed = float(graph.metadata["encoder_macs"]) - modules.sum()
        row["macs"] = distribution(np.stack(gates) @ modules + fixed)
    return row


def distribution(values: NDArray) -> dict[str, float]:
    """Mean and percentiles."""
    p10, p50, p90, p99 = np.percentile(values, [10, 50, 90, 99]).tolist()
    return {"mean": float(np.mean(values)), "p10": p10, "p50": p50, "p90": p90, "p99": p99}


def recordings(streams: Mapping[int, Any], seconds: float = RECORDING_S, rate: int = 16_000) -> dict[str, NDArray]:
    """Audio of each content among ``streams`` (`data.streams.Stream`), from their beginnings, one after the other."""
    found: dict[str, list[NDArray]] = {}
    for stream in streams.values():
        parts = found.setdefault(stream.content, [])
        missing = round(seconds * rate) - sum(map(len, parts))
        if missing > 0:
            parts.append(stream.read(0, min(missing, stream.samples)))
    return {content: np.concatenate(parts) for content, parts in found.items()}
