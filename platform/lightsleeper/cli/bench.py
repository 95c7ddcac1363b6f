"""`lightning bench`: measure a method's kernel, the data loader, or what the platform costs."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightsleeper.cli.bench_parsers import PARSERS

HELP = (
    "Measurements with their conditions: dsp (batched partition against references), loader (data loading's share of a "
    "training step), overhead (`lightning run` against a bare Lightning script), dashboard (thousands of records into "
    "a page); edkm, pdp, subclone, fold (a method of compression against its references), sweep (two workers against "
    "one), wakeword (wake-word families side by side, and against an engine), spotter (what a word spotter's gates "
    "cost and save), phoneme (typed keywords in one embedding against other families, recordings of people), prefill "
    "(a prompt read by several processes), asd (what context costs and buys an active-speaker detector), confusables "
    "(the builder of keyword batches against the training it feeds), keywords (ten typed keywords in a stream against "
    "one, and one threshold for all), lm (a language model at few bits and with zeros), choices (multiple choice by "
    "likelihood, against lm-eval)."
)
TRAINING = ("pdp", "subclone", "wakeword", "spotter", "phoneme", "asd", "lm")
"""Hours of trainings, beside which others may measure: these take the machine's lock where they measure speed."""
TARGET_LOADER = 0.05
TARGET_OVERHEAD = 1.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", required=True)
    for add in PARSERS:
        add(kinds)
    kinds.metavar = "|".join(kinds.choices)
    for kind in kinds.choices.values():
        kind.add_argument("--json", metavar="FILE", help="write all numbers to FILE")


def main(args: argparse.Namespace) -> int:
    from lightsleeper.deploy.benchmark import machine_lock
    from lightsleeper.stages.console import stoppable

    with nullcontext() if args.what in TRAINING else machine_lock(), stoppable():
        result = OWN.get(args.what, method)(args)
    if args.json:
        from lightsleeper.files import write_json

        write_json(Path(args.json), result, indent=1)
    return 0


def method(args: argparse.Namespace) -> dict[str, Any]:
    """`bench/<name>.py`: its ``run`` measures, prints and returns all numbers."""
    from importlib import import_module

    return import_module(f"lightsleeper.bench.{args.what}").run(args)


def dsp(args: argparse.Namespace) -> dict[str, Any]:
    from lightsleeper.bench import dsp as bench

    return bench.run(args)


def loader(args: argparse.Namespace) -> dict[str, Any]:
    recipe, _ = _recipe(args)
    from lightsleeper.bench import loader as bench
    from lightsleeper.tracking.runs import runs_root

    found = bench.run(recipe, runs_root(args.runs_dir), args.steps)
    conditions = found["conditions"]
    print(
        f"loader: {found['recipe']}, batch {conditions['batch_size']}, {conditions['workers']} workers, "
        f"{conditions['threads']} threads, torch {conditions['torch']}, lightning {conditions['lightning']}; "
        f"median (10th-90th percentile) of {found['steps']} steps, each in the fastest of "
        f"{conditions['rounds']} rounds, after {conditions['warm_up_steps']} steps of warm-up"
    )
    for name, text in (
        ("step_ms", "a step, loading included"),
        ("wait_ms", "  of it waiting for data"),
        ("ready_step_ms", "a step on batches in memory"),
    ):
        spread = found[name]
        print(f"{text:30}{spread['median']:9.2f} ms ({spread['p10']:.2f}-{spread['p90']:.2f})")
    _verdict("loading waits", found["wait_share"], TARGET_LOADER)
    _verdict("loading slows steps by", found["slowdown"], TARGET_LOADER)
    return found


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    recipe, overrides = _recipe(args)
    from lightsleeper.bench import overhead as bench

    folder = None if args.runs_dir is None else Path(args.runs_dir)
    found = bench.run(recipe, args.recipes, overrides, args.pairs, folder, lambda line: print(line, file=sys.stderr))
    conditions = ", ".join(f"{name} {value}" for name, value in found["conditions"].items())
    print(
        f"overhead: {found['recipe']} {' '.join(found['overrides'])}; {found['pairs']} interleaved pairs; {conditions}"
    )
    print(f"{'seconds, medians':20}{'start':>9}{'fit':>9}{'stop':>9}")
    for name, text in (("run", "lightning run"), ("bare", "bare script")):
        print(f"{text:20}" + "".join(f"{found[name][part]:9.2f}" for part in ("start", "fit", "stop")))
    low, high = min(found["ratios"]), max(found["ratios"])
    reached = "reached" if found["ratio_upper"] <= TARGET_OVERHEAD else "MISSED"
    print(
        f"fit ratio: median {found['ratio']:.3f}, upper 95 % bound {found['ratio_upper']:.3f} "
        f"(pairs {low:.3f}-{high:.3f}); target {TARGET_OVERHEAD}: {reached}"
    )
    print(
        f"processor time of whole processes: median ratio {found['cpu_ratio']:.3f}, upper 95 % bound "
        f"{found['cpu_ratio_upper']:.3f} (pairs {min(found['cpu_ratios']):.3f}-{max(found['cpu_ratios']):.3f})"
    )
    return found


def keywords(args: argparse.Namespace) -> dict[str, Any]:
    from lightsleeper.cli.sources import locate, open_keywords

    matcher = open_keywords(locate(args.model, args.runs_dir), args.threads or 1, args.model)
    from lightsleeper.bench import keywords as bench

    return bench.run(args, matcher)


def _recipe(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """The merged recipe and its overrides as `lightning run` takes them."""
    from lightsleeper.recipe import load

    overrides = [entry if entry.startswith("--") else f"--{entry}" for entry in args.set]
    overrides += getattr(args, "overrides", [])
    return load([Path(name) for name in args.recipes], overrides), overrides


def _verdict(text: str, share: float, target: float) -> None:
    print(f"{text:30}{100 * share:9.2f} % of a step; target {100 * target:.0f} %: "
          f"{'reached' if share <= target else 'MISSED'}")  # fmt: skip


OWN = {"dsp": dsp, "loader": loader, "overhead": overhead, "keywords": keywords}
"""Those that need more than their arguments."""
