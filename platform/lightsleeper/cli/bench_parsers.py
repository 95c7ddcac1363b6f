"""What `lightning bench` takes, one parser for each subject."""

import argparse
from typing import Any

from lightsleeper.cli.sources import positive

METHODS = {
    "edkm": "clustering: forward and backward against dense DKM and coremltools, bytes saved for backward",
    "pdp": "pruning: step overhead, accuracy against magnitude pruning",
    "subclone": "weight subcloning: tokens and seconds to a loss against a random start, ablations",
    "sweep": "the local engine: two workers against one, and what lies between the trials",
    "fold": "re-parameterisation: latency, activation bytes and equality, folded against branched and plain",
}
# Of bench/wakeword_arms.py.
GROUPS = ("branches", "localisation", "bcresnet", "phones", "branches_phones", "narrow", "ablation", "labels")
SPOTTER_GROUPS = ("gates", "content", "penalty", "encoder")  # of bench/spotter_arms.py
PHONEME_ARMS = ("published", "edits", "aligned", "dsp", "unconfused", "cmcd")  # of bench/phoneme_arms.py
ASD_GROUPS = ("grid", "baselines", "whole", "flexible")  # of bench/asd_context.py

Kinds = Any  # what add_subparsers gives


def _add(kinds: Kinds, name: str, text: str, quick: str = "small sizes: whether it works, and rough ratios") -> Any:
    """A subject that can be tried in little time."""
    parser = kinds.add_parser(name, help=text)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--threads", type=positive, metavar="N", help="threads, default 1")
    return parser


def _part(parser: argparse.ArgumentParser, default: str, *others: str) -> None:
    choices = (default, *others)
    parser.add_argument("--part", default=default, choices=choices, help=f"what to measure, default {default}")


def _trainings(
    parser: argparse.ArgumentParser,
    kind: str,
    names: tuple[str, ...],
    only: str,
    seeds: str = "",
    collect: str = "",
    out: str = "",
) -> None:
    """Of trainings that last: ``names`` of what to train, and for which parts each option is."""
    parser.add_argument("--seeds", type=positive, metavar="N", help=f"{seeds}seeds of each training")
    text = f"{only}: {', '.join(names)}; default all"
    parser.add_argument("--only", nargs="+", metavar=kind, choices=names, help=text)
    parser.add_argument("--collect", action="store_true", help=f"{collect}no training, what is finished")
    parser.add_argument("--out", metavar="DIR", help=f"keeps finished trainings, to go on from{out}")


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
    parser = _add(kinds, "wakeword", "wake words: speed of all families, accuracy, recordings of people")
    _part(parser, "speed", "accuracy", "people")
    _trainings(parser, "GROUP", GROUPS, "accuracy", "accuracy: ", "accuracy, people: ", "; speed: the models")
    parser.add_argument("--engine", metavar="PYTHON", help="a Python that has pvporcupine, to compare with")
    parser.add_argument("--repeats", type=positive, metavar="R", help="speed: timed rounds")


def _spotter(kinds: Kinds) -> None:
    parser = _add(kinds, "spotter", "word spotting: what gates cost and save, recordings of people, classes")
    _part(parser, "latency", "accuracy", "streaming", "people", "classes")
    _trainings(parser, "GROUP", SPOTTER_GROUPS, "accuracy", "accuracy, people: ", "accuracy, people: ")
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="NAME=RUN",
        help="latency, streaming: finished runs, on the test streams of the first; default: trainings in --out",
    )
    parser.add_argument("--repeats", type=positive, metavar="R", help="latency, classes: timed rounds")


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
    parser = _add(kinds, "asd", "active speakers: what context costs and buys, one sense against both")
    _part(parser, "speed", "context", "modality")
    _trainings(parser, "GROUP", ASD_GROUPS, "context", "context, modality: ", "context, modality: ")
    parser.add_argument("--workers", type=positive, metavar="N", help="context, modality: trainings at once, default 1")
    parser.add_argument("--repeats", type=positive, metavar="R", help="speed: timed rounds")


def _typed(kinds: Kinds) -> None:
    builder = _add(kinds, "confusables", "the builder of keyword batches against the training it feeds")
    typed = _add(kinds, "keywords", "ten typed keywords in a stream against one; one threshold for all")
    typed.add_argument(
        "model",
        metavar="RUN|MODEL.onnx",
        help="a matcher of typed keywords; MODEL.onnx is what ships, a run is slower PyTorch",
    )
    typed.add_argument("--runs-dir", metavar="DIR", help="where runs lie; default $LIGHTSLEEPER_RUNS, else ./runs")
    typed.add_argument("--part", nargs="+", metavar="PART", help="latency, normalize, threshold; default all")
    for parser in (builder, typed):
        parser.add_argument("--repeats", type=positive, metavar="R", help="timed rounds")


def _phoneme(kinds: Kinds) -> None:
    text = "typed keywords: accuracy against other families, recordings of people"
    parser = _add(kinds, "phoneme", text, quick="small sizes: whether it works; accuracy means nothing")
    _part(parser, "accuracy", "people")
    _trainings(parser, "ARM", PHONEME_ARMS, "accuracy")


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


PARSERS = (_dsp, _recipes, _dashboard, _methods, _wakeword, _spotter, _phoneme, _prefill, _asd, _typed, _lm, _choices)
