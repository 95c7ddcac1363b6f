"""Forecast of KV-Runahead on several devices, from times of one block on one: shapes of 7 B models, ideal links.

The times are measured here or elsewhere (``--times``), or follow from an assumed rate (``--tflops``): counted
operations over it, which no kernel reaches at every shape. What a forecast leaves out: kernels that slow each other
down while data moves, and whatever a real network does. It shows where the method can gain, not that it does.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lightsleeper.errors import UserError
from lightsleeper.generation import shapes
from lightsleeper.generation.layout import LayerShape, Layout
from lightsleeper.generation.shapes import FittedTimes
from lightsleeper.generation.simulate import Link, best_split, layer_bytes, simulate, simulate_gather
from lightsleeper.generation.split import even
from lightsleeper.models import hub

LLAMA_7B: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 32, "intermediate_size": 11008, "max_position_embeddings": 16384,
}  # fmt: skip
FALCON_7B: dict[str, Any] = {  # in LLaMA's block: one key head; a gated MLP of the same number of weights
    "model_type": "llama", "vocab_size": 65024, "hidden_size": 4544, "num_attention_heads": 71,
    "num_key_value_heads": 1, "intermediate_size": 12160, "max_position_embeddings": 16384,
}  # fmt: skip
MODELS = {"llama-7b": LLAMA_7B, "falcon-7b": FALCON_7B}
LAYERS = 32
RANKS = (2, 4, 8)
TOKENS = (2048, 4096, 8192, 16384)
GIGABYTES_PER_S = (10, 300)


@dataclass(frozen=True)
class Source:
    """Times of one block, and where they come from."""

    model: str
    dtype: str
    origin: str
    times: FittedTimes
    layout: Layout


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the blocks, or read ``--times``; print the forecast; returns its rows."""
    if args.times:
        sources = read(Path(args.times))
    elif args.tflops:
        sources = [assumed(name, args.tflops) for name in MODELS]
    else:
        sources = [measure(name, args.device, args.quick) for name in MODELS]
    if args.save_times:
        save(Path(args.save_times), sources)
    rows = []
    for source in sources:
        print(
            f"FORECAST, not a measurement: {source.model}, {LAYERS} blocks, {source.dtype}; one block's times from "
            f"{source.origin}"
        )
        columns = (
            ("ranks", 6),
            ("GB/s", 6),
            ("one, s", 9),
            ("chain, s", 10),
            ("even", 8),
            ("gather", 8),
            ("causal", 8),
        )
        print(f"{'tokens':>7}" + "".join(f"{name:>{width}}" for name, width in columns) + "  split")
        longest = max(shape["own"] + shape["before"] for shape in source.times.measured)
        for tokens in (tokens for tokens in args.tokens or TOKENS if tokens <= longest):
            rows += [forecast(source, tokens, ranks, speed) for ranks in RANKS for speed in GIGABYTES_PER_S]
    return rows


def forecast(source: Source, tokens: int, ranks: int, gigabytes_per_s: float) -> dict[str, Any]:
    """One line: seconds to the first token, and how many times the chain's the others take."""
    times, size = source.times, layer_bytes(source.layout)
    link = Link(1e-5, 1e9 * gigabytes_per_s)  # 10 us a message: ours
    one = simulate(times, (tokens,), link, size).ttft
    split, chain = best_split(times, tokens, ranks, link, size)
    others = {
        "even": simulate(times, even(tokens, ranks), link, size).ttft,
        "gather": simulate_gather(times, tokens, ranks, link, size, dense=True),
        "gather-skip": simulate_gather(times, tokens, ranks, link, size, dense=False),
    }
    print(
        f"{tokens:>7}{ranks:>6}{gigabytes_per_s:>6.0f}{one:>9.3f}{chain:>10.3f}"
        + "".join(f"{seconds / chain:>7.2f}x" for seconds in others.values())
        + f"  {'+'.join(map(str, split))}"
    )
    return {
        "model": source.model, "origin": source.origin, "tokens": tokens, "ranks": ranks, "gb_per_s": gigabytes_per_s,
        "one_s": one, "chain_s": chain, "split": split, **{f"{name}_s": value for name, value in others.items()},
    }  # fmt: skip


def measure(name: str, device: str, quick: bool = False) -> Source:
    """Times of a block of ``name``, with random weights: half precision on CUDA, float32 on the CPU."""
    dtype = torch.float16 if device == "cuda" else torch.float32
    config = {**MODELS[name], "num_hidden_layers": shapes.BLOCKS + 1 if device == "cuda" else 2}
    model = hub.created(AutoModelForCausalLM, config).to(dtype).to(device).eval()  # type: ignore[arg-type]
    grid = _grid(256 if quick else max(TOKENS) if device == "cuda" else 1024)
    measured = shapes.measure(model, _layout(config, dtype, config["num_hidden_layers"]), grid)
    behind = [pair for pair in grid if pair[1]]
    measured += shapes.measure(model, _layout(config, dtype, config["num_hidden_layers"]), behind, dense=True)
    layout = _layout(config, dtype)
    times = shapes.fit(model, layout, measured, shapes.head_seconds(model))
    what = torch.cuda.get_device_name() if device == "cuda" else "the CPU, one thread"
    origin = f"{what}, torch {torch.__version__}, fit {100 * times.worst:.1f} % off at most"
    return Source(name, _text(dtype), origin, times, layout)


def assumed(name: str, tflops: float) -> Source:
    """Times of a block from counted operations at ``tflops`` 10^12 a second, in half precision."""
    config, rate = MODELS[name], 1e12 * tflops
    width, heads = config["hidden_size"], config["num_attention_heads"]
    shared = config["num_key_value_heads"] / heads
    keys = 2 * width * width * (1 + 2 * shared) / rate
    rest = 2 * width * (width + 3 * config["intermediate_size"]) / rate
    pair = 4 * width / rate
    times = FittedTimes(
        layers=LAYERS,
        head_s=2 * width * config["vocab_size"] / rate,
        embedding_fit=[0.0],
        keys_fit=[0.0, keys],
        rest_fit=[0.0, rest, pair, pair],
        dense_fit=[0.0, rest, pair, 2 * pair],
        measured=[{"own": max(TOKENS), "before": 0}],
    )
    origin = f"an assumed {tflops:g} TFLOP/s, nothing measured"
    return Source(name, "float16", origin, times, _layout(config, torch.float16))


def _layout(config: dict[str, Any], dtype: torch.dtype, layers: int = LAYERS) -> Layout:
    width, heads = config["hidden_size"] // config["num_attention_heads"], config["num_key_value_heads"]
    return (LayerShape(heads, width, heads, width, dtype, None),) * layers


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _grid(longest: int) -> list[tuple[int, int]]:
    """Pieces from a 32nd of the longest prompt to all of it, behind nothing, a half and the rest."""
    owns = [longest // part for part in (32, 16, 8, 4, 2)]
    pairs = {(own, before) for own in owns for before in (0, own, longest // 2, longest - own)}
    return sorted(pair for pair in {*pairs, (longest, 0)} if sum(pair) <= longest)


def save(path: Path, sources: Sequence[Source]) -> None:
    """Write what `read` reads. Raises UserError."""
    from lightsleeper.files import write_json

    rows = [
        {"model": source.model, "dtype": source.dtype, "origin": source.origin, "times": vars(source.times)}
        for source in sources
    ]
    write_json(path, rows, indent=1)


def read(path: Path) -> list[Source]:
    """Times that were measured elsewhere. Raises UserError for a file that holds none."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [_source(row) for row in rows]
    except OSError as error:
        raise UserError(f"--times: cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--times: {path} holds no times of blocks: {error}.") from error


def _source(row: dict[str, Any]) -> Source:
    layout = _layout(MODELS[row["model"]], getattr(torch, row["dtype"]))
    return Source(row["model"], row["dtype"], row["origin"], FittedTimes(**row["times"]), layout)
