"""`lightning bench`: measure a method's kernel, the data loader, or what the platform costs."""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightsleeper.cli.sources import positive

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
METHODS = {
    "edkm": "clustering: forward and backward against dense DKM and coremltools, bytes saved for backward",
    "pdp": "pruning: step overhead, accuracy against magnitude pruning",
    "subclone": "weight subcloning: tokens and seconds to a loss against a random start, ablations",
    "sweep": "the local engine: two workers against one, and what lies between the trials",
    "fold": "re-parameterisation: latency, activation bytes and equality, folded against branched and plain",
}
GROUPS = ("branches", "localisation", "bcresnet", "narrow", "ablation", "labels")  # of bench/wakeword_arms.py
SPOTTER_GROUPS = ("gates", "penalty", "encoder")  # of bench/spotter_arms.py
PHONEME_ARMS = ("published", "aligned", "dsp", "unconfused", "cmcd")  # of bench/phoneme_arms.py
ASD_GROUPS = ("grid", "baselines", "whole", "flexible")  # of bench/asd_context.py
TRAINING = ("pdp", "subclone", "wakeword", "spotter", "phoneme", "asd", "lm")
"""Hours of trainings, beside which others may measure: these take the machine's lock where they measure speed."""
TARGET_LOADER = 0.05
TARGET_OVERHEAD = 1.05

Kinds = Any  # what add_subparsers gives


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="what", required=True)
    for add in (
        _dsp, _recipes, _dashboard, _methods, _wakeword, _spotter, _phoneme, _prefill, _asd, _typed, _lm, _choices
    ):  # fmt: skip
        add(kinds)
    kinds.metavar = "|".join(kinds.choices)
    for kind in kinds.choices.values():
        kind.add_argument("--json", metavar="FILE", help="write all numbers to FILE")


def _dsp(kinds: Kinds) -> None:
    parser = kinds.add_parser("dsp", help="the batched partition: equality, speed, memory, latency")
    parser.add_argument("--rows", type=positive, metavar="B", help="pairs in the batch, default 256")
    parser.add_argument("--frames", type=positive, metavar="N", help="encoder frames a clip, default 50")
    parser.add_argument("--tokens", type=positive, nargs="+", metavar="M", help="tokens a text, default 4 20")
    parser.add_argument("--channels", type=positive, metavar="D", help="width of the embeddings, default 144")
    parser.add_argument("--repeats", type=positive, metavar="R", help="timed calls, default 5")
    parser.add_argument(
        "--reference-rows", type=positive, metavar="R", help="rows the references are timed on, default 16"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="torch threads, default 1")


def _recipes(kinds: Kinds) -> None:
    loader = kinds.add_parser("loader", help="data loading's share of a training step")
    loader.add_argument("--steps", type=positive, default=60, metavar="N", help="training steps, default 60")
    overhead = kinds.add_parser("overhead", help="the fit of `lightning run` against a bare Lightning script")
    overhead.add_argument("--pairs", type=positive, default=10, metavar="N", help="interleaved pairs, default 10")
    for kind in (loader, overhead):
        kind.add_argument("recipes", nargs="*", default=["kws_encoder"], metavar="RECIPE", help="default: kws_encoder")
        kind.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="override, such as trainer.max_epochs=1"
        )
        kind.add_argument("--runs-dir", metavar="DIR", help="where runs lie; overhead: default a temporary folder")


def _dashboard(kinds: Kinds) -> None:
    parser = kinds.add_parser("dashboard", help="records into the index, the payload and the page")
    parser.add_argument("--records", type=positive, default=5000, metavar="N", help="made-up records, default 5000")
    parser.add_argument("--points", type=positive, default=200, metavar="N", help="of each curve, default 200")
    parser.add_argument("--runs-dir", metavar="DIR", help="records that are there instead; its index stays as it is")
    parser.add_argument("--repeats", type=positive, default=3, metavar="R", help="timed calls, default 3")


def _methods(kinds: Kinds) -> None:
    for name, text in METHODS.items():
        method = kinds.add_parser(name, help=text)
        method.add_argument("--part", nargs="+", default=[], metavar="PART", help="only these parts; default all")
        method.add_argument("--quick", action="store_true", help="small sizes: the equalities, and rough ratios")
        method.add_argument("--seeds", type=positive, default=3, metavar="N", help="seeds of each training, default 3")
        method.add_argument("--repeats", type=positive, metavar="R", help="timed calls")
        method.add_argument("--threads", type=positive, metavar="N", help="torch threads, default one per core")
        method.add_argument("--parent", metavar="MODEL", help="weights to start from: hub name or local folder")
        method.add_argument("--out", metavar="DIR", help="keeps one JSON a finished training, to go on from")
        method.add_argument(
            "--memory-gb", type=float, metavar="GB", help="edkm: most for a step, default half the free"
        )


def _wakeword(kinds: Kinds) -> None:
    parser = kinds.add_parser("wakeword", help="wake words: speed of all families, accuracy, recordings of people")
    parser.add_argument(
        "--part", default="speed", choices=("speed", "accuracy", "people"), help="what to measure, default speed"
    )
    parser.add_argument("--engine", metavar="PYTHON", help="a Python that has pvporcupine, to compare with")
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, and rough ratios")
    parser.add_argument("--seeds", type=positive, metavar="N", help="accuracy: seeds of each training")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="GROUP",
        choices=GROUPS,
        help=f"accuracy: {', '.join(GROUPS)}; default all, in this order",
    )
    parser.add_argument("--collect", action="store_true", help="accuracy, people: no training, what is finished")
    parser.add_argument("--repeats", type=positive, metavar="R", help="speed: timed rounds")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads, default 1")
    parser.add_argument("--out", metavar="DIR", help="keeps finished trainings, to go on from; speed: the models")


def _spotter(kinds: Kinds) -> None:
    parser = kinds.add_parser("spotter", help="word spotting: what gates cost and save, recordings of people, classes")
    parser.add_argument(
        "--part",
        default="latency",
        choices=("accuracy", "latency", "streaming", "people", "classes"),
        help="what to measure, default latency",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, and rough ratios")
    parser.add_argument("--seeds", type=positive, metavar="N", help="accuracy, people: seeds of each training")
    parser.add_argument(
        "--only", nargs="+", metavar="GROUP", choices=SPOTTER_GROUPS, help=f"accuracy: {', '.join(SPOTTER_GROUPS)}"
    )
    parser.add_argument("--collect", action="store_true", help="accuracy, people: no training, what is finished")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME=RUN",
        help="latency, streaming: finished runs, on the test streams of the first; default: trainings in --out",
    )
    parser.add_argument("--repeats", type=positive, metavar="R", help="latency, classes: timed rounds")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads, default 1")
    parser.add_argument("--out", metavar="DIR", help="keeps finished trainings, to go on from")


def _prefill(kinds: Kinds) -> None:
    parser = kinds.add_parser("prefill", help="KV-Runahead against one process and all-gather; simulator; forecast")
    parser.add_argument(
        "--part", nargs="+", default=["table"], metavar="PART", help="of table, simulator, forecast; default table"
    )
    parser.add_argument("--quick", action="store_true", help="a small model, short prompts: whether it works")
    parser.add_argument("--tokens", type=positive, nargs="+", metavar="C", help="lengths, default 512 to 8192")
    parser.add_argument("--ranks", type=positive, default=2, metavar="P", help="processes, default 2")
    parser.add_argument("--threads", type=positive, metavar="N", help="torch threads a process, default 1")
    parser.add_argument("--repeats", type=positive, metavar="R", help="timed prefills, default 10; 3 from 4096 tokens")
    parser.add_argument(
        "--parent", metavar="MODEL", help="folder, hub name or .gguf file; default SmolLM2-135M's shapes"
    )
    parser.add_argument("--out", metavar="FILE", help="table: where the searched splits are kept")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="forecast: where blocks are timed")
    parser.add_argument("--times", metavar="FILE", help="forecast: times of blocks that were measured elsewhere")
    parser.add_argument("--tflops", type=float, metavar="T", help="forecast: times at this assumed rate, unmeasured")
    parser.add_argument("--save-times", metavar="FILE", help="forecast: keep the times of the blocks")


def _asd(kinds: Kinds) -> None:
    parser = kinds.add_parser("asd", help="active speakers: what context costs and buys, one sense against both")
    parser.add_argument(
        "--part", default="speed", choices=("speed", "context", "modality"), help="what to measure, default speed"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, and rough ratios")
    parser.add_argument("--seeds", type=positive, metavar="N", help="context, modality: seeds of each training")
    parser.add_argument(
        "--only", nargs="+", metavar="GROUP", choices=ASD_GROUPS, help=f"context: {', '.join(ASD_GROUPS)}"
    )
    parser.add_argument("--collect", action="store_true", help="context, modality: no training, what is finished")
    parser.add_argument("--workers", type=positive, metavar="N", help="context, modality: trainings at once, default 1")
    parser.add_argument("--repeats", type=positive, metavar="R", help="speed: timed rounds")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads, default 1")
    parser.add_argument("--out", metavar="DIR", help="keeps finished trainings, to go on from")


def _typed(kinds: Kinds) -> None:
    builder = kinds.add_parser("confusables", help="the builder of keyword batches against the training it feeds")
    typed = kinds.add_parser("keywords", help="ten typed keywords in a stream against one; one threshold for all")
    typed.add_argument("model", metavar="RUN|MODEL.onnx", help="a matcher of typed keywords")
    typed.add_argument("--runs-dir", metavar="DIR", help="where runs lie; default $LIGHTSLEEPER_RUNS, else ./runs")
    typed.add_argument("--part", nargs="+", metavar="PART", help="latency, normalize, threshold; default all")
    for parser in (builder, typed):
        parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, and rough ratios")
        parser.add_argument("--repeats", type=positive, metavar="R", help="timed rounds")
        parser.add_argument("--threads", type=positive, metavar="N", help="threads, default 1")


def _phoneme(kinds: Kinds) -> None:
    parser = kinds.add_parser("phoneme", help="typed keywords: accuracy against other families, recordings of people")
    parser.add_argument(
        "--part", default="accuracy", choices=("accuracy", "people"), help="what to measure, default accuracy"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works; accuracy means nothing")
    parser.add_argument("--seeds", type=positive, metavar="N", help="seeds of each training")
    parser.add_argument(
        "--only", nargs="+", metavar="ARM", choices=PHONEME_ARMS, help=f"accuracy: {', '.join(PHONEME_ARMS)}"
    )
    parser.add_argument("--collect", action="store_true", help="no training, what is finished")
    parser.add_argument("--threads", type=positive, metavar="N", help="threads, default 1")
    parser.add_argument("--out", metavar="DIR", help="keeps finished trainings, to go on from")


def _lm(kinds: Kinds) -> None:
    parser = kinds.add_parser("lm", help="a language model at few bits and with zeros: bytes against perplexity")
    parser.add_argument(
        "--parent", metavar="MODEL", help="hub name, folder, GGUF file or run folder; default trains lm_small"
    )
    parser.add_argument("--only", nargs="+", metavar="WAY", help="only these, of those in the table; default all")
    parser.add_argument(
        "--steps", type=positive, metavar="N", help="of each training; default 150, of large models 100"
    )
    parser.add_argument(
        "--documents", type=positive, metavar="N", help="test documents; default all, of large models 60"
    )
    parser.add_argument(
        "--items", type=positive, metavar="N", help="multiple choice; default 500, of large models none"
    )
    parser.add_argument("--quick", action="store_true", help="few steps, few documents: whether it works")
    parser.add_argument("--threads", type=positive, metavar="N", help="torch threads, default one per core")
    parser.add_argument("--out", metavar="DIR", help="keeps what is finished, to go on from")


def _choices(kinds: Kinds) -> None:
    parser = kinds.add_parser("choices", help="multiple choice by likelihood: speed against lm-eval, accuracy")
    parser.add_argument("--part", nargs="+", metavar="PART", help="of speed, accuracy; default both")
    parser.add_argument("--parent", metavar="MODEL", help="folder, hub name or .gguf file; default random weights")
    parser.add_argument("--items", type=positive, metavar="N", help="accuracy: items, default 600")
    parser.add_argument("--timed", type=positive, metavar="N", help="speed: the first of them, default 60")
    parser.add_argument("--batch", type=positive, default=8, metavar="B", help="items in a batch, default 8")
    parser.add_argument("--quick", action="store_true", help="few items: whether it works")
    parser.add_argument("--repeats", type=positive, metavar="R", help="timed rounds, default 3")
    parser.add_argument("--threads", type=positive, metavar="N", help="torch threads")


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
