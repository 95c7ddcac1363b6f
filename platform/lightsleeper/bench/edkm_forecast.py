"""`lightning bench edkm --part forecast`: memory of an eDKM fine-tune of a 7 B model by the number of GPUs. A forecast.

It adds up what one training step holds on each GPU under `fsdp2`, unit by unit through the backward pass: shares of
weights, gradients and AdamW's moments; what clustering keeps, from the measured steps of single weights
(`edkm_shapes`); soft weights; activations, measured on one block. The same sum for one process is held against the
measured peak of a whole small model. Allocator, communication buffers and the CUDA context are not in it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightsleeper.bench.edkm_model_step import activations
from lightsleeper.bench.edkm_shapes import Shape

Rows = Sequence[dict[str, Any]]

GPUS = (1, 2, 4, 8, 16, 32)
TOKENS = 2048  # a GPU, as in the paper's recipe
PROBE = 128  # tokens that activations are measured at; they grow in proportion
LLAMA = {"width": 4096, "hidden": 11008, "heads": 32, "groups": 32, "vocabulary": 32000}
BLOCK = (Shape("q k v o", 4096, 4096, 4), Shape("gate up", 11008, 4096, 2), Shape("down", 4096, 11008, 1))
ENDS = (Shape("embedding, head", 32000, 4096, 2, 8),)
LAYERS = 32
SMALL = {"layers": 2, "width": 576, "hidden": 1536, "heads": 9, "groups": 3, "vocabulary": 2048}
SMALL_BLOCK = (
    Shape("q o", 576, 576, 2),
    Shape("k v", 192, 576, 2),
    Shape("gate up", 1536, 576, 2),
    Shape("down", 576, 1536, 1),
)
SMALL_ENDS = (Shape("embedding, head", 2048, 576, 2),)
BACKENDS = {"table": "table", "dense": "dense", "U": "saved"}
MOMENTS, GRADIENT, WEIGHT = 8, 4, 4  # bytes a weight, float32


@dataclass(frozen=True)
class Clustering:
    """Bytes of one clustered weight."""

    kept: float
    """From its forward to its backward pass."""
    working: float
    """Beyond that, at its worst moment; the soft weight and the gradient not counted."""


@dataclass(frozen=True)
class Step:
    """What decides the memory of a training step on one of ``gpus``."""

    layers: int
    block: Sequence[Shape]
    ends: Sequence[Shape]
    """Embedding and head: gathered as long as the step lasts."""
    gpus: int = 1
    number: int = 4
    """Bytes of a gathered weight, a soft weight and an activation: 2 under bf16-mixed."""
    activations: tuple[float, float] = (0.0, 0.0)
    """Of a block and of the ends, in bytes."""
    recomputed: float | None = None
    """Bytes that a block keeps where it computes its activations again; None: it keeps them."""
    ends_clustered: bool = True

    def peak(self, rows: Rows, technique: str) -> float:
        """Bytes at the worst moment of the backward pass, from the last block to the first."""
        one = [(shape, figures(shape, technique, rows, self.gpus)) for shape in self.block]
        ends = [(shape, figures(shape, technique, rows, self.gpus)) for shape in self.ends]
        weights, outer = _weights(self.block), _weights(self.ends)
        kept = sum(shape.count * (found.kept + self.number * shape.weights) for shape, found in one)
        working = max(found.working + GRADIENT * shape.weights for shape, found in one)
        share = (self.layers * weights + outer) / self.gpus
        held = share * (WEIGHT + MOMENTS) + self.activations[1]
        if self.ends_clustered:
            held += sum(shape.count * (found.kept + self.number * shape.weights) for shape, found in ends)
        spread = self.gpus > 1
        gathered = self.number * (2 * weights + outer) if spread else 0  # the block's, the next one's, the ends'
        whole = self.number * (weights + outer) if spread else 0  # gradients before they are added up
        moments = []
        for left in range(self.layers, 0, -1):
            done = (self.layers - left) * weights + outer
            waiting = left * (kept + self.activations[0])
            if self.recomputed is not None:
                waiting = left * self.recomputed + kept + self.activations[0]
            moments.append(held + waiting + working + gathered + whole + GRADIENT * done / self.gpus)
        return max([*moments, share * (WEIGHT + MOMENTS + GRADIENT)])


def figures(shape: Shape, technique: str, rows: Rows, gpus: int) -> Clustering:
    """Of one weight, from its own row, else in proportion from the largest row of that technique.

    All of the paper's techniques on ``gpus``: the table of rows is kept by each, the list of indices in parts.
    """
    if technique == "M+U+S":
        alone, spread = figures(shape, "U", rows, 1), _own(shape, "M+U+S", rows)
        index = 2.0 * shape.weights
        return Clustering(max(alone.kept - index, 0.0) + index / gpus, spread.working)
    return _own(shape, technique, rows)


def _own(shape: Shape, technique: str, rows: Rows) -> Clustering:
    measured = [row for row in rows if row["technique"] == technique and "peak" in row]
    if not measured:
        return Clustering(0.0, 0.0)
    size = (shape.rows, shape.columns, shape.bits)
    exact = [row for row in measured if (row["rows"], row["columns"], row["bits"]) == size]
    same = [row for row in measured if row["bits"] == shape.bits]
    row = max(exact or same or measured, key=lambda row: row["rows"] * row["columns"])
    weights = row["rows"] * row["columns"]
    scale = shape.weights / weights * (1 if technique == "table" else 2.0 ** (shape.bits - row["bits"]))
    working = max(0, row["peak"] - row["kept"] - (WEIGHT + GRADIENT) * weights)
    return Clustering(scale * row["kept"], scale * working)


def run(shapes: dict[str, Any], threads: int) -> dict[str, Any]:
    """The forecast, and the same sum against a measured whole model, from the rows of `edkm_shapes`."""
    rows = shapes["rows"]
    block, ends = activations(LLAMA | {"layers": 1}, PROBE) if _has(rows, BLOCK) else (0, 0)
    scale = TOKENS / PROBE / 2  # in bfloat16
    step = Step(LAYERS, BLOCK, ENDS, number=2, activations=(block * scale, ends * scale))
    inputs = 2.0 * TOKENS * LLAMA["width"]
    forecast = []
    for technique, recomputed in (("dense", None), ("M+U+S", None), ("table", None), ("table", inputs)):
        peaks = {gpus: replace(step, gpus=gpus, recomputed=recomputed).peak(rows, technique) for gpus in GPUS}
        forecast.append({"technique": technique, "recomputed": recomputed is not None, "peaks": peaks})
    checks = [check(rows, technique, shapes["limit"], threads) for technique in BACKENDS]
    return {"tokens": TOKENS, "forecast": forecast if _has(rows, BLOCK) else [], "checks": checks}


def check(rows: Rows, technique: str, limit: int, threads: int) -> dict[str, Any]:
    """The sum for a small model in one float32 process, and its measured peak."""
    block, ends = activations(SMALL, PROBE)
    step = Step(SMALL["layers"], SMALL_BLOCK, SMALL_ENDS, activations=(block, ends), ends_clustered=False)
    need = step.peak(rows, technique)
    found = {"technique": technique, "forecast": need}
    if need > limit:
        return {**found, "refused": f"not tried: {limit / 1e9:.1f} GB may be used"}
    asked = {"sizes": SMALL, "tokens": PROBE, "backend": BACKENDS[technique], "device": "cpu", "threads": threads}
    program = [sys.executable, "-m", "lightsleeper.bench.edkm_model_step", json.dumps(asked)]
    return {**found, "measured": int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)}


def _weights(shapes: Sequence[Shape]) -> int:
    return sum(shape.count * shape.weights for shape in shapes)


def _has(rows: Rows, block: Sequence[Shape]) -> bool:
    sizes = {(row["rows"], row["columns"]) for row in rows if "peak" in row}
    return all((shape.rows, shape.columns) in sizes for shape in block)


def render(found: dict[str, Any]) -> Iterator[str]:
    """The check first, then the forecast."""
    for row in found["checks"]:
        measured = row.get("measured")
        verdict = row.get("refused") if measured is None else (
            f"measured {measured / 1e6:.0f} MB: the sum is {row['forecast'] / measured:.2f} of it"
        )  # fmt: skip
        yield f"a whole small LLaMA, {row['technique']}: sum of the parts {row['forecast'] / 1e6:.0f} MB, {verdict}"
    if not found["forecast"]:
        yield "no forecast for 7 B: its shapes were not measured"
        return
    yield (
        "FORECAST, not measured: GB a GPU of an eDKM fine-tune of LLaMA-7B under fsdp2 in bf16-mixed, "
        f"{found['tokens']} tokens a GPU, 3 bits, embedding and head 8; AdamW in float32"
    )
    yield f"{'':31}" + "".join(f"{gpus:>9}" for gpus in GPUS)
    for row in found["forecast"]:
        name = row["technique"] + (", activations recomputed" if row["recomputed"] else "")
        yield f"{name:31}" + "".join(f"{row['peaks'][gpus] / 1e9:>9.1f}" for gpus in GPUS)
