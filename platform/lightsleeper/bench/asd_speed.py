"""`lightning bench asd --part speed`: what a frame costs as the past grows, against the roofline; faces on one core.

Two ceilings of this machine are measured first: multiply-accumulates a second of a large matrix product, and bytes a
second of reading more than the caches hold. The time of a step cannot be less than either of its needs; which of the
two is nearer says what it is bound by. Bytes are those that must move whatever the caches hold: weights, and the state
as far as it is read and written. Times are the fastest of many rounds, in processor time: what else the machine does
only adds to them.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lightsleeper.bench.conditions import torch_threads
from lightsleeper.bench.timing import in_turns, spread
from lightsleeper.deploy.export import write_onnx
from lightsleeper.deploy.onnx_graph import OnnxGraph
from lightsleeper.deploy.onnx_int8 import write_int8
from lightsleeper.models.active_speaker import ActiveSpeaker
from lightsleeper.models.family import ExportGraph
from lightsleeper.nn.face_streams import FaceStreams
from lightsleeper.nn.light_asd import FPS
from lightsleeper.nn.limited_attention import LimitedLayer
from lightsleeper.nn.speaker_net import FusionSpec, SpeakerNet, example

PASTS, QUICK_PASTS = (8, 32, 128, 512, 2048, 8192, 32_768), (8, 512)
WIDTH = 128  # of the published embeddings
BATCHES, QUICK_BATCHES = (1, 4), (1,)
WINDOW = 50  # frames that the bi-directional baseline reads again for a decision: 2 s
ROUNDS, QUICK_ROUNDS = 200, 10
PRECISIONS = ("fp32", "int8")

Row = dict[str, Any]


def run(out: Path | None, threads: int = 1, quick: bool = False, repeats: int | None = None) -> dict[str, Any]:
    """All numbers; ``repeats``: timed rounds. ``out`` is not needed."""
    rounds = repeats or (QUICK_ROUNDS if quick else ROUNDS)
    with torch_threads(threads), torch.inference_mode():
        ceilings = roofline(quick)
        past = fusion_rows(QUICK_PASTS if quick else PASTS, ceilings, rounds)
        encoders = [encoder_row(size, ceilings, max(rounds // 10, 3)) for size in ("small", "light_asd")]
    faces = faces_rows(("small",) if quick else ("small", "light_asd"), quick, threads, max(rounds // 4, 5))
    return {"ceilings": ceilings, "fusion": past, "encoders": encoders, "faces": faces, "rounds": rounds}


# The roofline.


def roofline(quick: bool) -> dict[str, float]:
    """``macs_per_s`` and ``bytes_per_s`` of this machine, the best of a few calls."""
    edge, numbers = (512, 1 << 24) if quick else (1024, 1 << 26)  # 256 MB: more than the caches hold
    first, second, long = torch.randn(edge, edge), torch.randn(edge, edge), torch.randn(numbers)
    calls: dict[str, Callable[[], Any]] = {"product": lambda: first @ second, "read": long.sum}
    times = in_turns(calls, 5, clock=process_time)
    return {
        "macs_per_s": edge**3 / (min(times["product"]) / 1e3),
        "bytes_per_s": 4 * numbers / (min(times["read"]) / 1e3),
    }


def judged(ms: float, macs: int, moved: int, ceilings: dict[str, float]) -> Row:
    """What each ceiling alone would need, and which is higher."""
    compute, memory = 1e3 * macs / ceilings["macs_per_s"], 1e3 * moved / ceilings["bytes_per_s"]
    return {
        "ms": ms,
        "macs": macs,
        "bytes": moved,
        "compute_ms": compute,
        "memory_ms": memory,
        "bound": "memory" if memory > compute else "compute",
    }


def fusion_rows(pasts: Sequence[int], ceilings: dict[str, float], rounds: int) -> list[Row]:
    """A step of one layer for one face, rings in place, by its past; rows take turns."""
    nets = {past: SpeakerNet("light_asd", "framewise", FusionSpec(layers=1, past=past)).eval() for past in pasts}
    calls = {str(past): _fusion_step(net) for past, net in nets.items()}
    times = in_turns(calls, rounds, warm_up=3, clock=process_time)
    rows = []
    for past, net in nets.items():
        layer: Any = next(part for part in net.modules() if isinstance(part, LimitedLayer))
        weights = sum(part.weight.numel() for part in (layer.inward, layer.outward, layer.widen, layer.narrow))
        ring = 2 * (past + 1) * WIDTH
        rows.append({
            "past": past,
            "state_bytes": 4 * net.fusion.state_size,
            **judged(min(times[str(past)]), weights + ring, 4 * (weights + ring), ceilings),
        })  # fmt: skip
    return rows


def _fusion_step(net: SpeakerNet) -> Callable[[], Any]:
    streams, vector = FaceStreams(net), torch.randn(1, WIDTH)
    streams._open("face")
    streams.rings[0].there.fill_(1)  # as after a long time
    present = torch.ones(1)
    return lambda: streams.rings[0].push(vector, present)


def encoder_row(size: str, ceilings: dict[str, float], rounds: int) -> Row:
    """A step of causal encoders for one face; their state is read and written."""
    net = SpeakerNet(size, "causal").eval()
    faces, mfcc = example(1, pixels=net.encoders.size.pixels)
    state = torch.zeros(1, net.encoders.state_size)
    taken = in_turns({"step": lambda: net.encoders.stream(faces, mfcc, state)}, rounds, warm_up=2, clock=process_time)[
        "step"
    ]
    counter = FlopCounterMode(display=False)
    with counter:
        net.encoders.stream(faces, mfcc, state)
    weights = sum(value.numel() for value in net.encoders.parameters())
    found = judged(min(taken), counter.get_total_flops() // 2, 4 * (weights + 2 * net.encoders.state_size), ceilings)
    return {"size": size, "state_bytes": 4 * net.encoders.state_size, **found}


# Faces at real time.


def faces_rows(sizes: Sequence[str], quick: bool, threads: int, rounds: int) -> list[Row]:
    """Exported files of streams and of the bi-directional baseline, float32 and int8; all take turns."""
    with tempfile.TemporaryDirectory() as folder:
        calls, about = {}, {}
        for size in sizes:
            for name, precision, path, graph in _files(size, Path(folder)):
                for batch in (1,) if name == "bigru" else QUICK_BATCHES if quick else BATCHES:
                    key = f"{size} {name} {precision} {batch}"
                    calls[key] = _call(OnnxGraph(path, threads), graph, batch)
                    about[key] = {"size": size, "model": name, "precision": precision, "batch": batch}
        times = in_turns(calls, rounds, warm_up=2, clock=process_time)
    return [_face_row(about[key], spread(times[key])) for key in calls]


def _files(size: str, folder: Path) -> Iterator[tuple[str, str, Path, ExportGraph]]:
    torch.manual_seed(0)
    streaming = ActiveSpeaker(size=size, past_frames=32, future_frames=2, layers=2)  # type: ignore[arg-type]
    framewise = ActiveSpeaker(size=size, time="framewise", past_frames=32, future_frames=2, layers=2)  # type: ignore[arg-type]
    published = ActiveSpeaker(size=size, time="published", fusion="bigru")  # type: ignore[arg-type]
    for name, model in {"causal": streaming, "framewise": framewise, "bigru": published}.items():
        graph = model.eval().export_spec()[0]
        path = folder / f"{size}-{name}.onnx"
        write_onnx(graph, path)
        yield name, "fp32", path, graph
        feeds = [{key: value.numpy() for key, value in graph.sample(seed).items()} for seed in range(4)]
        trained = [key for key, _ in graph.module.named_parameters()]
        write_int8(path, path.with_name(f"{path.stem}-int8.onnx"), trained, feeds)
        yield name, "int8", path.with_name(f"{path.stem}-int8.onnx"), graph


def _call(session: OnnxGraph, graph: ExportGraph, batch: int) -> Callable[[], Any]:
    edge = int(graph.metadata["pixels"])
    faces, mfcc = example(WINDOW if "state" not in session.inputs else 1, batch=batch, pixels=edge)
    feeds = {"faces": faces, "mfcc": mfcc}
    if "state" in session.inputs:
        feeds |= {"present": torch.ones(batch), "state": torch.rand(batch, int(graph.metadata["state_size"]))}
    arrays = {name: value.numpy() for name, value in feeds.items()}
    return lambda: session.run(arrays)


def _face_row(about: Row, taken: dict[str, float]) -> Row:
    """Milliseconds of a call, of a face and frame, and faces that one core follows at 25 frames a second."""
    each = taken["min"] / about["batch"]
    return {**about, "ms": taken, "ms_per_face": each, "faces_per_core": 1000 / FPS / each}


def report(result: dict[str, Any]) -> Iterator[str]:
    """Ceilings, steps of the fusion by past, encoders, and faces a core."""
    top = result["ceilings"]
    yield (
        f"speed: ceilings {top['macs_per_s'] / 1e9:.1f} GMAC/s, {top['bytes_per_s'] / 1e9:.1f} GB/s; fastest of "
        f"{result['rounds']} rounds of the fusion, of fewer of the others, in processor time"
    )
    yield f"  {'one face':24}{'us':>10}{'kMAC':>10}{'kB moved':>10}{'compute us':>12}{'memory us':>12}{'nearer':>9}"
    for row in result["fusion"]:
        yield _line(f"fusion, past {row['past']}", row)
    for row in result["encoders"]:
        yield _line(f"encoders, {row['size']}", row)
    first, last = result["fusion"][0], result["fusion"][-1]
    frames = last["past"] - first["past"]
    slope = {key: 1e6 * (last[key] - first[key]) / frames for key in ("ms", "compute_ms", "memory_ms")}
    yield (
        f"  a frame of past more costs {slope['ms']:.1f} ns; at the ceilings its multiply-accumulates need "
        f"{slope['compute_ms']:.1f} ns, its bytes {slope['memory_ms']:.1f} ns"
    )
    yield f"  {'step of a stream':24}{'precision':>10}{'faces':>7}{'ms a face':>11}{'faces a core at 25 fps':>24}"
    for row in result["faces"]:
        again = f", {WINDOW} frames again" if row["model"] == "bigru" else ""
        yield (
            f"  {row['size'] + ' ' + row['model']:24}{row['precision']:>10}{row['batch']:7}{row['ms_per_face']:11.3f}"
            f"{row['faces_per_core']:24.1f}{again}"
        )
    yield (
        f"  The baseline reads its window of {WINDOW} frames again for each frame; once every n frames costs an nth, "
        "and n frames of delay."
    )


def _line(name: str, row: Row) -> str:
    return (
        f"  {name:24}{1e3 * row['ms']:10.1f}{row['macs'] / 1e3:10.0f}{row['bytes'] / 1e3:10.0f}"
        f"{1e3 * row['compute_ms']:12.1f}{1e3 * row['memory_ms']:12.1f}{row['bound']:>9}"
    )
