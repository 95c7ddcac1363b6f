"""Latency, memory and size of exported files, with the conditions under which they were measured.

Conventions: one call at a time on the CPU, ONNX Runtime, WARM_UP calls thrown away; then REPEATS calls, or as many as
fit into BUDGET_S. MACs are multiply-accumulates of matrix products and convolutions in one call of the headline graph
(1 s of audio where it takes audio); FFTs and element-wise work are not counted. Peak memory is what loading and
running the headline file adds to a process of its own. Benchmarks wait for each other: one at a time on a machine.
"""

import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lightsleeper.deploy import content_latency
from lightsleeper.deploy.fingerprint import fingerprint
from lightsleeper.deploy.runtime import OnnxGraph
from lightsleeper.errors import UserError
from lightsleeper.models.family import ExportGraph, Family

CLIP_MS = (1000.0, 500.0, 2000.0)  # the headline latency is that of one second
THREADS = (1, 2)
WARM_UP = 20
REPEATS = 200
BUDGET_S = 2.0
CONTENT = "speech-like noise"
LOCK_WAIT_S = 1800.0

Row = dict[str, Any]


def benchmark(
    model: Family,
    folder: Path,
    artifacts: Sequence[Mapping[str, Any]],
    threads: int | Sequence[int] | None = None,
    repeats: int = REPEATS,
    tell: Callable[[str], None] = lambda line: None,
    recordings: Callable[[], Mapping[str, np.ndarray]] = dict,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Time every ONNX file in ``folder``; returns the artifacts, those with ``latency`` rows, and the size entry.

    ``threads``: counts to time with, the first one is the headline; None is 1 and 2. ``tell`` gets a line when another
    benchmark holds the machine. ``recordings`` gives audio by content, for graphs whose cost depends on it. Raises
    UserError when a file is missing or that lasts longer than LOCK_WAIT_S.
    """
    counts = THREADS if threads is None else (threads,) if isinstance(threads, int) else tuple(threads)
    graphs = {graph.name: graph for graph in model.export_spec()}
    timed: list[dict[str, Any]] = []
    with machine_lock(tell=tell):
        for artifact in artifacts:
            path = Path(folder) / Path(artifact["path"]).name
            graph = graphs.get(path.stem.removesuffix("_int8"))
            if artifact["format"] in ("onnx", "onnx_int8") and graph is not None:
                heard = recordings() if graph.macs is not None else {}
                timed.append({**artifact, "latency": latencies(graph, path, counts, repeats, heard)})
            elif artifact["format"] == "litert_int8":
                outputs = artifact["device"]["outputs"]
                timed.append({**artifact, "latency": _litert_latency(path, outputs, graphs, repeats)})
            else:
                timed.append(dict(artifact))
        headline = next(iter(graphs.values()))
        size = size_of(model)
        if any(artifact["format"] == "onnx" for artifact in artifacts):
            size["peak_memory_bytes"] = peak_memory(Path(folder) / f"{headline.name}.onnx", headline)
    return timed, size


def _litert_latency(path: Path, outputs: int, graphs: Mapping[str, ExportGraph], repeats: int) -> list[Row]:
    """One hop a call, one thread, without the front end, which is not in the file."""
    from lightsleeper.deploy.litert import LiteRTNetwork

    facts = graphs[path.stem.removesuffix("_int8")].metadata
    hop_ms = 1000 * int(facts["hop_samples"]) / int(facts["sample_rate"])
    times_ms = LiteRTNetwork(path, outputs).times_ms(repeats)
    return [_row("hop without front end", hop_ms, "zeros", 1, times_ms)]


def latencies(
    graph: ExportGraph,
    path: Path,
    threads: Sequence[int],
    repeats: int = REPEATS,
    recordings: Mapping[str, np.ndarray] | None = None,
) -> list[Row]:
    """One row per thread count and clip length, or content; the first row is the headline.

    With ``recordings``, audio (S,) by content, the graph hears them hop by hop.
    """
    rows: list[Row] = []
    for count in threads:
        session = OnnxGraph(path, count)
        for content, audio in (recordings or {}).items():
            found = content_latency.measure(session, audio)
            rows.append({**_row(graph.per, graph.chunks_ms[0], content, count, found.pop("times_ms")), **found})
        for chunk_ms in () if recordings else _chunks_ms(graph):
            inputs, content = bench_inputs(graph, chunk_ms)
            feeds = {name: value.numpy() for name, value in inputs.items()}
            times_ms = time_calls(lambda: session.run(feeds), repeats)  # noqa: B023 - called before the next round
            rows.append(_row(graph.per, chunk_ms, content, count, times_ms))
    return rows


def _row(per: str, chunk_ms: float | None, content: str, threads: int, times_ms: Sequence[float]) -> Row:
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99]).tolist()
    return {
        "per": per,
        "chunk_ms": chunk_ms,
        "content": content,
        "threads": threads,
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "rtf": p50 / chunk_ms if chunk_ms else None,
        "repeats": len(times_ms),
        "fingerprint": str(fingerprint()["id"]),
    }


def _chunks_ms(graph: ExportGraph) -> tuple[float | None, ...]:
    return graph.chunks_ms or (CLIP_MS if graph.bench is not None and graph.per == "clip" else (None,))


def time_calls(call: Any, repeats: int = REPEATS, budget_s: float = BUDGET_S) -> list[float]:
    """Milliseconds of each of ``repeats`` calls after a warm-up, fewer when the budget is spent (never below 5)."""
    started = time.perf_counter()
    for done in range(WARM_UP):
        if done >= 2 and time.perf_counter() - started > budget_s / 4:
            break
        call()
    times: list[float] = []
    collecting = gc.isenabled()
    gc.disable()  # a collection of the training process's objects is not the model's latency
    try:
        started = time.perf_counter()
        while len(times) < repeats and (len(times) < 5 or time.perf_counter() - started < budget_s):
            before = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - before) / 1e6)
    finally:
        if collecting:
            gc.enable()
    return times


def bench_inputs(graph: ExportGraph, chunk_ms: float | None) -> tuple[dict[str, Tensor], str]:
    """Inputs of one timed call and what they hold. Audio becomes the same noise for every family."""
    if graph.bench is None:
        return graph.sample(0), "model's own sample"
    inputs = dict(graph.bench(chunk_ms or CLIP_MS[0]))
    audio = inputs.get("audio")
    if audio is None:
        return inputs, "model's own sample"
    rate = int(float(graph.metadata.get("sample_rate", 16_000)))
    inputs["audio"] = torch.from_numpy(speech_like_noise(audio.shape[-1], rate)).expand(audio.shape).contiguous()
    return inputs, CONTENT


def speech_like_noise(samples: int, sample_rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Noise (samples,) float32 with speech's slope of about -6 dB an octave above 500 Hz and a 4 Hz syllable rhythm.

    Level -26 dBFS (root mean square 0.05). Denormals, silence and full scale are avoided: they change latencies.
    """
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / sample_rate)
    shaped = np.fft.irfft(spectrum / np.maximum(1.0, frequency / 500.0), samples)
    rhythm = 0.55 + 0.45 * np.sin(2 * np.pi * 4.0 * np.arange(samples) / sample_rate)
    noise = shaped * rhythm
    return (noise * 0.05 / max(float(np.sqrt((noise**2).mean())), 1e-9)).astype(np.float32)


def size_of(model: Family) -> dict[str, Any]:
    """Parameters and non-zeros of what ships (any graph), and MACs of one call of the headline graph, the first."""
    graphs = model.export_spec()
    headline = graphs[0]
    unique = {id(value): value for graph in graphs for value in graph.module.parameters()}
    inputs, _ = bench_inputs(headline, CLIP_MS[0] if headline.per == "clip" else None)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        headline.module.eval()(*inputs.values())
    return {
        "parameters": sum(value.numel() for value in unique.values()),
        "nonzero": sum(int(torch.count_nonzero(value)) for value in unique.values()),
        "macs": counter.get_total_flops() // 2 if headline.macs is None else headline.macs,
        "peak_memory_bytes": None,
    }


def peak_memory(path: Path, graph: ExportGraph) -> int | None:
    """Bytes that loading and running ``path`` adds to a fresh process; None where the child fails."""
    inputs, _ = bench_inputs(graph, _chunks_ms(graph)[0])
    with tempfile.TemporaryDirectory() as folder:
        feeds = Path(folder) / "inputs.npz"
        np.savez(feeds, **{name: value.numpy() for name, value in inputs.items()})  # type: ignore[arg-type]
        command = [sys.executable, "-m", "lightsleeper.deploy.peak_memory", str(path), str(feeds)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(child.stdout) if child.returncode == 0 else None


@contextmanager
def machine_lock(wait_s: float = LOCK_WAIT_S, tell: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Only one benchmark at a time on this machine, whoever runs it. Raises UserError after ``wait_s``.

    ``tell`` gets a line when there is something to wait for.
    """
    lock = FileLock(Path(tempfile.gettempdir()) / "lightsleeper-benchmark.lock", mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("benchmark: waiting for another benchmark on this machine")
        try:
            lock.acquire(timeout=wait_s)
        except Timeout:
            raise UserError(
                f"another benchmark has held this machine for {wait_s:.0f} s ({lock.lock_file}): run this stage again"
                " later."
            ) from None
    try:
        yield
    finally:
        lock.release()
