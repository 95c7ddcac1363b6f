"""`lightning bench edkm --part shapes`: peak memory and time of a clustering step on every weight shape of SmolLM2-135M
and LLaMA-7B, for autograd as it is, each technique of the paper, all of them, and the default.

Each row is a process of its own (`edkm_step`). What would not fit is said before it is tried.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lightsleeper.bench.edkm import ITERATIONS, PAPER_SHARDS
from lightsleeper.bench.edkm_step import TECHNIQUES
from lightsleeper.files import content_hash, write_json

EMBEDDING_BITS, LAYER_BITS = 8, 3
PROCESS = 5 * 10**8
"""Bytes of Python and torch themselves."""


@dataclass(frozen=True)
class Shape:
    """A weight (rows, columns) that a model has ``count`` of."""

    name: str
    rows: int
    columns: int
    count: int
    bits: int = LAYER_BITS

    @property
    def weights(self) -> int:
        return self.rows * self.columns


MODELS: dict[str, tuple[Shape, ...]] = {
    "SmolLM2-135M": (
        Shape("k v", 192, 576, 60),
        Shape("q o", 576, 576, 60),
        Shape("gate up", 1536, 576, 60),
        Shape("down", 576, 1536, 30),
        Shape("embedding", 49152, 576, 1, EMBEDDING_BITS),
    ),
    "LLaMA-7B": (
        Shape("q k v o", 4096, 4096, 128),
        Shape("gate up", 11008, 4096, 64),
        Shape("down", 4096, 11008, 32),
        Shape("embedding, head", 32000, 4096, 2, EMBEDDING_BITS),
    ),
}
QUICK = {"tiny": (Shape("layer", 96, 64, 2), Shape("embedding", 300, 64, 1, EMBEDDING_BITS))}


def run(quick: bool, threads: int, limit: int | None = None, out: Path | None = None) -> dict[str, Any]:
    """All rows, in the order of MODELS; ``limit``: bytes that a step may need, None half of what is free.

    ``out``: a folder that keeps finished rows.
    """
    device = "cuda" if torch.cuda.is_available() and not quick else "cpu"
    limit = limit or free_bytes(device) // 2
    rows: list[dict[str, Any]] = []
    for model, shapes in (QUICK if quick else MODELS).items():
        for shape in shapes:
            for technique in TECHNIQUES:
                row = {"model": model, **asdict(shape), "technique": technique}
                need = estimate(shape, technique, rows, device)
                if need > limit:
                    row["refused"] = f"needs about {need / 1e9:.0f} GB, {limit / 1e9:.1f} may be used"
                else:
                    row |= _measured(shape, technique, device, threads, out)
                rows.append(row)
                print(_line(row), flush=True)
    return {"device": device, "limit": limit, "shards": PAPER_SHARDS, "iterations": ITERATIONS, "rows": rows}


def free_bytes(device: str) -> int:
    """Memory that is free: of the GPU, or what Linux calls available; 8 GB where neither says."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 8 * 10**9
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 8 * 10**9)


def estimate(shape: Shape, technique: str, rows: Sequence[dict[str, Any]], device: str) -> int:
    """Bytes of a process that takes this step: by the weight, as the largest of ``rows`` like it, else by counting
    maps of float32: dense keeps about four a round, and works on four."""
    like = [row for row in rows if (row["technique"], row["bits"]) == (technique, shape.bits) and "peak" in row]
    known = max(like, key=lambda row: row["rows"] * row["columns"], default=None)
    here = 8 * shape.weights + (PROCESS if device == "cpu" else 0)
    if known is not None and known["rows"] * known["columns"] >= 1 << 18:  # below, constants count
        return here + known["peak"] * shape.weights // (known["rows"] * known["columns"])
    if technique == "table":
        return here + 40 * shape.weights
    maps = 4 if "U" in technique else 4 + 4 * ITERATIONS / (PAPER_SHARDS if "S" in technique else 1)
    return here + int(4 * (1 << shape.bits) * maps * shape.weights)


def _measured(shape: Shape, technique: str, device: str, threads: int, out: Path | None) -> dict[str, Any]:
    asked = {"rows": shape.rows, "columns": shape.columns, "bits": shape.bits, "technique": technique,
             "device": device, "threads": threads}  # fmt: skip
    kept = None if out is None else out / "edkm_shapes" / f"{content_hash(asked)}.json"
    if kept is not None and kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    program = [sys.executable, "-m", "lightsleeper.bench.edkm_step", json.dumps(asked)]
    found = subprocess.run(program, capture_output=True, text=True)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or [f"ended with {found.returncode}, out of memory most likely"])[-1]
        return {"refused": last}
    row: dict[str, Any] = json.loads(found.stdout)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, row)
    return row


def _line(row: dict[str, Any]) -> str:
    what = f"{row['model']:14}{row['name']:16}{row['rows']:>6} x {row['columns']:<6}{row['bits']} bits  "
    what += f"{row['technique']:8}"
    if "refused" in row:
        return f"{what} not tried: {row['refused']}"
    return (
        f"{what}{row['peak'] / 1e6:>12.1f} MB peak{row['kept'] / 1e6:>12.3f} MB kept{row['seconds']:>9.3f} s"
        f"{row['peak'] / (4 * row['rows'] * row['columns']):>8.1f} x the weight"
    )


def render(found: dict[str, Any]) -> Iterator[str]:
    """What the rows mean, and the default against dense."""
    yield (
        f"one step of one weight on {found['device']}, a process each; peak: above weight and upstream gradient; kept: "
        f"between forward and backward, without soft weight; S: one of {found['shards']} shards in memory, the others "
        "in files, whose time counts"
    )
    by = {(row["model"], row["name"], row["technique"]): row for row in found["rows"] if "peak" in row}
    for (model, name, technique), row in by.items():
        default = by.get((model, name, "table"))
        if technique == "dense" and default is not None:
            yield (
                f"{model}, {name}: the default peaks {row['peak'] / max(default['peak'], 1):.1f} times lower than "
                f"dense and takes {row['seconds'] / default['seconds']:.1f} times less time"
            )
