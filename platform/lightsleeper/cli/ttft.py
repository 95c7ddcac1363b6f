"""`lightning ttft`: time to first token of a language model whose prompt several processes read together."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightsleeper.cli.sources import positive
from lightsleeper.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from lightsleeper.generation.transport import SlowLink
    from lightsleeper.models.causal_lm import CausalLM

HELP = (
    "Prefill a recipe's language model with a chain of processes (KV-Runahead) and with what it competes with: one "
    "process, one in chunks, sequence parallelism by all-gather. Same weights, same prompt, in turns."
)
METHODS = ("chain", "one", "chunked", "gather", "gather-skip")
SPLITS = ("even", "searched", "predicted")
PICTURE = "ttft.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="recipe of a CausalLM, and overlays")
    parser.add_argument("--ranks", type=positive, default=2, metavar="P", help="processes of the chain, default 2")
    parser.add_argument(
        "--tokens", type=positive, nargs="+", metavar="C", help="length of the prompt; default model.prompt_tokens"
    )
    parser.add_argument(
        "--split",
        default="even",
        metavar="even|searched|predicted|C0,C1,...",
        help="tokens of each rank: alike, the best that a search finds (kept in the table), from the table of "
        "earlier searches, or as given; default even",
    )
    parser.add_argument(
        "--table", metavar="FILE", help="splits that were searched, JSON; default in the cache, by conditions"
    )
    parser.add_argument("--prompt", metavar="FILE", help="text to read, cut to length; default random tokens")
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD",
        help=f"of {', '.join(METHODS)}; default all",
    )  # fmt: skip
    parser.add_argument("--chunk", type=positive, default=512, metavar="N", help="tokens a chunk, default 512")
    parser.add_argument("--new-tokens", type=positive, default=20, metavar="N", help="tokens to generate, default 20")
    parser.add_argument("--repeats", type=positive, default=10, metavar="R", help="timed prefills each, default 10")
    parser.add_argument("--warm-up", type=int, default=3, metavar="R", help="untimed ones before, default 3")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="torch threads a process, default 1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default float32"
    )
    parser.add_argument("--backend", choices=("gloo", "nccl"), default="gloo", help="default gloo")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="longest prefill, default 600 s")
    parser.add_argument("--link-gb-s", type=float, metavar="GB/S", help="slow the links down to this bandwidth")
    parser.add_argument("--link-latency-ms", type=float, default=0.0, metavar="MS", help="and add this a message")
    parser.add_argument("--link-jitter-ms", type=float, default=0.0, metavar="MS", help="and up to so much at random")
    parser.add_argument("--timeline", default=PICTURE, metavar="FILE", help=f"picture of the chain, default {PICTURE}")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to FILE")


def main(args: argparse.Namespace) -> int:
    from lightsleeper.deploy.benchmark import machine_lock
    from lightsleeper.generation.session import Session, Settings
    from lightsleeper.stages.console import stoppable

    if args.warm_up < 0:
        raise UserError("--warm-up: expected at least 0.")
    model = _model(args)
    lengths = args.tokens or [model.prompt_tokens]
    for tokens in lengths:
        if model.window is not None and tokens > model.window:
            raise UserError(f"--tokens {tokens}: the model has positions for {model.window}.")
        _check_split(args.split, tokens, args.ranks)
    settings = Settings(
        ranks=args.ranks,
        threads=args.threads,
        backend=args.backend,
        device=args.device,
        timeout_s=args.timeout,
        link=_link(args),
        methods=[method for method in METHODS if method in args.methods],
        split=args.split,
        table=None if args.table is None else Path(args.table),
        chunk=args.chunk,
        new_tokens=args.new_tokens,
        repeats=args.repeats,
        warm_up=args.warm_up,
    )
    prompts = [_prompt(args, model, tokens) for tokens in lengths]
    with machine_lock(), stoppable(), Session(model.net.eval(), settings) as session:
        results = [session.measure(prompt, Path(args.timeline)) for prompt in prompts]
    if args.prompt:
        _show_text(args, model, results[-1]["continuation"])
    if args.json:
        from lightsleeper.files import write_json

        write_json(Path(args.json), results, indent=1)
    return 0


def _model(args: argparse.Namespace) -> "CausalLM":
    from lightsleeper import recipe
    from lightsleeper.recipe.parsing import build_model

    merged = recipe.load(args.recipes, args.overrides)
    import torch

    from lightsleeper.models.causal_lm import CausalLM

    model = build_model(merged)
    if not isinstance(model, CausalLM):
        raise UserError(f"{merged.name}: {type(model).__name__} reads no prompt; lightning ttft is for CausalLM.")
    model.net.to(getattr(torch, args.dtype))
    return model


def _check_split(text: str, tokens: int, ranks: int) -> None:
    from lightsleeper.generation.split import checked

    if text in SPLITS:
        return
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise UserError(f"--split: expected {', '.join(SPLITS)} or numbers such as 600,424; got '{text}'.")
    checked([int(part) for part in text.split(",")], tokens, ranks)


def _link(args: argparse.Namespace) -> "SlowLink | None":
    from lightsleeper.generation.transport import SlowLink

    if args.link_gb_s is None and not args.link_latency_ms and not args.link_jitter_ms:
        return None
    speed = float("inf") if args.link_gb_s is None else 1e9 * args.link_gb_s
    return SlowLink(1e-3 * args.link_latency_ms, speed, 1e-3 * args.link_jitter_ms)


def _prompt(args: argparse.Namespace, model: "CausalLM", tokens: int) -> "Tensor":
    """Ids (1, tokens)."""
    import torch

    from lightsleeper.generation.session import random_prompt

    if args.prompt is None:
        return random_prompt(int(model.text_config.vocab_size), tokens)
    try:
        text = Path(args.prompt).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"--prompt: cannot read {args.prompt}: {error.strerror}.") from error
    ids = _tokenizer(model)(text)["input_ids"][:tokens]
    if len(ids) < tokens:
        raise UserError(f"--prompt: {args.prompt} holds {len(ids)} tokens, {tokens} were asked for.")
    return torch.tensor([ids])


def _tokenizer(model: "CausalLM") -> Any:
    from lightsleeper.models.hub import tokenizer_of

    source = model.net.config.name_or_path
    found = tokenizer_of(source, None) if source else None
    if found is None:
        raise UserError("--prompt: the model has no tokenizer; leave it out for random tokens.")
    return found


def _show_text(args: argparse.Namespace, model: "CausalLM", ids: list[int]) -> None:
    print(f"goes on: {_tokenizer(model).decode(ids)!r}")
