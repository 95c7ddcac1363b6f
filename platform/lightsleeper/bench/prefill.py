"""`lightning bench prefill`: KV-Runahead over lengths and against its rivals, the simulator against it, a forecast.

``table``: even, searched and predicted splits, one process, chunks, and both all-gathers, in turns. A predicted split
comes from the searches at all other lengths, so that it predicts. ``simulator``: times of single shapes, taken by all
ranks at once, into the simulator; its times to first token against real ones, also on a link slowed down. ``forecast``:
7 B shapes on more ranks, from times of one block on one device: not a measurement.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lightsleeper.bench.conditions import chosen_parts
from lightsleeper.generation import shapes
from lightsleeper.generation.measure import measure_link
from lightsleeper.generation.ranks import Rank
from lightsleeper.generation.session import Session, Settings, random_prompt
from lightsleeper.generation.shapes import FittedTimes, ShapeTime
from lightsleeper.generation.simulate import Link, best_split, layer_bytes, simulate
from lightsleeper.generation.split import Split, by_ratios, even
from lightsleeper.generation.table import SplitTable
from lightsleeper.generation.transport import SlowLink
from lightsleeper.models import hub

PARTS = ("table", "simulator", "forecast")
SMOLLM2: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "max_position_embeddings": 8192, "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SMALL = {**SMOLLM2, "hidden_size": 144, "num_hidden_layers": 6, "intermediate_size": 384, "vocab_size": 1000}
TOKENS = (512, 1024, 2048, 4096, 8192)
LONG = 4096  # from here on prefills take tens of seconds: fewer of them
METHODS = ("chain", "one", "chunked", "gather", "gather-skip")
SHARES = (0.5, 0.65, 0.8)  # of rank 0, where the simulator is compared on two ranks
SLOW = SlowLink(latency_s=1e-3, bytes_per_s=2e7)
TARGET_REACHED, TARGET_GATHER, TARGET_ERROR = 0.85, 1.3, 0.10


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen parts, print them, return all numbers. Raises UserError for a part that there is not."""
    parts = chosen_parts("prefill", args.part, PARTS)
    found: dict[str, Any] = {}
    lengths = sorted(args.tokens or ((256, 512) if args.quick else TOKENS))
    settings = Settings(
        ranks=args.ranks,
        threads=args.threads or 1,
        methods=METHODS,
        split="searched",
        repeats=args.repeats or (2 if args.quick else 10),
        warm_up=1 if args.quick else 3,
        search_repeats=1 if args.quick else 3,
        table=None if args.out is None else Path(args.out),
    )
    if {"table", "simulator"} & set(parts):
        model = _model(args)
        if "table" in parts:
            found["table"] = table(model, lengths, settings)
        if "simulator" in parts:
            found["simulator"] = simulator(model, lengths[-2:], settings)
    if "forecast" in parts:
        from lightsleeper.bench import prefill_forecast

        found["forecast"] = prefill_forecast.run(args)
    return found


def table(model: PreTrainedModel, lengths: Sequence[int], settings: Settings) -> list[dict[str, Any]]:
    """All methods at every length, the searches first."""
    results = []
    with Session(model, settings) as session:
        searched = SplitTable(session.conditions)
        vocabulary = model.config.vocab_size
        for tokens in lengths:
            session.settings = fewer(settings, tokens)
            searched.add(session.search(random_prompt(vocabulary, tokens)), 0.0)
        for tokens in lengths:
            others = {length: split for length, split in searched.entries.items() if length != tokens}
            more: dict[str, Split] = {"even split": even(tokens, settings.ranks)}
            if others:
                more["predicted split"] = SplitTable(session.conditions, others).predict(tokens)
            best = ",".join(map(str, searched.entries[tokens]))
            session.settings = replace(fewer(settings, tokens), split=best)
            results.append(session.measure(random_prompt(vocabulary, tokens), more=more))
    _verdicts(results)
    return results


def fewer(settings: Settings, tokens: int) -> Settings:
    """The settings for a prompt of ``tokens``: three turns after one where each takes minutes."""
    if tokens < LONG:
        return settings
    return replace(settings, repeats=min(settings.repeats, 3), warm_up=min(settings.warm_up, 1), search_repeats=1)


def _verdicts(results: Sequence[dict[str, Any]]) -> None:
    for result in results:
        if result["tokens"] >= 2048:
            for name in ("one", "gather", "gather-skip"):
                share = result["methods"][name]["reached"]
                print(f"{result['tokens']} tokens, {name}: {100 * share:.0f} % of the smaller of bound and ceiling; "
                      f"target {100 * TARGET_REACHED:.0f} %: {_word(share >= TARGET_REACHED)}")  # fmt: skip
        if result["tokens"] == 8192:
            ratio = result["methods"]["gather"]["over_chain"]
            print(f"8192 tokens, dense all-gather: {ratio:.2f}x; target {TARGET_GATHER}x: "
                  f"{_word(ratio >= TARGET_GATHER)}")  # fmt: skip


def simulator(model: PreTrainedModel, lengths: Sequence[int], settings: Settings) -> dict[str, Any]:
    """Simulated and real times to first token of several splits, on the link as it is and on `SLOW`."""
    rows: list[dict[str, Any]] = []
    fits = {}
    for name, slow in (("as it is", None), ("slowed down", SLOW)):
        with Session(model, replace(settings, split="even", link=slow)) as session:
            link = Link(slow.latency_s, slow.bytes_per_s) if slow else measure_link(session.ranks)
            found, times = _compared(session, link, lengths, name)
        rows += found
        fits[name] = {"fit": vars(times), "link": vars(link)}
        print(f"link {name}: {1e6 * link.latency_s:.0f} us, {link.bytes_per_s / 1e9:.2f} GB/s; fit of "
              f"{len(times.measured)} shapes {100 * times.worst:.1f} % off at most")  # fmt: skip
    errors = [abs(row["error"]) for row in rows]
    worst = max(errors)
    print(
        f"simulator: {100 * statistics.median(errors):.1f} % off, {100 * worst:.1f} % at most; target "
        f"{100 * TARGET_ERROR:.0f} % at most: {_word(worst < TARGET_ERROR)}"
    )
    return {"rows": rows, "worst": worst, "fits": fits}


def _compared(
    session: Session, link: Link, lengths: Sequence[int], name: str
) -> tuple[list[dict[str, Any]], FittedTimes]:
    """Every split against the simulator, and the times that it was fed.

    Splits and single shapes take turns: what else the machine does in these minutes meets both.
    """
    size, ranks = layer_bytes(session.layout), session.settings.ranks
    grid = shapes.grid(lengths[-1], ranks)
    head = max(session.ranks.call(head_on))
    measured = [_slowest(session, grid)]
    first = shapes.fit(session.model, session.layout, measured[0], head)
    prompts = {tokens: random_prompt(session.model.config.vocab_size, tokens) for tokens in lengths}
    real: dict[Split, list[float]] = {}
    for tokens, ids in prompts.items():
        splits = {even(tokens, ranks), best_split(first, tokens, ranks, link, size)[0]}
        if ranks == 2:
            splits |= {by_ratios((share, 1 - share), tokens) for share in SHARES}
        real |= {split: [] for split in sorted(splits)}
        session.time_split(ids, even(tokens, ranks), 1)  # warms up
    for turn in range(session.settings.repeats):
        measured += [_slowest(session, grid)] if turn else []
        for split, seconds in real.items():
            seconds.append(session.time_split(prompts[sum(split)], split, 1))
    times = shapes.fit(
        session.model, session.layout, [shapes.middle(same) for same in zip(*measured, strict=True)], head
    )
    rows = []
    for split, seconds in real.items():
        median, simulated = statistics.median(seconds), simulate(times, split, link, size).ttft
        error = simulated / median - 1
        print(f"{sum(split)} tokens as {'+'.join(map(str, split))}, link {name}: {median:.3f} s ({min(seconds):.3f}-"
              f"{max(seconds):.3f}), simulated {simulated:.3f} s ({100 * error:+.1f} %)")  # fmt: skip
        rows.append({"tokens": sum(split), "split": split, "link": name, "real_s": seconds, "simulated_s": simulated,
                     "error": error})  # fmt: skip
    return rows, times


def _slowest(session: Session, grid: Sequence[tuple[int, int]]) -> list[ShapeTime]:
    """Times of the shapes, measured by every rank at once, as they work at once: of each shape the slowest rank's."""
    by_rank = session.ranks.call(shapes_on, grid)
    return [max(same, key=lambda shape: shape.keys + shape.rest) for same in zip(*by_rank, strict=True)]


def shapes_on(rank: Rank, grid: Sequence[tuple[int, int]]) -> list[ShapeTime]:
    """Runs in each process."""
    torch.distributed.barrier()
    return shapes.measure(rank.model, rank.chain.layout, grid, 1)


def head_on(rank: Rank) -> float:
    """Runs in each process."""
    return shapes.head_seconds(rank.model)


def _model(args: argparse.Namespace) -> PreTrainedModel:
    """The model to measure, in eval mode: real weights, or the shapes of SmolLM2-135M."""
    torch.manual_seed(0)
    if args.parent is None:
        return hub.created(AutoModelForCausalLM, SMALL if args.quick else SMOLLM2).eval()
    return hub.pretrained(AutoModelForCausalLM, args.parent).eval()


def _word(good: bool) -> str:
    return "reached" if good else "MISSED"
